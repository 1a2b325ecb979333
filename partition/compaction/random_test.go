package compaction

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/oncelog/oncelog/record"
)

var (
	seedFlag  = flag.Uint64("compaction.seed", 0, "run one seed of the random tests; 0: several")
	seedsFlag = flag.Int("compaction.seeds", 15, "how many seeds")
)

// item is a batch of a log and whether a pass has taken it in.
type item struct {
	record.Batch
	settled bool
	// head: it begins an entry, of which the bounds of passes and rounds respect the ends.
	head bool
}

// world is a log that grows, what replicas made of it, and the passes that were agreed.
type world struct {
	t   *testing.T
	rng *rand.Rand
	// original is the log as it was written, all of it.
	original []item
	end      record.Offset
	open     map[record.ProducerID]record.Offset
	last     map[record.ProducerID]record.Offset
	// fates are those of the transactional batches, by base offset; true: committed.
	fates  map[record.Offset]bool
	parts  map[record.ProducerID][]record.Offset
	passes []Pass
	copies []*replica
}

// replica is a log that some of the passes were done on, some only in part.
type replica struct {
	items []item
	// taken is how many of the original batches it has.
	taken int
	// cleaned is below which every key is there once.
	cleaned record.Offset
	done    int
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, rng: rand.New(rand.NewPCG(seed, 9)), open: map[record.ProducerID]record.Offset{}, last: map[record.ProducerID]record.Offset{},
		fates: map[record.Offset]bool{}, parts: map[record.ProducerID][]record.Offset{}, copies: []*replica{{}, {}, {}}}
}

func (w *world) append(b record.Batch) {
	b = bytes.Clone(b)
	b.SetBaseOffset(w.end)
	b.SetLeaderEpoch(3)
	w.original = append(w.original, item{Batch: b, head: w.rng.IntN(3) > 0})
	w.end = b.LastOffset() + 1
	if b.ProducerID() >= 0 {
		w.last[b.ProducerID()] = b.LastOffset()
	}
}

// produce appends a batch of a random producer: 0 has no id, 1 and 2 are idempotent, the others transactional.
func (w *world) produce() {
	pid := record.ProducerID(w.rng.IntN(7))
	if pid%2 == 1 && w.end > 150 { // so that the last batches of some lie far below the end
		pid--
	}
	if _, open := w.open[pid]; open && w.rng.IntN(2) == 0 {
		commit := w.rng.IntN(2) == 0
		for _, base := range w.parts[pid] {
			w.fates[base] = commit
		}
		delete(w.open, pid)
		delete(w.parts, pid)
		w.append(record.ControlBatch(record.Marker{ProducerID: pid, Epoch: 1, Commit: commit, Timestamp: 5}))
		return
	}
	if pid >= 3 && w.rng.IntN(8) == 0 {
		w.append(record.ControlBatch(record.Marker{ProducerID: pid, Epoch: 1, Timestamp: 5})) // of nothing (P22)
		for _, base := range w.parts[pid] {
			w.fates[base] = false
		}
		delete(w.open, pid)
		delete(w.parts, pid)
		return
	}
	codecs := []record.Codec{record.CodecNone, record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd}
	b := record.NewBuilder(codecs[w.rng.IntN(len(codecs))])
	for range 1 + w.rng.IntN(4) {
		key := fmt.Appendf(nil, "key %d", w.rng.IntN(8))
		if w.rng.IntN(15) == 0 {
			key = nil
		}
		value := bytes.Repeat([]byte{byte(w.rng.IntN(256))}, w.rng.IntN(60))
		if w.rng.IntN(4) == 0 {
			value = nil
		}
		var headers []record.Header
		if w.rng.IntN(3) == 0 {
			headers = []record.Header{{Key: "h", Value: []byte("v")}}
		}
		if err := b.Append(int64(w.rng.IntN(1000)), key, value, headers); err != nil {
			w.t.Fatal(err)
		}
	}
	if pid == 0 {
		w.append(b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false))
		return
	}
	base := w.end
	w.append(b.Finish(pid, 1, record.Sequence(w.rng.IntN(1000)), pid >= 3))
	if pid >= 3 {
		if _, open := w.open[pid]; !open {
			w.open[pid] = base
		}
		w.parts[pid] = append(w.parts[pid], base)
	}
}

// agree makes a pass: below the last stable offset, with a horizon that an earlier pass has reached.
func (w *world) agree() {
	stable := w.end
	for _, first := range w.open {
		stable = min(stable, first)
	}
	p := Pass{}
	if n := len(w.passes); n > 0 {
		before := w.passes[n-1]
		p.Below, p.Horizon = before.Below, before.Horizon
		if reached := w.passes[w.rng.IntN(n)].Below; w.rng.IntN(2) == 0 {
			p.Horizon = max(p.Horizon, reached)
		}
	}
	var ends []record.Offset
	for _, b := range w.original {
		if e := b.BaseOffset(); b.head && e > p.Below && e <= stable {
			ends = append(ends, e)
		}
	}
	if len(ends) > 0 && w.rng.IntN(5) > 0 {
		p.Below = ends[w.rng.IntN(len(ends))]
	}
	for _, o := range w.last {
		if o < p.Below && w.rng.IntN(9) > 0 {
			p.Last = append(p.Last, o)
		}
	}
	// Producers expire: what the list has lost never comes back.
	if n := len(w.passes); n > 0 {
		before := w.passes[n-1]
		p.Last = slices.DeleteFunc(p.Last, func(o record.Offset) bool {
			_, had := slices.BinarySearch(before.Last, o)
			return o < before.Below && !had
		})
	}
	slices.Sort(p.Last)
	if p.Below > 0 {
		w.passes = append(w.passes, p)
	}
}

// round does one round of a pass on a replica, of which only a part may be carried out, as after a crash.
func (w *world) round(r *replica, p Pass, memory int64, crash bool) (done bool) {
	c := New(p, memory)
	c.limit = int(memory)
	c.last.limit = w.rng.IntN(10) // of 64 offsets each: sometimes there is room for all
	if w.rng.IntN(2) == 0 {
		w.settleThenIndex(c, r)
	} else {
		w.take(c, r)
	}
	var out []item
	stop := len(r.items)
	if crash {
		stop = w.rng.IntN(len(r.items) + 1)
	}
	for k, i := range r.items {
		if k >= stop || i.LastOffset() >= c.Bound() {
			out = append(out, i)
			continue
		}
		if kept := c.Clean(i.Batch); kept != nil {
			out = append(out, item{bytes.Clone(kept), true, true})
		}
	}
	r.items = out
	if crash {
		return false
	}
	if c.Bound() < p.Below && c.Bound() <= r.cleaned {
		w.t.Fatalf("a round to %d did not get beyond %d", c.Bound(), r.cleaned)
	}
	r.cleaned = max(r.cleaned, c.Bound())
	return c.Bound() == p.Below
}

// settleThenIndex looks at the batches twice.
func (w *world) settleThenIndex(c *Cleaner, r *replica) {
	for i := slices.IndexFunc(r.items, func(i item) bool { return !i.settled }); i >= 0 && i < len(r.items); i++ {
		more, err := c.Settle(r.items[i].Batch, r.items[i].head)
		if err != nil {
			w.t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if c.Unsettled() {
		w.t.Fatalf("a transaction below %d has not ended", c.Bound())
	}
	w.index(c, r, r.cleaned)
}

func (w *world) index(c *Cleaner, r *replica, from record.Offset) {
	for _, i := range r.items {
		if i.BaseOffset() >= from && !c.Index(i.Batch, i.head) {
			break
		}
	}
}

// take looks at them once, as far as that goes.
func (w *world) take(c *Cleaner, r *replica) {
	for _, i := range r.items {
		if i.BaseOffset() < r.cleaned && i.settled {
			continue
		}
		more, err := c.Take(i.Batch, i.head, i.settled)
		if err != nil {
			w.t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if c.Unsettled() {
		w.t.Fatalf("a transaction below %d has not ended", c.Bound())
	}
	if from, more := c.Rest(); more {
		w.index(c, r, max(from, r.cleaned))
	}
}

// bring makes a replica do what was agreed, or a part of it.
func (w *world) bring(r *replica, last int, whole bool) {
	for ; r.taken < len(w.original); r.taken++ {
		r.items = append(r.items, w.original[r.taken])
	}
	p := w.passes[last]
	memory := int64(3 + w.rng.IntN(30))
	if !whole && w.rng.IntN(3) == 0 {
		w.round(r, p, memory, true)
		return
	}
	for range 1000 {
		if w.round(r, p, memory, false) {
			r.done = last
			return
		}
		if !whole && w.rng.IntN(4) == 0 {
			return
		}
	}
	w.t.Fatal("a pass does not end")
}

// want is the dumb second implementation: what stays of the whole log, record by record.
func (w *world) want(p Pass) []string {
	type rec struct {
		base, offset record.Offset
		key          string
		null, none   bool
	}
	var all []rec
	latest := map[string]record.Offset{}
	for _, b := range w.original {
		if b.LastOffset() >= p.Below || b.Attributes().Control() {
			continue
		}
		if b.Attributes().Transactional() && !w.fates[b.BaseOffset()] {
			continue
		}
		rs, err := b.Records(0)
		if err != nil {
			w.t.Fatal(err)
		}
		for rs.Next() {
			r := rs.Record()
			all = append(all, rec{b.BaseOffset(), r.Offset, string(r.Key), r.Value == nil, r.Key == nil})
			if r.Key != nil {
				latest[string(r.Key)] = r.Offset
			}
		}
	}
	kept := map[record.Offset][]record.Offset{}
	for _, r := range all {
		if !r.none && latest[r.key] == r.offset && !(r.null && r.offset < p.Horizon) {
			kept[r.base] = append(kept[r.base], r.offset)
		}
	}
	var out []string
	var transaction = map[record.ProducerID]bool{}
	for _, b := range w.original {
		stays := b.LastOffset() >= p.Below || b.LastOffset()+1 == p.Below || slices.Contains(p.Last, b.LastOffset())
		records := kept[b.BaseOffset()]
		switch {
		case b.LastOffset() >= p.Below:
			out = append(out, describe(w.t, b.Batch))
			continue
		case b.Attributes().Control():
			if stays || b.LastOffset() >= p.Horizon || transaction[b.ProducerID()] {
				out = append(out, describe(w.t, b.Batch))
			}
			delete(transaction, b.ProducerID())
			continue
		case len(records) == 0 && !stays:
			continue
		case len(records) > 0 && b.Attributes().Transactional():
			transaction[b.ProducerID()] = true
		}
		out = append(out, fmt.Sprintf("%d to %d of %d/%d/%d: %v", b.BaseOffset(), b.LastOffset(), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), records))
	}
	return out
}

func describe(t *testing.T, b record.Batch) string {
	var offsets []record.Offset
	rs, err := b.Records(0)
	if err == nil {
		err = b.CheckCRC()
	}
	if err != nil {
		t.Fatal(err)
	}
	for rs.Next() {
		offsets = append(offsets, rs.Record().Offset)
	}
	if rs.Err() != nil {
		t.Fatal(rs.Err())
	}
	return fmt.Sprintf("%d to %d of %d/%d/%d: %v", b.BaseOffset(), b.LastOffset(), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), offsets)
}

// TestRandom lets three replicas follow the same passes, each in its own way: some skip passes, stop in the
// middle, or have memory for a few keys only. In the end all hold the same bytes, and those that the dumb
// implementation, and one pass on the whole log, would have left (L31-L38).
func TestRandom(t *testing.T) {
	t.Parallel()
	seeds := []uint64{*seedFlag}
	if *seedFlag == 0 {
		seeds = nil
		for s := range *seedsFlag {
			seeds = append(seeds, uint64(s+1))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runWorld(t, seed) })
	}
}

func runWorld(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	for range 12 {
		for range w.rng.IntN(40) {
			w.produce()
		}
		if len(w.original) == 0 {
			continue
		}
		w.agree()
		if len(w.passes) == 0 {
			continue
		}
		for _, r := range w.copies {
			if w.rng.IntN(2) == 0 {
				w.bring(r, len(w.passes)-1, false)
			}
		}
	}
	if len(w.passes) == 0 {
		return
	}
	last := len(w.passes) - 1
	w.copies = append(w.copies, &replica{})
	for _, r := range w.copies {
		w.bring(r, last, true)
	}
	want := w.want(w.passes[last])
	for k, r := range w.copies {
		var got []string
		for _, i := range r.items {
			got = append(got, describe(t, i.Batch))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("replica %d, pass %+v:\n%s", k, w.passes[last], firstDifference(got, want))
		}
		for n, i := range r.items {
			if !bytes.Equal(i.Batch, w.copies[0].items[n].Batch) {
				t.Fatalf("replica %d holds other bytes at offset %d", k, i.BaseOffset())
			}
		}
		if !sort.SliceIsSorted(r.items, func(i, j int) bool { return r.items[i].BaseOffset() < r.items[j].BaseOffset() }) {
			t.Fatal("batches out of order")
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return fmt.Sprintf("batch %d: got %q, want %q", i, g, w)
		}
	}
	return "equal"
}
