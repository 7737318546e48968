package state

import (
	"math/rand/v2"
	"testing"

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
		if v := r.View(); v.RememberedLen() != step.len || v.Floor() != step.floor {
			t.Errorf("index %d: %d remembered above floor %d, want %d above %d",
				r.index, v.RememberedLen(), v.Floor(), step.len, step.floor)
		}
	}
	if oldest := remembered(r.View())[0].Index; oldest != 17 {
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
	if v := s.View(); v.RememberedLen() != 131072-1024+256 || v.Floor() != 4 {
		t.Errorf("%d remembered above floor %d", v.RememberedLen(), v.Floor())
	}
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
	if floor := r.View().Floor(); floor != 8 {
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
	if v := r.View(); v.Floor() != 1 || v.RememberedLen() != 3 {
		t.Fatalf("%d remembered above floor %d, want 3 above 1", v.RememberedLen(), v.Floor())
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
	for i, result := range r.entry(group...) {
		if result != ok(uint64(i+1)) {
			t.Errorf("request %d of a group larger than the window: %v", i, result)
		}
	}
	if v := r.View(); v.Floor() != 1 || v.RememberedLen() != 4 {
		t.Errorf("%d remembered above floor %d, want 4 above 1", v.RememberedLen(), v.Floor())
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
				if result, ok := r.find(rec.ID); !ok || result != known[rec.ID] {
					t.Fatalf("seed %d: request %v is found as %v, %v", seed, rec.ID, result, ok)
				}
			}
		}
	}
}
