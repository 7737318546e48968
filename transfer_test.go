package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// writers write on every given node until stop, and fail the test if a write fails.
// pause is the longest time between two acknowledged writes of one of them.
func writers(t *testing.T, stores ...*kvraft.Store) (stop func() (pause time.Duration)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	pauses := make([]time.Duration, len(stores))
	for i, store := range stores {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				if _, err := store.Set(t.Context(), fmt.Sprint("writer-", i), fmt.Append(nil, n)); err != nil {
					t.Errorf("write %d of writer %d: %v", n, i, err)
					return
				}
				pauses[i] = max(pauses[i], time.Since(began))
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return func() (pause time.Duration) {
		cancel()
		running.Wait()
		for _, p := range pauses {
			pause = max(pause, p)
		}
		return pause
	}
}

func all(c *kvrafttest.Cluster) (stores []*kvraft.Store) {
	for i := range c.Len() {
		if c.Up(i) {
			stores = append(stores, c.Store(i))
		}
	}
	return stores
}

func TestLeadershipGoesToTheVoterThatIsNamedWhileNoWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		stop := writers(t, all(c)...)
		for round := range 9 {
			to, through := round%3, round/3
			if err := c.Store(through).TransferLeadership(within(t, 10*time.Second), fmt.Sprint("n", to+1)); err != nil {
				t.Fatalf("to node %d through node %d: %v", to, through, err)
			}
			if leader := c.WaitLeader(); leader != to {
				t.Errorf("node %d leads, want %d", leader, to)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if pause := stop(); pause > 100*time.Millisecond {
			t.Errorf("a write took %v", pause)
		}
	})
}

func TestLeadershipGoesToAnyOtherVoterWhenNoneIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		c.Add(kvraft.WithReplica())
		for through := range c.Len() {
			old := c.WaitLeader()
			if err := c.Store(through).TransferLeadership(within(t, 10*time.Second), ""); err != nil {
				t.Fatal(err)
			}
			if leader := c.WaitLeader(); leader == old || leader == 3 {
				t.Errorf("node %d leads after node %d", leader, old)
			}
		}
	})
}

func TestATransferThatCannotBeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		c.Add(kvraft.WithReplica())
		for i := range c.Len() {
			ctx := within(t, 10*time.Second)
			term := c.Store(0).Status().Term
			if err := c.Store(i).TransferLeadership(ctx, "n1"); err != nil {
				t.Errorf("to the leader: %v", err)
			}
			if err := c.Store(i).TransferLeadership(ctx, ""); !errors.Is(err, kvraft.ErrRefused) {
				t.Errorf("to nobody: %v", err)
			}
			if err := c.Store(i).TransferLeadership(ctx, "n2"); !errors.Is(err, kvraft.ErrRefused) {
				t.Errorf("to a replica: %v", err)
			}
			if err := c.Store(i).TransferLeadership(ctx, "n3"); !errors.Is(err, kvraft.ErrNotFound) {
				t.Errorf("to a stranger: %v", err)
			}
			if err := c.Store(i).TransferLeadership(ctx, "n 3"); !errors.Is(err, kvraft.ErrInvalid) {
				t.Errorf("to what is no id: %v", err)
			}
			if now := c.Store(0).Status().Term; now != term {
				t.Errorf("the term went from %d to %d", term, now)
			}
		}
	})
}

func TestATransferToAVoterThatDoesNotAnswerLeavesTheLeaderWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		to := (leader + 1) % 3
		c.Isolate(to)
		stop := writers(t, c.Store(leader))
		err := c.Store(leader).TransferLeadership(within(t, 10*time.Second), fmt.Sprint("n", to+1))
		if !errors.Is(err, kvraft.ErrUnreachable) {
			t.Errorf("transfer: %v", err)
		}
		if pause := stop(); pause > 100*time.Millisecond {
			t.Errorf("a write took %v", pause)
		}
		if now := c.WaitLeader(); now != leader {
			t.Errorf("node %d leads, want %d", now, leader)
		}
	})
}

func TestLeaderChangesShowsEachCallerTheLastLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		watched := c.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		last := make([]kvraft.Leadership, 3)
		for i, pause := range []time.Duration{0, time.Millisecond, time.Minute} { // the slowest holds nobody up
			watching.Go(func() {
				for leader := range watched.LeaderChanges(ctx) {
					last[i] = leader
					time.Sleep(pause)
				}
			})
		}
		for to := range 3 {
			if err := watched.TransferLeadership(within(t, 10*time.Second), fmt.Sprint("n", to+1)); err != nil {
				t.Fatal(err)
			}
		}
		c.WaitLeader()
		time.Sleep(2 * time.Minute)
		synctest.Wait() // without it nothing orders what they wrote before what is read here
		for i, leader := range last {
			if leader.Leader.ID != "n3" || !leader.Leader.Voter || leader.Term == 0 {
				t.Errorf("caller %d saw %+v last, want n3", i, leader)
			}
		}
		c.Isolate(0)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for i, leader := range last {
			if leader.Leader != (kvraft.Node{}) || leader.Term != 0 {
				t.Errorf("caller %d saw %+v last, want nobody", i, leader)
			}
		}
		cancel()
		watching.Wait()
		c.Heal()
	})
}

// One consumer keeps up and one does not: both can tell.
func TestLeaderChangesTellTheTermAndWhatWasMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		watched := c.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		var quick, slow []kvraft.Leadership
		for pause, seen := range map[time.Duration]*[]kvraft.Leadership{0: &quick, 90 * time.Second: &slow} {
			watching.Go(func() {
				for now := range watched.LeaderChanges(ctx) {
					*seen = append(*seen, now)
					time.Sleep(pause)
				}
			})
		}
		for _, to := range []string{"n2", "n3", "n1", "n2"} {
			if err := watched.TransferLeadership(within(t, 10*time.Second), to); err != nil && !strings.Contains(err.Error(), "already") {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		c.Isolate(c.WaitLeader()) // and is led again, perhaps by the same, in another term
		time.Sleep(10 * time.Second)
		c.Heal()
		c.WaitLeader()
		time.Sleep(2 * time.Minute)
		cancel()
		watching.Wait()
		var term uint64
		for i, now := range quick {
			if now.Leader.ID == "" != (now.Term == 0) || now.Leader.ID != "" && (!now.Leader.Voter || now.Term <= term) {
				t.Errorf("%+v after term %d", now, term)
			}
			if i > 0 && now.Number != quick[i-1].Number+1 {
				t.Errorf("%+v is not the one after %+v", now, quick[i-1])
			}
			term = max(term, now.Term)
		}
		if n := len(slow); n != 2 || slow[1].Number <= slow[0].Number+1 || slow[1] != quick[len(quick)-1] {
			t.Errorf("the slow one saw %+v, the last is %+v", slow, quick[len(quick)-1])
		}
		if leader, known := watched.Leader(); !known || !leader.Voter {
			t.Errorf("%+v", leader)
		}
		if leader, err := watched.WaitLeader(within(t, time.Minute)); err != nil || leader != watched.Status().Leader || !leader.Voter {
			t.Errorf("%+v, %v", leader, err)
		}
	})
}

func TestLeaderChangesEndsWithTheStoreAndWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		for range c.Store(0).LeaderChanges(t.Context()) {
			break
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range c.Store(0).LeaderChanges(context.Background()) {
			}
		}()
		synctest.Wait()
		c.Stop(0)
		<-ended
	})
}

func TestLeadershipIsHandedOverUnderLoadOverSlowLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		for a := range 3 {
			for b := range 3 {
				c.Network().SetDelay(c.Host(a), c.Host(b), 10*time.Millisecond)
			}
		}
		var busy []*kvraft.Store
		for range 64 {
			busy = append(busy, c.Store(leader))
		}
		stop := writers(t, busy...)
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		if err := c.Store(leader).TransferLeadership(within(t, 5*time.Second), fmt.Sprint("n", (leader+1)%3+1)); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		stop()
	})
}
