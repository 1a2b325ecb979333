package cluster

import "sync"

// signal wakes all who wait, each time. The zero value is ready.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // closed at the next wake; nil: nobody waits
}

// wait gives a channel that the next wake closes. Ask for it before looking at what is waited for.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
