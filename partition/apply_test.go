package partition

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// propose hands a command to the group and gives apply's result.
func (r *rig) propose(meta, data []byte) any {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := r.host.replica(testTP).group.Propose(ctx, raftgroup.Command{Meta: meta, Data: data, AppendTime: 5000})
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

// TestMarkersAndLastStable holds L2, L5, L9, L10 and P22: an open transaction holds the last stable
// offset, its abort marker takes one offset and lists the transaction, a marker for a producer with
// nothing open is stored all the same.
func TestMarkersAndLastStable(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(-1, -1, -1, 2), 0)
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(1, nil, []byte("tx"), nil); err != nil {
		t.Fatal(err)
	}
	tx := b.Finish(5, 0, 0, true)
	knew := producer.Knew{Verified: true, Version: 1, Marker: record.NoOffset, LowestSequence: 0}
	if a := r.propose(metaOfAppend(knew), tx).(appended); a.err != nil || a.base != 2 {
		t.Fatalf("transactional batch: %+v", a)
	}
	read := func() FetchedPartition {
		return r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Committed: true, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
	}
	if f := read(); f.Err != nil || f.LastStable != 2 || f.HighWatermark != 3 || f.Aborted == nil || len(f.Aborted) != 0 {
		t.Fatalf("while open: %+v", f)
	}
	abort := record.ControlBatch(record.Marker{ProducerID: 5, Epoch: 0, CoordinatorEpoch: 1, Timestamp: 5000})
	if a := r.propose(metaOfMarker(1), abort).(appended); a.err != nil || a.base != 3 {
		t.Fatalf("marker: %+v", a)
	}
	if f := read(); f.LastStable != 4 || len(f.Aborted) != 1 || f.Aborted[0].ProducerID != 5 || f.Aborted[0].First != 2 {
		t.Fatalf("after the abort: %+v", f)
	}
	other := record.ControlBatch(record.Marker{ProducerID: 77, Epoch: 3, CoordinatorEpoch: 1, Commit: true, Timestamp: 5000})
	if a := r.propose(metaOfMarker(1), other).(appended); a.err != nil || a.base != 4 {
		t.Fatalf("marker of an unknown producer: %+v", a)
	}
	if o := r.produce(batch(77, 2, 0, 1)); codeOf(o.err) != CodeInvalidProducerEpoch {
		t.Fatalf("a zombie below the marker's epoch: %+v", o)
	}
	stale := record.ControlBatch(record.Marker{ProducerID: 77, Epoch: 3, CoordinatorEpoch: 0, Commit: true, Timestamp: 5000})
	if a := r.propose(metaOfMarker(1), stale).(appended); a.err == nil || a.err.Code != CodeCoordinatorFenced || a.base != record.NoOffset {
		t.Fatalf("marker of a replaced coordinator: %+v", a)
	}
}

// TestReadBesideRestore holds L9: what a read may give was decided before Raft was opened anew, which sets the state back to its snapshot;
// there the transaction is open that has been aborted since.
func TestReadBesideRestore(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(-1, -1, -1, 2), 0)
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(1, nil, []byte("tx"), nil); err != nil {
		t.Fatal(err)
	}
	knew := producer.Knew{Verified: true, Version: 1, Marker: record.NoOffset, LowestSequence: 0}
	if a := r.propose(metaOfAppend(knew), b.Finish(5, 0, 0, true)).(appended); a.err != nil || a.base != 2 {
		t.Fatalf("transactional batch: %+v", a)
	}
	replica := r.host.replica(testTP)
	s, err := replica.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	if _, err := s.WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	at := replica.Applied()
	abort := record.ControlBatch(record.Marker{ProducerID: 5, Epoch: 0, CoordinatorEpoch: 1, Timestamp: 5000})
	if a := r.propose(metaOfMarker(1), abort).(appended); a.err != nil || a.base != 3 {
		t.Fatalf("marker: %+v", a)
	}
	q := FetchPartition{TopicPartition: testTP, MaxBytes: 1 << 20, LeaderEpoch: -1}
	bounds := replica.bounds.Load()
	if bounds.lastStable != 4 {
		t.Fatalf("last stable offset %d", bounds.lastStable)
	}
	if err := replica.Restore(at, &image); err != nil {
		t.Fatal(err)
	}
	var f FetchedPartition
	replica.take(t.Context(), &f, q, bounds, true, 1<<20)
	if f.Err == nil || f.Err.Code != CodeOffsetNotAvailable || len(f.Batches) > 0 {
		t.Errorf("%d bytes and aborted transactions %v are given, error %v", f.Bytes, f.Aborted, f.Err)
	}
}

// TestLogStartMovesAndStays holds L26 and R13: it never goes back, not over a restart either, and
// what lies below is out of range.
func TestLogStartMovesAndStays(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(5, 0, 0, 4), 0)
	r.mustProduce(batch(5, 0, 4, 4), 4)
	for _, c := range []struct{ to, want record.Offset }{{5, 5}, {2, 5}, {99, 8}} {
		if got := r.propose([]byte{commandVersion, cmdAdvanceStart}, encodeOffset(c.to)); got != c.want {
			t.Fatalf("advance to %d: log start %v, want %d", c.to, got, c.want)
		}
	}
	r.mustProduce(batch(5, 0, 8, 2), 8)
	r.stop()
	r.start()
	got, err := r.host.ListOffsets(context.Background(), testTP, TimestampEarliest, false)
	if err != nil || got.Offset != 8 {
		t.Fatalf("earliest after a restart: %+v, %v", got, err)
	}
	f := r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Partitions: []FetchPartition{
		{TopicPartition: testTP, Offset: 4, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
	if f.Err == nil || f.Err.Code != CodeOffsetOutOfRange {
		t.Fatalf("below the log start: %+v", f)
	}
	if o := r.produce(batch(5, 0, 99, 1)); codeOf(o.err) != CodeOutOfOrderSequence || o.BaseOffset != record.NoOffset || o.LogStart != 8 {
		t.Fatalf("a refused batch: %+v, want log start 8 (P33)", o)
	}
	if n := len(r.values(8)); n != 2 {
		t.Fatalf("%d records, want 2", n)
	}
}

// TestSettingsAndExpiryAreReplicated holds P25 and R5.
func TestSettingsAndExpiryAreReplicated(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(5, 0, 0, 1), 0)
	r.propose([]byte{commandVersion, cmdSettings}, settings{maxProducers: 1, minIdle: minIdleMS}.encode())
	if o := r.produce(batch(6, 0, 0, 1)); codeOf(o.err) != CodeTooManyProducers {
		t.Fatalf("the bound is 1, and producer 5 was active a moment ago: %+v", o)
	}
	r.ahead = minIdleMS * time.Millisecond
	r.mustProduce(batch(6, 0, 0, 1), 1) // producer 5 goes
	list, _, err := r.host.DescribeProducers(context.Background(), testTP, nil, 10)
	if err != nil || len(list) != 1 || list[0].ProducerID != 6 {
		t.Fatalf("after the bound was lowered: %+v, %v", list, err)
	}
	replica := r.host.replica(testTP)
	later := time.Now().Add(2 * DefaultConfig().ProducerExpiration)
	replica.expireProducers(context.Background(), later, 1)
	if list, _, _ := r.host.DescribeProducers(context.Background(), testTP, nil, 10); len(list) != 1 {
		t.Fatalf("expired although it wrote at offset 1: %+v", list)
	}
	replica.expireProducers(context.Background(), later, 2)
	if list, _, _ := r.host.DescribeProducers(context.Background(), testTP, nil, 10); len(list) != 0 {
		t.Fatalf("after expiry: %+v", list)
	}
}

// A full partition keeps producers for as long as clients go on sending a batch again: one that comes back after three minutes is
// answered with the offset that it has, and no newcomer has taken its place (P13, P25).
func TestFullPartitionKnowsWhoSendsAgain(t *testing.T) {
	r := newRig(t)
	r.spec.Config.MaxProducers = 2
	var ahead atomic.Int64
	r.configure = func(c *HostConfig) {
		c.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}
	r.start()
	r.mustProduce(batch(5, 0, 0, 1), 0)
	r.mustProduce(batch(6, 0, 0, 1), 1)
	r.await("producers to be kept for longer", func() bool {
		return applied(r, func(s *state) uint32 { return s.settings.minIdle }) == keptIdleMS
	})
	ahead.Store(int64(3 * time.Minute))
	if o := r.produce(batch(7, 0, 0, 1)); codeOf(o.err) != CodeTooManyProducers {
		t.Fatalf("a newcomer where everybody may still send again: %+v", o)
	}
	if o := r.produce(batch(5, 0, 0, 1)); o.err != nil || !o.Duplicate || o.BaseOffset != 0 {
		t.Fatalf("sent again after three minutes: %+v", o)
	}
	ahead.Store(int64(keptIdleMS * time.Millisecond))
	r.mustProduce(batch(7, 0, 0, 1), 2)
}

// TestFeatureLevelComesWithTheLog: what apply does depends on the level of the entries it has applied, which never
// falls, not on the level that the broker knows of; and a program that does not know it does not apply.
func TestFeatureLevelComesWithTheLog(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		r := newRig(t)
		r.level = 1
		r.start()
		r.mustProduce(batch(5, 0, 0, 1), 0)
		at := func() uint16 { return applied(r, func(s *state) uint16 { return s.level }) }
		if got := at(); got != 1 {
			t.Fatalf("level %d, want 1", got)
		}
		r.level = 3
		r.mustProduce(batch(5, 0, 1, 1), 1)
		r.level = 2 // this broker's metadata is behind
		r.mustProduce(batch(5, 0, 2, 1), 2)
		if got := at(); got != 3 {
			t.Fatalf("level %d, want 3", got)
		}
		if snapshot {
			if err := r.host.replica(testTP).group.Snapshot(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		r.stop()
		r.start()
		if got := at(); got != 3 {
			t.Fatalf("level %d after a restart, want 3", got)
		}
		r.stop()
		r.level, r.maxLevel = 2, 2
		r.startHosts()
		err := r.host.Open(r.spec)
		for err == nil && r.host.Groups()[0].Problem == "" {
			waitTick(t.Context())
		}
		if g := r.host.Groups(); !strings.Contains(g[0].Problem, "feature level 3") {
			t.Fatalf("snapshot %t: an old program says %q, %v", snapshot, g[0].Problem, err)
		}
		r.stop()
	}
}

// TestEpochs holds L21 and L23.
func TestEpochs(t *testing.T) {
	var e epochs
	for _, x := range []epochEntry{{1, 0}, {3, 10}, {3, 12}, {2, 13}, {5, 20}, {6, 20}} {
		e.enter(x.epoch, x.start)
	}
	for _, c := range []struct {
		ask, epoch int32
		end        record.Offset
	}{{6, 6, 30}, {7, -1, -1}, {5, 3, 20}, {3, 3, 20}, {2, 1, 10}, {1, 1, 10}, {0, 0, 0}} {
		if epoch, end := e.endOf(c.ask, 30); epoch != c.epoch || end != c.end {
			t.Errorf("end of epoch %d: %d, %d; want %d, %d", c.ask, epoch, end, c.epoch, c.end)
		}
	}
	e.truncateStart(15)
	if e.at(15) != 3 || e.at(14) != -1 || e.at(25) != 6 {
		t.Errorf("after truncation: %+v", e.entries)
	}
	d, err := decodeEpochs(e.appendTo(nil))
	if err != nil || len(d.entries) != len(e.entries) {
		t.Errorf("decoded %+v, %v", d, err)
	}
}

// FuzzDecodeSnapshot: foreign bytes give an error, never a panic (R6: what is decoded encodes alike).
func FuzzDecodeSnapshot(f *testing.F) {
	s := &stateSnapshot{state: newState()}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeSnapshot(b); err == nil && string(s.encode()) != string(b) {
			t.Fatal("decoded and encoded again, it differs")
		}
	})
}
