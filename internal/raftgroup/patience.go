package raftgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// After each failure to send entries, Raft pauses for twice as long before it sends again, up to
// 10 s. A follower that was away for half a minute and is back would lack what it missed for as long,
// and its group have a replica less than it seems: the next restart of another broker would stop it.
// So no failure is told to Raft while the follower is just not there. Its goroutine for that
// follower, which has nothing else to do, waits here.

const (
	// minPatience and maxPatience are how long to wait before a follower is tried again, at first and
	// in the end. A broker that connects is tried at once.
	minPatience = 20 * time.Millisecond
	maxPatience = time.Second
)

// errLocal marks a failure that is not the follower's.
var errLocal = errors.New("this replica cannot go on")

// patiently tries until it works, fails for another reason than the follower's absence, or is of no
// use any more: leadership of the term is over, the follower is no member, or the replica stops.
// absent is called before each further attempt.
func (t *transport) patiently(to target, term uint64, try func() error, absent func()) error {
	for wait := minPatience; ; wait = min(2*wait, maxPatience) {
		woken := to.peer.woken()
		err := try()
		if err == nil || !isAbsence(err) {
			return err
		}
		l := t.engine.group.lead.Load()
		if l == nil || l.engine != t.engine || uint64(l.term) != term || !t.engine.isMember(to.id) {
			return err
		}
		absent()
		timer := time.NewTimer(wait)
		select {
		case <-woken:
			wait = minPatience
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return err
		case <-t.engine.stopping:
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrStopped, err)
		}
		timer.Stop()
	}
}

// isAbsence says whether an error means that the follower's broker cannot be reached, or has not
// opened the replica.
func isAbsence(err error) bool {
	var remote *remoteError
	if errors.As(err, &remote) {
		return remote.code == codeUnknownGroup || remote.code == codeUnavailable
	}
	return !errors.Is(err, errLocal) && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrHostClosed)
}

// isMember says whether a server is in the newest configuration.
func (e *engine) isMember(id ServerID) bool {
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		if s.ID == raft.ServerID(id) {
			return true
		}
	}
	return false
}
