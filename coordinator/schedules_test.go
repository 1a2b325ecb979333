package coordinator

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/record"
)

// T17, T18: an end of version 1 that was sent twice ends one transaction. The second one finds the markers of the first on their way; the next
// transaction begins with the completion, at the same epoch, and is none of its business. Were it to wait as others do, it would take the next
// transaction, half written, for the last.
func TestRepeatedEndDoesNotEndTheNextTransaction(t *testing.T) {
	for what, commit := range map[string]bool{"commit": true, "abort": false} {
		run(t, 1, nil, func(t *testing.T, r *rig) {
			b := r.leader()
			p := r.mustInit(b, "tx", NoProducer)
			add := func(partition int32) error {
				return b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "tx", Producer: p, Partitions: testPartitions(partition), Version: 1})
			}
			end := func() error {
				_, err := b.txns.EndTransaction(t.Context(), EndRequest{TransactionalID: "tx", Producer: p, Commit: commit, Version: 1})
				return err
			}
			if err := add(0); err != nil {
				t.Fatal(err)
			}
			r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
			if err := end(); err != nil {
				t.Fatal(err)
			}
			again, next := make(chan error, 1), make(chan error, 1)
			go func() { again <- end() }()
			go func() { next <- add(1) }()
			synctest.Wait()
			r.onMarker(nil)
			if err := <-next; err != nil {
				t.Fatalf("%s: the next transaction: %v", what, err)
			}
			if err := <-again; err != nil {
				wantCode(t, err, CodeConcurrentTransactions)
			}
			time.Sleep(time.Second)
			if got := r.awaitState(b, "tx", txn.Ongoing); len(got.Partitions) != 1 || got.Epoch != p.Epoch {
				t.Errorf("%s: the next transaction is %+v", what, got)
			}
			if err := end(); err != nil {
				t.Errorf("%s: the end of the next transaction: %v", what, err)
			}
		})
	}
}

// What an operator saw open has ended, and another transaction of the id is open: that one is not aborted, and the operator is told at once.
func TestOperatorAbortsWhatWasSeenOrNothing(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0)
		seen := r.awaitState(b, "tx", txn.Ongoing)
		time.Sleep(time.Minute / 2)
		p = r.mustEnd(b, "tx", p, true)
		r.awaitState(b, "tx", txn.CompleteCommit)
		r.mustAdd(b, "tx", p, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, _, refusal := b.txns.leading(ctx, "tx", false)
		if refusal != nil {
			t.Fatal(refusal)
		}
		began := time.Now()
		_, refusal = b.txns.execute(ctx, s, &statev1.TransactionCommand{TransactionalId: "tx", Command: &statev1.TransactionCommand_Abort{Abort: &statev1.AbortTransaction{
			Reason: statev1.AbortReason_ABORT_REASON_OPERATOR, ServerVersion: serverVersion, FreshProducerId: int64(record.NoProducerID),
			ProducerId: int64(seen.ProducerID), ProducerEpoch: int32(seen.Epoch), StartedUntilMs: seen.StartMS,
		}}})
		wantCode(t, asError(refusal), CodeInvalidTxnState)
		if took := time.Since(began); took > time.Second/10 {
			t.Errorf("that took %v", took)
		}
		r.awaitState(b, "tx", txn.Ongoing)
	})
}

// repeating is a network that delivers a request a second and a third time, at whatever moment.
type repeating struct {
	t      *testing.T
	random *rand.Rand
	ghosts sync.WaitGroup
}

// ask makes a request until it is carried out.
func (n *repeating) ask(request func() error) {
	n.t.Helper()
	for range n.random.IntN(3) {
		after := time.Duration(n.random.IntN(60)) * time.Millisecond
		n.ghosts.Go(func() {
			time.Sleep(after)
			_ = request() // nobody hears the answer
		})
	}
	for err := request(); err != nil; err = request() {
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeConcurrentTransactions {
			n.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// T19, T24: whatever of a producer's requests of version 2 come a second and a third time, at whatever moment, its transactions end as it wanted, on
// those partitions that it added, and it is never fenced.
func TestRepeatedRequestsChangeNothing(t *testing.T) {
	for seed := range uint64(8) {
		run(t, 1, func(c *TransactionsConfig) {
			if seed%2 == 0 {
				c.Host.config.FeatureLevel = func() uint16 { return nextLevel }
			}
		}, func(t *testing.T, r *rig) {
			random := rand.New(rand.NewPCG(seed, 1))
			b := r.leader()
			p := r.mustInit(b, "tx", NoProducer)
			slow := rand.New(rand.NewPCG(seed, 2))
			r.onMarker(func(Marker) MarkerResult { // they take a few attempts, so that much happens meanwhile
				return MarkerResult{State: []MarkerState{MarkerUnknown, MarkerWritten}[slow.IntN(2)]}
			})
			network := repeating{t: t, random: random}
			type ending struct {
				commit     bool
				partitions map[int32]bool
			}
			want := make(map[record.Epoch]ending)
			for range 20 {
				e := ending{random.IntN(2) == 0, make(map[int32]bool)}
				for range 1 + random.IntN(3) {
					n, by := int32(random.IntN(5)), p
					e.partitions[n] = true
					network.ask(func() error {
						return b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "tx", Producer: by, Partitions: testPartitions(n), Version: 2})
					})
				}
				want[p.Epoch+1] = e
				var mu sync.Mutex
				by, next := p, NoProducer
				network.ask(func() error {
					got, err := b.txns.EndTransaction(t.Context(), EndRequest{TransactionalID: "tx", Producer: by, Commit: e.commit, Version: 2})
					mu.Lock()
					defer mu.Unlock()
					if err == nil && (next != NoProducer && next != got || got.Epoch != by.Epoch+1) {
						t.Errorf("seed %d: after %+v comes %+v, and %+v", seed, by, got, next)
					}
					if err == nil {
						next = got
					}
					return err
				})
				mu.Lock()
				p = next
				mu.Unlock()
				time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
			}
			network.ghosts.Wait()
			time.Sleep(2 * time.Second)
			for _, m := range r.takeWritten() {
				if e := want[m.Epoch]; e.commit != m.Commit || !e.partitions[m.Partition] {
					t.Errorf("seed %d: marker %+v, want %+v", seed, m, e)
				}
				delete(want[m.Epoch].partitions, m.Partition)
			}
			for epoch, e := range want {
				if len(e.partitions) > 0 {
					t.Errorf("seed %d: epoch %d has no markers on %v", seed, epoch, e.partitions)
				}
			}
		})
	}
}
