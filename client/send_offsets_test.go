package client

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// fakeTransactions coordinates one transactional id and one group, at every broker.
type fakeTransactions struct {
	epoch int32
	// pending are the offsets of the open transaction, committed those that count.
	pending, committed map[record.TopicPartition]record.Offset
	// hold, if set, keeps the next commit of offsets from being taken, and its answer from being given, until it is closed;
	// held is closed when that commit has come.
	hold, held chan struct{}
}

func (b *fakeBroker) EndTransaction(_ context.Context, req *clientv1.EndTransactionRequest) (*clientv1.EndTransactionResponse, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	f := b.c.txn
	if req.ProducerEpoch != f.epoch {
		return nil, failure(ReasonProducerFenced, codes.FailedPrecondition, false)
	}
	if req.Commit {
		maps.Copy(f.committed, f.pending)
	}
	clear(f.pending)
	f.epoch++
	return &clientv1.EndTransactionResponse{ProducerId: req.ProducerId, ProducerEpoch: f.epoch}, nil
}

func (b *fakeBroker) CommitOffsetsInTransaction(_ context.Context, req *clientv1.CommitOffsetsInTransactionRequest) (*clientv1.CommitOffsetsInTransactionResponse, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	f := b.c.txn
	if hold := f.hold; hold != nil {
		f.hold = nil
		close(f.held)
		b.c.mu.Unlock()
		<-hold // what the client has given up waiting for comes late
		b.c.mu.Lock()
	}
	if req.ProducerEpoch != f.epoch {
		return nil, failure(ReasonInvalidProducerEpoch, codes.FailedPrecondition, false)
	}
	for _, o := range req.Offsets {
		f.pending[record.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = record.Offset(o.Offset)
	}
	return &clientv1.CommitOffsetsInTransactionResponse{}, nil
}

// beginTransaction has a transaction open, at a coordinator that keeps offsets.
func beginTransaction(t *testing.T) (*fakeCluster, *TransactionalProducer) {
	t.Helper()
	c := newFakeCluster(t, 2)
	c.coordinates = 1
	c.txn = &fakeTransactions{pending: make(map[record.TopicPartition]record.Offset), committed: make(map[record.TopicPartition]record.Offset)}
	p, err := c.connect(t).NewTransactionalProducer(TransactionalConfig{TransactionalID: "tx"})
	if err == nil {
		err = p.InitTransactions(bg)
	}
	if err == nil {
		err = p.Begin()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// loseAnOffset sends an offset whose first attempt is not answered: it lies at the old coordinator until release is called.
func loseAnOffset(t *testing.T, c *fakeCluster, p *TransactionalProducer, offset record.Offset) (release func()) {
	t.Helper()
	hold, held := make(chan struct{}), make(chan struct{})
	c.mu.Lock()
	c.txn.hold, c.txn.held = hold, held
	c.mu.Unlock()
	go func() {
		<-held
		c.mu.Lock()
		c.coordinates = 2
		c.mu.Unlock()
	}()
	if err := p.SendOffsets(bg, GroupMember{GroupID: "g", Epoch: -1}, Offsets{tp(0): offset}); err != nil {
		t.Fatalf("SendOffsets at another coordinator: %v", err)
	}
	return func() {
		close(hold)
		synctest.Wait()
	}
}

// An attempt to send offsets that was not answered may be taken at any time until the transaction ends. Other offsets of
// its partitions would be overwritten with older ones, and what lies between would be done twice.
func TestLateOffsetsDoNotReplaceNewerOnes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := beginTransaction(t)
		release := loseAnOffset(t, c, p, 3)
		err := p.SendOffsets(bg, GroupMember{GroupID: "g", Epoch: -1}, Offsets{tp(0): 7})
		release()
		var e *Error
		if err == nil {
			if err := p.Commit(bg); err != nil {
				t.Fatal(err)
			}
			if got := c.txn.committed[tp(0)]; got != 7 {
				t.Fatalf("committed offset %d after 7 was sent last", got)
			}
		} else if !errors.As(err, &e) || !e.Abortable || e.Outcome != NotWritten {
			t.Fatalf("SendOffsets: %v", err)
		}
		if err := p.Commit(bg); err == nil {
			t.Error("committed what has to be aborted")
		}
		// What is over is over: the next transaction has nothing to fear.
		for _, err := range []error{p.Abort(bg), p.Begin(), p.SendOffsets(bg, GroupMember{GroupID: "g", Epoch: -1}, Offsets{tp(0): 7}), p.Commit(bg)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := c.txn.committed[tp(0)]; got != 7 {
			t.Errorf("committed offset %d", got)
		}
	})
}

// The same offsets, those of other partitions and those of other groups cannot be overwritten by what comes late.
func TestLateOffsetsAllowOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := beginTransaction(t)
		release := loseAnOffset(t, c, p, 3)
		for _, err := range []error{
			p.SendOffsets(bg, GroupMember{GroupID: "g", Epoch: -1}, Offsets{tp(0): 3, tp(1): 5}),
			p.SendOffsets(bg, GroupMember{GroupID: "g", Epoch: -1}, Offsets{tp(1): 6}),
			p.SendOffsets(bg, GroupMember{GroupID: "another", Epoch: -1}, Offsets{tp(2): 9}),
			p.Commit(bg),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		release()
		if got := c.txn.committed; got[tp(0)] != 3 || got[tp(1)] != 6 || got[tp(2)] != 9 {
			t.Errorf("committed %v", got)
		}
	})
}
