package kvrafttest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/kvraft/kvraft"
)

// Client makes calls on one node of a cluster, as a program does that is connected to it:
// while the node is down they wait for its next start, and what a store refuses because
// it is closed is asked of the next one. A call that was under way when the node ended is
// not made again, unless it was certainly not applied; its error is the caller's. A
// Client may be used from any goroutine, and a [History] records its calls.
type Client struct {
	cluster *Cluster
	node    int
}

// Client returns a client of node i.
func (c *Cluster) Client(i int) *Client { return &Client{c, i} }

// Do makes a call on the node's store, once that is up, and again on the next one as long
// as it fails with [kvraft.ErrClosed]. It fails with [kvraft.ErrNoLeader] when ctx ends
// while the node is down.
func (cl *Client) Do(ctx context.Context, call func(*kvraft.Store) error) error {
	for {
		store, changed := cl.cluster.running(cl.node)
		if store != nil {
			err := call(store)
			if !errors.Is(err, kvraft.ErrClosed) || errors.Is(err, kvraft.ErrUnknown) {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: node %d is down: %w", kvraft.ErrNoLeader, cl.node, ctx.Err())
		}
	}
}

// Get is that of the node's store.
func (cl *Client) Get(ctx context.Context, key string, opts ...kvraft.ReadOption) (entry kvraft.Entry, err error) {
	err = cl.Do(ctx, func(s *kvraft.Store) (err error) { entry, err = s.Get(ctx, key, opts...); return err })
	return entry, err
}

// Set is that of the node's store.
func (cl *Client) Set(ctx context.Context, key string, value []byte, opts ...kvraft.WriteOption) (version uint64, err error) {
	err = cl.Do(ctx, func(s *kvraft.Store) (err error) { version, err = s.Set(ctx, key, value, opts...); return err })
	return version, err
}

// Delete is that of the node's store.
func (cl *Client) Delete(ctx context.Context, key string, opts ...kvraft.WriteOption) (version uint64, err error) {
	err = cl.Do(ctx, func(s *kvraft.Store) (err error) { version, err = s.Delete(ctx, key, opts...); return err })
	return version, err
}

// Batch is that of the node's store.
func (cl *Client) Batch(ctx context.Context, ops ...kvraft.Op) (version uint64, err error) {
	err = cl.Do(ctx, func(s *kvraft.Store) (err error) { version, err = s.Batch(ctx, ops...); return err })
	return version, err
}

// View is that of the node's store.
func (cl *Client) View(ctx context.Context, opts ...kvraft.ReadOption) (view *kvraft.View, err error) {
	err = cl.Do(ctx, func(s *kvraft.Store) (err error) { view, err = s.View(ctx, opts...); return err })
	return view, err
}

// Watch is that of the node's store, and goes on with the next one where it ended: after
// the last version that it has yielded the whole of. Of a [kvraft.Batch] that was yielded
// in part all is yielded again.
func (cl *Client) Watch(ctx context.Context, prefix string, opts ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error] {
	return func(yield func(kvraft.Event, error) bool) {
		w := resumption{given: opts}
		brokenOff := false
		err := cl.Do(ctx, func(s *kvraft.Store) error {
			for event, err := range s.Watch(ctx, prefix, w.options(s)...) {
				if err != nil {
					return err
				}
				if brokenOff = !yield(event, nil); brokenOff {
					return nil
				}
				if !event.More {
					w.resumes, w.after = true, event.Version
				}
			}
			return nil
		})
		if err != nil && !brokenOff {
			yield(kvraft.Event{}, err)
		}
	}
}

// resumption is where a watch begins, and begins again.
type resumption struct {
	given   []kvraft.WatchOption
	begun   bool
	resumes bool   // after a version
	after   uint64 // that one
}

func (r *resumption) options(s *kvraft.Store) []kvraft.WatchOption {
	isSnapshot := func(o kvraft.WatchOption) bool {
		f, ok := o.(kvraft.WatchFlag)
		return ok && f&kvraft.SnapshotFirst != 0
	}
	if !r.begun && !slices.ContainsFunc(r.given, isSnapshot) { // from now on, unless it says otherwise
		r.given = slices.Insert(slices.Clone(r.given), 0, kvraft.WatchOption(kvraft.After(s.Status().Version)))
	}
	r.begun = true
	if !r.resumes {
		return r.given
	}
	var opts []kvraft.WatchOption
	for _, o := range r.given {
		if f, ok := o.(kvraft.WatchFlag); ok {
			o = f &^ kvraft.SnapshotFirst
		}
		opts = append(opts, o)
	}
	return append(opts, kvraft.After(r.after))
}
