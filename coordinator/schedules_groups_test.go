package coordinator

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// between carries what the two coordinators of a broker say to each other: as it is meant, or with the answer lost, or again much later.
type between struct {
	b *testBroker

	// mu guards random.
	mu     sync.Mutex
	random *rand.Rand
	ghosts sync.WaitGroup
}

func (w *between) one(of int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(of)
}

// JoinTransaction is Joiner's.
func (w *between) JoinTransaction(ctx context.Context, j Joining) error {
	err := w.b.txns.AddPartitions(ctx, AddRequest{TransactionalID: j.TransactionalID, Producer: j.Producer, Version: j.Version,
		Partitions: []record.TopicPartition{j.TopicPartition}})
	if err == nil && w.one(8) == 0 {
		return &Error{Code: CodeConcurrentTransactions, Message: "lost", Outcome: raftgroup.MayHaveHappened}
	}
	return err
}

// Write is Markers'.
func (w *between) Write(ctx context.Context, markers []Marker) []MarkerResult {
	results := make([]MarkerResult, len(markers))
	if w.one(2) == 0 {
		return results // they do not arrive
	}
	if after := time.Duration(w.one(80)) * time.Millisecond; w.one(2) == 0 {
		w.ghosts.Go(func() {
			time.Sleep(after)
			_ = w.b.groups.WriteMarkers(context.WithoutCancel(ctx), markers)
		})
	}
	for i, err := range w.b.groups.WriteMarkers(ctx, markers) {
		var e *Error
		switch {
		case err == nil:
			results[i].State = MarkerWritten
		case errors.As(err, &e) && e.Code == CodeInvalidProducerEpoch:
			results[i].State = MarkerEpochFenced
		case errors.As(err, &e) && e.Code == CodeCoordinatorFenced:
			results[i].State = MarkerCoordinatorFenced
		}
	}
	if w.one(4) == 0 {
		return make([]MarkerResult, len(markers)) // the answer is lost
	}
	return results
}

// G22 to G26, T19, P20: whatever of the requests and markers of transactions of version 2 comes again, at whatever moment, the group's offset is the
// last one that was committed: it is not lost, does not go back, and one that was aborted is never seen.
func TestRepeatedOffsetCommitsChangeNothing(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			w := &between{random: rand.New(rand.NewPCG(seed, 2))}
			r := newRig(t, 1, func(c *TransactionsConfig) { c.Markers = w }, func(c *GroupsConfig) { c.Transactions = w })
			defer r.close()
			r.setTopics(Topic{"orders", group.TopicID{1}, 6})
			w.b = r.brokers[0]
			b := r.leader()
			r.leaderOf(KindGroups)
			p := r.mustInit(b, "tx", NoProducer)
			random := rand.New(rand.NewPCG(seed, 1))
			network := repeating{t: t, random: random}
			last := record.Offset(-1)
			for n := range record.Offset(25) {
				by, commit, next := p, random.IntN(3) > 0, NoProducer
				for range 1 + random.IntN(2) {
					network.ask(func() error {
						_, err := b.groups.CommitInTransaction(t.Context(), TransactionalCommit{TransactionalID: "tx", Producer: by, Group: "g", By: nobodyInGroup, Offsets: offsetsOf(n), Version: 2})
						return err
					})
				}
				var mu sync.Mutex
				network.ask(func() error {
					got, err := b.txns.EndTransaction(t.Context(), EndRequest{TransactionalID: "tx", Producer: by, Commit: commit, Version: 2})
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						next = got
					}
					return err
				})
				if commit {
					last = n
				}
				mu.Lock()
				p = next
				mu.Unlock()
				got := r.committed(b, "g", 1)[0]
				for ; got == -2; got = r.committed(b, "g", 1)[0] {
					time.Sleep(5 * time.Millisecond)
				}
				if got != last {
					t.Fatalf("seed %d: offset %d is committed, want %d", seed, got, last)
				}
				time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
			}
			network.ghosts.Wait()
			w.ghosts.Wait()
			time.Sleep(2 * time.Second)
			r.wantCommitted(b, "g", last)
		})
	}
}
