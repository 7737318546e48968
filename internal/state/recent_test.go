package state

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/kvraft/kvraft/internal/command"
)

func TestACopyOfARequestGetsTheFirstResultAndChangesNothing(t *testing.T) {
	r := newReplica(t, 32, 8)
	first := request(1, 0, set("a", "1"))
	wantResults(t, r.entry(first, first), ok(1), ok(1))
	r.entry(request(2, 1, del("a")))
	wantResults(t, r.entry(first), ok(1))
	wantItems(t, r.View())
}

func TestAConflictIsRepeatedWhereItsChecksWouldHoldByNow(t *testing.T) {
	r := newReplica(t, 32, 8)
	early := request(1, 0, check("a", 1), set("a", "2"))
	wantResults(t, r.entry(early), conflict(0))
	r.entry(request(2, 0, set("a", "1")))
	wantResults(t, r.entry(early), conflict(0))
	wantItems(t, r.View(), "a=1@1")
}

func TestTheIDMakesTheRequestAndZeroIsAnID(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(request(0, 0, set("a", "1"))), ok(1))
	wantResults(t, r.entry(request(0, 1, set("a", "2"))), ok(1))
	wantItems(t, r.View(), "a=1@1")
}

// fill applies n entries of one request each that changes nothing.
func fill(r *replica, n int) {
	for range n {
		r.entry(request(1<<32+r.index, r.index))
	}
}

func TestTheWindowForgetsWholeChunksOldestFirst(t *testing.T) {
	r := newReplica(t, 32, 8)
	for _, step := range []struct {
		entries, len int
		floor        uint64
	}{{32, 32, 0}, {1, 25, 8}, {7, 32, 8}, {1, 25, 16}} {
		fill(r, step.entries)
		if v := r.View(); v.Own().Len != step.len || v.Own().Floor != step.floor {
			t.Errorf("index %d: %d remembered above floor %d, want %d above %d",
				r.index, v.Own().Len, v.Own().Floor, step.len, step.floor)
		}
	}
	if oldest := remembered(r.View().Own())[0].Index; oldest != 17 {
		t.Errorf("the oldest request has index %d, want 17", oldest)
	}
}

func TestTheWindowIsTheSameOnEveryNode(t *testing.T) {
	s, group := New(), make([]command.Request, 256)
	id, index := uint64(0), uint64(0)
	for range 131072/256 + 1 {
		for i := range group {
			group[i] = request(id, index)
			id++
		}
		index++
		s.Apply(index, group)
	}
	checkConsistency(t, s)
	if v := s.View(); v.Own().Len != 131072-1024+256 || v.Own().Floor != 4 {
		t.Errorf("%d remembered above floor %d", v.Own().Len, v.Own().Floor)
	}
}

// caller is a request that a caller has named.
func caller(id, born uint64, digest byte, ops ...command.Op) command.Request {
	req := request(id, born, ops...)
	req.Origin, req.Digest = command.Caller, command.Digest{digest}
	return req
}

// own is a request that a store has named.
func own(id, born uint64, ops ...command.Op) command.Request {
	req := request(id, born, ops...)
	req.Origin = command.Own
	return req
}

// An Idempotency-Key is for the time after the 504, which is many requests later.
func TestTheRequestsOfStoresDoNotPushOutThoseOfCallers(t *testing.T) {
	s, group := New(), make([]command.Request, 1024)
	first := caller(1, 0, 1, set("a", "1"))
	wantResults(t, s.Apply(1, []command.Request{first}), ok(1))
	id, index := uint64(0), uint64(1)
	for range 2 * Window / len(group) {
		for i := range group {
			group[i] = own(id, index)
			id++
		}
		index++
		s.Apply(index, group)
	}
	checkConsistency(t, s)
	if v := s.View(); v.Own().Len > Window || v.Own().Floor == 0 || v.Callers().Len != 1 || v.Callers().Floor != 0 {
		t.Errorf("%d above %d, and of callers %d above %d", v.Own().Len, v.Own().Floor, v.Callers().Len, v.Callers().Floor)
	}
	wantResults(t, s.Apply(index+1, []command.Request{first}), ok(1))
	wantResults(t, s.Apply(index+2, []command.Request{own(1<<40, 1)}), expired(index+2))
}

func TestTheWindowOfCallersIsTheSameOnEveryNode(t *testing.T) {
	if window := New().memory.callers.window; window != 1048576 {
		t.Errorf("%d requests", window)
	}
	if size := unsafe.Sizeof(record{})*CallerWindow + 2*CallerWindow*unsafe.Sizeof(uint32(0)); size > 64<<20 {
		t.Errorf("they take up to %d bytes, the documents say 64 MiB", size)
	}
}

func TestOneIDOfAStoreAndOfACallerAreTwoRequests(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(own(1, 0, set("a", "1")), caller(1, 0, 0, set("a", "2"))), ok(1), ok(2))
	wantResults(t, r.entry(caller(1, 0, 0, set("a", "2")), own(1, 0, set("a", "1"))), ok(2), ok(1))
}

func TestACallersIDOnAnotherWriteIsRefusedAndTheFirstRemembered(t *testing.T) {
	r := newReplica(t, 32, 8)
	first := caller(1, 0, 1, set("a", "1"))
	wantResults(t, r.entry(first, caller(1, 0, 2, set("a", "2"))), ok(1), command.Result{Code: command.Reused, Version: 1})
	wantResults(t, r.entry(caller(1, 1, 2, set("a", "2"))), command.Result{Code: command.Reused, Version: 2})
	wantResults(t, r.entry(first), ok(1))
	wantItems(t, r.View(), "a=1@1")
}

// An entry of version 1 may have had the same write of the same caller, under an id of
// another make.
func TestACallersRequestFromBeforeTheLastUnmarkedOneIsRefused(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(7, 0, set("a", "1"))) // at index 1
	r.entry(own(8, 1))
	wantResults(t, r.entry(caller(1, 0, 1, set("b", "1")), caller(2, 1, 1, set("c", "1"))), expired(3), ok(2))
	r.entry(request(9, 3)) // nothing of the kind comes after the first marked ones; if it does, it counts
	wantResults(t, r.entry(caller(3, 3, 1, set("d", "1")), caller(2, 1, 1, set("c", "1"))), expired(5), ok(2))
	reload(t, r.View(), 32, 8)
}

func TestAForgottenRequestIsRefusedForGood(t *testing.T) {
	r := newReplica(t, 32, 8)
	first := request(1, 0, set("a", "1"))
	r.entry(first)
	fill(r, 32)
	wantResults(t, r.entry(first), expired(34))
	wantResults(t, r.entry(first, first), expired(35), expired(35))
	wantItems(t, r.View(), "a=1@1")
}

func TestARefusedRequestIsNotRemembered(t *testing.T) {
	r := newReplica(t, 32, 8)
	fill(r, 33)
	before := r.View().Hash()
	wantResults(t, r.entry(request(1, 7, set("a", "1"))), expired(34))
	if r.View().Hash() != before {
		t.Error("the state changed")
	}
}

func TestANewIDBornWhereTheOldWasRefusedIsAccepted(t *testing.T) {
	r := newReplica(t, 32, 8)
	fill(r, 33)
	refusal := r.entry(request(1, 0, set("a", "1")))[0]
	wantResults(t, r.entry(request(2, refusal.Version, set("a", "1"))), ok(1))
}

func TestARequestBornAtTheFloorIsAccepted(t *testing.T) {
	r := newReplica(t, 32, 8)
	fill(r, 33)
	if floor := r.View().Own().Floor; floor != 8 {
		t.Fatalf("floor %d, want 8", floor)
	}
	wantResults(t, r.entry(request(1, 7, set("a", "1")), request(2, 8, set("b", "1"))), expired(34), ok(1))
}

func TestAnEntryThatIsForgottenInPartIsCoveredByTheFloor(t *testing.T) {
	r := newReplica(t, 4, 2)
	group := []command.Request{
		request(1, 0, set("a", "1")), request(2, 0, set("b", "1")), request(3, 0, set("c", "1")),
	}
	r.entry(group...)
	fill(r, 2)
	if v := r.View(); v.Own().Floor != 1 || v.Own().Len != 3 {
		t.Fatalf("%d remembered above floor %d, want 3 above 1", v.Own().Len, v.Own().Floor)
	}
	wantResults(t, r.entry(group...), expired(4), expired(4), ok(3))
	wantItems(t, r.View(), "a=1@1", "b=1@2", "c=1@3")
}

func TestTheFloorStandsStillWithinAnEntry(t *testing.T) {
	r := newReplica(t, 4, 2)
	group := make([]command.Request, 10)
	for i := range group {
		group[i] = request(uint64(i), 0, set("a", "1"))
	}
	for i, result := range plainly(r.entry(group...)) {
		if result != ok(uint64(i+1)) {
			t.Errorf("request %d of a group larger than the window: %v", i, result)
		}
	}
	if v := r.View(); v.Own().Floor != 1 || v.Own().Len != 4 {
		t.Errorf("%d remembered above floor %d, want 4 above 1", v.Own().Len, v.Own().Floor)
	}
	for i, result := range r.entry(group...) {
		if result.Code == command.OK && i < 6 || result.Code != command.OK && i >= 6 {
			t.Errorf("copy of request %d: %v", i, result)
		}
	}
}

func TestARequestBornAtOrAfterItsEntryIsRefused(t *testing.T) {
	s := New()
	for _, born := range []uint64{7, 8, 1 << 60} {
		req := command.Request{ID: command.ID{1}, Born: born, Ops: []command.Op{{Kind: command.Set, Key: "k"}}}
		if got := s.Apply(7, []command.Request{req})[0]; got != (command.Result{Code: command.Expired, Version: 7}) {
			t.Errorf("born at %d, applied at 7: %+v", born, got)
		}
	}
	if n := s.View().Len(); n != 0 {
		t.Errorf("%d keys were set", n)
	}
}

// A state that is loaded with a few requests, as most are in tests, does not pay for a window of them.
func TestTheTableOfAFewRequestsIsSmall(t *testing.T) {
	s := New()
	for id := range uint64(3000) {
		s.Apply(id+1, []command.Request{caller(id, id, 1)})
		if heads := len(s.memory.callers.heads); id < chunkSize && heads > 2*chunkSize {
			t.Fatalf("%d places for %d requests", heads, id+1)
		}
	}
	if heads := len(s.memory.callers.heads); heads != 2*CallerWindow {
		t.Errorf("%d places in the end", heads)
	}
	checkConsistency(t, s)
}

func TestANewRequestOfAStoreIsKnownAsNewWithoutALookAtAnother(t *testing.T) {
	r := newRecent(1<<10, 1<<5)
	ids, rnd := command.NewIDs(), rand.New(rand.NewPCG(1, 1))
	for index := uint64(1); index < 200; index++ {
		group := make([]command.Request, 64)
		for i := range group {
			ids.Stamp(&group[i], index-1)
		}
		rnd.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] }) // callers go to the leader in any order
		for _, req := range group {
			grown := len(r.heads) == 2*r.window && int(index)*len(group) > 2*len(r.heads)
			if grown && int(r.next-*r.head(req.ID)) <= r.len {
				t.Fatalf("index %d: there is a chain to go through", index)
			}
			r.add(Remembered{ID: req.ID, Index: index})
		}
		r.prune()
	}
}

// The numbers of records wrap around after 2^32 requests. heads then has numbers that
// look like those of records.
func TestRequestsAreFoundWhenTheNumbersOfRecordsWrapAround(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		r := newRecent(32, 8)
		r.heads = make([]uint32, 16)
		r.next = -uint32(random.IntN(200))
		for i := range r.heads {
			r.heads[i] = r.next + uint32(random.IntN(500)) - 100
		}
		known := map[command.ID]command.Result{}
		for n := range uint64(300) {
			id := command.ID{byte(n), byte(n >> 8)}
			if result, ok := r.find(id); ok {
				t.Fatalf("seed %d: request %d is found as %v before it came", seed, n, result)
			}
			known[id] = command.Result{Version: n}
			r.add(Remembered{ID: id, Index: n, Result: known[id]})
			if random.IntN(4) == 0 {
				r.prune()
			}
			for i := range r.len {
				rec := r.at(i)
				if result, ok := r.find(rec.ID); !ok || result.Result != known[rec.ID] {
					t.Fatalf("seed %d: request %v is found as %v, %v", seed, rec.ID, result, ok)
				}
			}
		}
	}
}
