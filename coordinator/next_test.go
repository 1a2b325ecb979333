package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// What waits for the markers of the last transaction is carried out with its completion, in one entry of the log, and everybody
// has an answer of his own (T24). Before the feature level that brings it, each has an entry of his own.
func TestNextTransactionComesWithTheCompletion(t *testing.T) {
	for _, x := range []struct {
		level   uint16
		entries record.Index
	}{{nextLevel, 1}, {nextLevel - 1, 4}} {
		run(t, 1, func(c *TransactionsConfig) { c.Host.config.FeatureLevel = func() uint16 { return x.level } }, func(t *testing.T, r *rig) {
			b := r.leader()
			p := r.mustInit(b, "tx", NoProducer)
			r.mustAdd(b, "tx", p, 0, 1)
			r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
			next := r.mustEnd(b, "tx", p, true)
			type outcome struct {
				partition int32
				err       error
			}
			outcomes := make(chan outcome, 4)
			add := func(p Producer, partition int32) {
				go func() {
					outcomes <- outcome{partition, b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "tx", Producer: p, Partitions: testPartitions(partition), Version: 2})}
				}()
			}
			add(next, 1)
			add(p, 7) // a zombie's
			add(next, 2)
			add(next, 3)
			synctest.Wait() // all four wait for the markers
			shard := b.host.find(KindTransactions, 0)
			ts := b.txns.shards[shard]
			before := ts.machine.Applied()
			r.onMarker(nil)
			for range 4 {
				switch o := <-outcomes; {
				case o.partition == 7:
					wantCode(t, o.err, CodeProducerFenced)
				case o.err != nil:
					t.Errorf("add of %d: %v", o.partition, o.err)
				}
			}
			synctest.Wait()
			got := r.awaitState(b, "tx", txn.Ongoing)
			if len(got.Partitions) != 3 || got.Epoch != next.Epoch {
				t.Errorf("the next transaction is %+v", got)
			}
			if n := ts.machine.Applied() - before; n != x.entries {
				t.Errorf("level %d: %d entries, want %d", x.level, n, x.entries)
			}
			ts.mu.Lock()
			if len(ts.waiting) > 0 {
				t.Errorf("left waiting: %v", ts.waiting)
			}
			ts.mu.Unlock()
		})
	}
}

// An add with which a completion cannot be written down, or is too large for an entry, does not keep the transaction open: it is
// completed without.
func TestCompletionGoesWithoutAddsThatDoNotFit(t *testing.T) {
	for name, bad := range map[string]*statev1.AddPartitions{
		"cannot be encoded": {Partitions: []*statev1.TopicPartitions{{Topic: "", Partitions: []int32{0}}}},
		"too large":         {Partitions: []*statev1.TopicPartitions{{Topic: strings.Repeat("x", txn.MaxCommandBytes), Partitions: []int32{0}}}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, r *rig) {
				b := r.leader()
				p := r.mustInit(b, "tx", NoProducer)
				r.mustAdd(b, "tx", p, 0)
				r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
				next := r.mustEnd(b, "tx", p, true)
				ts := b.txns.shards[b.host.find(KindTransactions, 0)]
				go func() { // waits and looks again, as a request does
					for x := ts.find("tx"); x.Status.Ending() && t.Context().Err() == nil; x = ts.find("tx") {
						if e, _ := ts.awaitEnd(t.Context(), x, bad, time.Now().Add(time.Hour)); e.carried {
							t.Errorf("carried: %+v", e)
						}
					}
				}()
				synctest.Wait()
				before := ts.machine.Applied()
				r.onMarker(nil)
				r.awaitState(b, "tx", txn.CompleteCommit)
				if n := ts.machine.Applied() - before; n != 1 {
					t.Errorf("%d entries, want the completion", n)
				}
				r.mustAdd(b, "tx", next, 1)
			})
		})
	}
}

// The coordinator is deposed while a completion with adds is under way: who waited is sent to the new one, where the adds
// are in the transaction or not, and asking again puts that right.
func TestCompletionWithAddsAndDeposedCoordinator(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		old := r.leader()
		p := r.mustInit(old, "tx", NoProducer)
		r.mustAdd(old, "tx", p, 0)
		r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
		next := r.mustEnd(old, "tx", p, true)
		failed := make(chan error, 1)
		go func() {
			failed <- old.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "tx", Producer: next, Partitions: testPartitions(1), Version: 2})
		}()
		synctest.Wait() // the add waits for the markers
		var others []string
		for _, b := range r.brokers {
			if b != old {
				others = append(others, b.name())
			}
		}
		r.net.Isolate(old.name(), others...)
		r.onMarker(nil)
		if err := <-failed; err == nil {
			t.Error("a coordinator that nobody follows has answered")
		} else if e := errorOf(err); e.Outcome != raftgroup.MayHaveHappened {
			t.Errorf("it is said not to have happened: %v", err)
		}
		b := r.leader(old)
		r.awaitState(b, "tx", txn.CompleteCommit)
		r.mustAdd(b, "tx", next, 1)
		r.net.HealAll()
		time.Sleep(5 * time.Second)
		r.awaitState(b, "tx", txn.Ongoing)
	})
}

// Who asks for the ownership of an id, and has only got as far as fencing the one before, is not told that nothing happened. Who comes while the
// markers are on their way has done nothing.
func TestInitThatHasFencedMayHaveHappened(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0)
		r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
		for _, want := range []raftgroup.Outcome{raftgroup.MayHaveHappened, raftgroup.DidNotHappen} {
			_, err := b.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "tx", Producer: NoProducer, Timeout: time.Minute})
			wantCode(t, err, CodeConcurrentTransactions)
			if e := errorOf(err); e.Outcome != want {
				t.Errorf("outcome %v, want %v", e.Outcome, want)
			}
		}
	})
}
