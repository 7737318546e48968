// Package kvrafttest runs clusters of kvraft stores in the process of a test, on
// a network and on disks in memory that can be cut, delayed, filled with faults
// and taken away. It is for the tests of programs that import kvraft, and uses
// nothing of kvraft that they could not use.
//
//	func TestMyService(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			c := kvrafttest.New(t, 3)
//			leader := c.WaitLeader()
//			c.Isolate(leader)
//			// ... what must hold while the leader is cut off ...
//			c.Heal()
//		})
//	}
//
// Inside a [testing/synctest] bubble everything happens in virtual time: a minute
// of elections and timeouts takes milliseconds, and a test does not depend on how
// fast the machine is. Without a bubble the same cluster runs in real time.
//
// [New]'s cleanup is part of every test: it ends the faults, brings all nodes
// back, and fails the test unless they come to hold the same state and leave no
// goroutine behind.
//
// [Client] makes calls on one node while it comes and goes.
//
// [History] records the calls of a test's clients, their batches, views and watches
// among them, and checks that they are linearizable. [Network] and [Disk] are the faults
// that [Cluster] has no method for.
package kvrafttest
