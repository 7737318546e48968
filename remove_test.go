package kvraft_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func memberIDs(t *testing.T, s *kvraft.Store) string {
	t.Helper()
	nodes, err := s.Nodes(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	return strings.Join(ids, " ")
}

// Followers and leaders are removed, live and dead ones, down to the last, through
// whoever is left, and no write fails there.
func TestMembersAreRemovedOneByOneWhileNoWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 5)
		stop := writers(t, c.Store(0))
		for i := 4; i > 0; i-- {
			if i%2 == 0 { // make it the leader
				if err := c.Store(0).TransferLeadership(within(t, time.Minute), fmt.Sprint("n", i+1)); err != nil {
					t.Fatal(err)
				}
			}
			c.Remove(i)
			if ids, want := memberIDs(t, c.Store(0)), strings.Join(strings.Fields("n1 n2 n3 n4 n5")[:i], " "); ids != want {
				t.Errorf("members %q, want %q", ids, want)
			}
		}
		if pause := stop(); pause > 500*time.Millisecond {
			t.Errorf("a write took %v", pause)
		}
		if err := c.Store(0).Remove(within(t, time.Minute), "n1"); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("the last one: %v", err)
		}
	})
}

func TestANodeMayRemoveItself(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				i := c.WaitLeader()
				if who == "follower" {
					i = (i + 1) % 3
				}
				id := fmt.Sprint("n", i+1)
				if err := c.Store(i).Remove(within(t, time.Minute), id); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it stops", func() bool { return c.Store(i).Err() != nil })
				if err := c.Store(i).Err(); !errors.Is(err, kvraft.ErrRemoved) || !errors.Is(err, kvraft.ErrClosed) {
					t.Errorf("err = %v", err)
				}
				if st := c.Store(i).Status(); st.State != kvraft.Stopped || !strings.Contains(st.Reason, "removed from the cluster") {
					t.Errorf("status %+v", st)
				}
				c.Remove(i) // which it is: nothing
				if ids := memberIDs(t, c.Store((i+1)%3)); strings.Contains(ids, id) {
					t.Errorf("members %q", ids)
				}
			})
		})
	}
}

func TestARemovalThatWouldTakeTheMajorityIsRefusedUnlessForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 5)
		leader := c.WaitLeader()
		live := []int{leader, (leader + 1) % 5, (leader + 2) % 5}
		dead := []int{(leader + 3) % 5, (leader + 4) % 5}
		for _, i := range dead {
			c.Crash(i)
		}
		err := c.Store(leader).Remove(within(t, time.Minute), fmt.Sprint("n", live[1]+1))
		if !errors.Is(err, kvraft.ErrRefused) || !strings.Contains(err.Error(), "of the 4 voters that would remain 2 answer") {
			t.Errorf("a live one of three: %v", err)
		}
		err = c.Store(leader).Remove(within(t, time.Minute), fmt.Sprint("n", leader+1))
		if !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("the leader: %v", err)
		}
		mustSet(t, c.Store(leader), "key", "value")
		for _, i := range dead {
			c.Remove(i)
		}
		c.Remove(live[2]) // now that can be borne

		err = c.Store(leader).Remove(within(t, 5*time.Second), fmt.Sprint("n", live[1]+1))
		if err != nil {
			t.Errorf("one of two, both alive: %v", err)
		}
		c.Remove(live[1])
	})
}

func TestAForcedRemovalGoesOnWithoutAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower, dead := (leader+1)%3, (leader+2)%3
		c.Crash(dead)
		id := fmt.Sprint("n", follower+1)
		if err := c.Store(leader).Remove(within(t, time.Minute), id); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("unforced: %v", err)
		}
		// Of {leader, dead} one answers: nothing can be committed any more.
		err := c.Store(leader).Remove(within(t, 5*time.Second), id, kvraft.Force)
		if !errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("forced: %v, want ErrUnknown", err)
		}
		c.Restart(dead)
		eventually(t, "the removal is committed", func() bool { return !strings.Contains(memberIDs(t, c.Store(leader)), id) })
		c.Remove(follower)
	})
}

func TestARemovalOfAStrangerIsNotFoundAndASecondOneIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for i := range c.Len() {
			if err := c.Store(i).Remove(within(t, time.Minute), "n9"); !errors.Is(err, kvraft.ErrNotFound) {
				t.Errorf("through node %d: %v", i, err)
			}
			if err := c.Store(i).Remove(within(t, time.Minute), ""); !errors.Is(err, kvraft.ErrInvalid) {
				t.Errorf("without an id: %v", err)
			}
		}
		c.Remove(2)
		index := c.Store(c.WaitLeader()).Index()
		for range 3 {
			if err := c.Store(1).Remove(within(t, time.Minute), "n3"); err != nil {
				t.Errorf("again: %v", err)
			}
		}
		if now := c.Store(c.WaitLeader()).Index(); now != index {
			t.Errorf("the log went from %d to %d", index, now)
		}
	})
}

// The connection to the leader breaks in the middle: whether the first attempt had effect
// is not known, and the second tells.
func TestARemovalOfAStrangerIsNotFoundOverABrokenConnectionEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		asked := c.Store((leader + 1) % 3)
		mustSet(t, asked, "key", "value") // leaves an open connection
		c.Network().Sever(c.Host(leader), c.Host((leader+1)%3))
		if err := asked.Remove(within(t, time.Minute), "n9"); !errors.Is(err, kvraft.ErrNotFound) || errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("remove: %v", err)
		}
	})
}

// Its leader dies at some moment of the removal: whoever asked is not told that there
// is no such node, but that it is removed.
func TestARemovalThatTheNextLeaderFinishesSucceeds(t *testing.T) {
	for how, opts := range map[string][]kvraft.RemoveOption{"for good": nil, "it may return": {kvraft.MayReturn}} {
		for delay := range 12 {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 4)
				leader := c.WaitLeader()
				asked, doomed := (leader+1)%4, (leader+2)%4
				c.Stop(doomed)
				removed := make(chan error, 1)
				go func() {
					removed <- c.Store(asked).Remove(within(t, time.Minute), fmt.Sprint("n", doomed+1), opts...)
				}()
				time.Sleep(time.Duration(delay) * 500 * time.Microsecond)
				c.Crash(leader)
				time.Sleep(5 * time.Second)
				c.Restart(leader)
				if err := <-removed; err != nil {
					t.Errorf("%s, the leader dies after %d half milliseconds: %v", how, delay, err)
				}
				c.Remove(doomed)
			})
		}
	}
}

// removable is a member that a test stops and starts itself.
func removable(t *testing.T, c *kvrafttest.Cluster) (machine, *kvraft.Store) {
	m := newMachine(t, c.Network())
	s := m.start(t, "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
	eventually(t, "x is ready", ready(s))
	return m, s
}

func closeStore(t *testing.T, s *kvraft.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestARemovedNodeDoesNotComeBackUntilItIsEmptied(t *testing.T) {
	for _, when := range []string{"while it runs", "while it is down"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				x, s := removable(t, c)
				if when == "while it is down" {
					closeStore(t, s)
				}
				if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
					t.Fatal(err)
				}
				if when == "while it runs" {
					time.Sleep(time.Minute)
					closeStore(t, s)
				}
				// It does not ask in vain for the leader that admitted it only.
				c.Crash(c.WaitLeader())
				s = x.start(t, "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
				if err := c.Store(pickUp(c)).Join(within(t, time.Minute), "x", "x:7000"); !errors.Is(err, kvraft.ErrRemoved) {
					t.Errorf("it was let in: %v", err)
				}
				if _, err := s.WaitLeader(within(t, time.Minute)); !errors.Is(err, kvraft.ErrRemoved) {
					t.Errorf("it came back: %v", err)
				}
				closeStore(t, s)

				x = newMachine(t, c.Network())
				s = x.start(t, "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
				eventually(t, "emptied, it is let in", ready(s))
				if err := c.Store(pickUp(c)).Remove(within(t, time.Minute), "x"); err != nil {
					t.Error(err)
				}
				closeStore(t, s)
			})
		})
	}
}

func pickUp(c *kvrafttest.Cluster) int {
	for i := range c.Len() {
		if c.Up(i) {
			return i
		}
	}
	return -1
}

func TestANodeThatMayReturnDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		x, s := removable(t, c)
		mustSet(t, s, "key", "before")
		// While it runs it is back at once.
		if err := c.Store(0).Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is a voter again", func() bool {
			nodes, err := c.Store(0).Nodes(within(t, time.Minute)) // its own status may be from before the removal
			return err == nil && slices.ContainsFunc(nodes, func(n kvraft.Node) bool { return n.ID == "x" && n.Voter }) && s.Status().Ready
		})
		// As a leader that leaves, it hands over and returns when it is started.
		if err := s.TransferLeadership(within(t, time.Minute), "x"); err != nil {
			t.Fatal(err)
		}
		closing := make(chan error, 1)
		if err := s.Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
			t.Fatal(err)
		}
		go func() { closing <- s.Close() }()
		if err := <-closing; err != nil {
			t.Fatal(err)
		}
		mustSet(t, c.Store(0), "key", "after")
		s = x.start(t, "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
		defer s.Close()
		eventually(t, "it is back", ready(s))
		wantValue(t, s, "key", "after")
	})
}

func TestANodeThatAnswersIsNotRemovedIfItIsToBeSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		for i := range c.Len() {
			if err := c.Store(leader).Remove(within(t, time.Minute), fmt.Sprint("n", i+1), kvraft.IfSilent, kvraft.MayReturn); !errors.Is(err, kvraft.ErrRefused) {
				t.Errorf("node %d: %v", i, err)
			}
		}
		dead := (leader + 1) % 3
		c.Crash(dead)
		if err := c.Store(leader).Remove(within(t, time.Minute), fmt.Sprint("n", dead+1), kvraft.IfSilent, kvraft.MayReturn); err != nil {
			t.Error(err)
		}
		c.Restart(dead)
		c.WaitReady(dead)
	})
}

// What is left of a removal that its leader has only taken note of.
func TestTheNextLeaderFinishesARemoval(t *testing.T) {
	for _, who := range []string{"follower", "the next leader itself"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 4)
				leader := c.WaitLeader()
				doomed, next := (leader+1)%4, (leader+2)%4
				if who != "follower" {
					next = doomed
				}
				c.Stop((leader + 3) % 4)
				if err := c.Store(leader).NoteRetired(c.Store(doomed)); err != nil {
					t.Fatal(err)
				}
				if err := c.Store(leader).TransferLeadership(within(t, time.Minute), fmt.Sprint("n", next+1)); err != nil {
					t.Fatal(err)
				}
				c.Restart((leader + 3) % 4)
				eventually(t, "the removal is finished", func() bool {
					return !strings.Contains(memberIDs(t, c.Store(leader)), fmt.Sprint("n", doomed+1))
				})
				c.Remove(doomed)
			})
		})
	}
}

// The disk of a member that was replaced, found again: two directories must not
// take turns under one id.
func TestAReplacedIdentityDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		old, s := removable(t, c)
		closeStore(t, s)
		fresh := newMachine(t, c.Network())
		join := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		s = fresh.start(t, "x", "x", join)
		eventually(t, "the new one is ready", ready(s))
		closeStore(t, s)
		s = old.start(t, "x", "x", join)
		if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000"); !errors.Is(err, kvraft.ErrRemoved) {
			t.Errorf("the old one was let in: %v", err)
		}
		eventually(t, "the old one stops", func() bool { return errors.Is(s.Err(), kvraft.ErrRemoved) })
		closeStore(t, s)
		s = fresh.start(t, "x", "x", join)
		eventually(t, "the new one is back", ready(s))
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	})
}

// An empty node stands at the old address of a member that has moved, under its
// id, and asks before the leader has noted the new address.
func TestAMemberThatHasMovedIsNotReplacedByWhoeverIsAtItsOldAddress(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		x, s := removable(t, c)
		closeStore(t, s)
		leader := c.WaitLeader()
		release := c.Store(leader).HoldMembership() // nothing can be noted yet
		join := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		s = x.start(t, "x", "elsewhere", join)
		wantReason(t, s, "waiting to be confirmed at this address")
		impostor := on(t, c.Network(), "x", "x", join)
		time.Sleep(100 * time.Millisecond)
		release()
		if _, err := impostor.WaitLeader(within(t, time.Minute)); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("the impostor: %v", err)
		}
		eventually(t, "the member is ready at its new address", ready(s))
		nodes, err := s.Nodes(within(t, time.Minute))
		if err != nil || len(nodes) != 4 || nodes[3].Addr != "elsewhere:7000" {
			t.Errorf("members %v, %v", nodes, err)
		}
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	})
}

// withARemovalLeftUndone is a cluster of three whose leader has taken note of a removal
// and died.
func withARemovalLeftUndone(t *testing.T) (c *kvrafttest.Cluster, leader, doomed, other int) {
	t.Helper()
	c = kvrafttest.New(t, 3)
	leader = c.WaitLeader()
	doomed, other = (leader+1)%3, (leader+2)%3
	release := c.Store(leader).HoldMembership()
	if err := c.Store(leader).NoteRetired(c.Store(doomed)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // virtual
	c.Crash(leader)
	release()
	return c, leader, doomed, other
}

// The leader has taken note of a removal and died. With the one that is to be removed
// there is a majority, without it there is none: it stays until the other is back.
func TestAFinishedRemovalDoesNotTakeTheMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leader, doomed, other := withARemovalLeftUndone(t)
		for n := range 30 {
			mustSet(t, c.Store(other), fmt.Sprint("key-", n), "value")
			time.Sleep(time.Second)
		}
		c.Restart(leader)
		eventually(t, "the removal is finished", func() bool { return !strings.Contains(memberIDs(t, c.Store(other)), fmt.Sprint("n", doomed+1)) })
		c.Remove(doomed)
	})
}

// A node under an id that was given up for good, and one that left in order, are
// two identities: the one that left is removed although the other was before.
func TestANodeThatHasLeftCanBeRemovedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		join := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		_, s := removable(t, c)
		closeStore(t, s)
		x := newMachine(t, c.Network()) // its data is lost: the first identity is replaced
		s = x.start(t, "x", "x", join)
		eventually(t, "the second is ready", ready(s))
		for range 2 { // to leave again is nothing
			if err := s.Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
				t.Fatal(err)
			}
		}
		closeStore(t, s)
		for range 2 {
			if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
				t.Fatal(err)
			}
		}
		s = x.start(t, "x", "x", join)
		eventually(t, "it ends", func() bool { return s.Err() != nil })
		if !errors.Is(s.Err(), kvraft.ErrRemoved) {
			t.Errorf("it came back: %v", s.Err())
		}
		closeStore(t, s)
	})
}

// leaver is a node that has removed itself and goes on running, and what it logs.
func leaver(t *testing.T, c *kvrafttest.Cluster) (*kvraft.Store, *syncBuffer) {
	t.Helper()
	var log syncBuffer
	s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"), kvraft.WithLogger(log.logger()))
	eventually(t, "x is ready", ready(s))
	if err := s.Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
		t.Fatal(err)
	}
	return s, &log
}

const hasLeft = "it has left the cluster: start it again, or join it through a member"

func TestANodeThatHasLeftSaysSoAndStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		s, log := leaver(t, c)
		for range few(10) {
			if st := s.Status(); st.Reason != hasLeft || st.State != kvraft.Joining || st.Ready {
				t.Errorf("status %+v", st)
			}
			if ids := memberIDs(t, c.Store(0)); ids != "n1 n2 n3" {
				t.Errorf("members %s", ids)
			}
			time.Sleep(time.Minute)
		}
		for _, level := range []string{"[INFO]  no member", "[WARN]  no member"} { // the latter when it lasts
			if n := strings.Count(log.String(), level); n != 1 {
				t.Errorf("%d lines with %q, want 1:\n%s", n, level, log)
			}
		}
		closeStore(t, s)
	})
}

func TestANodeThatHasLeftFindsOutThatItIsRemovedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		s, _ := leaver(t, c)
		time.Sleep(time.Minute)
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it stops", func() bool { return s.Err() != nil })
		if !errors.Is(s.Err(), kvraft.ErrRemoved) {
			t.Errorf("it stops for %v", s.Err())
		}
		closeStore(t, s)
	})
}

// It says what is wrong and finds out that it is removed, as any member.
func TestANodeThatHasLeftAndWasJoinedAgainIsAMemberAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		s, _ := leaver(t, c)
		time.Sleep(time.Minute)
		if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is ready", ready(s))
		c.Network().Isolate("x")
		wantReason(t, s, "no leader", "3 of 4 voters do not answer")
		c.Heal()
		eventually(t, "it is ready again", ready(s))
		if err := c.Store(0).Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it comes back", func() bool { return memberIDs(t, c.Store(0)) == "n1 n2 n3 x" && s.Status().Ready })
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it stops", func() bool { return errors.Is(s.Err(), kvraft.ErrRemoved) })
		closeStore(t, s)
	})
}

// While it is caught up it can be no voter yet, and is a member.
func TestANodeThatHasLeftAndMissedALotIsBroughtUpWhenItIsJoinedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		s, _ := leaver(t, c)
		for n := range 64 {
			mustSet(t, c.Store(0), fmt.Sprint("key-", n), strings.Repeat("v", 256<<10))
		}
		for i := range 3 {
			c.Network().SetDelay(c.Host(i), "x", 50*time.Millisecond)
		}
		joined := make(chan error, 1)
		go func() { joined <- c.Store(0).Join(within(t, 5*time.Minute), "x", "x:7000") }()
		wantReason(t, s, "catching up with the leader")
		time.Sleep(6 * time.Second) // it asks every 5 s
		if st := s.Status(); st.Ready || strings.Contains(st.Reason, "left") {
			t.Errorf("status %+v", st)
		}
		if err := <-joined; err != nil {
			t.Error(err)
		}
		eventually(t, "it is ready", ready(s))
		expel(t, c, s)
	})
}

func TestAReplicaThatReturnsIsOneStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		x := newMachine(t, c.Network())
		s := x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
		if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is ready", ready(s))
		x.disk.Crash()
		c.Network().Reset("x")
		_ = s.Close() // the remains of the dead process
		if err := c.Store(0).Remove(within(t, time.Minute), "x", kvraft.MayReturn, kvraft.IfSilent); err != nil {
			t.Fatal(err)
		}
		s = x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
		eventually(t, "it is ready again", ready(s))
		time.Sleep(10 * time.Second)
		if st := s.Status(); st.Voter || !st.Replica {
			t.Errorf("it came back as %+v", st.Node)
		}
		expel(t, c, s)
	})
}

// expel removes the node x and closes its store.
func expel(t *testing.T, c *kvrafttest.Cluster, s *kvraft.Store) {
	t.Helper()
	if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

func TestWhatWasNotedOfARemovedReplicaEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		join := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		s := newMachine(t, c.Network()).start(t, "x", "x", join, kvraft.WithReplica())
		eventually(t, "the replica is ready", ready(s))
		leader := c.WaitLeader()
		if err := c.Store(leader).NoteRetired(s); err != nil { // and dies before it goes on
			t.Fatal(err)
		}
		c.Crash(leader)
		next := c.WaitLeaderOtherThan(leader)
		eventually(t, "the next leader has removed it", func() bool { return !strings.Contains(memberIDs(t, c.Store(next)), "x") })
		c.Restart(leader)
		closeStore(t, s)
		s = newMachine(t, c.Network()).start(t, "x", "x", join)
		eventually(t, "a new node of that id is ready", ready(s))
		if st := s.Status(); !st.Voter {
			t.Errorf("it was to vote, and is %+v", st.Node)
		}
		expel(t, c, s)
	})
}

// A call is under way to a leader that is killed, and the next one refuses: whatever the
// first has done would be known to it, and what it has not done it never will.
func TestARefusalIsToldAsOneAlthoughAnEarlierLeaderWasAskedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		asker, other := (leader+1)%3, (leader+2)%3
		mustSet(t, c.Store(asker), "key", "over a connection that is kept")
		c.Block(asker, leader)
		removed := make(chan error)
		go func() { removed <- c.Store(asker).Remove(within(t, 10*time.Second), fmt.Sprint("n", other+1)) }()
		time.Sleep(100 * time.Millisecond)
		c.Crash(leader)
		if err := <-removed; !errors.Is(err, kvraft.ErrRefused) || errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("%v, want ErrRefused: without node %d there would be no majority", err, other+1)
		}
	})
}

// Of that refusal the other half: a leader does not do what was asked in an earlier term,
// and comes late.
func TestARemovalThatWasAskedForInAnotherTermIsNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		asker, other := c.Store((leader+1)%3), c.Store((leader+2)%3)
		term := c.Store(leader).Status().Term
		err := asker.SendRemove(within(t, time.Minute), c.Store(leader), other.Status().ID, term-1)
		if err == nil || errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("%v, want an error: it is not made", err)
		}
		if got := memberIDs(t, c.Store(leader)); got != "n1 n2 n3" {
			t.Errorf("the members are %s", got)
		}
		if err := asker.SendRemove(within(t, time.Minute), c.Store(leader), other.Status().ID, 0); err != nil { // it names no term
			t.Error(err)
		}
		c.Abandon()
	})
}

// The leader has taken note of a removal and died, and the next one cannot finish it
// yet. To refuse it would say that nothing comes of it.
func TestARemovalOfWhichThereIsANoteIsNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leader, doomed, other := withARemovalLeftUndone(t)
		removed := make(chan error)
		go func() { removed <- c.Store(other).Remove(within(t, time.Minute), fmt.Sprint("n", doomed+1)) }()
		time.Sleep(10 * time.Second)
		c.Restart(leader)
		if err := <-removed; err != nil {
			t.Error(err)
		}
		c.Remove(doomed)
	})
}

// The latest are remembered by name. The others do not come back for that.
func TestOfFormerMembersTheLatestAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1024
		c := kvrafttest.New(t, 3)
		removed, left, later := c.Add(), c.Add(), c.Add()
		leave(t, c, removed)
		leave(t, c, left, kvraft.MayReturn)
		leader := c.Store(c.WaitLeader())
		if err := leader.NoteFormer(most); err != nil {
			t.Fatal(err)
		}
		leave(t, c, later, kvraft.MayReturn)
		eventually(t, "some are struck out", func() bool { return leader.Notes() == 2*most+1 }) // one is of that
		for _, i := range []int{removed, left} {
			if n := leader.NotesOfFormer(fmt.Sprint("n", i+1)); n > 0 {
				t.Fatalf("node %d is one of the first, and there are %d notes of it", i+1, n)
			}
			c.Restart(i)
			eventually(t, "it is told that it was removed", func() bool { return errors.Is(c.Store(i).Err(), kvraft.ErrRemoved) })
		}
		c.Restart(later)
		c.WaitReady(later)
		c.Add()
		c.Abandon()
	})
}

// One that left, came back and left again is one of the latest.
func TestANodeThatLeavesASecondTimeIsNotedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1024
		c := kvrafttest.New(t, 3)
		n := c.Add()
		leave(t, c, n, kvraft.MayReturn)
		c.Restart(n)
		c.WaitReady(n)
		leader := c.Store(c.WaitLeader())
		if err := leader.NoteFormer(most + 1); err != nil {
			t.Fatal(err)
		}
		leave(t, c, n, kvraft.MayReturn)
		eventually(t, "the first ones are struck out", func() bool { return leader.Notes() == 2*most+1 }) // one is of that
		c.Restart(n)
		c.WaitReady(n)
		c.Abandon()
	})
}

// They are struck out by few entries, and who waits for a change of the membership does
// not wait for all of them.
func TestManyNotesThatAreStruckOutHoldUpNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, excess = 1024, 2000
		c := kvrafttest.New(t, 1)
		s := c.Store(c.WaitLeader())
		release := s.HoldMembership()
		if err := s.NoteFormer(most + excess); err != nil {
			t.Fatal(err)
		}
		index := s.Index()
		time.Sleep(5 * time.Second) // they are about to be struck out
		var change func()
		waiting := make(chan struct{})
		go func() {
			defer close(waiting)
			change = s.HoldMembership()
		}()
		synctest.Wait()
		release()
		<-waiting
		if struck := 2*(most+excess) - s.Notes(); struck > 300 {
			t.Errorf("a change waited until %d notes were struck out", struck)
		}
		change()
		eventually(t, "all are struck out", func() bool { return s.Notes() == 2*most+1 })
		if entries := s.Index() - index; entries > 2*excess/100 {
			t.Errorf("that took %d entries", entries)
		}
		c.Abandon()
	})
}

// One whose data was lost, and that is replaced, is one that was removed, and no more one
// that has left before.
func TestAReplacedNodeThatHasLeftBeforeIsNoLongerNotedToHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		join := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		x, s := removable(t, c)
		if err := s.Remove(within(t, time.Minute), "x", kvraft.MayReturn); err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		s = x.start(t, "x", "x", join)
		eventually(t, "it is back", ready(s))
		closeStore(t, s)
		s = newMachine(t, c.Network()).start(t, "x", "x", join)
		eventually(t, "the new one is ready", ready(s))
		if n := c.Store(0).NotesOfFormer("x"); n != 1 {
			t.Errorf("there are %d notes of the old one, want one: it was removed", n)
		}
		expel(t, c, s)
	})
}

// leave stops a node and removes it.
func leave(t *testing.T, c *kvrafttest.Cluster, i int, opts ...kvraft.RemoveOption) {
	t.Helper()
	c.Stop(i)
	if err := c.Store(c.WaitLeader()).Remove(within(t, time.Minute), fmt.Sprint("n", i+1), opts...); err != nil {
		t.Fatal(err)
	}
}
