package kafka

import (
	"bytes"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// What a batch is refused with, by P28-P33 and T11; every answer carries the sentinels of errors (F17).
func TestProduceCodes(t *testing.T) {
	txn := func(pid record.ProducerID) []byte {
		b := record.NewBuilder(record.CodecNone)
		if err := b.Append(1000, nil, []byte("v"), nil); err != nil {
			t.Fatal(err)
		}
		return b.Finish(pid, 0, 0, true)
	}
	damaged := bytes.Clone(batchOf("v"))
	damaged[len(damaged)-1] ^= 1
	fail := func(code partition.Code) *partition.Error {
		return &partition.Error{Code: code, Message: "fake", Outcome: raftgroup.DidNotHappen}
	}
	id := "id"
	for _, c := range []struct {
		name    string
		version int16
		acks    int16
		topic   string
		id      *string
		batches [][]byte
		err     *partition.Error
		want    []int16
	}{
		{"good", 9, -1, "t", nil, [][]byte{batchOf("v")}, nil, []int16{0}},
		{"acks", 9, 2, "t", nil, [][]byte{batchOf("v")}, nil, []int16{21}},
		{"a bad checksum beside a good batch", 9, -1, "t", nil, [][]byte{damaged, batchOf("v")}, nil, []int16{2, 0}},
		{"message format 0", 9, -1, "t", nil, [][]byte{ofFormat(0)}, nil, []int16{87}},
		{"message format 1, beside a good batch", 3, -1, "t", nil, [][]byte{ofFormat(1), batchOf("v")}, nil, []int16{87, 0}},
		{"a message format to come", 9, -1, "t", nil, [][]byte{ofFormat(3)}, nil, []int16{2}},
		{"two batches in one", 9, -1, "t", nil, [][]byte{append(batchOf("v"), batchOf("w")...)}, nil, []int16{87}},
		{"null records", 9, -1, "t", nil, [][]byte{nil}, nil, []int16{87}},
		{"a name", 9, -1, "no/topic", nil, [][]byte{batchOf("v")}, nil, []int16{3}},
		{"a topic of the brokers", 9, -1, "__consumer_offsets", nil, [][]byte{batchOf("v")}, nil, []int16{17}},
		{"transactional without an id", 9, -1, "t", nil, [][]byte{txn(1)}, nil, []int16{53}},
		{"two producers", 9, -1, "t", &id, [][]byte{txn(1), txn(2)}, nil, []int16{49, 49}},
		{"an id without a transaction", 9, -1, "t", &id, [][]byte{batchOf("v")}, nil, []int16{42}},
		{"sequence", 9, -1, "t", nil, [][]byte{batchOf("v")}, fail(partition.CodeOutOfOrderSequence), []int16{45}},
		{"busy", 9, -1, "t", nil, [][]byte{batchOf("v")}, fail(partition.CodeBusy), []int16{19}},
		{"too many producers", 9, -1, "t", nil, [][]byte{batchOf("v")}, fail(partition.CodeTooManyProducers), []int16{19}},
		{"unknown partition", 9, -1, "t", nil, [][]byte{batchOf("v")}, fail(partition.CodeNotLeader), []int16{3}},
		{"abortable, old", 10, -1, "t", &id, [][]byte{txn(1)}, fail(partition.CodeTransactionAbortable), []int16{48}},
		{"abortable", 11, -1, "t", &id, [][]byte{txn(1)}, fail(partition.CodeTransactionAbortable), []int16{120}},
		{"fenced", 12, -1, "t", &id, [][]byte{txn(1)}, fail(partition.CodeInvalidProducerEpoch), []int16{47}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.log.produce = func(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
				if c.err != nil {
					done(partition.ProduceResult{BaseOffset: -1, LogStart: 3, LogAppendTime: -1}, c.err)
					return
				}
				done(partition.ProduceResult{BaseOffset: 40, LogStart: 3, LogAppendTime: -1}, nil)
			}
			req := produceOf(c.version, c.acks, c.topic, c.batches...)
			req.TransactionID = c.id
			resp := r.dial().ask(req).(*kmsg.ProduceResponse)
			for i, p := range resp.Topics[0].Partitions {
				if p.ErrorCode != c.want[i] {
					t.Errorf("batch %d: code %d, want %d", i, p.ErrorCode, c.want[i])
				}
				if p.ErrorCode != 0 && (p.BaseOffset != -1 || p.LogAppendTime != -1) || p.ErrorCode == 0 && p.BaseOffset != 40 {
					t.Errorf("batch %d: %+v", i, p)
				}
			}
		})
	}
}

// ofFormat is a batch that says that it is of another message format (P28).
func ofFormat(magic byte) []byte {
	b := bytes.Clone(batchOf("v"))
	b[16] = magic
	return b
}

// T13: the version of the request says which transactions the client speaks.
func TestProduceTellsTheTransactionVersion(t *testing.T) {
	for version, want := range map[int16]int8{9: 1, 11: 1, 12: 2} {
		r := newRig(t, nil)
		h := newHeld()
		r.log.produce = h.produce
		b := record.NewBuilder(record.CodecNone)
		if err := b.Append(1000, nil, []byte("v"), nil); err != nil {
			t.Fatal(err)
		}
		id := "id"
		req := produceOf(version, -1, "t", b.Finish(5, 0, 0, true))
		req.TransactionID = &id
		w := r.dial()
		w.send(req)
		h.await(t, 1)
		if got := h.list[0].req; got.Version != want || got.TransactionalID != id {
			t.Errorf("version %d: transaction version %d of %q", version, got.Version, got.TransactionalID)
		}
		h.decide(0, 0)
	}
}

// What the log keeps must not hold on to the rest of a large request.
func TestSmallBatchesAreCopiedOutOfLargeRequests(t *testing.T) {
	frame := append(batchOf("small"), batchOf(strings.Repeat("v", 100_000))...)
	p := &producing{r: &request{frame: frame}}
	small := record.Batch(frame[:record.Batch(frame).Size()])
	large := record.Batch(frame[len(small):])
	if kept := p.owned(small); &kept[0] == &small[0] || !bytes.Equal(kept, small) {
		t.Error("the small batch holds on to the request")
	}
	if kept := p.owned(large); &kept[0] != &large[0] {
		t.Error("the large batch was copied")
	}
}
