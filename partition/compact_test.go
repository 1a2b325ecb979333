package partition

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// L31, L33: what can be compacted, and when it is worth it.
func TestFindDirt(t *testing.T) {
	const now = 10_000
	at := func(base record.Offset, latest int64) recordlog.SegmentInfo { return segment(base, latest, 100) }
	active := at(30, 9000)
	active.Active = true
	log := []recordlog.SegmentInfo{at(0, 1000), at(10, 2000), at(20, 3000), active}
	usual := cleaning{dirtyRatio: 0.5, maxLag: math.MaxInt64, deleteRetention: 5000}
	with := func(change func(*cleaning)) cleaning { c := usual; change(&c); return c }
	once := compacted{below: 20, reached: []reached{{20, 6000}}}
	for name, c := range map[string]struct {
		stable record.Offset
		have   compacted
		want   cleaning
		dirt   dirt
	}{
		"all that is closed":             {35, compacted{}, usual, dirt{0, 300, 30, 0, 20, true}},
		"not beyond the last stable":     {15, compacted{}, usual, dirt{0, 200, 15, 0, 10, true}},
		"little has come":                {35, once, usual, dirt{200, 100, 30, 0, 20, false}},
		"a lower ratio":                  {35, once, with(func(c *cleaning) { c.dirtyRatio = 0.3 }), dirt{200, 100, 30, 0, 20, true}},
		"too young":                      {35, compacted{}, with(func(c *cleaning) { c.minLag = 7500 }), dirt{0, 200, 20, 0, 10, true}},
		"for too long":                   {35, once, with(func(c *cleaning) { c.maxLag = 4999 }), dirt{200, 100, 30, 0, 20, true}},
		"not for too long":               {35, once, with(func(c *cleaning) { c.maxLag = 5000 }), dirt{200, 100, 30, 0, 20, false}},
		"tombstones have been seen":      {35, once, with(func(c *cleaning) { c.deleteRetention = 4000 }), dirt{200, 100, 30, 20, 20, true}},
		"tombstones are gone":            {35, compacted{below: 20, horizon: 20}, usual, dirt{200, 100, 30, 20, 20, false}},
		"later passes wait":              {35, compacted{below: 20, reached: []reached{{10, 1000}, {20, 6000}}}, usual, dirt{200, 100, 30, 10, 20, false}},
		"nothing is closed":              {35, compacted{below: 30, horizon: 30}, usual, dirt{300, 0, 30, 30, 30, false}},
		"an open transaction holds all":  {0, compacted{}, usual, dirt{0, 0, 0, 0, 0, false}},
		"the ratio may be nought":        {35, compacted{below: 30, horizon: 30}, with(func(c *cleaning) { c.dirtyRatio = 0 }), dirt{300, 0, 30, 30, 30, false}},
		"a clock that went back changes": {35, compacted{below: 20, reached: []reached{{20, 99_000}}}, usual, dirt{200, 100, 30, 0, 20, false}},
	} {
		age := func(s recordlog.SegmentInfo) (int64, error) { return s.MaxTimestamp + 2000, nil }
		got, err := findDirt(log, 0, c.stable, &c.have, c.want, now, age)
		if err != nil || got != c.dirt {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.dirt)
		}
	}
	// The log start has passed what was compacted: there is no tombstone left to look for, and what is below it is not looked at.
	passed := compacted{below: 10, reached: []reached{{10, 1000}}}
	age := func(recordlog.SegmentInfo) (int64, error) { return now, nil }
	for start, want := range map[record.Offset]dirt{5: {100, 200, 30, 10, 20, true}, 10: {100, 200, 30, 10, 20, false}, 25: {100, 100, 30, 10, 10, false}} {
		quiet := with(func(c *cleaning) { c.dirtyRatio = 1 })
		if got, err := findDirt(log, start, 35, &passed, quiet, now, age); err != nil || got != want {
			t.Errorf("log start %d: %+v, %v, want %+v", start, got, err, want)
		}
	}
	failing := func(recordlog.SegmentInfo) (int64, error) { return 0, errors.New("no disk") }
	if d, err := findDirt(log, 0, 35, &compacted{}, usual, now, failing); err == nil || d.due {
		t.Errorf("an age that cannot be read: %+v, %v", d, err)
	}
}

// What was agreed goes forward only, its size is bounded, and it survives being written.
func TestAgreedCompactions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var c compacted
	for now := int64(1); now < 3000; now++ {
		before := c
		below := c.below + record.Offset(rng.IntN(6)) - 2
		horizon := c.horizonAt(now, 100) + record.Offset(rng.IntN(40)/39)
		ok := c.agree(below, horizon, now-int64(rng.IntN(5)))
		if !ok && !reflect.DeepEqual(c, before) {
			t.Fatalf("refused %d, %d, and changed %+v to %+v", below, horizon, before, c)
		}
		if c.below < before.below || c.horizon < before.horizon || c.horizon > c.below || c.horizon > before.below || len(c.reached) > maxReached {
			t.Fatalf("from %+v to %+v", before, c)
		}
		for i, r := range c.reached {
			if r.below <= c.horizon && i < len(c.reached)-1 || r.below > c.below || i > 0 && (r.below <= c.reached[i-1].below || r.at < c.reached[i-1].at) {
				t.Fatalf("reached out of order: %+v", c)
			}
		}
		if c.below == 0 {
			continue
		}
		c.last = append(c.last, c.below)
		got, err := decodeCompacted(c.appendTo(nil))
		if err != nil || !reflect.DeepEqual(got.last, c.last) || got.below != c.below || got.horizon != c.horizon || fmt.Sprint(got.reached) != fmt.Sprint(c.reached) {
			t.Fatalf("%+v was written, %+v read (%v)", c, got, err)
		}
		if b := c.appendTo(nil); len(b) > 0 {
			if _, err := decodeCompacted(b[:rng.IntN(len(b))]); err == nil {
				t.Fatal("a part of it was read")
			}
		}
	}
	if c.horizon == 0 {
		t.Fatal("the horizon never came")
	}
	// Also after the horizon has come to all that was reached: a leader whose clock is behind hastens nothing.
	late := compacted{}
	if !late.agree(10, 0, 50_000) || !late.agree(10, 10, 60_000) || !late.agree(20, 10, 7) || late.horizonAt(50_000, 1000) != 10 || late.horizonAt(51_000, 1000) != 20 {
		t.Fatalf("agreed long ago: %+v", late)
	}
}

// keyed makes a batch of one producer; an empty value is a tombstone.
func keyed(pid record.ProducerID, epoch record.Epoch, seq record.Sequence, transactional bool, pairs ...string) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for i := 0; i < len(pairs); i += 2 {
		var value []byte
		if pairs[i+1] != "" {
			value = fmt.Appendf(nil, "%s %0100d", pairs[i+1], 0)
		}
		if err := b.Append(1000+int64(i), []byte(pairs[i]), value, nil); err != nil {
			panic(err)
		}
	}
	return b.Finish(pid, epoch, seq, transactional)
}

func (r *rig) compacts() {
	r.level = compactionLevel
	c := &r.spec.Config
	c.SegmentBytes, c.Compacted, c.Deletes, c.DirtyRatio, c.DeleteRetentionMS = 1<<10, true, false, 0.1, 0
	r.configure = func(h *HostConfig) { h.CompactionInterval, h.CompactionBytes = 5*time.Millisecond, 1<<30 }
}

// content reads keys and values as a consumer of committed data sees them, and how many records and batches.
func (r *rig) content(committed bool) (latest map[string]string, records, batches int, first record.Offset) {
	r.t.Helper()
	latest, first = map[string]string{}, -1
	for from := record.Offset(0); ; {
		f := r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Committed: committed, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: from, MaxBytes: 3000, LeaderEpoch: -1}}})[0]
		if f.Err != nil && f.Err.Code == CodeOffsetNotAvailable {
			continue
		}
		if f.Err != nil {
			r.t.Fatalf("fetch at %d: %v", from, f.Err)
		}
		if f.Bytes == 0 {
			return latest, records, batches, first
		}
		for _, run := range f.Batches {
			for len(run) > 0 {
				b, rest, err := record.Parse(run)
				if err != nil {
					r.t.Fatal(err)
				}
				run, from = rest, b.LastOffset()+1
				batches++
				if first < 0 {
					first = b.BaseOffset()
				}
				dropped := b.Attributes().Control()
				for _, a := range f.Aborted {
					dropped = dropped || b.Attributes().Transactional() && a.ProducerID == b.ProducerID() && a.First <= b.BaseOffset() && b.BaseOffset() < a.Last
				}
				if dropped {
					continue
				}
				rs, err := b.Records(0)
				if err != nil {
					r.t.Fatal(err)
				}
				for rs.Next() {
					rec := rs.Record()
					records++
					if rec.Value == nil {
						delete(latest, string(rec.Key))
						continue
					}
					var v string
					fmt.Sscan(string(rec.Value), &v)
					latest[string(rec.Key)] = v
				}
			}
		}
	}
}

// await waits until ok.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			r.t.Fatalf("%s does not come", what)
		}
		waitTick(ctx)
	}
}

// compactedTo says whether everything below an offset has been compacted, tombstones and all.
func (r *rig) compactedTo(o record.Offset) bool {
	replica := r.host.replica(testTP)
	c := replica.agreedCompaction()
	return c.below >= o && c.horizon >= o && replica.hasCompacted(&c)
}

// TestCompaction: of what was written stays the last of each key; deleted keys and aborted records are gone, their tombstones and markers
// too; and what the partition knows of its producers does not change by it, nor by a restart.
func TestCompaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.compacts()
	r.coordinator = &fakeCoordinator{told: make(chan struct{}, 100)}
	r.start()
	want := map[string]string{}
	next := record.Offset(0)
	sequence := record.Sequence(0)
	for i := range 60 {
		key, gone := fmt.Sprint("key ", i%7), fmt.Sprint("gone ", i%5)
		r.mustProduce(keyed(7, 0, sequence, false, key, fmt.Sprint("v", i), gone, "x"), next)
		sequence, next, want[key] = sequence+2, next+2, fmt.Sprint("v", i)
		if i%5 == 4 {
			r.mustProduce(keyed(8, 0, record.Sequence(i/5), false, gone, ""), next)
			next++
		}
	}
	for i := range 5 {
		r.mustProduce(keyed(7, 0, sequence, false, fmt.Sprint("gone ", i), ""), next)
		sequence, next = sequence+1, next+1
	}
	lastOf7 := next - 1
	// A transaction that is aborted, and one that is committed, over what was there.
	for epoch, commit := range []bool{false, true} {
		for i := range 20 {
			if o := await(t, r.sendTxn(keyed(9, record.Epoch(epoch), record.Sequence(i), true, "key 0", fmt.Sprint("of the transaction ", commit)), 2, 0)); o.err != nil {
				t.Fatal(o.err)
			}
		}
		r.mustWriteMarker(Marker{ProducerID: 9, Epoch: record.Epoch(epoch + 1), CoordinatorEpoch: 1, Commit: commit, Version: 2})
		if commit {
			want["key 0"] = "of"
		}
	}
	end := r.host.replica(testTP).bounds.Load().highWatermark
	for i := range 12 { // fills segments
		r.mustProduce(keyed(11, 0, record.Sequence(i), false, "filler", fmt.Sprint("f", i)), end+record.Offset(i))
		want["filler"] = fmt.Sprint("f", i)
	}
	r.await("compaction", func() bool { return r.compactedTo(end) })
	check := func(when string) {
		t.Helper()
		got, records, batches, first := r.content(true)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %v, want %v", when, got, want)
		}
		if records > 30 || batches > 40 || first == 0 {
			t.Fatalf("%s: %d records in %d batches are left, the first at %d", when, records, batches, first)
		}
		if n := applied(r, func(s *state) int { return s.producers.AbortedLen() }); n != 0 { // the next compaction may be agreed to meanwhile
			t.Fatalf("%s: %d aborted transactions are remembered", when, n)
		}
		// The last batch of a producer is still recognised (L35).
		if o := r.produce(keyed(7, 0, sequence-1, false, "gone 4", "")); o.err != nil || !o.Duplicate || o.BaseOffset != lastOf7 {
			t.Fatalf("%s: a batch that was written comes again: %+v", when, o)
		}
	}
	check("compacted")
	r.stop()
	r.startHosts()
	if err := r.host.Open(r.spec); err != nil {
		t.Fatal(err)
	}
	r.waitReady()
	check("started again")
}

// TestNoCompactionBelowTheLevel: brokers of the version before could not apply it.
func TestNoCompactionBelowTheLevel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.compacts()
	r.level = compactionLevel - 1
	r.start()
	for i := range 40 {
		r.mustProduce(keyed(7, 0, record.Sequence(i), false, "key", fmt.Sprint("v", i)), record.Offset(i))
	}
	replica := r.host.replica(testTP)
	d, _, err := replica.dirt(time.Now())
	if err != nil || !d.due {
		t.Fatalf("%+v, %v: nothing to compact", d, err)
	}
	replica.proposeCompaction(context.Background(), time.Now())
	if c := replica.agreedCompaction(); c.below != 0 {
		t.Fatalf("agreed on %+v", c)
	}
}

// compactsByHand is compacts for a test that carries passes out itself.
func (r *rig) compactsByHand() {
	r.compacts()
	r.spec.Config.Deletes = true
	r.configure = func(h *HostConfig) { h.CompactionInterval, h.CompactionBytes = time.Hour, 1<<30 }
}

// What was agreed to be compacted is deleted before it is. The log is as was agreed then, and what comes is compacted. A pass had no end, and
// held up those of all other logs of the broker.
func TestCompactionOfWhatWasDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.compactsByHand()
	r.start()
	p := r.host.replica(testTP)
	seq := record.Sequence(0)
	write := func() {
		for range 30 {
			r.mustProduce(keyed(7, 0, seq, false, "key", fmt.Sprint("v", seq)), record.Offset(seq))
			seq++
		}
	}
	write()
	p.proposeCompaction(t.Context(), time.Now())
	agreed := p.agreedCompaction()
	if agreed.below == 0 || p.hasCompacted(&agreed) {
		t.Fatalf("agreed on %+v, and it is done: %t", agreed, p.hasCompacted(&agreed))
	}
	drop := func() {
		t.Helper()
		if _, err := r.deleteRecords(DeleteBefore); err != nil {
			t.Fatal(err)
		}
		write()
		for range 3 { // two snapshots above what goes
			if err := p.freeSpace(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	drop()
	done := make(chan error, 1)
	go func() { done <- p.compact(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the pass has no end")
	}
	for _, when := range []string{"of what came", "of what came after all that was compacted was deleted, too"} {
		before := p.agreedCompaction()
		p.proposeCompaction(t.Context(), time.Now())
		if next := p.agreedCompaction(); next.below <= before.below {
			t.Fatalf("%s: agreed on %+v, and before on %+v", when, next, before)
		}
		r.await("compaction "+when, func() bool {
			c := p.agreedCompaction()
			return p.compact(t.Context()) == nil && p.hasCompacted(&c)
		})
		drop()
	}
}

// The log begins inside of a batch of an aborted transaction. Its records go with the pass that has its marker forgotten; they came to light.
func TestCompactionOfAnAbortedBatchAtTheLogStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.compactsByHand()
	r.coordinator = &fakeCoordinator{told: make(chan struct{}, 100)}
	r.start()
	p := r.host.replica(testTP)
	if o := await(t, r.sendTxn(keyed(9, 0, 0, true, "a", "aborted", "b", "aborted", "c", "aborted", "d", "aborted"), 2, 0)); o.err != nil {
		t.Fatal(o.err)
	}
	r.mustWriteMarker(Marker{ProducerID: 9, Epoch: 1, CoordinatorEpoch: 1, Version: 2})
	seq := record.Sequence(0)
	write := func() {
		for range 30 {
			r.mustProduce(keyed(7, 0, seq, false, "key", fmt.Sprint("v", seq)), record.Offset(5+seq))
			seq++
		}
	}
	write()
	if _, err := r.deleteRecords(2); err != nil {
		t.Fatal(err)
	}
	look := func(when string) {
		t.Helper()
		f := r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Committed: true, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: 2, MaxBytes: 1, LeaderEpoch: -1}}})[0]
		if f.Err != nil || f.Bytes == 0 {
			t.Fatalf("%s: %d bytes, %v", when, f.Bytes, f.Err)
		}
		b := record.Batch(f.Batches[0])
		if a := b.Attributes(); len(f.Aborted) == 0 && a.Transactional() && !a.Control() && b.Count() > 0 {
			t.Fatalf("%s: %d records of an aborted transaction are shown as committed, from offset %d", when, b.Count(), b.BaseOffset())
		}
	}
	look("before")
	for pass := range 2 { // the second one has tombstones and markers below the first one's bound go
		p.proposeCompaction(t.Context(), time.Now())
		r.await("compaction", func() bool {
			c := p.agreedCompaction()
			return p.compact(t.Context()) == nil && p.hasCompacted(&c)
		})
		look(fmt.Sprintf("after pass %d", pass+1))
		write()
	}
	if n := applied(r, func(s *state) int { return s.producers.AbortedLen() }); n != 0 {
		t.Fatalf("%d aborted transactions are remembered: the second pass had no horizon", n)
	}
}
