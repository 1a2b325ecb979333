package partition

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// fakeCoordinator answers as its function says; nil: everything is in its transaction.
type fakeCoordinator struct {
	mu      sync.Mutex
	join    func(Joining) *Error
	asked   []Joining
	refused []Refusal
	told    chan struct{}
}

func (f *fakeCoordinator) Join(ctx context.Context, j Joining) *Error {
	f.mu.Lock()
	f.asked = append(f.asked, j)
	join := f.join
	f.mu.Unlock()
	if join == nil {
		return nil
	}
	return join(j)
}

func (f *fakeCoordinator) Refused(_ context.Context, r Refusal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = append(f.refused, r)
	f.told <- struct{}{}
}

func (f *fakeCoordinator) questions() []Joining {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func (f *fakeCoordinator) answer(join func(Joining) *Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.join = join
}

func txnRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.coordinator = &fakeCoordinator{told: make(chan struct{}, 100)}
	r.start()
	return r
}

// txnBatch makes n records of a transaction.
func txnBatch(pid record.ProducerID, epoch record.Epoch, seq record.Sequence, n int) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for i := range n {
		if err := b.Append(1000, nil, fmt.Appendf(nil, "%d/%d/%d", pid, epoch, int(seq)+i), nil); err != nil {
			panic(err)
		}
	}
	return b.Finish(pid, epoch, seq, true)
}

// sendTxn proposes a batch of a transaction without waiting. version is the client's transaction version.
func (r *rig) sendTxn(b record.Batch, version int8, timeout time.Duration) chan outcome {
	ch := make(chan outcome, 2)
	r.host.Produce(ProduceRequest{TopicPartition: testTP, Batch: b, TransactionalID: "tx", Version: version, Timeout: timeout},
		func(res ProduceResult, err error) { ch <- outcome{res, err} })
	return ch
}

func await(t *testing.T, ch chan outcome) outcome {
	t.Helper()
	select {
	case o := <-ch:
		return o
	case <-time.After(20 * time.Second):
		t.Fatal("produce is not answered")
		return outcome{}
	}
}

func (r *rig) mustWriteMarker(m Marker) {
	r.t.Helper()
	m.TopicPartition = testTP
	for _, err := range r.host.WriteMarkers(r.t.Context(), []Marker{m}) {
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// T9, T10: the coordinator is asked once for each transaction, batches that come meanwhile wait and keep their order, and nobody is
// asked as long as the transaction is open.
func TestFirstBatchAsksTheCoordinator(t *testing.T) {
	r := txnRig(t)
	for round := range 3 {
		epoch := record.Epoch(round)
		release := make(chan struct{})
		r.coordinator.answer(func(Joining) *Error { <-release; return nil })
		var sent []chan outcome
		for i := range 5 {
			sent = append(sent, r.sendTxn(txnBatch(5, epoch, record.Sequence(2*i), 2), 2, 0))
		}
		again := r.sendTxn(txnBatch(5, epoch, 2, 2), 2, 0) // the connection broke, say
		r.mustProduce(batch(-1, -1, -1, 1), record.Offset(12*round))
		close(release)
		for i, ch := range sent {
			if o := await(t, ch); o.err != nil || o.BaseOffset != record.Offset(12*round+1+2*i) {
				t.Fatalf("round %d, batch %d: %+v", round, i, o)
			}
		}
		if o := await(t, again); o.err != nil || !o.Duplicate || o.BaseOffset != record.Offset(12*round+3) {
			t.Fatalf("repeated batch: %+v", o)
		}
		if o := await(t, r.sendTxn(txnBatch(5, epoch, 2, 2), 2, 0)); o.err != nil || !o.Duplicate {
			t.Fatalf("repeated batch, committed: %+v", o)
		}
		want := Joining{TopicPartition: testTP, TransactionalID: "tx", ProducerID: 5, Epoch: epoch, Version: 2}
		if asked := r.coordinator.questions(); len(asked) != round+1 || asked[round] != want {
			t.Fatalf("round %d asked %+v", round, asked)
		}
		r.mustWriteMarker(Marker{ProducerID: 5, Epoch: epoch + 1, CoordinatorEpoch: 1, Commit: true, Version: 2})
	}
}

// T11: what the producer hears when the coordinator says no. Nothing was appended in any case.
func TestCoordinatorSaysNo(t *testing.T) {
	r := txnRig(t)
	for _, c := range []struct {
		said    Code
		version int8
		want    Code
	}{
		{CodeProducerFenced, 2, CodeInvalidProducerEpoch},
		{CodeProducerFenced, 1, CodeInvalidProducerEpoch},
		{CodeTransactionAbortable, 1, CodeTransactionAbortable},
		{CodeInvalidProducerIDMapping, 2, CodeInvalidProducerIDMapping},
		{CodeConcurrentTransactions, 1, CodeNotEnoughReplicas},
		{CodeConcurrentTransactions, 2, CodeConcurrentTransactions},
		{"NOT_COORDINATOR", 2, CodeNotEnoughReplicas},
		{"COORDINATOR_LOAD_IN_PROGRESS", 2, CodeNotEnoughReplicas},
		{"COORDINATOR_NOT_AVAILABLE", 1, CodeNotEnoughReplicas},
		{CodeRequestTimedOut, 2, CodeNotEnoughReplicas},
		{CodeUnknown, 2, CodeNotEnoughReplicas},
	} {
		r.coordinator.answer(func(Joining) *Error { return uncertain(c.said, nil, "no") })
		first := r.sendTxn(txnBatch(5, 0, 0, 1), c.version, 0)
		second := r.sendTxn(txnBatch(5, 0, 1, 1), c.version, 0)
		for _, ch := range []chan outcome{first, second} {
			o := await(t, ch)
			if codeOf(o.err) != c.want || o.err.(*Error).Outcome != raftgroup.DidNotHappen || o.BaseOffset != record.NoOffset {
				t.Errorf("%s under TV%d: %+v", c.said, c.version, o)
			}
		}
	}
	r.coordinator.answer(nil)
	if o := await(t, r.sendTxn(txnBatch(5, 0, 0, 1), 2, 0)); o.err != nil || o.BaseOffset != 0 {
		t.Fatalf("the coordinator says yes at last: %+v", o)
	}
}

// KAFKA-14402: a batch is on its way when its transaction is aborted. Whether the coordinator had said yes before or not, it must not
// open a transaction that nobody will end.
func TestMarkerVoidsTheAnswer(t *testing.T) {
	for _, c := range []struct {
		version int8
		raise   record.Epoch
		want    Code
	}{{1, 0, CodeInvalidTxnState}, {2, 1, CodeInvalidProducerEpoch}} {
		t.Run(fmt.Sprintf("TV%d", c.version), func(t *testing.T) {
			r := txnRig(t)
			release := make(chan struct{})
			r.coordinator.answer(func(Joining) *Error { <-release; return nil })
			late := r.sendTxn(txnBatch(5, 0, 0, 1), c.version, 0)
			for len(r.coordinator.questions()) == 0 {
				waitTick(t.Context())
			}
			r.mustWriteMarker(Marker{ProducerID: 5, Epoch: c.raise, CoordinatorEpoch: 1, Version: c.version})
			close(release)
			if o := await(t, late); codeOf(o.err) != c.want {
				t.Fatalf("late batch: %+v", o)
			}
			f := r.host.Fetch(t.Context(), FetchRequest{Committed: true, MaxBytes: 1000, Partitions: []FetchPartition{{TopicPartition: testTP, MaxBytes: 1000, LeaderEpoch: -1}}})[0]
			if f.Err != nil || f.LastStable != f.HighWatermark {
				t.Fatalf("a transaction is open: %+v", f)
			}
			<-r.coordinator.told
			if got := r.coordinator.refused; len(got) != 1 || got[0].Code != c.want || got[0].TransactionalID != "tx" || got[0].ProducerID != 5 {
				t.Errorf("the history hears %+v", got)
			}
		})
	}
}

// KAFKA-14920: a batch that overtakes the first one is refused, and the first one is not locked out by it (P15).
func TestOvertakingBatchIsRefused(t *testing.T) {
	r := txnRig(t)
	release := make(chan struct{})
	r.coordinator.answer(func(Joining) *Error { <-release; return nil })
	second := r.sendTxn(txnBatch(5, 0, 3, 3), 1, 0)
	first := r.sendTxn(txnBatch(5, 0, 0, 3), 1, 0)
	close(release)
	o := await(t, second)
	if e, ok := o.err.(*Error); !ok || e.Code != CodeOutOfOrderSequence || e.Sequence == nil || *e.Sequence != (SequenceGap{Expected: 0, Received: 3}) {
		t.Fatalf("the second batch, first: %+v", o)
	}
	if o := await(t, first); o.err != nil || o.BaseOffset != 0 {
		t.Fatalf("the first batch: %+v", o)
	}
	if o := await(t, r.sendTxn(txnBatch(5, 0, 3, 3), 1, 0)); o.err != nil || o.BaseOffset != 3 {
		t.Fatalf("the second batch, again: %+v", o)
	}
}

// A coordinator that does not answer costs the producer its timeout, and nothing more.
func TestSilentCoordinator(t *testing.T) {
	r := txnRig(t)
	release := make(chan struct{})
	r.coordinator.answer(func(Joining) *Error { <-release; return refused(CodeRequestTimedOut, "gave up") })
	o := await(t, r.sendTxn(txnBatch(5, 0, 0, 1), 2, 150*time.Millisecond))
	if codeOf(o.err) != CodeNotEnoughReplicas || o.err.(*Error).Outcome != raftgroup.DidNotHappen {
		t.Fatalf("%+v", o)
	}
	close(release)
	for a := &r.host.replica(testTP).admission; ; waitTick(t.Context()) {
		a.mu.Lock()
		joins, held := len(a.joins), a.held
		a.mu.Unlock()
		if joins == 0 && held == 0 {
			break
		}
	}
	r.coordinator.answer(nil)
	if o := await(t, r.sendTxn(txnBatch(5, 0, 0, 1), 2, 0)); o.err != nil {
		t.Fatal(o.err)
	}
}

// R3a: when leadership ends during the question, the producer hears who leads and not that it was refused.
func TestLeadershipEndsDuringTheQuestion(t *testing.T) {
	r := txnRig(t)
	release := make(chan struct{})
	r.coordinator.answer(func(Joining) *Error { <-release; return nil })
	ch := r.sendTxn(txnBatch(5, 0, 0, 1), 2, 0)
	for len(r.coordinator.questions()) == 0 {
		waitTick(t.Context())
	}
	if err := r.host.replica(testTP).group.Close(); err != nil {
		t.Fatal(err)
	}
	if o := await(t, ch); codeOf(o.err) != CodeNotLeader || o.err.(*Error).Outcome != raftgroup.DidNotHappen {
		t.Errorf("%+v", o)
	}
	close(release)
}

func TestTooManyQuestions(t *testing.T) {
	r := txnRig(t)
	release := make(chan struct{})
	r.coordinator.answer(func(Joining) *Error { <-release; return nil })
	var sent []chan outcome
	for i := range maxHeld {
		sent = append(sent, r.sendTxn(txnBatch(record.ProducerID(i), 0, 0, 1), 2, 0))
	}
	if o := await(t, r.sendTxn(txnBatch(maxHeld, 0, 0, 1), 2, 0)); codeOf(o.err) != CodeBusy {
		t.Errorf("one more: %+v", o)
	}
	close(release)
	for i, ch := range sent {
		if o := await(t, ch); o.err != nil {
			t.Fatalf("batch %d: %+v", i, o)
		}
	}
}

// L5, L10, L13: a reader of committed data waits at an open transaction and is woken by its end; a marker decides when it is
// committed. A marker of an older coordinator, and one of an older epoch, change nothing (P20, P21).
func TestReaderWaitsForTheMarker(t *testing.T) {
	r := txnRig(t)
	read := func(committed bool, wait time.Duration) FetchedPartition {
		return r.host.Fetch(t.Context(), FetchRequest{Committed: committed, MaxBytes: 1 << 20, MinBytes: 1, MaxWait: wait, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
	}
	if o := await(t, r.sendTxn(txnBatch(5, 3, 0, 2), 2, 0)); o.err != nil {
		t.Fatal(o.err)
	}
	if f := read(false, 0); f.Bytes == 0 || f.Aborted != nil {
		t.Errorf("read_uncommitted waits: %+v", f)
	}
	for what, c := range map[string]struct {
		m    Marker
		want Code
	}{
		"same epoch under TV2": {Marker{ProducerID: 5, Epoch: 3, CoordinatorEpoch: 1, Commit: true, Version: 2}, CodeInvalidProducerEpoch},
		"an older epoch":       {Marker{ProducerID: 5, Epoch: 2, CoordinatorEpoch: 1, Commit: true, Version: 1}, CodeInvalidProducerEpoch},
	} {
		c.m.TopicPartition = testTP
		if errs := r.host.WriteMarkers(t.Context(), []Marker{c.m}); codeOf(errs[0]) != c.want {
			t.Errorf("%s: %v", what, errs[0])
		}
	}
	if f := read(true, 0); f.Bytes != 0 || f.LastStable != 0 || f.HighWatermark != 2 {
		t.Errorf("read_committed reads on: %+v", f)
	}
	woken := make(chan FetchedPartition, 1)
	go func() { woken <- read(true, time.Minute) }()
	r.mustWriteMarker(Marker{ProducerID: 5, Epoch: 4, CoordinatorEpoch: 2, Commit: false, Version: 2})
	f := <-woken
	if f.LastStable != 3 || f.Bytes == 0 || len(f.Aborted) != 1 || f.Aborted[0].First != 0 {
		t.Errorf("after the abort: %+v", f)
	}
	errs := r.host.WriteMarkers(t.Context(), []Marker{
		{TopicPartition: testTP, ProducerID: 5, Epoch: 5, CoordinatorEpoch: 1, Version: 2},
		{TopicPartition: record.TopicPartition{Topic: "elsewhere"}, ProducerID: 5, Epoch: 5, CoordinatorEpoch: 3, Version: 2},
		{TopicPartition: testTP, ProducerID: 5, Epoch: 4, CoordinatorEpoch: 2, Version: 2}, // sent again
	})
	if codeOf(errs[0]) != CodeCoordinatorFenced || codeOf(errs[1]) != CodeNotLeader || errs[2] != nil {
		t.Errorf("%v", errs)
	}
}

// A marker whose time is over is not written: its coordinator has sent it again, and the next transaction may have begun (KIP-890).
func TestALateMarkerIsNotWritten(t *testing.T) {
	r := txnRig(t)
	if o := await(t, r.sendTxn(txnBatch(5, 3, 0, 2), 2, 0)); o.err != nil {
		t.Fatal(o.err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	late := Marker{TopicPartition: testTP, ProducerID: 5, Epoch: 3, CoordinatorEpoch: 1, Commit: true, Version: 1}
	if errs := r.host.WriteMarkers(over, []Marker{late}); codeOf(errs[0]) != CodeRequestTimedOut || errs[0].Outcome != raftgroup.DidNotHappen {
		t.Errorf("told %v", errs[0])
	}
	r.mustWriteMarker(Marker{ProducerID: 5, Epoch: 3, CoordinatorEpoch: 1, Commit: false, Version: 1})
	f := r.host.Fetch(t.Context(), FetchRequest{Committed: true, MaxBytes: 1 << 20, Partitions: []FetchPartition{{TopicPartition: testTP, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
	if f.LastStable != 3 || len(f.Aborted) != 1 {
		t.Errorf("the late marker was written: %+v", f)
	}
}

// A plain batch in the middle of a transaction is refused (P16), and what names no transaction cannot be part of one.
func TestPlainBatchInTransaction(t *testing.T) {
	r := txnRig(t)
	if o := await(t, r.sendTxn(txnBatch(5, 0, 0, 1), 2, 0)); o.err != nil {
		t.Fatal(o.err)
	}
	if o := r.produce(batch(5, 0, 1, 1)); codeOf(o.err) != CodeInvalidTxnState {
		t.Errorf("%+v", o)
	}
}
