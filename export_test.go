package kvraft

import "github.com/hashicorp/raft"

// HandOver gives leadership to another voter, whatever is under way.
func (s *Store) HandOver() error { return s.handOver() }

// HandOverTo makes other stand for election, which deposes s.
func (s *Store) HandOverTo(other *Store) error {
	return s.timeoutNow(peer{other.server, other.opts.advertise})
}

// Raft is the raft instance, for tests that compare with what it would do.
func (s *Store) Raft() *raft.Raft { return s.raft }

// TakeSnapshot compacts the log now.
func (s *Store) TakeSnapshot() error { return s.takeSnapshot() }

// HoldStateMachine keeps the state machine from applying anything until release.
func (s *Store) HoldStateMachine() (release func()) {
	held, gate := make(chan struct{}), make(chan struct{})
	s.fsm.cluster = func() string {
		close(held)
		<-gate
		return s.self().cluster
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.raft.Snapshot().Error() // it asks the state machine, which is what holds it
	}()
	<-held
	return func() { close(gate); <-done }
}

// Transport is what raft sends through.
func (s *Store) Transport() raft.Transport { return s.raftTransport }
