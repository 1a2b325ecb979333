package coordinator

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
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
	waiting map[string][]*waiter
}

// waiter is a request that found the markers of the id's last transaction on their way.
type waiter struct {
	// add may be carried out together with the completion; nil: it wants something else.
	add *statev1.AddPartitions
	// told has room for the one thing that it is told.
	told chan ended
}

// ended says that the id is open again. carried: the add was carried out with the completion, and this came of it; otherwise
// the request looks again. maybe: it went with a completion of which is not known whether it was carried out.
type ended struct {
	carried, maybe bool
	result         txn.Result
}

func newTxnShard(s *shard) *txnShard {
	ts := &txnShard{shard: s, waiting: make(map[string][]*waiter)}
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
// closed for another reason. An add may have been carried out with the completion: one that goes with it is waited for until ctx ends.
func (s *txnShard) awaitEnd(ctx context.Context, t *txn.Transaction, add *statev1.AddPartitions, until time.Time) (ended, bool) {
	if t == nil {
		return ended{}, false
	}
	w := &waiter{add: add, told: make(chan ended, 1)}
	s.mu.Lock()
	s.waiting[t.ID] = append(s.waiting[t.ID], w)
	s.mu.Unlock()
	if now := s.find(t.ID); (now == nil || !now.Status.Ending()) && s.leave(t.ID, w) {
		return ended{}, ctx.Err() == nil && time.Now().Before(until) // it has ended since we looked
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case e := <-w.told:
		return e, true
	case <-timer.C:
	case <-ctx.Done():
	}
	if s.leave(t.ID, w) {
		return ended{}, false
	}
	select {
	case e := <-w.told:
		return e, true
	case <-ctx.Done():
		return ended{maybe: add != nil}, false
	}
}

// leave takes back a waiter; false: it is told already, or about to be.
func (s *txnShard) leave(id string, w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.waiting[id]
	at := slices.Index(list, w)
	if at >= 0 {
		s.keep(id, slices.Delete(list, at, at+1))
	}
	return at >= 0
}

// keep leaves those that wait for an id. Held: mu.
func (s *txnShard) keep(id string, list []*waiter) {
	if len(list) == 0 {
		delete(s.waiting, id)
		return
	}
	s.waiting[id] = list
}

// takeAdds takes those whose adds can go with the completion, as many as fit into one command. Whoever takes them tells them.
func (s *txnShard) takeAdds(id string) []*waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken, left []*waiter
	partitions := 0
	for _, w := range s.waiting[id] {
		n := 0
		for _, tp := range w.add.GetPartitions() {
			n += len(tp.GetPartitions())
		}
		if w.add == nil || len(taken) == txn.MaxNext || partitions+n > txn.MaxAdded {
			left = append(left, w)
			continue
		}
		taken, partitions = append(taken, w), partitions+n
	}
	s.keep(id, left)
	return taken
}

// wake tells those who wait for an id to look again.
func (s *txnShard) wake(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiting[id] {
		w.told <- ended{}
	}
	delete(s.waiting, id)
}
