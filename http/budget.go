package kvhttp

import "sync"

// budget bounds how many bytes all requests of a handler hold together.
type budget struct {
	limit int64

	mu   sync.Mutex
	held int64 // guarded by mu
}

// share is what one request holds of a budget. Only the goroutine of the request
// uses it.
type share struct {
	of   *budget
	held int64
}

// grow adds n bytes to the share, or reports that there is no room for them. A share
// that is alone has room for any number: what is larger than the whole budget could
// never be served otherwise.
func (s *share) grow(n int64) bool {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.held > s.held && s.of.held+n > s.of.limit {
		return false
	}
	s.of.held += n
	s.held += n
	return true
}

// release gives all of it back.
func (s *share) release() {
	if s.held == 0 { // as of nearly all requests, which share the lock
		return
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.held -= s.held
	s.held = 0
}
