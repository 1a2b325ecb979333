package coordinator

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
)

// txnShard is a shard for transactional ids.
type txnShard struct {
	*shard
	machine replicated[*txn.State, txn.Result]
	// leader is the work of the term in which this replica leads; nil: it does not.
	leader atomic.Pointer[txnLeader]

	// mu guards waiting: who waits for the markers of an id's transaction. Nothing blocks under it.
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

func newTxnShard(s *shard) *txnShard {
	ts := &txnShard{shard: s, waiting: make(map[string]chan struct{})}
	ts.machine.state, ts.machine.restore, ts.machine.told = txn.New(), txn.Restore, ts.applied
	return ts
}

// applied hears what commands came to, on leader and followers alike (replicated.told).
func (s *txnShard) applied(results []txn.Result) {
	l := s.leader.Load()
	for i := range results {
		t := results[i].Transaction
		switch {
		case !results[i].Changed || t == nil:
		case t.Status.Ending():
			if l != nil {
				l.decided(t)
			}
		default:
			s.wake(t.ID)
		}
	}
}

func (s *txnShard) find(id string) (t *txn.Transaction) {
	s.machine.read(func(m *txn.State) { t = m.Find(id) })
	return t
}

// awaitEnd waits until the markers of a transaction are written, at most until a time; false: they are not, or the id is
// closed for another reason.
func (s *txnShard) awaitEnd(ctx context.Context, t *txn.Transaction, until time.Time) bool {
	if t == nil {
		return false
	}
	s.mu.Lock()
	ended := s.waiting[t.ID]
	if ended == nil {
		ended = make(chan struct{})
		s.waiting[t.ID] = ended
	}
	s.mu.Unlock()
	if now := s.find(t.ID); now == nil || !now.Status.Ending() {
		s.wake(t.ID) // it has ended since we looked
		return ctx.Err() == nil && time.Now().Before(until)
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// wake tells those who wait for an id to look again.
func (s *txnShard) wake(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended, ok := s.waiting[id]; ok {
		close(ended)
		delete(s.waiting, id)
	}
}
