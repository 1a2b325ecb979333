package partition

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// segment makes a segment of ten records for the tests of retainFrom.
func segment(base record.Offset, latest, bytes int64) recordlog.SegmentInfo {
	return recordlog.SegmentInfo{FirstIndex: record.Index(base + 1), LastIndex: record.Index(base + 10),
		Base: base, End: base + 10, MaxTimestamp: latest, Bytes: bytes}
}

// L28: what goes, by time and by size.
func TestRetainFrom(t *testing.T) {
	const now = 1000
	active := func(s recordlog.SegmentInfo) recordlog.SegmentInfo { s.Active = true; return s }
	three := []recordlog.SegmentInfo{segment(0, 100, 50), segment(10, 200, 50), active(segment(20, 300, 50))}
	noRecords := recordlog.SegmentInfo{FirstIndex: 11, LastIndex: 12, Base: 10, End: 10, MaxTimestamp: math.MinInt64, Bytes: 50}
	for name, c := range map[string]struct {
		segments []recordlog.SegmentInfo
		start    record.Offset
		keep     retention
		want     record.Offset
	}{
		"nothing is bounded":                  {three, 0, retention{-1, -1}, 0},
		"all is young":                        {three, 0, retention{900, -1}, 0},
		"one is older, by a millisecond":      {three, 0, retention{899, -1}, 10},
		"two are older":                       {three, 0, retention{750, -1}, 20},
		"the active one too":                  {three, 0, retention{699, -1}, 30},
		"time 0":                              {three, 0, retention{0, -1}, 30},
		"sized to the byte":                   {three, 0, retention{-1, 150}, 0},
		"one more than fits is kept":          {three, 0, retention{-1, 101}, 0},
		"one is surplus":                      {three, 0, retention{-1, 100}, 10},
		"two are surplus":                     {three, 0, retention{-1, 50}, 20},
		"the active one is never surplus":     {three, 0, retention{-1, 0}, 20},
		"what is below the start counts not":  {three, 10, retention{-1, 100}, 10},
		"a start inside a segment":            {three, 15, retention{-1, 50}, 20},
		"size after time":                     {three, 0, retention{899, 50}, 20},
		"the future holds what is behind it":  {[]recordlog.SegmentInfo{segment(0, 5000, 50), active(segment(10, 1, 50))}, 0, retention{100, -1}, 0},
		"the future does not hold for size":   {[]recordlog.SegmentInfo{segment(0, 5000, 50), active(segment(10, 1, 50))}, 0, retention{100, 50}, 20},
		"segments without records are passed": {[]recordlog.SegmentInfo{segment(0, 1, 50), noRecords, active(segment(10, 2, 50))}, 0, retention{100, -1}, 20},
		"no timestamps: time of the append":   {[]recordlog.SegmentInfo{segment(0, -1, 50), active(segment(10, -1, 50))}, 0, retention{100, -1}, 10},
		"what the log makes of no timestamps": {[]recordlog.SegmentInfo{segment(0, 0, 50), active(segment(10, 0, 50))}, 0, retention{100, -1}, 10},
		"an empty log":                        {nil, 0, retention{0, 0}, 0},
	} {
		appended := func(s recordlog.SegmentInfo) (int64, error) { // the first segment long ago, others just now
			if s.Base == 0 {
				return 0, nil
			}
			return now, nil
		}
		got, err := retainFrom(c.segments, c.start, c.keep, now, appended)
		if err != nil || got != c.want {
			t.Errorf("%s: log start %d, %v, want %d", name, got, err, c.want)
		}
	}
	failing := func(recordlog.SegmentInfo) (int64, error) { return 0, errors.New("no disk") }
	if _, err := retainFrom([]recordlog.SegmentInfo{segment(0, -1, 50)}, 0, retention{1, -1}, now, failing); err == nil {
		t.Error("a time that cannot be read deletes")
	}
}

// smallSegments makes every batch or two fill a segment.
func smallSegments(r *rig) {
	r.spec.Config.SegmentBytes = 1 << 10
	r.spec.Config.Deletes = true
}

// fill writes n batches of about 400 bytes.
func (r *rig) fill(n int) {
	r.t.Helper()
	for i := range n {
		r.mustProduce(batch(7, 0, record.Sequence(i*10), 10), record.Offset(i*10))
	}
}

func (r *rig) deleteRecords(before record.Offset) (record.Offset, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return r.host.DeleteRecords(ctx, testTP, before)
}

// L25: the log start moves, and what is asked for beyond the ends is refused.
func TestDeleteRecords(t *testing.T) {
	r := newRig(t)
	smallSegments(r)
	r.start()
	r.fill(10)
	for _, c := range []struct{ before, want record.Offset }{{15, 15}, {3, 15}, {15, 15}, {0, 15}, {42, 42}} {
		if got, err := r.deleteRecords(c.before); err != nil || got != c.want {
			t.Errorf("delete before %d: log start %d, %v, want %d", c.before, got, err, c.want)
		}
	}
	for _, before := range []record.Offset{101, -2, math.MaxInt64} {
		if got, err := r.deleteRecords(before); codeOf(err) != CodeOffsetOutOfRange || got != record.NoOffset {
			t.Errorf("delete before %d: %d, %v, want OFFSET_OUT_OF_RANGE", before, got, err)
		}
	}
	if got := r.values(42); len(got) != 58 || got[0] != "7/0/42" {
		t.Errorf("%d records from 42 on, the first is %q", len(got), got[0])
	}
	if f := r.fetchAt(41); codeOf(f.Err) != CodeOffsetOutOfRange || f.LogStart != 42 {
		t.Errorf("fetch below the start: %v, log start %d", f.Err, f.LogStart)
	}

	// The start survives a restart, and the producer is remembered although its records are gone.
	if got, err := r.deleteRecords(DeleteBefore); err != nil || got != 100 {
		t.Fatalf("delete all: %d, %v", got, err)
	}
	r.stop()
	r.startHosts()
	if err := r.host.Open(r.spec); err != nil {
		t.Fatal(err)
	}
	r.waitReady()
	if f := r.fetchAt(100); f.Err != nil || f.LogStart != 100 || f.HighWatermark != 100 {
		t.Errorf("after a restart: %+v", f)
	}
	if o := r.produce(batch(7, 0, 90, 10)); o.err != nil || !o.Duplicate || o.BaseOffset != 90 {
		t.Errorf("a batch whose records were deleted, sent again: %+v, want the duplicate of 90 (P27)", o)
	}
	r.mustProduce(batch(7, 0, 100, 10), 100)

	compacted := r.spec.Config
	compacted.Deletes = false
	r.host.Configure(testTP, compacted)
	if _, err := r.deleteRecords(DeleteBefore); codeOf(err) != CodePolicyViolation {
		t.Errorf("delete from a compacted topic: %v, want POLICY_VIOLATION", err)
	}
	if _, err := r.host.DeleteRecords(context.Background(), record.TopicPartition{Topic: "gone"}, 0); codeOf(err) != CodeNotLeader {
		t.Errorf("delete from a partition that is not here: %v", err)
	}
}

func (r *rig) fetchAt(o record.Offset) FetchedPartition {
	return r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Partitions: []FetchPartition{
		{TopicPartition: testTP, Offset: o, MaxBytes: 1 << 20, LeaderEpoch: -1}}})[0]
}

// A lower bound takes effect at once, is agreed, and then frees the disk, the last segment included,
// although the partition is quiet: rounds of the sweep are made by hand.
func TestRetentionFreesSpace(t *testing.T) {
	r := newRig(t)
	smallSegments(r)
	r.start()
	r.fill(20)
	p := r.host.replica(testTP)
	full := p.log.Bytes()
	if n := len(p.log.Segments()); n < 5 {
		t.Fatalf("%d segments, want more to drop", n)
	}

	small := r.spec.Config
	small.RetentionBytes, small.RetentionMS = 3<<10, -1
	r.host.Configure(testTP, small)
	start := r.awaitStart(func(o record.Offset) bool { return o > 0 })
	if start >= 200 || start%10 != 0 {
		t.Errorf("log start %d, want whole segments and never all of it by size", start)
	}

	small.RetentionMS, small.RetentionBytes = 0, -1 // the records are from 1970
	r.host.Configure(testTP, small)
	r.awaitStart(func(o record.Offset) bool { return o == 200 })
	for range 3 {
		if err := p.freeSpace(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.log.Bytes(); got > 2<<10 {
		t.Errorf("%d bytes on disk after all records went, of %d", got, full)
	}
	if got := r.values(200); got != nil {
		t.Errorf("read %q", got)
	}
	r.mustProduce(batch(7, 0, 200, 10), 200)
}

// Records without timestamps are as old as their append (L28), not as old as 1970: a round of retention must not let all of them go.
func TestRetentionKeepsRecordsWithoutTimestamps(t *testing.T) {
	r := newRig(t)
	smallSegments(r)
	r.start()
	for i := range 10 {
		b := record.NewBuilder(record.CodecNone)
		if err := b.Append(record.NoTimestamp, nil, make([]byte, 400), nil); err != nil {
			t.Fatal(err)
		}
		r.mustProduce(b.Finish(7, 0, record.Sequence(i), false), record.Offset(i))
	}
	p := r.host.replica(testTP)
	for after, want := range map[time.Duration]bool{0: false, 2 * time.Hour: true} { // min.compaction.lag.ms counts from there, too
		c := *p.config.Load()
		c.MinCompactionLagMS = time.Hour.Milliseconds()
		p.config.Store(&c)
		if d, _, err := p.dirt(time.Now().Add(after)); err != nil || d.due != want {
			t.Errorf("after %v to be compacted: %+v, %v, want due: %t", after, d, err, want)
		}
	}
	p.retain(t.Context(), time.Now())
	if start := p.bounds.Load().start; start != 0 {
		t.Fatalf("log start %d right after the records came, want 0", start)
	}
	p.retain(t.Context(), time.Now().Add(8*24*time.Hour))
	if start := p.bounds.Load().start; start != 10 {
		t.Fatalf("log start %d a day after retention.ms has passed, want 10", start)
	}
}

func (r *rig) awaitStart(ok func(record.Offset) bool) record.Offset {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p := r.host.replica(testTP)
	for ctx.Err() == nil {
		if o := p.bounds.Load().start; ok(o) {
			return o
		}
		waitTick(ctx)
	}
	r.t.Fatalf("log start stays %d", p.bounds.Load().start)
	return 0
}

// L30: segment.ms closes a segment by the time of its first append.
func TestOldSegmentIsClosed(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fill(1)
	p := r.host.replica(testTP)
	segments := func(after time.Duration) int {
		t.Helper()
		if err := p.freeSpace(t.Context(), time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
		return len(p.log.Segments())
	}
	segments(0)
	r.mustProduce(batch(7, 0, 10, 10), 10)
	if n := segments(0); n != 1 {
		t.Fatalf("%d segments of a new log", n)
	}
	if n := segments(8 * 24 * time.Hour); n != 1 {
		t.Fatalf("%d segments listed", n) // the new one begins with the next entry
	}
	r.mustProduce(batch(7, 0, 20, 10), 20)
	if n := segments(0); n != 2 {
		t.Errorf("%d segments after segment.ms and another batch, want 2", n)
	}
}
