package kvhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"strings"
	"sync"

	"github.com/kvraft/kvraft"
)

// fake is a store in a map.
type fake struct {
	mu       sync.Mutex
	revision uint64
	entries  map[string]kvraft.Entry
	batches  [][]string // the keys of each batch, in its order
	changed  []string   // each change of the membership, in words
	asked    string     // the options of the last read, as given gives them
	status   kvraft.Status
	views    *kvraft.Store // a real store, where views are taken
	events   []kvraft.Event
	end      error // of a watch, after the events; nil: it waits for its context

	fail   func(context.Context) error // if not nil, what every call fails with
	before func(*fake)                 // if not nil, comes once between a conditional write's check and the write
}

var limits = struct{ key, value int }{1 << 10, 1 << 20}

func newFake() *fake {
	leader := kvraft.Node{ID: "n2", Addr: "10.0.0.2:7000", Voter: true}
	me := kvraft.Node{ID: "n1", Addr: "10.0.0.1:7000", Voter: true}
	return &fake{
		entries: map[string]kvraft.Entry{},
		status: kvraft.Status{Node: me, Cluster: "c", State: kvraft.Follower, Leader: leader, Ready: true,
			Nodes: []kvraft.Node{me, leader, {ID: "n3", Addr: "10.0.0.3:7000"}}},
	}
}

// enter begins every call; the caller unlocks.
func (f *fake) enter(ctx context.Context, key string) error {
	f.mu.Lock()
	_, held := f.entries[key] // data of hraftd's may have any key
	switch {
	case f.fail != nil:
		return f.fail(ctx)
	case held:
	case key == "":
		return kvraft.ErrInvalid
	case len(key) > limits.key:
		return kvraft.ErrKeyTooLarge
	}
	return nil
}

func (f *fake) Get(ctx context.Context, key string, opts ...kvraft.ReadOption) (kvraft.Entry, error) {
	err := f.enter(ctx, key)
	defer f.mu.Unlock()
	if err != nil {
		return kvraft.Entry{}, err
	}
	f.asked = given(opts)
	entry, ok := f.entries[key]
	if !ok {
		return kvraft.Entry{}, kvraft.ErrNotFound
	}
	entry.Value = bytes.Clone(entry.Value)
	return entry, nil
}

func (f *fake) View(ctx context.Context, opts ...kvraft.ReadOption) (*kvraft.View, error) {
	err := f.enter(ctx, "view")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.asked = given(opts)
	return f.views.View(ctx)
}

func (f *fake) Watch(ctx context.Context, prefix string, opts ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = fmt.Sprintf("%q %s", prefix, given(opts))
	return func(yield func(kvraft.Event, error) bool) {
		for _, e := range f.events {
			if !yield(e, nil) {
				return
			}
		}
		end := f.end
		if end == nil {
			<-ctx.Done()
			end = fmt.Errorf("watch: %w: %w", ctx.Err(), context.Cause(ctx))
		}
		yield(kvraft.Event{}, end)
	}
}

func (f *fake) Set(ctx context.Context, key string, value []byte, opts ...kvraft.WriteOption) (uint64, error) {
	err := f.enter(ctx, key)
	defer f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if len(value) > limits.value {
		return 0, kvraft.ErrTooLarge
	}
	if err := f.check(key, opts); err != nil {
		return 0, err
	}
	for _, opt := range opts {
		if created := find(reflect.ValueOf(opt), reflect.Pointer); created.IsValid() { // WithCreated
			_, held := f.entries[key]
			*(*bool)(created.UnsafePointer()) = !held
		}
	}
	f.revision++
	f.set(key, value)
	return f.revision, nil
}

func (f *fake) Delete(ctx context.Context, key string, opts ...kvraft.WriteOption) (uint64, error) {
	err := f.enter(ctx, key)
	defer f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if err := f.check(key, opts); err != nil {
		return 0, err
	}
	if _, ok := f.entries[key]; ok {
		f.revision++
		delete(f.entries, key)
	}
	return f.revision, nil
}

func (f *fake) Batch(ctx context.Context, ops ...kvraft.Op) (uint64, error) {
	keys, values := []string{}, [][]byte{}
	for _, op := range ops {
		o := reflect.ValueOf(op)
		if !find(o, reflect.Pointer).IsNil() {
			continue // an IDOp
		}
		keys = append(keys, find(o, reflect.String).String())
		values = append(values, find(o, reflect.Slice).Bytes())
	}
	err := f.enter(ctx, "batch")
	defer f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		if key == "" {
			return 0, kvraft.ErrInvalid
		}
		if len(key) > limits.key {
			return 0, kvraft.ErrKeyTooLarge
		}
	}
	f.batches = append(f.batches, keys)
	f.revision++
	for i, key := range keys {
		f.set(key, values[i])
	}
	return f.revision, nil
}

func (f *fake) Join(ctx context.Context, id, addr string, opts ...kvraft.JoinOption) error {
	return f.change(ctx, "join", []string{id, addr, given(opts)})
}

func (f *fake) Remove(ctx context.Context, id string, opts ...kvraft.RemoveOption) error {
	return f.change(ctx, "remove", []string{id, given(opts)})
}

func (f *fake) TransferLeadership(ctx context.Context, id string) error {
	return f.change(ctx, "transfer", []string{id})
}

// change remembers what was asked.
func (f *fake) change(ctx context.Context, call string, asked []string) error {
	err := f.enter(ctx, call)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	f.changed = append(f.changed, strings.TrimSpace(call+" "+strings.Join(asked, " ")))
	return nil
}

// given is options in words.
func given[Option any](opts []Option) string {
	var words []string
	for _, opt := range opts {
		words = append(words, fmt.Sprintf("%T(%v)", opt, opt))
	}
	return strings.Join(words, " ")
}

// Index moves on with every write.
func (f *fake) Index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return 100 + f.revision
}

func (f *fake) Hash() (uint64, [32]byte) { return 19, [32]byte{0xab} }

func (f *fake) Status() kvraft.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// check judges IfVersion, the only option that is a number.
func (f *fake) check(key string, opts []kvraft.WriteOption) error {
	if f.before != nil {
		before := f.before
		f.before = nil
		before(f)
	}
	for _, opt := range opts {
		found := f.entries[key].Version
		if v := reflect.ValueOf(opt); v.Kind() == reflect.Uint64 && v.Uint() != found {
			return &kvraft.ConflictError{Version: found}
		}
	}
	return nil
}

func (f *fake) set(key string, value []byte) {
	f.entries[key] = kvraft.Entry{Key: key, Value: bytes.Clone(value), Version: f.revision}
}

// values is what the store holds.
func (f *fake) values() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	values := map[string]string{}
	for key, entry := range maps.All(f.entries) {
		values[key] = string(entry.Value)
	}
	return values
}

// find is the first thing of a kind in v. Options and operations are opaque
// outside package kvraft, and so a fake store has to look into them.
func find(v reflect.Value, kind reflect.Kind) reflect.Value {
	switch {
	case v.Kind() == kind:
		return v
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return find(v.Elem(), kind)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if found := find(v.Field(i), kind); found.IsValid() {
				return found
			}
		}
	}
	return reflect.Value{}
}
