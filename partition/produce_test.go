package partition

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// TestDuplicateIsAnsweredWithTheFirstOffset holds P5 and P6, in flight (F14) and committed.
func TestDuplicateIsAnsweredWithTheFirstOffset(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(5, 0, 0, 3), 0)
	first, again := r.send(batch(5, 0, 3, 2)), r.send(batch(5, 0, 3, 2))
	a, b := <-first, <-again
	if a.err != nil || b.err != nil || a.BaseOffset != 3 || b.BaseOffset != 3 || a.Duplicate || !b.Duplicate {
		t.Fatalf("original %+v, duplicate in flight %+v", a, b)
	}
	if o := r.produce(batch(5, 0, 0, 3)); o.err != nil || o.BaseOffset != 0 || !o.Duplicate {
		t.Fatalf("committed duplicate: %+v", o)
	}
	if got := len(r.values(0)); got != 5 {
		t.Fatalf("%d records stored, want 5", got)
	}
}

// TestBatchesForAnotherTopicAreRefused: a topic that was created again takes nothing that was numbered for the one before, of which it has no state (P13).
func TestBatchesForAnotherTopicAreRefused(t *testing.T) {
	r := newRig(t)
	r.start()
	ask := func(id TopicID) error {
		ch := make(chan error, 1)
		r.host.Produce(ProduceRequest{TopicPartition: testTP, TopicID: id, Batch: batch(5, 0, 7, 1)}, func(_ ProduceResult, err error) { ch <- err })
		return <-ch
	}
	if err := ask(TopicID{2}); codeOf(err) != CodeUnknownTopicID || OutcomeOf(err) != raftgroup.DidNotHappen {
		t.Fatalf("for another topic: %v", err)
	}
	if err := ask(TopicID{1}); err != nil {
		t.Fatal(err)
	}
	if got := len(r.values(0)); got != 1 {
		t.Fatalf("%d records stored", got)
	}
	// Nor is an offset in the one before one in this.
	for id, want := range map[TopicID]Code{{2}: CodeUnknownTopicID, {1}: "", {}: ""} {
		f := r.host.Fetch(t.Context(), FetchRequest{MaxBytes: 1 << 20, Partitions: []FetchPartition{{TopicPartition: testTP, TopicID: id, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
		if want == "" && (f.Err != nil || f.Bytes == 0) || want != "" && (f.Err == nil || f.Err.Code != want || f.Bytes > 0) {
			t.Errorf("fetched %+v from topic %v", f, id)
		}
	}
}

// TestRefusalsComeFromApply holds P7, P9, P10 and P12: refused batches get no offset and say that
// they did not happen.
func TestRefusalsComeFromApply(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(5, 1, 0, 1), 0)
	for _, c := range []struct {
		name string
		b    record.Batch
		want Code
	}{
		{"gap", batch(5, 1, 2, 1), CodeOutOfOrderSequence},
		{"partial overlap", batch(5, 1, 0, 2), CodeOutOfOrderSequence},
		{"old epoch", batch(5, 0, 1, 1), CodeInvalidProducerEpoch},
		{"new epoch not from 0", batch(5, 2, 1, 1), CodeOutOfOrderSequence},
	} {
		o := r.produce(c.b)
		if codeOf(o.err) != c.want || o.BaseOffset != record.NoOffset || o.err.(*Error).Outcome != raftgroup.DidNotHappen {
			t.Errorf("%s: %+v, want %s", c.name, o, c.want)
		}
	}
	// The first refused batch of the epoch is kept for people, by this leader alone.
	list, _, err := r.host.DescribeProducers(t.Context(), testTP, []record.ProducerID{5}, 1)
	if err != nil || len(list) != 1 || list[0].Refused == nil || list[0].Refused.Code != string(CodeOutOfOrderSequence) ||
		list[0].Refused.Expected != 1 || list[0].Refused.Received != 2 {
		t.Errorf("%+v, %v; want the gap", list, err)
	}
	r.mustProduce(batch(5, 1, 1, 1), 1)
	r.mustProduce(batch(-1, -1, -1, 2), 2)
	if got := len(r.values(0)); got != 4 {
		t.Fatalf("%d records stored, want 4", got)
	}
}

// TestMemoryOfProducersSurvivesRestart holds P26: all five batches come back, from the log alone
// and from a state snapshot.
func TestMemoryOfProducersSurvivesRestart(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		r := newRig(t)
		r.start()
		for i := range 7 {
			r.mustProduce(batch(9, 0, record.Sequence(2*i), 2), record.Offset(2*i))
		}
		r.produce(batch(9, 0, 99, 1)) // refused: the log holds a batch without an offset
		r.mustProduce(batch(9, 0, 14, 1), 14)
		if snapshot {
			if err := r.host.replica(testTP).group.Snapshot(context.Background()); err != nil {
				t.Fatal(err)
			}
			r.mustProduce(batch(9, 0, 15, 1), 15)
		}
		before := r.values(0)
		r.stop()
		r.disk = r.disk.CrashClone(rand.New(rand.NewPCG(1, 2)))
		r.start()
		if after := r.values(0); !slices.Equal(before, after) {
			t.Fatalf("snapshot %t: %d records before, %d after: %v", snapshot, len(before), len(after), after)
		}
		for i := 4; i < 7; i++ {
			if o := r.produce(batch(9, 0, record.Sequence(2*i), 2)); !o.Duplicate || o.BaseOffset != record.Offset(2*i) {
				t.Fatalf("snapshot %t: batch %d again: %+v", snapshot, i, o)
			}
		}
		if o := r.produce(batch(9, 0, 0, 2)); codeOf(o.err) != CodeOutOfOrderSequence {
			t.Fatalf("older than five batches: %+v", o)
		}
		r.stop()
	}
}

// TestMissingDirectoryIsQuarantined: a replica that was agreed on never starts empty.
func TestMissingDirectoryIsQuarantined(t *testing.T) {
	r := newRig(t)
	r.startHosts()
	if err := r.host.Open(r.spec); !errors.Is(err, ErrReplicaMissing) {
		t.Fatalf("open without a directory: %v", err)
	}
	if g := r.host.Groups(); len(g) != 1 || g[0].Problem == "" {
		t.Fatalf("groups: %+v", g)
	}
	other := r.spec
	other.TopicID = TopicID{2}
	if err := r.host.Create(other); err != nil {
		t.Fatal(err)
	}
	if err := r.host.Open(r.spec); err == nil {
		t.Fatal("opened another topic's directory")
	}
}

// TestEmptiedLogIsQuarantined: a replica whose log was wiped, whole or in part, while its directory is there, does
// not start empty either.
func TestEmptiedLogIsQuarantined(t *testing.T) {
	for _, suffix := range []string{"", "meta", ".seg"} {
		r := newRig(t)
		r.start()
		r.mustProduce(batch(9, 0, 0, 2), 0)
		r.stop()
		logDir := filepath.Join("/", "partitions", "1000-7", logDirName)
		names, err := r.disk.List(logDir)
		if err != nil || len(names) < 2 {
			t.Fatalf("log files %v, %v", names, err)
		}
		for _, n := range names {
			if strings.HasSuffix(n, suffix) {
				if err := r.disk.Remove(filepath.Join(logDir, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.startHosts()
		var damage *recordlog.CorruptionError
		if err := r.host.Open(r.spec); !errors.As(err, &damage) {
			t.Errorf("open without %q of the log: %v", "*"+suffix, err)
		}
		if g := r.host.Groups(); len(g) != 1 || g[0].Problem == "" {
			t.Errorf("groups: %+v", g)
		}
		r.stop()
	}
}

// countedRoom is a Room of a size that counts.
type countedRoom struct{ size, taken, asked int }

func (c *countedRoom) Take(_ context.Context, most int) int {
	c.asked++
	n := max(min(most, c.size-c.taken), 0)
	c.taken += n
	return n
}

func (c *countedRoom) Give(n int) { c.taken -= n }

// TestFetchTakesRoom: room is taken before anything is read and not while there is nothing to read; what is in the
// answer stays taken, and nothing else.
func TestFetchTakesRoom(t *testing.T) {
	r := newRig(t)
	r.start()
	fetch := func(room *countedRoom, offset record.Offset, minBytes int, wait time.Duration) FetchedPartition {
		return r.host.Fetch(t.Context(), FetchRequest{MaxBytes: 1 << 20, MinBytes: minBytes, MaxWait: wait, Room: room, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: offset, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
	}
	room := &countedRoom{size: 1 << 20}
	if f := fetch(room, 0, 1, 50*time.Millisecond); f.Bytes != 0 || room.asked != 0 {
		t.Errorf("an empty partition gave %d bytes, room was asked for %d times", f.Bytes, room.asked)
	}
	r.mustProduce(batch(5, 0, 0, 4), 0)
	f := fetch(room, 0, 1, time.Second)
	if f.Err != nil || f.Bytes == 0 || room.taken != f.Bytes {
		t.Errorf("%d bytes, %v; %d are taken", f.Bytes, f.Err, room.taken)
	}
	room.taken = 0
	if f := fetch(room, 0, 1<<20, 100*time.Millisecond); f.Bytes == 0 || room.taken != f.Bytes || room.asked < 3 {
		t.Errorf("waiting for more: %d bytes, %d are taken, asked %d times", f.Bytes, room.taken, room.asked)
	}
	room.taken = room.size
	if f := fetch(room, 0, 1, time.Minute); f.Err != nil || f.Bytes != 0 || f.HighWatermark != 4 || room.taken != room.size {
		t.Errorf("without room: %+v, %d are taken", f, room.taken)
	}
}

// TestWaitingFetchesHaveNoGoroutines: a fetch that waits for many partitions costs nothing but its caller, and any of them wakes it.
func TestWaitingFetchesHaveNoGoroutines(t *testing.T) {
	const partitions, waiting = 12, 50
	r := newRig(t)
	r.startHosts()
	ask := FetchRequest{MaxBytes: 1 << 20, MinBytes: 1, MaxWait: time.Minute}
	for i := range int32(partitions) {
		spec := r.spec
		spec.Partition, spec.Group = testTP.Partition+i, spec.Group+raftgroup.GroupID(i)
		if err := errors.Join(r.host.Create(spec), r.host.Open(spec)); err != nil {
			t.Fatal(err)
		}
		ask.Partitions = append(ask.Partitions, FetchPartition{TopicPartition: spec.TopicPartition, MaxBytes: 1 << 20, LeaderEpoch: -1})
	}
	leads := func() bool {
		return !slices.ContainsFunc(ask.Partitions, func(p FetchPartition) bool { _, err := r.host.leading(p.TopicPartition); return err != nil })
	}
	wait := func(what string, holds func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for !holds() {
			if waitTick(ctx); ctx.Err() != nil {
				t.Fatal("waited in vain: ", what)
			}
		}
	}
	wait("all are led", leads)
	before := runtime.NumGoroutine()
	woken := make(chan int, waiting)
	for range waiting {
		go func() { woken <- r.host.Fetch(t.Context(), ask)[0].Bytes }()
	}
	last := r.host.replica(ask.Partitions[partitions-1].TopicPartition)
	wait("all fetches wait", func() bool {
		last.fetchMu.Lock()
		defer last.fetchMu.Unlock()
		return len(last.fetches) == waiting
	})
	if got := runtime.NumGoroutine() - before; got > waiting+10 { // some come and go
		t.Errorf("%d fetches that wait for %d partitions each have %d goroutines", waiting, partitions, got)
	}
	r.mustProduce(batch(5, 0, 0, 1), 0)
	for range waiting {
		if n := <-woken; n == 0 {
			t.Error("a fetch was woken and has nothing")
		}
	}
}

// TestListOffsets holds L16, L17 and L20.
func TestListOffsets(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(-1, -1, -1, 3), 0) // timestamps 1000 to 1002
	r.mustProduce(batch(-1, -1, -1, 1), 3) // 1000
	for _, c := range []struct {
		at     int64
		offset record.Offset
		stamp  int64
	}{{TimestampLatest, 4, -1}, {TimestampEarliest, 0, -1}, {1001, 1, 1001}, {1003, -1, -1}, {TimestampMax, 2, 1002}} {
		got, err := r.host.ListOffsets(context.Background(), testTP, c.at, false)
		if err != nil || got.Offset != c.offset || got.Timestamp != c.stamp {
			t.Errorf("at %d: %+v, %v; want offset %d, timestamp %d", c.at, got, err, c.offset, c.stamp)
		}
	}
	if _, err := r.host.ListOffsets(context.Background(), testTP, -9, false); codeOf(err) != CodeInvalidRequest {
		t.Errorf("timestamp -9: %v", err)
	}
}

// TestFetchBounds holds L12, L14 and L24.
func TestFetchBounds(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(-1, -1, -1, 10), 0)
	fetch := func(offset record.Offset, epoch int32) FetchedPartition {
		return r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: offset, MaxBytes: 1, LeaderEpoch: epoch}}})[0]
	}
	f := fetch(4, -1)
	if f.Err != nil || f.Bytes == 0 || f.HighWatermark != 10 || f.LastStable != 10 || f.LogStart != 0 {
		t.Fatalf("one byte asked for: %+v", f)
	}
	if f := fetch(10, -1); f.Err != nil || f.Bytes != 0 {
		t.Errorf("at the end: %+v", f)
	}
	if f := fetch(11, -1); f.Err == nil || f.Err.Code != CodeOffsetOutOfRange {
		t.Errorf("beyond the end: %+v", f)
	}
	term, _ := r.host.replica(testTP).group.IsReady()
	if f := fetch(0, int32(term)); f.Err != nil {
		t.Errorf("current epoch: %+v", f)
	}
	if f := fetch(0, int32(term)-1); f.Err == nil || f.Err.Code != CodeFencedLeaderEpoch {
		t.Errorf("old epoch: %+v", f)
	}
	if f := fetch(0, int32(term)+1); f.Err == nil || f.Err.Code != CodeUnknownLeaderEpoch {
		t.Errorf("future epoch: %+v", f)
	}
}

// TestReplicaAboveTheLimitIsShown: what is not served for want of room is listed with the reason.
func TestReplicaAboveTheLimitIsShown(t *testing.T) {
	r := newRig(t)
	r.start()
	r.host.config.MaxReplicas = 1
	more := r.spec
	more.Group, more.Partition = 1001, 4
	if err := r.host.Create(more); err != nil {
		t.Fatal(err)
	}
	if err := r.host.Open(more); err == nil {
		t.Fatal("a second replica was opened")
	}
	if g := r.host.Groups(); len(g) != 2 || g[1].Problem == "" {
		t.Fatalf("groups: %+v", g)
	}
}

// TestEntriesNeedTheIncarnation: a peer that means another replica gets nothing of this one's log.
func TestEntriesNeedTheIncarnation(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(5, 0, 0, 1), 0)
	last := r.host.replica(testTP).log.LastIndex()
	if e, err := r.host.Entries(r.spec.Group, 7, 1, last, 1<<20); err != nil || len(e) != int(last) {
		t.Fatalf("%d entries, %v", len(e), err)
	}
	if _, err := r.host.Entries(r.spec.Group, 8, 1, last, 1<<20); err == nil {
		t.Fatal("another incarnation got entries")
	}
}

// TestUnconfirmedDuplicateMayBeWritten: a batch that is in the log is never said not to have
// happened, though leadership cannot be proved (R1, R2).
func TestUnconfirmedDuplicateMayBeWritten(t *testing.T) {
	r := newRig(t)
	r.start()
	b := batch(5, 0, 0, 1)
	r.mustProduce(b, 0)
	replica := r.host.replica(testTP)
	if err := replica.group.Close(); err != nil {
		t.Fatal(err)
	}
	v := replica.state.producers.Check(batchOf(b, producer.Knew{}), 0)
	if v.Code != producer.Duplicate {
		t.Fatalf("verdict %+v", v)
	}
	told := make(chan error, 1)
	replica.admission.answerDuplicate(v, waiter{deadline: time.Now().Add(time.Second),
		done: func(_ ProduceResult, err error) { told <- err }})
	var e *Error
	if err := <-told; !errors.As(err, &e) || e.Outcome != raftgroup.MayHaveHappened {
		t.Fatalf("told %v", err)
	}
}

// TestOpenWhileStoppingIsNoProblem: a replica that is to be opened when the broker stops is not quarantined for that.
func TestOpenWhileStoppingIsNoProblem(t *testing.T) {
	r := newRig(t)
	r.startHosts()
	if err := r.host.Create(r.spec); err != nil {
		t.Fatal(err)
	}
	if err := r.raft.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.host.Open(r.spec); !errors.Is(err, errStopping) {
		t.Errorf("opened: %v", err)
	}
	if g := r.host.Groups(); len(g) != 0 {
		t.Errorf("groups: %+v", g)
	}
}
