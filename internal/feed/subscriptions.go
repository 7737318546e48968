package feed

import (
	"strings"
	"sync"

	"github.com/kvraft/kvraft/internal/state"
)

// A Scope is a set of keys: those that begin with Prefix or, if Exact, that one key.
type Scope struct {
	Prefix string
	Exact  bool
}

// Has reports whether a key is in the scope.
func (s Scope) Has(key string) bool {
	return strings.HasPrefix(key, s.Prefix) && (!s.Exact || len(key) == len(s.Prefix))
}

// Subscriptions are of those who wait for a change of a key in a scope. Each scope has
// one, so that a change costs nothing to all who wait for another. It ends with the
// first change; a watcher that is busy has none. The zero value is ready for use.
type Subscriptions struct {
	mu      sync.Mutex
	version uint64                  // guarded by mu: of the last change that was notified
	open    map[Scope]*Subscription // guarded by mu
	lengths []int                   // guarded by mu: how many of them have a prefix of that length
}

// A Subscription is shared by all who wait for a change in one scope.
type Subscription struct {
	scope   Scope
	waiting int           // guarded by Subscriptions.mu
	changed chan struct{} // closed at the first change
	before  uint64        // the version before that change; set before changed is closed
}

// Changed returns a channel that is closed when something in the scope has changed.
func (s *Subscription) Changed() <-chan struct{} { return s.changed }

// Subscribe joins those who wait for a change in a scope that is above a version. It
// returns nil if there may have been one. Who has joined must call Unsubscribe.
func (s *Subscriptions) Subscribe(scope Scope, above uint64) *Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version > above {
		return nil
	}
	sub := s.open[scope]
	if sub == nil {
		sub = &Subscription{scope: scope, changed: make(chan struct{})}
		if s.open == nil {
			s.open = make(map[Scope]*Subscription)
		}
		s.open[scope] = sub
		s.lengths = append(s.lengths, make([]int, max(0, len(scope.Prefix)+1-len(s.lengths)))...)
		s.lengths[len(scope.Prefix)]++
	}
	sub.waiting++
	return sub
}

// Unsubscribe ends the waiting of one. It returns up to which version nothing has
// changed in the scope: whoever has waited need not look there, and the history need
// not reach back there.
func (s *Subscriptions) Unsubscribe(sub *Subscription) (quiet uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[sub.scope] != sub {
		return sub.before
	}
	if sub.waiting--; sub.waiting == 0 {
		s.remove(sub)
	}
	return s.version
}

// Waiting counts those who wait.
func (s *Subscriptions) Waiting() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.open {
		n += sub.waiting
	}
	return n
}

// Notify wakes those who wait for one of the changes from version to version. If the
// history lacks some of these it wakes all.
func (s *Subscriptions) Notify(h *History, from, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = to
	switch {
	case len(s.open) == 0 || from == to:
	case h.floor > from:
		for _, sub := range s.open {
			s.wake(sub, from)
		}
	default:
		for c := range h.Since(from) {
			s.notifyOf(c)
		}
	}
}

// notifyOf needs mu.
func (s *Subscriptions) notifyOf(c *state.Change) {
	for n, open := range s.lengths[:min(len(s.lengths), len(c.Key)+1)] {
		if open == 0 {
			continue
		}
		if sub := s.open[Scope{Prefix: c.Key[:n]}]; sub != nil {
			s.wake(sub, c.Version-1)
		}
	}
	if sub := s.open[Scope{c.Key, true}]; sub != nil {
		s.wake(sub, c.Version-1)
	}
}

// wake needs mu.
func (s *Subscriptions) wake(sub *Subscription, before uint64) {
	sub.before = before
	close(sub.changed)
	s.remove(sub)
}

// remove needs mu.
func (s *Subscriptions) remove(sub *Subscription) {
	delete(s.open, sub.scope)
	s.lengths[len(sub.scope.Prefix)]--
}
