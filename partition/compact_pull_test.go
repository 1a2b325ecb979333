package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// table is a replica's log without a Raft group: every entry is a batch that is accepted.
type table struct {
	t  *testing.T
	fs *vfs.Mem
	*Replica
}

func newTable(t *testing.T, seed uint64) *table {
	x := &table{t: t, fs: vfs.NewMem(seed)}
	if err := errors.Join(x.fs.MkdirAll("data"), x.fs.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	h := &Host{metrics: newMetrics(nil), config: HostConfig{CompactionBytes: 1 << 50, CompactionMemory: 1}}
	x.Replica = &Replica{host: h, logger: slog.New(slog.NewTextHandler(io.Discard, nil)), state: newState()}
	x.log = x.open(x.fs, 0)
	return x
}

func (x *table) open(fs vfs.FS, snapshot record.Index) *recordlog.Log {
	l, err := recordlog.Open(recordlog.Options{FS: fs, Dir: "data/log", SegmentBytes: 1 << 10, SnapshotIndex: snapshot})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = l.Close() })
	return l
}

// written is the log as it was written, one batch in an entry: some keys, values, tombstones, transactions.
func written(rng *rand.Rand, n int) []record.Batch {
	var list []record.Batch
	open := false
	for i := range n {
		switch {
		case open && rng.IntN(3) == 0:
			list = append(list, record.ControlBatch(record.Marker{ProducerID: 9, Epoch: 1, Commit: rng.IntN(2) == 0, Timestamp: 1}))
			open = false
			continue
		case rng.IntN(4) == 0:
			open = true
		}
		value := fmt.Sprint("v", i)
		if rng.IntN(4) == 0 {
			value = ""
		}
		pid := record.ProducerID(7)
		if open && rng.IntN(2) == 0 {
			pid = 9
		}
		list = append(list, keyed(pid, 1, record.Sequence(i), pid == 9, fmt.Sprint("key ", rng.IntN(9)), value))
	}
	return append(list, record.ControlBatch(record.Marker{ProducerID: 9, Epoch: 1, Commit: false, Timestamp: 1}))
}

// write appends and applies entries from..to-1, each of one record at its own offset.
func (x *table) write(list []record.Batch, from, to int) {
	for i := from; i < to; i++ {
		index := record.Index(i + 1)
		e := recordlog.Entry{Index: index, Term: 1, Records: 1, MaxTimestamp: list[i].MaxTimestamp(), Data: list[i]}
		err := x.log.Append([]recordlog.Entry{e})
		if err == nil {
			err = x.log.Assign(index, []recordlog.Fate{{Base: record.Offset(i), Records: 1}})
		}
		if err != nil {
			x.t.Fatal(err)
		}
		x.state.applied = index
	}
}

// pass compacts what lies below an offset.
func (x *table) pass(below, horizon record.Offset) {
	x.t.Helper()
	err := errors.Join(x.log.Roll(), x.log.SetSnapshotIndex(x.log.LastIndex()), x.log.TrimWindow(x.log.LastIndex()))
	p := pass{replica: x.Replica, agreed: compacted{below: below, horizon: horizon}}
	for err == nil && !x.hasCompacted(&p.agreed) {
		err = p.round(context.Background())
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// read gives what is stored, and the last value of each key that is not aborted.
func (x *table) read(list []record.Batch) (batches []string, latest map[string]string) {
	x.t.Helper()
	aborted := map[record.Offset]bool{}
	var begun []record.Offset
	for i, b := range list {
		if m, ok, _ := record.ParseMarker(b); ok {
			for _, o := range begun {
				aborted[o] = !m.Commit
			}
			begun = nil
		} else if b.Attributes().Transactional() {
			begun = append(begun, record.Offset(i))
		}
	}
	latest = map[string]string{}
	for from := x.log.StartOffset(); from < x.log.EndOffset(); {
		c, err := x.log.Read(from, x.log.EndOffset(), 1000)
		if err != nil || len(c.Batches) == 0 {
			x.t.Fatalf("read from %d: %d batches, %v", from, len(c.Batches), err)
		}
		from = c.End
		for _, raw := range c.Batches {
			b := record.Batch(raw)
			batches = append(batches, string(b))
			if aborted[b.BaseOffset()] || b.Attributes().Control() {
				continue
			}
			rs, err := b.Records(0)
			if err != nil {
				x.t.Fatal(err)
			}
			for rs.Next() {
				if latest[string(rs.Record().Key)] = string(rs.Record().Value); rs.Record().Value == nil {
					delete(latest, string(rs.Record().Key))
				}
			}
		}
	}
	return batches, latest
}

// TestPullOfACompactedLog: a replica that lies behind, with records that are gone at its peer, and a pass of its own maybe, pulls the peer's log
// while that goes on compacting. It ends with no key that is deleted, no value that was aborted and none that is old, and after the
// newest pass it holds the same bytes. Until its snapshot is durable it keeps, over crashes, all that it held (R9, F20).
func TestPullOfACompactedLog(t *testing.T) {
	t.Parallel()
	anew := 0
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 31))
		n := 120 + rng.IntN(80)
		list := written(rng, n)
		n = len(list)
		peer, x := newTable(t, seed), newTable(t, seed+1000)
		held, snapshot := rng.IntN(n), record.Index(0)
		x.write(list, 0, held)
		peer.write(list, 0, n)
		_, truth := peer.read(list)
		first := record.Offset(1 + rng.IntN(n-1))
		if own := record.Offset(held / 3); rng.IntN(2) == 0 && own > 0 && first >= own {
			x.pass(boundIn(list, own), 0)
			snapshot = record.Index(held) // below which alone a pass goes
		}
		x.state.applied = record.Index(held - rng.IntN(held/4+1))
		peer.pass(boundIn(list, first), 0)
		second := func() { peer.pass(boundIn(list, first)+record.Offset(rng.IntN(2)), boundIn(list, first)) }
		state := &stateSnapshot{state: newState(), layout: peer.log.Layout()}
		state.state.applied, state.state.next = record.Index(n), record.Offset(n)
		chunks := 0
		x.host.config.Pull = func(_ context.Context, _ raftgroup.ServerID, _ raftgroup.GroupID, from, through record.Index, yield func([]recordlog.Entry) error) error {
			for from <= through {
				entries, err := peer.log.EntriesForPeer(from, through, 200+rng.IntN(3000))
				if err != nil {
					return err
				}
				if err := yield(entries); err != nil {
					return err
				}
				from = entries[len(entries)-1].Index + 1
				if chunks++; chunks == 3 && rng.IntN(2) == 0 {
					second()
				}
				crashed := x.open(x.fs.CrashClone(rng), snapshot)
				if last := crashed.LastIndex(); last < record.Index(held) {
					t.Fatalf("seed %d: entries up to %d were held, %d are left after a crash", seed, held, last)
				}
			}
			return nil
		}
		info := raftgroup.SnapshotInfo{Index: record.Index(n), Term: 1}
		for try := 0; ; try++ {
			err := x.catchUp(context.Background(), info, state.encode())
			if err == nil {
				break
			}
			if try == 3 {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if x.log.StartIndex() == 1 && x.log.LastIndex() == record.Index(n) && chunks > 0 {
			anew++
		}
		if err := x.log.Restore(state.layout, info.Index); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		x.state.applied = info.Index
		if _, got := x.read(list); !maps.Equal(got, truth) {
			t.Fatalf("seed %d: %v, want %v", seed, got, truth)
		}
		second()
		c, _, _ := peer.log.Cleaned()
		x.pass(c.Below, c.Horizon)
		got, latest := x.read(list)
		want, _ := peer.read(list)
		if fmt.Sprint(got) != fmt.Sprint(want) || !maps.Equal(latest, truth) {
			t.Fatalf("seed %d: after the newest pass %d batches with %v, the peer has %d with %v", seed, len(got), latest, len(want), truth)
		}
	}
	if anew == 0 {
		t.Fatal("no log was pulled")
	}
}

// boundIn is the last place at or below an offset that no transaction spans.
func boundIn(list []record.Batch, o record.Offset) record.Offset {
	stable := record.Offset(0)
	open := false
	for i, b := range list[:o] {
		switch {
		case b.Attributes().Control():
			open = false
		case b.Attributes().Transactional():
			open = true
		}
		if !open {
			stable = record.Offset(i + 1)
		}
	}
	return stable
}

// TestReadsWaitForThePass: the state has forgotten the aborted transactions below its horizon. A replica whose log still holds
// their records lets nobody see them (L32).
func TestReadsWaitForThePass(t *testing.T) {
	t.Parallel()
	x := newTable(t, 5)
	list := []record.Batch{
		keyed(9, 1, 0, true, "key", "aborted"),
		record.ControlBatch(record.Marker{ProducerID: 9, Epoch: 1, Timestamp: 1}),
		keyed(7, 1, 0, false, "key", "new"),
	}
	x.write(list, 0, 3)
	const horizon = 2
	for o, want := range []bool{false, false, true} {
		if got := x.readableFrom(record.Offset(o), horizon); got != want {
			t.Errorf("before the pass, offset %d: readable %t, want %t", o, got, want)
		}
	}
	x.pass(2, 0)
	for o := range record.Offset(3) {
		if !x.readableFrom(o, horizon) {
			t.Errorf("after the pass, offset %d is not readable", o)
		}
	}
	if _, latest := x.read(list); latest["key"] == "" {
		t.Errorf("left is %v", latest)
	}
}

// TestReadBesideApply: between the bounds that a reader of committed data goes by and the list of aborted transactions that it is given,
// apply may forget some: by a pass, or since the log start has moved. It is told to try again (L9, L32).
func TestReadBesideApply(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		offset record.Offset
		now    bounds
		gets   bool
	}{
		"nothing":                        {0, bounds{lastStable: 3, highWatermark: 3}, true},
		"more was written":               {0, bounds{lastStable: 4, highWatermark: 5}, true},
		"a horizon above it":             {0, bounds{lastStable: 3, highWatermark: 3, horizon: 2}, false},
		"a horizon below it":             {2, bounds{lastStable: 3, highWatermark: 3, horizon: 2}, true},
		"the log begins above it":        {0, bounds{lastStable: 3, highWatermark: 3, start: 1}, false},
		"the log begins where was asked": {1, bounds{lastStable: 3, highWatermark: 3, start: 1}, true},
	} {
		x := newTable(t, 5)
		x.write([]record.Batch{
			keyed(9, 1, 0, true, "key", "aborted"),
			record.ControlBatch(record.Marker{ProducerID: 9, Epoch: 1, Timestamp: 1}),
			keyed(7, 1, 0, false, "key", "new"),
		}, 0, 3)
		x.bounds.Store(&c.now) // apply is as far, and its state has forgotten what it may
		x.state.next = c.now.lastStable
		var f FetchedPartition
		x.take(t.Context(), &f, FetchPartition{Offset: c.offset, MaxBytes: 1 << 20}, &bounds{lastStable: 3, highWatermark: 3}, true, 1<<20)
		switch {
		case c.gets && (f.Err != nil || f.Bytes == 0):
			t.Errorf("%s: %d bytes, %v", name, f.Bytes, f.Err)
		case !c.gets && (f.Err == nil || f.Err.Code != CodeOffsetNotAvailable || f.Bytes > 0 || f.Batches != nil):
			t.Errorf("%s: %d bytes, %v, want a retriable refusal", name, f.Bytes, f.Err)
		}
		f = FetchedPartition{}
		if x.take(t.Context(), &f, FetchPartition{Offset: c.offset, MaxBytes: 1 << 20}, &bounds{lastStable: 3, highWatermark: 3}, false, 1<<20); f.Bytes == 0 {
			t.Errorf("%s: who reads all gets %d bytes, %v", name, f.Bytes, f.Err)
		}
	}
}

// TestCleanedOfAnotherLog: what was seen of a log that catch-up has replaced meanwhile says nothing of the one in its place.
func TestCleanedOfAnotherLog(t *testing.T) {
	t.Parallel()
	x := newTable(t, 6)
	list := []record.Batch{keyed(7, 1, 0, false, "key", "a"), keyed(7, 1, 1, false, "key", "b"), keyed(7, 1, 2, false, "key", "c")}
	x.write(list, 0, 3)
	x.pass(2, 0)
	if !x.readableFrom(0, 2) || x.cleanedBelow() != 2 {
		t.Fatalf("compacted below %d", x.cleanedBelow())
	}
	late := x.cleaned.Load() // by who looked before
	other := newTable(t, 7)
	other.write(list, 0, 3)
	x.log = other.log
	err := errors.Join(x.log.Reset(1, 0), x.log.AppendCatchUp([]recordlog.Entry{
		{Index: 1, Term: 2, Records: 1, Data: list[0]}, {Index: 2, Term: 2, Records: 1, Data: list[1]},
		{Index: 3, Term: 2, Records: 1, Data: list[2]}, {Index: 4, Term: 2, Records: 1, Data: list[2]}}))
	if err == nil {
		err = x.log.Restore(recordlog.Layout{Index: 4, EndOffset: 4, StartIndex: 1}, 4)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.cleaned.Store(late)
	if x.readableFrom(0, 2) {
		t.Fatalf("what was compacted below %d in generation %d is taken for that of generation %d", late.below, late.generation, x.log.Generation())
	}
}

// TestBoundInsideOfAnEntry: an open transaction that begins inside of an entry holds back what is above that entry's segment, no more.
func TestBoundInsideOfAnEntry(t *testing.T) {
	t.Parallel()
	x := newTable(t, 9)
	list := written(rand.New(rand.NewPCG(9, 9)), 40)
	n := len(list)
	x.write(list, 0, n)
	if err := x.log.Roll(); err != nil {
		t.Fatal(err)
	}
	index := record.Index(n + 1)
	both := append(bytes.Clone(keyed(7, 1, 0, false, "key", "a")), keyed(9, 2, 0, true, "key", "open")...)
	err := errors.Join(x.log.Append([]recordlog.Entry{{Index: index, Term: 1, Records: 2, MaxTimestamp: 1, Data: both}}),
		x.log.Assign(index, []recordlog.Fate{{Base: record.Offset(n), Records: 1}, {Base: record.Offset(n + 1), Records: 1}}), x.log.Roll())
	if err != nil {
		t.Fatal(err)
	}
	stable := record.Offset(n + 1)
	age := func(recordlog.SegmentInfo) (int64, error) { return 1, nil }
	var c compacted
	d, err := findDirt(x.log.Segments(), 0, stable, &c, cleaning{}, 1, age)
	if err != nil || !d.due || d.below != stable {
		t.Fatalf("%+v, %v", d, err)
	}
	m, err := x.boundOf(d, &c)
	if err != nil || m.Below != record.Offset(n) {
		t.Fatalf("to be compacted below %d, want %d where the entry's segment begins (%v)", m.Below, n, err)
	}
	d.below, d.base = record.Offset(n), 0
	if m, err = x.boundOf(d, &c); err != nil || m.Below != record.Offset(n) {
		t.Fatalf("a bound that begins an entry became %d (%v)", m.Below, err)
	}
}

// TestStatusOfAPlainLog: nothing is read for the status of a log that is not compacted.
func TestStatusOfAPlainLog(t *testing.T) {
	t.Parallel()
	x := newTable(t, 10)
	x.config.Store(&Config{})
	x.write([]record.Batch{keyed(7, 1, 0, false, "key", "a")}, 0, 1)
	x.host.config.Wall = func() time.Time { t.Error("it is looked at"); return time.Time{} }
	if s := x.compactionStatus(); s != nil {
		t.Errorf("%+v", s)
	}
}

// TestComparisonPassesOverWhatIsCompacted: replicas compact in their own time. Nobody is condemned for having done so.
func TestComparisonPassesOverWhatIsCompacted(t *testing.T) {
	t.Parallel()
	x := newTable(t, 8)
	list := written(rand.New(rand.NewPCG(8, 8)), 100)
	n := record.Index(len(list))
	x.write(list, 0, int(n))
	x.spec.Self = raftgroup.MakeServerID(0, 1)
	x.host.byGroup = map[raftgroup.GroupID]*Replica{5: x.Replica}
	if _, err := x.host.SumEntries(5, 1, 1, n); err != nil {
		t.Fatal(err)
	}
	below := boundIn(list, 60)
	x.pass(below, 0)
	_, last, err := x.sumUpTo(1, n, 1)
	if !errors.Is(err, errCompacted) || last == 0 {
		t.Fatalf("summed through %d: %v", last, err)
	}
	if _, err := x.host.SumEntries(5, 1, 1, n); !errors.Is(err, ErrNotComparable) {
		t.Fatalf("what is compacted is compared: %v", err)
	}
	from := record.Index(below) + 1
	own, last, err := x.sumUpTo(from, n, 1<<20) // of one segment
	if err != nil || last < from {
		t.Fatalf("behind it: through %d, %v", last, err)
	}
	if other, err := x.host.SumEntries(5, 1, from, last); err != nil || other != own {
		t.Fatalf("behind it: %s and %s, %v", own, other, err)
	}
}
