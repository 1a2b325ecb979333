package coordinator

import (
	"context"
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
