package partition

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

var (
	historySeed  = flag.Uint64("history.seed", 1, "the first seed of TestHistories")
	historySeeds = flag.Uint64("history.seeds", 3, "how many seeds")
)

// kept is a record that was acknowledged, and what a reader is to get.
type kept struct {
	offset    record.Offset
	timestamp int64
	key       string
	value     string // empty: a tombstone
	txn       int    // which transaction it is in; -1: none
}

type fate int

const (
	isOpen fate = iota
	isCommitted
	isAborted
)

// writer is a producer of the history.
type writer struct {
	pid   record.ProducerID
	epoch record.Epoch
	seq   record.Sequence
	txn   int // that is open; -1: none
	// last is the newest batch that was taken, at which offset.
	last record.Batch
	base record.Offset
}

// model is what a compacted partition holds according to what it acknowledged.
type model struct {
	*rig
	rng *rand.Rand

	plain, transactional []*writer

	log         []kept
	fates       []fate // of transactions
	first, next record.Offset
	clock       int64
	count       int
}

// TestHistories: whatever is written, aborted, deleted, compacted and restarted, readers of either isolation get what was acknowledged and nothing
// else, in order; of what was compacted the last of each key at least. So it is for the offsets of times, and for duplicates (P5, P6, L9, L17, L20).
func TestHistories(t *testing.T) {
	for seed := *historySeed; seed < *historySeed+*historySeeds; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			for range 500 {
				m.step()
			}
			m.check()
		})
	}
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{rig: newRig(t), rng: rand.New(rand.NewPCG(seed, 41)), clock: 1_000_000}
	m.compacts()
	c := &m.spec.Config
	c.Deletes, c.RetentionMS, c.RetentionBytes, c.MinCompactionLagMS = m.rng.IntN(2) == 0, -1, -1, 0
	memory, cache := m.rng.IntN(2) == 0, []int64{-1, 2000, 1 << 20}[m.rng.IntN(3)]
	base := m.configure
	m.configure = func(h *HostConfig) {
		base(h)
		if h.CacheBytes, h.SnapshotBytes = cache, 4000; memory {
			h.CompactionMemory = 1 // so that a pass has many rounds
		}
	}
	m.coordinator = &fakeCoordinator{told: make(chan struct{}, 100_000)}
	m.start()
	for pid := range record.ProducerID(3) {
		m.plain = append(m.plain, &writer{pid: 1 + pid, txn: -1})
		m.transactional = append(m.transactional, &writer{pid: 11 + pid, txn: -1})
	}
	return m
}

func (m *model) step() {
	plain, transactional := m.plain[m.rng.IntN(3)], m.transactional[m.rng.IntN(3)]
	switch k := m.rng.IntN(100); {
	case k < 35:
		m.write(plain)
	case k < 42:
		m.write(&writer{pid: record.NoProducerID, epoch: -1, seq: -1, txn: -1})
	case k < 66:
		if transactional.txn < 0 {
			transactional.txn = len(m.fates)
			m.fates = append(m.fates, isOpen)
		}
		m.write(transactional)
	case k < 80:
		m.end(transactional)
	case k < 84:
		m.refused(plain)
	case k < 87:
		m.deleteSome()
	case k < 89:
		m.restart()
	case k < 93:
		if err := m.host.replica(testTP).freeSpace(m.t.Context(), time.Now()); err != nil {
			m.t.Fatal(err)
		}
	default:
		m.check()
	}
}

// batch makes a batch of some records, which are not in the log yet.
func (m *model) batch(w *writer) (record.Batch, []kept) {
	b := record.NewBuilder(record.Codec(m.rng.IntN(5)))
	var list []kept
	for range 1 + m.rng.IntN(4) {
		m.count++
		m.clock += int64(m.rng.IntN(7)) - 2
		x := kept{timestamp: m.clock, key: fmt.Sprint("k", m.rng.IntN(8)), txn: w.txn}
		var value []byte
		if m.rng.IntN(6) > 0 {
			value = fmt.Appendf(nil, "%d %0*d", m.count, 1+m.rng.IntN(120), 0)
		}
		x.value = string(value)
		if err := b.Append(x.timestamp, []byte(x.key), value, nil); err != nil {
			m.t.Fatal(err)
		}
		list = append(list, x)
	}
	return b.Finish(w.pid, w.epoch, w.seq, w.txn >= 0), list
}

func (m *model) write(w *writer) {
	m.t.Helper()
	b, list := m.batch(w)
	w.last, w.base = bytes.Clone(b), m.next
	sent := m.send
	if w.txn >= 0 {
		sent = func(b record.Batch) chan outcome { return m.sendTxn(b, 2, 0) }
	}
	if o := await(m.t, sent(b)); o.err != nil || o.BaseOffset != m.next || o.Duplicate {
		m.t.Fatalf("produce: %+v, want offset %d", o, m.next)
	}
	if w.pid != record.NoProducerID {
		w.seq = w.seq.Add(int32(len(list)))
	}
	for _, x := range list {
		x.offset = m.next
		m.log = append(m.log, x)
		m.next++
	}
}

func (m *model) end(w *writer) {
	if w.txn < 0 {
		return
	}
	commit := m.rng.IntN(2) == 0
	m.mustWriteMarker(Marker{ProducerID: w.pid, Epoch: w.epoch + 1, CoordinatorEpoch: 1, Commit: commit, Version: 2})
	if m.fates[w.txn] = isAborted; commit {
		m.fates[w.txn] = isCommitted
	}
	w.txn, w.epoch, w.seq = -1, w.epoch+1, 0
	m.next++
}

// refused writes what leaves a gap in the sequence (P10).
func (m *model) refused(w *writer) {
	if w.last == nil {
		return
	}
	ahead := *w
	ahead.seq = w.seq.Add(5)
	b, _ := m.batch(&ahead)
	if o := m.produce(b); codeOf(o.err) != CodeOutOfOrderSequence {
		m.t.Fatalf("a batch that leaves a gap: %+v", o)
	}
}

func (m *model) deleteSome() {
	if !m.spec.Config.Deletes {
		return
	}
	to := m.first + record.Offset(m.rng.Int64N(int64(m.next-m.first)/3+1))
	if m.rng.IntN(10) == 0 {
		to = m.next
	}
	if got, err := m.deleteRecords(to); err != nil || got != to {
		m.t.Fatalf("delete records below %d: %d, %v", to, got, err)
	}
	m.first = to
}

func (m *model) restart() {
	m.stop()
	m.startHosts()
	if err := m.host.Open(m.spec); err != nil {
		m.t.Fatal(err)
	}
	m.waitReady()
}

func (m *model) check() {
	m.t.Helper()
	m.checkBounds()
	for _, committed := range []bool{true, false} {
		m.checkReads(committed)
	}
	for range 2 {
		m.checkTimes(1_000_000 + m.rng.Int64N(max(m.clock-1_000_000, 0)+10))
	}
	for _, w := range m.plain {
		if w.last == nil {
			continue
		}
		if o := m.produce(bytes.Clone(w.last)); o.err != nil || !o.Duplicate || o.BaseOffset != w.base {
			m.t.Fatalf("a duplicate of the batch at %d: %+v", w.base, o)
		}
	}
}

// seen says whether readers of committed data are to see a record.
func (m *model) seen(x *kept) bool { return x.txn < 0 || m.fates[x.txn] == isCommitted }

// stable is the last stable offset.
func (m *model) stable() record.Offset {
	stable := m.next
	for i := range m.log {
		if x := &m.log[i]; x.txn >= 0 && m.fates[x.txn] == isOpen {
			stable = min(stable, x.offset)
		}
	}
	return max(stable, m.first)
}

func (m *model) limit(committed bool) record.Offset {
	if committed {
		return m.stable()
	}
	return m.next
}

func (m *model) checkBounds() {
	m.t.Helper()
	if b := m.host.replica(testTP).bounds.Load(); b.start != m.first || b.lastStable != m.stable() || b.highWatermark != m.next {
		m.t.Fatalf("bounds %+v, want %d, %d, %d", b, m.first, m.stable(), m.next)
	}
}

// checkReads reads from somewhere to the end.
func (m *model) checkReads(committed bool) {
	m.t.Helper()
	from, limit := m.first, m.limit(committed)
	if m.rng.IntN(3) > 0 {
		from += record.Offset(m.rng.Int64N(int64(limit-m.first) + 1))
	}
	got := m.read(from, committed)
	compacted := applied(m.rig, func(s *state) record.Offset { return s.compacted.below }) // it may have grown while we read
	has, latest := make(map[record.Offset]bool), make(map[string]record.Offset)
	for _, x := range got {
		i, ok := slices.BinarySearchFunc(m.log, x.offset, func(w kept, o record.Offset) int { return cmp.Compare(w.offset, o) })
		switch {
		case x.offset < from || x.offset >= limit:
			m.t.Fatalf("committed %v: offset %d, outside %d to %d", committed, x.offset, from, limit)
		case !ok || m.log[i].key != x.key || m.log[i].value != x.value || m.log[i].timestamp != x.timestamp:
			m.t.Fatalf("committed %v: read %+v, which was not written", committed, x)
		case committed && !m.seen(&m.log[i]):
			m.t.Fatalf("a reader of committed data sees %+v", m.log[i])
		}
		has[x.offset] = true
	}
	for i := range m.log {
		if x := &m.log[i]; x.offset < compacted && m.seen(x) {
			latest[x.key] = x.offset
		}
	}
	for i := range m.log {
		x := &m.log[i]
		if has[x.offset] || x.offset < from || x.offset >= limit || committed && !m.seen(x) {
			continue
		}
		if x.offset >= compacted || m.seen(x) && latest[x.key] == x.offset && x.value != "" {
			m.t.Fatalf("committed %v: %+v is lost; read from %d, compacted below %d, log start %d", committed, x, from, compacted, m.first)
		}
	}
}

// checkTimes compares the offset for a time, and that of the largest, with what a reader finds.
func (m *model) checkTimes(at int64) {
	m.t.Helper()
	replica := m.host.replica(testTP)
	for _, committed := range []bool{true, false} {
		var first, largest ListedOffset
		var all []kept
		m.await("a moment in which nothing is compacted", func() bool {
			before, generation := replica.agreedCompaction(), replica.log.Generation()
			quiet := replica.hasCompacted(&before)
			first, largest = m.offsetOf(at, committed), m.offsetOf(maxTimestamp, committed)
			all = m.readAll(m.first, false)
			after := replica.agreedCompaction()
			return quiet && generation == replica.log.Generation() && before.mark() == after.mark()
		})
		want, wantLargest := ListedOffset{Offset: -1, Timestamp: -1}, ListedOffset{Offset: -1, Timestamp: -1}
		for _, x := range all {
			if x.offset >= m.limit(committed) {
				break
			}
			if want.Offset < 0 && x.timestamp >= at {
				want = ListedOffset{Offset: x.offset, Timestamp: x.timestamp}
			}
			if x.timestamp > wantLargest.Timestamp {
				wantLargest = ListedOffset{Offset: x.offset, Timestamp: x.timestamp}
			}
		}
		if first.Offset != want.Offset || first.Timestamp != want.Timestamp {
			m.t.Fatalf("committed %v: the time %d is at %+v, want %+v", committed, at, first, want)
		}
		if largest.Offset != wantLargest.Offset || largest.Timestamp != wantLargest.Timestamp {
			m.t.Fatalf("committed %v: the largest time is at %+v, want %+v", committed, largest, wantLargest)
		}
	}
}

// maxTimestamp asks for the record with the largest timestamp (L20).
const maxTimestamp = -3

func (m *model) offsetOf(at int64, committed bool) ListedOffset {
	m.t.Helper()
	o, err := m.host.ListOffsets(m.t.Context(), testTP, at, committed)
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

// read is what a consumer gets; without markers.
func (m *model) read(from record.Offset, committed bool) []kept {
	m.t.Helper()
	return slices.DeleteFunc(m.readAll(from, committed), func(x kept) bool { return x.txn == marker })
}

// marker stands in the place of a transaction.
const marker = -2

// readAll reads to the end as a consumer does (L9), markers included.
func (m *model) readAll(from record.Offset, committed bool) (list []kept) {
	m.t.Helper()
	for {
		f := m.host.Fetch(m.t.Context(), FetchRequest{MaxBytes: 1 << 20, Committed: committed, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: from, MaxBytes: 1000 + m.rng.IntN(4000), LeaderEpoch: -1}}})[0]
		switch {
		case f.Err != nil && f.Err.Code == CodeOffsetNotAvailable: // just started (L19)
			waitTick(m.t.Context())
			continue
		case f.Err != nil:
			m.t.Fatalf("fetch at %d: %v", from, f.Err)
		case f.Bytes == 0:
			if from < m.limit(committed) {
				m.t.Fatalf("committed %v: nothing comes at %d; high watermark %d, last stable offset %d", committed, from, f.HighWatermark, f.LastStable)
			}
			return list
		}
		list = append(list, m.unpack(f, from)...)
		for _, run := range f.Batches {
			for len(run) > 0 {
				b, rest, err := record.Parse(run)
				if err != nil {
					m.t.Fatal(err)
				}
				run, from = rest, b.LastOffset()+1
			}
		}
	}
}

// unpack gives the records of an answer from an offset on, without those that a consumer leaves out.
func (m *model) unpack(f FetchedPartition, from record.Offset) (list []kept) {
	m.t.Helper()
	aborting := make(map[record.ProducerID]bool)
	aborted := slices.SortedStableFunc(slices.Values(f.Aborted), func(a, b producer.Aborted) int { return cmp.Compare(a.First, b.First) })
	for _, run := range f.Batches {
		for len(run) > 0 {
			b, rest, err := record.Parse(run)
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				m.t.Fatal(err)
			}
			run = rest
			for len(aborted) > 0 && aborted[0].First <= b.LastOffset() {
				aborting[aborted[0].ProducerID], aborted = true, aborted[1:]
			}
			txn := -1
			if b.Attributes().Control() {
				txn = marker
				if end, ok, err := record.ParseMarker(b); err != nil {
					m.t.Fatal(err)
				} else if ok && !end.Commit {
					delete(aborting, end.ProducerID)
				}
			} else if b.Attributes().Transactional() && aborting[b.ProducerID()] {
				continue
			}
			records, err := b.Records(0)
			if err != nil {
				m.t.Fatal(err)
			}
			for records.Next() {
				if r := records.Record(); r.Offset >= from {
					list = append(list, kept{offset: r.Offset, timestamp: r.Timestamp, key: string(r.Key), value: string(r.Value), txn: txn})
				}
			}
			if err := records.Err(); err != nil {
				m.t.Fatal(err)
			}
			records.Close()
		}
	}
	for i := 1; i < len(list); i++ {
		if list[i].offset <= list[i-1].offset {
			m.t.Fatalf("offset %d after %d", list[i].offset, list[i-1].offset)
		}
	}
	return list
}
