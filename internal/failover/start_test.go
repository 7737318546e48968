package failover

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/node"
)

func TestWhoMayStandAtTheStartOfACluster(t *testing.T) {
	const lease, heartbeat, moment = 500 * time.Millisecond, time.Second, time.Millisecond
	d := New(&node.Node{Timing: node.Timing{Heartbeat: heartbeat, Lease: lease}}, nil)
	voter := func(server raft.ServerID, index uint64, unled time.Duration) StartVote {
		return StartVote{Unled: unled, Elects: true, LogEnd: LogEnd{2, index, server}}
	}
	says := func(v StartVote) answer[StartVote] { return answer[StartVote]{vote: v} }
	without := func(v StartVote, change func(*StartVote)) answer[StartVote] {
		change(&v)
		return says(v)
	}
	refuses := answer[StartVote]{err: fmt.Errorf("dial: %w", syscall.ECONNREFUSED)}
	silent := answer[StartVote]{err: context.DeadlineExceeded}
	led := says(StartVote{LogEnd: LogEnd{2, 9, "c"}})
	for _, c := range []struct {
		what   string
		mine   StartVote
		others []answer[StartVote]
		rank   int
		may    bool
	}{
		{"one alone", voter("b", 9, moment), nil, 0, true},
		{"all have been started", voter("b", 9, moment), []answer[StartVote]{says(voter("a", 9, moment)), says(voter("a", 8, moment))}, 0, true},
		{"another goes before", voter("b", 9, moment), []answer[StartVote]{says(voter("c", 9, moment)), says(voter("a", 9, moment))}, 1, true},
		{"another that abstains does not", voter("b", 9, moment), []answer[StartVote]{without(voter("c", 9, moment), func(v *StartVote) { v.Abstains = true }), says(voter("a", 9, moment))}, 0, true},
		{"it abstains itself", without(voter("b", 9, moment), func(v *StartVote) { v.Abstains = true }).vote, []answer[StartVote]{says(voter("a", 9, moment))}, 0, false},
		{"it has heard of a leader itself", voter("b", 9, 0), []answer[StartVote]{says(voter("a", 9, moment))}, 0, false},
		{"it cannot be elected", without(voter("b", 9, moment), func(v *StartVote) { v.Elects = false }).vote, []answer[StartVote]{says(voter("a", 9, moment))}, 0, false},
		{"one has heard of a leader", voter("b", 9, time.Hour), []answer[StartVote]{says(voter("a", 9, time.Hour)), led}, 0, false},
		{"one cannot vote, and has heard of none", voter("b", 9, moment), []answer[StartVote]{says(voter("a", 9, moment)), without(voter("c", 9, moment), func(v *StartVote) { v.Elects = false })}, 0, true},
		{"without that one there is no majority", voter("b", 9, moment), []answer[StartVote]{without(voter("c", 9, moment), func(v *StartVote) { v.Elects = false })}, 0, false},
		{"the others would not vote for it", voter("b", 9, moment), []answer[StartVote]{says(voter("a", 10, moment)), says(voter("c", 10, moment))}, 2, false},
		{"a majority would", voter("b", 9, moment), []answer[StartVote]{says(voter("a", 10, moment)), says(voter("c", 9, moment))}, 2, true},
		{"one does not run, and may be back in a moment", voter("b", 9, lease), []answer[StartVote]{says(voter("a", 9, lease-1)), refuses}, 0, false},
		{"one does not run, and can lead no more", voter("b", 9, lease), []answer[StartVote]{says(voter("a", 9, lease)), refuses}, 0, true},
		{"one is silent, and may lead", voter("b", 9, heartbeat), []answer[StartVote]{says(voter("a", 9, heartbeat-1)), silent}, 0, false},
		{"one is silent, and cannot lead", voter("b", 9, heartbeat), []answer[StartVote]{says(voter("a", 9, heartbeat)), silent}, 0, true},
		{"of five two do not run, and one was started just now", voter("b", 9, lease), []answer[StartVote]{says(voter("a", 9, lease)), says(voter("c", 8, moment)), refuses, refuses}, 0, false},
		{"of four one does not run, and one was started just now", voter("b", 9, lease), []answer[StartVote]{says(voter("a", 9, lease)), says(voter("c", 8, moment)), refuses}, 0, false},
		{"too many do not run", voter("b", 9, time.Hour), []answer[StartVote]{refuses, silent}, 0, false},
	} {
		rank, may := d.mayStart(c.others, c.mine, len(c.others)+1)
		if may != c.may || may && rank != c.rank {
			t.Errorf("%s: %v, with %d before it; want %v, %d", c.what, may, rank, c.may, c.rank)
		}
	}
}

// No answer of a member uses up the terms.
func TestAVoterGoesNoFurtherThanElectionsLeadWhenItIsStarted(t *testing.T) {
	for said, want := range map[uint64]uint64{0: 5, 4: 5, 5: 5, 9: 9, math.MaxUint64: 5, 1 << 60: 5 + 1<<32} {
		answers := []answer[StartVote]{{vote: StartVote{Current: 3}}, {vote: StartVote{Current: said}}}
		if got := latestTerm(answers, StartVote{Current: 5}); got != want {
			t.Errorf("one says %d: %d, want %d", said, got, want)
		}
	}
}
