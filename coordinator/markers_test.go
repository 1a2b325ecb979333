package coordinator

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
)

// The answer to an end does not wait for markers (T23); the next add does, for a while, and then it is told to come again
// (T24).
func TestNextTransactionWaitsForMarkers(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0)
		r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
		p = r.mustEnd(b, "tx", p, true)
		begin := time.Now()
		err := b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "tx", Producer: p, Partitions: testPartitions(0), Version: 2})
		wantCode(t, err, CodeConcurrentTransactions)
		if waited := time.Since(begin); waited < 900*time.Millisecond || waited > 2*time.Second {
			t.Errorf("told to come again after %v", waited)
		}
		go func() {
			time.Sleep(300 * time.Millisecond)
			r.onMarker(nil)
		}()
		r.mustAdd(b, "tx", p, 0) // waits until the markers are there
	})
}

// A coordinator dies between the decision and the last marker: the next one writes all markers again, under its own epoch, and
// completes (T32). Whoever asks again hears that it was done.
func TestMarkersAreResumedByNewCoordinator(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		old := r.leader()
		p := r.mustInit(old, "tx", NoProducer)
		r.mustAdd(old, "tx", p, 0, 1, 2)
		r.onMarker(func(m Marker) MarkerResult {
			if m.Partition == 2 {
				return MarkerResult{State: MarkerUnknown}
			}
			return MarkerResult{State: MarkerWritten}
		})
		next := r.mustEnd(old, "tx", p, true)
		synctest.Wait()
		before := r.takeWritten()
		if len(before) != 2 {
			t.Fatalf("markers before: %+v", before)
		}
		old.stop()
		r.onMarker(nil)
		b := r.leader()
		r.awaitState(b, "tx", txn.CompleteCommit)
		after := r.takeWritten()
		if len(after) != 3 {
			t.Fatalf("markers after: %+v", after)
		}
		for i, m := range after {
			if m.Partition != int32(i) || !m.Commit || m.Epoch != next.Epoch || m.CoordinatorEpoch <= before[0].CoordinatorEpoch {
				t.Errorf("marker %+v, before %+v", m, before[0])
			}
		}
		if again := r.mustEnd(b, "tx", p, true); again != next {
			t.Errorf("asked again: %+v, first %+v", again, next)
		}
	})
}

// A new leader looks for decisions while apply already tells it of others. One that it finds, and that is completed before it comes to
// it, has no marker written again: under version 1 that would end the next transaction, which has the same epoch (T24).
func TestMarkersOfACompletedDecisionAreNotWrittenAgain(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0)
		r.onMarker(func(Marker) MarkerResult { return MarkerResult{State: MarkerUnknown} })
		if _, err := b.txns.EndTransaction(t.Context(), EndRequest{TransactionalID: "tx", Producer: p, Commit: true, Version: 1}); err != nil {
			t.Fatal(err)
		}
		ts := b.txns.shards[b.host.find(KindTransactions, 0)]
		found := ts.find("tx")
		r.onMarker(nil)
		r.awaitState(b, "tx", txn.CompleteCommit)
		r.mustAdd(b, "tx", p, 0)
		synctest.Wait()
		if n := len(r.takeWritten()); n != 1 {
			t.Fatalf("%d markers written", n)
		}
		ts.leader.Load().decided(found)
		synctest.Wait()
		if again := r.takeWritten(); len(again) > 0 {
			t.Errorf("the next transaction is open, and markers are written: %+v", again)
		}
	})
}

// T26: a partition that has seen a higher producer epoch has nothing of this transaction open; a leader that is proved to lead
// goes on. One that has seen a later coordinator is asked again.
func TestFencedMarkers(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0, 1)
		refusals := 0
		r.onMarker(func(m Marker) MarkerResult {
			switch {
			case m.Partition == 0:
				return MarkerResult{State: MarkerEpochFenced, Err: errors.New("a higher epoch")}
			case refusals < 3:
				refusals++
				return MarkerResult{State: MarkerCoordinatorFenced, Err: errors.New("a later coordinator")}
			}
			return MarkerResult{State: MarkerWritten}
		})
		r.mustEnd(b, "tx", p, true)
		r.awaitState(b, "tx", txn.CompleteCommit)
		if refusals != 3 {
			t.Errorf("%d refusals", refusals)
		}
	})
}

// T27: a partition that is gone needs no marker.
func TestMarkerForDeletedPartition(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", p, 0, 1)
		r.onMarker(func(m Marker) MarkerResult {
			return MarkerResult{State: map[int32]MarkerState{0: MarkerGone, 1: MarkerWritten}[m.Partition]}
		})
		r.mustEnd(b, "tx", p, false)
		r.awaitState(b, "tx", txn.CompleteAbort)
	})
}

// One partition without a leader does not hold up the transactions of others.
func TestStuckMarkerHoldsUpNobodyElse(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		r.onMarker(func(m Marker) MarkerResult {
			return MarkerResult{State: map[bool]MarkerState{true: MarkerUnknown, false: MarkerWritten}[m.Partition == 0]}
		})
		for i := range 2 * maxMarkerWrites {
			id := fmt.Sprintf("stuck-%d", i)
			p := r.mustInit(b, id, NoProducer)
			r.mustAdd(b, id, p, 0)
			r.mustEnd(b, id, p, true)
		}
		p := r.mustInit(b, "free", NoProducer)
		r.mustAdd(b, "free", p, 1)
		begin := time.Now()
		r.mustEnd(b, "free", p, true)
		r.awaitState(b, "free", txn.CompleteCommit)
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		list, truncated, err := b.txns.List(t.Context(), TransactionFilter{States: []txn.Status{txn.PrepareCommit}}, 10)
		if err != nil || len(list) != 10 || !truncated {
			t.Errorf("%d listed, truncated %t, %v", len(list), truncated, err)
		}
		r.onMarker(nil)
		r.awaitState(b, fmt.Sprintf("stuck-%d", 2*maxMarkerWrites-1), txn.CompleteCommit)
	})
}
