package kvraft_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// delayEntries makes a disk take so long to store entries.
func delayEntries(disk *kvrafttest.Disk, d time.Duration) {
	disk.SetFault(func(op kvrafttest.Operation) error {
		if op.Name == "StoreLogs" {
			time.Sleep(d)
		}
		return nil
	})
}

// setTakes returns how long a write takes.
func setTakes(t *testing.T, s *kvraft.Store, key string) time.Duration {
	t.Helper()
	began := time.Now()
	mustSet(t, s, key, "value")
	return time.Since(began)
}

func TestALeaderAndItsFollowersWriteToTheirDisksAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		for i := range 3 {
			delayEntries(c.Disk(i), 100*time.Millisecond)
		}
		if took := setTakes(t, c.Store(leader), "key"); took < 100*time.Millisecond || took > 150*time.Millisecond {
			t.Errorf("a write takes %v where each disk takes 100ms", took)
		}
	})
}

func TestNothingIsCommittedBeforeItsLeaderHasStoredIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		delayEntries(c.Disk(leader), 5*time.Second)
		version := make(chan time.Duration, 1)
		go func() { version <- setTakes(t, c.Store(leader), "new") }()

		time.Sleep(4 * time.Second)
		synctest.Wait()
		for i := range 3 {
			if _, err := c.Store(i).Get(t.Context(), "new", kvraft.Stale); !errors.Is(err, kvraft.ErrNotFound) {
				t.Errorf("n%d has applied what its leader n%d has not stored: %v", i+1, leader+1, err)
			}
		}
		if took := <-version; took < 5*time.Second {
			t.Errorf("a write is acknowledged after %v, and stored on the leader after 5s", took)
		}
	})
}

func TestAnEntryThatItsLeaderLostBeforeStoringItIsNoDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		delayEntries(c.Disk(leader), 5*time.Second)
		outcome := make(chan error, 1)
		go func() {
			_, err := c.Store(leader).Set(within(t, time.Minute), "new", []byte("value"))
			outcome <- err
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		c.Crash(leader) // the followers have the entry
		if err := <-outcome; !errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("set: %v, want ErrUnknown", err)
		}
		c.Disk(leader).SetFault(nil)
		c.WaitLeaderOtherThan(leader)
		c.Restart(leader)
		mustSet(t, c.Store(leader), "newer", "value")
	})
}

func TestALeaderThatIsAMajorityByItselfStoresBeforeItCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		replica := on(t, c.Network(), "replica", "replica", kvraft.WithJoin("n1:7000"), kvraft.WithReplica())
		eventually(t, "the replica is ready", ready(replica))
		delayEntries(c.Disk(0), time.Second)
		if took := setTakes(t, c.Store(0), "key"); took < time.Second {
			t.Errorf("a write is acknowledged after %v, and stored after 1s", took)
		}
	})
}
