package kvraft_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/kvrafttest"
)

// raft waits for its heartbeat timeout, which is a second here, and up to twice as long.
func TestAClusterThatIsStartedAgainElectsALeaderAtOnce(t *testing.T) {
	for _, nodes := range []int{1, 2, 3, 5} {
		for down := range (nodes + 1) / 2 {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, nodes)
				for range 5 {
					leader := c.WaitLeader()
					mustSet(t, c.Store(leader), "key", "value")
					for i := range nodes {
						c.Crash(i)
					}
					time.Sleep(time.Second)
					for i := range nodes - down {
						c.Restart(i)
					}
					began := time.Now()
					c.WaitLeader()
					if took := time.Since(began); took > 100*time.Millisecond {
						t.Errorf("%d of %d nodes have a leader after %v", nodes-down, nodes, took)
					}
					for i := nodes - down; i < nodes; i++ {
						c.Restart(i)
					}
					c.WaitConverged()
				}
			})
		}
	}
}

// It starts with the one that makes a majority, however long the first has waited.
func TestTheVotersThatAreStartedOneAfterTheOtherHaveALeaderSoon(t *testing.T) {
	for _, apart := range []time.Duration{100 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			c.WaitLeader()
			for i := range 3 {
				c.Crash(i)
			}
			c.Restart(0)
			time.Sleep(apart)
			c.Restart(1)
			began := time.Now()
			c.WaitLeader()
			if took := time.Since(began); took > 400*time.Millisecond { // the better placed one has a quarter of a heartbeat
				t.Errorf("started %v apart, two have a leader after %v", apart, took)
			}
			c.Restart(2)
			c.WaitConverged()
		})
	}
}

// A leader that lives keeps its place, whoever is started anew and has not heard it yet.
func TestALeaderThatLivesIsNotDeposedByThoseThatAreStarted(t *testing.T) {
	for _, started := range [][]int{{1}, {1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			term := c.Store(leader).Status().Term
			for _, i := range started {
				c.Crash((leader + i) % 3)
				c.Block(leader, (leader+i)%3)
				c.Restart((leader + i) % 3)
			}
			time.Sleep(400 * time.Millisecond) // its lease has not ended
			c.Heal()
			time.Sleep(10 * time.Second)
			if now, ok := c.Leader(); !ok || now != leader || c.Store(leader).Status().Term != term {
				t.Errorf("n%d leads in term %d, it was n%d in term %d", now+1, c.Store(leader).Status().Term, leader+1, term)
			}
		})
	}
}

// A voter that does not answer may be the leader, which is paused: it is given as much
// time as by voters that have heard it.
func TestAVoterThatIsSilentIsNotTakenForOneThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		c.Pause(leader)
		for _, i := range []int{1, 2} {
			c.Crash((leader + i) % 3)
			c.Restart((leader + i) % 3)
		}
		began := time.Now()
		c.WaitLeaderOtherThan(leader)
		if took := time.Since(began); took < time.Second {
			t.Errorf("it was replaced after %v", took)
		}
		c.Resume(leader)
	})
}

// The one whose log reaches furthest is elected, which all have to wait for otherwise.
func TestTheBestPlacedOfThoseThatAreStartedIsElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for behind := range 3 {
			c.WaitLeader()
			c.WaitConverged()
			c.Crash(behind)
			mustSet(t, c.Store(c.WaitLeaderOtherThan(behind)), "key", "value")
			c.WaitConverged()
			for i := range 3 {
				if c.Up(i) {
					c.Crash(i)
				}
			}
			for i := range 3 {
				c.Restart(i)
			}
			if leader := c.WaitLeader(); leader == behind {
				t.Errorf("n%d was elected, which lacks an entry", leader+1)
			}
		}
	})
}
