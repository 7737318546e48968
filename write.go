package kvraft

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/limits"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// The way of a write, in the order of this file:
//
//	Set, Delete, Batch  (all by write) make a request with an id, within the limits
//	submit              sends it until its outcome is known: lead.Retry repeats try
//	batch.Groups.Do     joins the group that gathers, which is sent by
//	propose             to the leader: replicate, if that is this node, or else
//	forwardWrite        a call, which serveWrite answers with replicate
//	replicate           puts the group into the log, and waits for its results
//	fsm.ApplyBatch      decodes, applies and publishes (fsm.go)
//	state.State.Apply   looks its id up, checks, sets (internal/state)
//
// The results come back as the answers of replicate, of serveWrite, and of Do.
//
// The state keeps the ids and results of recent requests, the dedup window ([state.Window]).
// A copy of one of these gets the old result. Older ids are forgotten. So each request also
// carries a log index, Born, that is lower than the index of each of its copies: if the state
// has forgotten anything applied above Born, a copy may be among it, and the request is
// refused (Expired). Callers' ids have a larger window, since a caller may repeat after
// minutes. The proof is in internal/state/recent.go.

// Op is one operation of a batch.
type Op struct {
	op command.Op
	id *RequestID // an IDOp
}

// SetOp sets key to value. The store keeps no reference to value after Batch
// has returned.
func SetOp(key string, value []byte) Op {
	return Op{op: command.Op{Kind: command.Set, Key: key, Value: value}}
}

// DeleteOp deletes key, if it is there. The limit of a key binds only what sets one.
func DeleteOp(key string) Op { return Op{op: command.Op{Kind: command.Delete, Key: key}} }

// CheckOp makes the batch fail with ErrConflict unless key is at version; 0
// means that it must be absent. All checks look at the state before the batch.
func CheckOp(key string, version uint64) Op {
	return Op{op: command.Op{Kind: command.Check, Key: key, Version: version}}
}

// IDOp is no operation: it gives the batch the caller's request id, as
// WithRequestID does for Set and Delete.
func IDOp(id RequestID) Op { return Op{id: &id} }

// WriteOption qualifies Set and Delete.
type WriteOption interface{ qualify(*writeOptions) }

type writeOptions struct {
	conditional bool
	version     uint64
	id          *RequestID
	created     *bool
}

// WithCreated sets *created, when the write succeeds, to whether it has made a key that
// was not there before. It is decided by the write itself, with nothing in between; of a
// repetition under an id of the caller's it is what the first attempt did.
func WithCreated(created *bool) WriteOption { return withCreated{created} }

type withCreated struct{ created *bool }

func (w withCreated) qualify(o *writeOptions) { o.created = w.created }

// WithRequestID makes a write that the caller repeats, after ErrUnknown say or
// after a restart of its own, take effect once: the repetition, on whichever
// node, must be the same write with the same id, and is answered as the first
// was. Another write with the same id fails with ErrReused. Every other error speaks of
// the call that returns it: what an earlier one has done stays unknown.
//
// The cluster remembers the last 1,048,576 writes that had an id of a caller's, in 64 MiB
// of memory at most on each node: at 1,000 of them a second those of the last 17
// minutes. Writes without one take nothing from that. When it no longer remembers as
// far back as the id was made, the write is not applied, and answered with ErrUnknown.
func WithRequestID(id RequestID) WriteOption { return withRequestID(id) }

type withRequestID RequestID

func (id withRequestID) qualify(o *writeOptions) { o.id = (*RequestID)(&id) }

// IfVersion makes a write fail with ErrConflict unless the key is at version; 0
// means that it must be absent.
func IfVersion(version uint64) WriteOption { return ifVersion(version) }

type ifVersion uint64

func (v ifVersion) qualify(o *writeOptions) { o.conditional, o.version = true, uint64(v) }

// RequestID is a caller's own id for a write, by which it can be repeated safely;
// see WithRequestID. It can be kept as text, by String, beyond the life of the
// program.
type RequestID struct {
	born uint64 // a log index from before the first attempt
	name string
}

// NewRequestID mints an id, to be used for one write, before its first attempt. On
// a node that is far behind the id is old from the start, and its first use may be
// answered ErrUnknown: mint it where Status says Ready.
func (s *Store) NewRequestID() RequestID {
	return RequestID{born: s.Index(), name: rand.Text()}
}

// String returns INDEX-NAME. INDEX is a log index of the time when the id was
// made, such as Index returns.
func (id RequestID) String() string { return strconv.FormatUint(id.born, 10) + "-" + id.name }

const maxRequestID = 256

// ParseRequestID is the inverse of String. NAME may be anything, but must not be
// used for two writes: the second fails with ErrReused.
func ParseRequestID(text string) (RequestID, error) {
	index, name, ok := strings.Cut(text, "-")
	born, err := strconv.ParseUint(index, 10, 64)
	if !ok || err != nil || name == "" || len(text) > maxRequestID {
		return RequestID{}, fmt.Errorf("%w: request id %.100q: want INDEX-NAME of at most %d bytes, where INDEX is a log index that an earlier answer gave", ErrInvalid, text, maxRequestID)
	}
	return RequestID{born, name}, nil
}

// stamp gives r the id: a hash of the name. Beside it goes a digest of the operations, so
// that the same name on another write is told, and not answered with what that never did.
func (id *RequestID) stamp(r *command.Request) error {
	if id.name == "" {
		return fmt.Errorf("%w: the zero RequestID; use NewRequestID", ErrInvalid)
	}
	name := sha256.Sum256([]byte(id.name))
	ops := sha256.Sum256(command.Append(nil, []command.Request{{Ops: r.Ops}}))
	r.Origin, r.Born = command.Caller, id.born
	copy(r.ID[:], name[:])
	copy(r.Digest[:], ops[:])
	return nil
}

// Set stores value under key and returns the key's new version. It may be called
// on any node. When it returns nil the write is on the disks of a majority and
// in the state of the leader. The store keeps no reference to value after it.
// Up to 64 MiB of writes can be under way on a node; a further one waits for room.
//
// Errors: ErrInvalid, ErrTooLarge, ErrConflict, ErrReused, ErrNoLeader and ErrClosed
// mean that nothing was written; ErrUnknown that it may have been or may still be.
func (s *Store) Set(ctx context.Context, key string, value []byte, opts ...WriteOption) (version uint64, err error) {
	return s.writes.writeKey(ctx, SetOp(key, value).op, opts)
}

// Delete deletes key and returns the version of the state after it. Deleting a
// key that is not there succeeds and changes nothing. Errors are those of Set.
func (s *Store) Delete(ctx context.Context, key string, opts ...WriteOption) (version uint64, err error) {
	return s.writes.writeKey(ctx, DeleteOp(key).op, opts)
}

// Batch applies all operations, 65,536 at most, at once, or none: nobody sees a part
// of it. It returns the version that every key it set now has. Errors are those of Set.
func (s *Store) Batch(ctx context.Context, ops ...Op) (version uint64, err error) {
	var plain []command.Op
	var id *RequestID
	for _, o := range ops {
		if o.id != nil {
			id = o.id
		} else {
			plain = append(plain, o.op)
		}
	}
	return s.writes.write(ctx, plain, id, nil)
}

// writer takes the writes of a node to the leader's log.
type writer struct {
	node   *node.Node
	lead   *lead.Tracker
	limits limits.Limits
	groups *batch.Groups
}

func newWriter(n *node.Node, t *lead.Tracker, l limits.Limits) *writer {
	w := &writer{node: n, lead: t, limits: l}
	w.groups = batch.NewGroups(w.propose, n.Life.Go)
	return w
}

// writeKey writes one operation, under the condition that its options may have.
func (w *writer) writeKey(ctx context.Context, op command.Op, opts []WriteOption) (uint64, error) {
	o := gather[writeOptions](opts)
	ops := []command.Op{op}
	if o.conditional {
		ops = append(ops, CheckOp(op.Key, o.version).op)
	}
	return w.write(ctx, ops, o.id, o.created)
}

// write writes the operations, with an id of the caller's or nil. It sets created, if that
// is not nil.
func (w *writer) write(ctx context.Context, ops []command.Op, id *RequestID, created *bool) (uint64, error) {
	request := command.Request{Ops: ops}
	if err := w.limits.Check(request.Ops); err != nil {
		return 0, err
	}
	if id != nil {
		if err := id.stamp(&request); err != nil {
			return 0, err
		}
	} else {
		w.node.RequestIDs.Stamp(&request, w.node.Index())
	}
	result, err := w.submit(ctx, request, id != nil)
	if err != nil {
		return 0, err
	}
	switch result.Code {
	case command.Conflict:
		return 0, &ConflictError{Version: result.Version}
	case command.Reused:
		return 0, fmt.Errorf("%w: its name, %q, was used for another write", ErrReused, id.name)
	}
	if created != nil {
		*created = result.Code == command.Created
	}
	return result.Version, nil
}

// submit sends the request until its outcome is known or ctx ends. repeated: an
// earlier call may have brought a copy of it into the log.
func (w *writer) submit(ctx context.Context, request command.Request, repeated bool) (command.Result, error) {
	release, err := w.groups.Reserve(ctx, request.Ops)
	if err != nil {
		return command.Result{}, err
	}
	defer release()
	sub := submission{writer: w, ctx: ctx, request: request, repeated: repeated}
	sub.encoded = command.AppendRequest(nil, &request)
	if err := w.lead.Retry(ctx, sub.try); err != nil {
		return sub.result, lead.Outcome(ctx, err, sub.inDoubt, w.lead.ReasonOr(sub.last))
	}
	return sub.result, sub.last
}

// submission is a request on its way.
type submission struct {
	writer   *writer
	ctx      context.Context
	request  command.Request
	encoded  []byte
	repeated bool // an attempt may have gone out before this call

	inDoubt bool // an attempt of this call may be in the log
	alone   bool // the leader has refused it, or the group that it came in: it goes once more, by itself
	result  command.Result
	last    error // the most telling error so far
}

// try makes one attempt, and reports whether the outcome is known.
func (sub *submission) try(t *lead.Tenure) (done bool) {
	result, err := sub.writer.groups.Do(sub.ctx, sub.encoded, sub.alone)
	if err == nil {
		err = refusal(result)
	}
	sub.result = result
	switch {
	case isRefusal(err) && !sub.alone:
		sub.alone, sub.last = true, err // once more, alone
	case isRefusal(err) && sub.inDoubt:
		return sub.end(fmt.Errorf("%w: an earlier attempt may have been applied: %w", ErrUnknown, err))
	case isRefusal(err):
		return sub.end(err)
	case err == nil && result.Code != command.Expired:
		return sub.end(nil)
	case err == nil && sub.repeated && sub.request.Born >= result.Version:
		return sub.end(fmt.Errorf("%w: the INDEX %d of the request id lies beyond the log, which is at %d", ErrInvalid, sub.request.Born, result.Version))
	case err == nil && (sub.inDoubt || sub.repeated):
		return sub.end(fmt.Errorf("%w: an earlier attempt may have been applied, and is no longer remembered", ErrUnknown))
	case err == nil:
		// The state of this node was so old when the id was made that the leader
		// could not tell whether it is new, and says at which log index. No attempt
		// was applied: a new id is safe.
		sub.writer.node.RequestIDs.Stamp(&sub.request, result.Version)
		sub.encoded = command.AppendRequest(nil, &sub.request)
		return sub.try(t)
	case !errors.Is(err, errs.Unsent):
		sub.inDoubt, sub.last = true, err
	case !sub.inDoubt && (sub.last == nil || sub.ctx.Err() == nil): // else the last one tells more
		sub.last = err
	}
	return false
}

func (sub *submission) end(err error) (done bool) {
	sub.last = err
	return true
}

// refusal is the error of a request that the leader did not take into its log.
func refusal(result command.Result) error {
	switch result.Code {
	case command.TooLarge:
		return fmt.Errorf("%w: over a limit of the leader's, which differs from this node's", ErrTooLarge)
	case command.Invalid:
		return fmt.Errorf("%w: the leader takes no such operation", ErrInvalid)
	}
	return nil
}

// isRefusal reports whether the leader will never take what it was sent.
func isRefusal(err error) bool {
	return !errors.Is(err, ErrUnknown) && (errors.Is(err, ErrInvalid) || errors.Is(err, ErrTooLarge))
}

// propose brings a group to the leader, here or elsewhere.
func (w *writer) propose(seal func() []byte) ([]command.Result, error) {
	tenure := w.lead.Tenure()
	switch {
	case tenure.Leads:
		if entry := seal(); entry != nil {
			return w.replicate(entry)
		}
		return nil, nil
	case tenure.Leader == roster.Peer{}:
		return nil, errs.NoLeaderKnown
	}
	return w.forwardWrite(tenure, seal)
}

// forwardWrite connects to the leader, and only then seals the group: if there is no
// connection in time, nothing was sent.
func (w *writer) forwardWrite(tenure *lead.Tenure, seal func() []byte) ([]command.Result, error) {
	leader, err := w.node.Port.ConnectWithin(tenure.Ctx, w.node.Patience(), tenure.Leader)
	if err != nil {
		return nil, err
	}
	entry := seal()
	if entry == nil {
		leader.Release()
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(tenure.Ctx, w.node.Patience()+time.Duration(len(entry))*wire.PerByte)
	defer cancel()
	answer, err := leader.Call(ctx, wire.CallWrite, entry)
	if err != nil {
		return nil, err
	}
	results, err := command.DecodeResults(answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return results, nil
}

// serveWrite lets nothing into the log that a state machine could not decode, or that
// no caller of this node could have written: the node that forwards may have other
// limits, or may not be a node of kvraft's.
func (w *writer) serveWrite(_ context.Context, payload []byte) ([]byte, error) {
	own := w.limits
	if len(payload) > own.GroupBytes() {
		return nil, fmt.Errorf("%w: group of %d bytes, the limit is %d", ErrTooLarge, len(payload), own.GroupBytes())
	}
	requests, err := command.Decode(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if n := len(requests); n < 1 || n > batch.GroupRequests {
		return nil, fmt.Errorf("%w: group of %d requests, want 1 to %d", ErrInvalid, n, batch.GroupRequests)
	}
	results, taken, refused := own.Judge(requests)
	switch {
	case refused == nil:
	case len(taken) == 0:
		return nil, refused
	default:
		payload = command.Append(nil, taken)
	}
	applied, err := w.replicate(payload)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Code == command.OK {
			results[i], applied = applied[0], applied[1:]
		}
	}
	return command.AppendResults(nil, results), nil
}

// replicate puts the entry of a group into the log as its leader, and waits until the
// state machine has applied it. The caller must not use entry again. It
// always returns: a leader without a majority steps down within its lease, and a store
// that stops waits for these calls before it shuts raft down.
func (w *writer) replicate(entry []byte) ([]command.Result, error) {
	if !w.node.Futures.Enter() {
		return nil, fmt.Errorf("%w: %w", errs.Unsent, w.node.Life.Err())
	}
	defer w.node.Futures.Leave()
	if !w.node.IsPlaced() {
		return nil, wire.ErrUnplaced
	}
	future := w.node.Raft.Apply(entry, w.node.Timing.Election)
	if err := future.Error(); err != nil {
		return nil, applyError(err, future.Index())
	}
	switch answer := future.Response().(type) {
	case []command.Result:
		return answer, nil
	case error:
		return nil, fmt.Errorf("%w: %w", ErrUnknown, answer)
	default:
		return nil, fmt.Errorf("%w: the state machine answered %T", ErrUnknown, answer)
	}
}

// applyError tells not applied from unknown: an entry without an index never
// reached the log. With one it may be on other nodes' disks, whatever the error
// says; ErrRaftShutdown, for one, is also the answer to entries that were
// committed.
func applyError(err error, index uint64) error {
	if index == 0 || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		return fmt.Errorf("%w: %w", errs.Unsent, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
