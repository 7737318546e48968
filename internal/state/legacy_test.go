package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kvraft/kvraft/internal/command"
)

func TestALegacyStateIsAsItsMapIs(t *testing.T) {
	replayed := newReplica(t, 32, 8)
	for _, op := range []command.Op{
		set("a", "1"), set("b", "1"), set("a", "2"), del("absent"), set("c", "1"), del("c"), set("", "of an empty key"), set("b", ""),
	} {
		replayed.index++
		replayed.ApplyLegacy(op)
	}
	restored := NewLegacy(map[string]string{"a": "2", "b": "", "": "of an empty key"})
	wantItems(t, replayed.View(), "=of an empty key@1", "a=2@1", "b=@1")
	if replayed.View().Hash() != restored.View().Hash() {
		t.Error("one that was replayed is not the one that was restored")
	}
	for _, key := range []string{"a", "b", ""} {
		replayed.ApplyLegacy(del(key))
	}
	if replayed.View().Hash() != NewLegacy(nil).View().Hash() {
		t.Error("an empty one that was replayed is not the one that was restored")
	}
}

func TestNoConditionHoldsForAVersionFromALegacyState(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.ApplyLegacy(set("gone", "old"))
	r.ApplyLegacy(set("kept", "old"))
	before := r.View()
	r.ApplyLegacy(set("kept", "new"))
	r.ApplyLegacy(del("gone"))
	r.entry() // of a leader, empty
	wantItems(t, before, "gone=old@1", "kept=old@1")
	wantItems(t, r.View(), "kept=new@2")
	wantResults(t, r.entry(request(1, 1, check("kept", 1), set("kept", "x"))), conflict(2))
	wantResults(t, r.entry(request(2, 1, set("gone", "anew"))), ok(3))
	wantResults(t, r.entry(request(3, 1, check("gone", 1), set("gone", "x"))), conflict(3))
	wantResults(t, r.entry(request(4, 1, check("kept", 2), set("kept", "newer"))), ok(4))
	wantItems(t, r.View(), "gone=anew@3", "kept=newer@4")
}

func TestALegacyStateEndsWithoutAKeyToo(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.ApplyLegacy(set("k", "old"))
	r.ApplyLegacy(del("k"))
	wantResults(t, r.entry(request(1, 0, set("k", "new"))), ok(3))
	fresh := newReplica(t, 32, 8)
	fresh.entry()
	wantResults(t, fresh.entry(request(1, 0, set("k", "new"))), ok(1))
	wantResults(t, fresh.entry(request(2, 0, set("l", "new"))), ok(2))
	wantItems(t, fresh.View(), "k=new@1", "l=new@2")
}

// A node replays all of a log; another one begins with a snapshot, of hraftd's or of kvraft's, from anywhere in it.
func TestReplicasOfALegacyLogAgreeWhereverTheyBegin(t *testing.T) {
	const window, chunk, legacy, all = 32, 8, 60, 300
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		whole, others := newReplica(t, window, chunk), map[string]*replica{}
		pairs := map[string]string{}
		c := clients{rnd: rnd, marked: 150}
		for whole.index < all {
			apply := func(r *replica) { r.entry() }
			if whole.index < legacy {
				op := set(fmt.Sprint("k", rnd.IntN(9)), fmt.Sprint(rnd.IntN(1000)))
				if rnd.IntN(3) == 0 {
					op = del(op.Key)
				}
				if delete(pairs, op.Key); op.Kind == command.Set {
					pairs[op.Key] = string(op.Value)
				}
				apply = func(r *replica) { r.index++; r.ApplyLegacy(op) }
			} else if whole.index > legacy {
				reqs := c.entry(whole.index+1, whole.View())
				apply = func(r *replica) { r.entry(reqs...) }
			}
			apply(whole)
			for name, r := range others {
				if apply(r); r.View().Hash() != whole.View().Hash() {
					t.Fatalf("seed %d: %s differs at index %d", seed, name, whole.index)
				}
			}
			if rnd.IntN(20) > 0 {
				continue
			}
			others[fmt.Sprint("restored at ", whole.index)] = &replica{reload(t, whole.View(), window, chunk), whole.index}
			if whole.index <= legacy {
				s := NewLegacy(pairs)
				s.memory = newMemory(sizes(window, chunk))
				others[fmt.Sprint("of hraftd at ", whole.index)] = &replica{s, whole.index}
			}
		}
	}
}

func TestARevisionThatIsRaisedIsTheOneBeforeTheNextWrites(t *testing.T) {
	for name, s := range map[string]*State{"new": New(), "legacy": NewLegacy(map[string]string{"a": "1"})} {
		s.RaiseRevision(100)
		if got := s.Apply(7, []command.Request{request(1, 6, set("b", "1"))})[0]; got != (command.Result{Code: command.Created, Version: 101}) {
			t.Errorf("%s: the first write after it: %+v", name, got)
		}
		if it, there := s.View().Get("a"); there && it.Version != 2 {
			t.Errorf("%s: a key of hraftd's has version %d", name, it.Version)
		}
	}
}
