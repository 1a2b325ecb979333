package recordlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// driver makes random calls on a log and on its model, and compares.
type driver struct {
	t     testing.TB
	rng   *rand.Rand
	fs    *vfs.Mem
	log   *Log
	model *model
	term  record.Term
	clock int64
	// flight is the change that is under way, for those who look at the disk meanwhile.
	flight flight
	step   int
	trace  []string
	// segmentBytes is where segments end, if it is more than 2 KiB.
	segmentBytes int64
	// tolerant sees errors before they end the test.
	tolerant func(error)
	// writer is what the log has started to write its queue out; the driver says when it runs.
	writer func()
	// life counts openings: what an earlier log says does not count any more.
	life   int
	spares *Spares
	// recycled counts the files that were written over before spares was made.
	recycled int
	// full: the disk has no space but a little; refusals counts what was refused for that.
	full     bool
	refusals int
	// beside is how often Raft may append beside what runs now.
	beside int
}

// flight is a change of which any part may be on disk.
type flight struct {
	// from: entries at and above it may be gone; 0: none may.
	from record.Index
	// entries may be there, from the first one on, behind what is not gone.
	entries []Entry
	// pulled: the entries come from a peer.
	pulled bool
	// replaced: all of the log may have become entries, if the snapshot is beyond its end.
	replaced *model
}

func newDriver(t testing.TB, seed uint64, fsys *vfs.Mem) *driver {
	d := &driver{t: t, rng: rand.New(rand.NewPCG(seed, 3)), fs: fsys, model: newModel(), term: 1, clock: 1000}
	d.start(fsys)
	return d
}

// start opens the log that the driver drives.
func (d *driver) start(fsys *vfs.Mem) {
	d.t.Helper()
	d.life++
	d.writer = nil
	spares, err := OpenSpares(fsys, "data/spares")
	d.must(err, "open spares")
	spares.least = 1
	d.former(fsys, spares)
	if d.spares != nil {
		d.recycled += d.spares.taken
	}
	d.spares = spares
	l, err := tryOpen(fsys, d.options, func(o *Options) { o.background, o.Spares = func(f func()) { d.writer = f }, spares })
	d.must(err, "open")
	d.log = l
}

// former makes spares of what the log's segments hold, and some of it twice: frames that this very log could take for its own.
func (d *driver) former(fsys *vfs.Mem, spares *Spares) {
	names, err := fsys.List(testDir)
	if err != nil {
		return // the log is new
	}
	for _, n := range names {
		if segmentNamed(n) == nil || len(spares.idle) == spares.limit {
			continue
		}
		b, err := vfs.ReadFile(fsys, testDir+"/"+n)
		d.must(err, "read a segment")
		b = append(b, b[len(b)/3&^7:]...)
		spares.next++
		s := spare{fmt.Sprintf("data/spares/%08d.spare", spares.next), int64(len(b))}
		f, err := fsys.Create(s.path)
		d.must(err, "make a spare")
		_, err = f.WriteAt(b, 0)
		d.must(err, "write a spare")
		d.must(f.Sync(), "sync a spare")
		d.must(f.Close(), "close a spare")
		spares.idle = append(spares.idle, s)
	}
}

func (d *driver) options(o *Options) {
	o.Salt = d.rng.Uint64
	o.SnapshotIndex = d.model.snapshot.index
	o.SegmentBytes = max(d.segmentBytes, 2048)
	o.IndexBytes = 300
	o.OpenSegments = 2
	o.CacheBytes = 4000
}

func (d *driver) fatal(format string, args ...any) {
	d.t.Helper()
	from := max(len(d.trace)-120, 0)
	for _, s := range d.trace[from:] {
		d.t.Log(s)
	}
	d.t.Fatalf("step %d: %s", d.step, fmt.Sprintf(format, args...))
}

func (d *driver) did(format string, args ...any) {
	d.trace = append(d.trace, fmt.Sprintf("%d: ", d.step)+fmt.Sprintf(format, args...))
}

func (d *driver) must(err error, what string) {
	d.t.Helper()
	if err != nil {
		if d.tolerant != nil {
			d.tolerant(err)
		}
		d.fatal("%s: %v", what, err)
	}
}

// entry makes a random entry.
func (d *driver) entry(i record.Index) Entry {
	if d.rng.IntN(4) == 0 {
		e := plainEntry(i, d.term, fmt.Sprintf("nothing %d", d.rng.Uint64()))
		e.Data = e.Data[:d.rng.IntN(len(e.Data)+1)]
		return e
	}
	var batches []record.Batch
	for range 1 + d.rng.IntN(3)*d.rng.IntN(2) {
		var ts []int64
		for range 1 + d.rng.IntN(3) {
			d.clock += int64(d.rng.IntN(20)) - 5
			ts = append(ts, max(d.clock, 0))
		}
		batches = append(batches, batchOf(d.t, d.rng.IntN(120), ts...))
		// A nonce in the producer id, so that no two entries are equal.
		putNonce(batches[len(batches)-1], d.rng.Uint64())
	}
	e := dataEntry(d.t, i, d.term, batches...)
	if d.rng.IntN(20) == 0 {
		e.Ext = make([]byte, d.rng.IntN(3000))
	}
	return e
}

func (d *driver) run(first record.Index, n int) []Entry {
	var entries []Entry
	for k := range n {
		if d.rng.IntN(20) == 0 {
			d.term++
		}
		entries = append(entries, d.entry(first+record.Index(k)))
	}
	return entries
}

// next does one random thing.
func (d *driver) next() {
	d.step++
	switch n := d.rng.IntN(110); {
	case n < 40:
		d.append()
	case n < 70:
		d.assign()
	case n >= 100:
		d.write()
	case n < 74:
		d.truncate()
	case n < 79:
		d.trim()
	case n < 83:
		d.advance()
	case n < 88:
		d.snapshot()
	case n < 91:
		d.catchUp()
	case n < 93:
		d.reset()
	case n < 94:
		d.roll()
	default:
		d.lookUp()
	}
	d.flight = flight{}
	d.checkWindow()
}

func (d *driver) checkWindow() {
	d.t.Helper()
	f, la := d.log.Window()
	if wf, wl := d.model.window(); f != wf || la != wl {
		d.fatal("window %d to %d, want %d to %d", f, la, wf, wl)
	}
	if s, q := d.log.live.active(), d.log.queued.bytes; q > 0 && s.size+q > s.reserved {
		d.fatal("%d bytes are queued behind byte %d, reserved is up to %d", q, s.size, s.reserved)
	}
}

func (d *driver) append() {
	m := d.model
	first := m.windowLast + 1
	if m.windowFirst > m.windowLast {
		// Raft's log is empty: it goes on behind its snapshot, and gives up a tail.
		first = m.snapshot.index + 1
	}
	if first <= m.kept() {
		return // the window ends below a snapshot; Raft would be opened anew
	}
	if first <= m.last {
		d.term++
		d.flight.from = first
	}
	entries := d.run(first, 1+d.rng.IntN(5))
	d.flight.entries = entries
	last := entries[len(entries)-1].Index
	if d.rng.IntN(2) == 0 {
		d.did("queue %d to %d, term %d", first, last, d.term)
		err := d.log.Queue(entries)
		if d.refused(err, first) {
			return
		}
		d.must(err, "queue")
		m.append(entries)
		d.await(entries)
		return
	}
	d.did("append %d to %d, term %d", first, last, d.term)
	err := d.log.Append(entries)
	if d.refused(err, first) {
		return
	}
	d.must(err, "append")
	m.append(entries)
	m.durable = last
}

// refused says whether a full disk refused an append. Then no more has happened than that a tail was cut off which Raft had given up.
func (d *driver) refused(err error, first record.Index) bool {
	if !d.full || !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
		return false
	}
	d.did("refused: %v", err)
	d.refusals++
	if first <= d.model.last {
		d.model.cutFrom(first)
	}
	return true
}

// fill leaves the disk no more than a little space, or gives it back.
func (d *driver) fill(full bool) {
	d.full = full
	if !full {
		d.fs.SetCapacity(0)
		return
	}
	d.did("the disk is nearly full")
	d.fs.SetCapacity(d.fs.Used() + d.rng.Int64N(300))
}

// await hears when queued entries are on disk.
func (d *driver) await(entries []Entry) {
	life := d.life
	for _, e := range entries {
		told := 0
		d.log.AwaitDurable(e.Index, func(err error) {
			if life != d.life {
				return
			}
			if told++; told > 1 {
				d.fatal("told twice of entry %d", e.Index)
			}
			switch {
			case err == nil:
				d.must(sameEntry(d.model.entries[e.Index], e), "told of an entry that is not there")
				d.model.durable = max(d.model.durable, e.Index)
			case errors.Is(err, ErrCutOff) && d.flight.from > 0 && e.Index >= d.flight.from:
			case errors.Is(err, ErrFailed) && d.log.Failed() != nil:
			default:
				d.fatal("waiting for entry %d: %v", e.Index, err)
			}
		})
	}
}

// write lets the log write its queue out, if it has asked for it.
func (d *driver) write() {
	if f := d.writer; f != nil {
		d.did("write the queue")
		d.writer = nil
		d.together(f)
		d.must(d.log.Failed(), "writing the queue")
	}
}

// together does something beside which Raft may append.
func (d *driver) together(f func()) {
	d.beside = d.rng.IntN(3)
	defer func() { d.beside = 0 }()
	f()
}

// appendBeside appends in the middle of something else's write or sync, if that needs no waiting.
func (d *driver) appendBeside() {
	m := d.model
	if d.beside == 0 || m.windowFirst > m.windowLast || d.rng.IntN(3) > 0 {
		return
	}
	d.beside--
	entries := d.run(m.windowLast+1, 1+d.rng.IntN(3))
	must(d.t, d.log.check(entries))
	if !d.log.enqueue(entries) {
		return
	}
	d.did("queue %d to %d meanwhile", entries[0].Index, entries[len(entries)-1].Index)
	m.append(entries)
	d.await(entries)
}

func (d *driver) assign() {
	m := d.model
	for range 1 + d.rng.IntN(6) {
		i := m.assigned + 1
		for i <= m.last && m.entries[i].Records == 0 && d.rng.IntN(3) > 0 {
			i++ // entries without records may be left out
		}
		if i > m.last || i < m.begin || i <= m.snapshot.index {
			return
		}
		if i > m.durable {
			if e := m.entries[i]; e.Records == 0 || d.rng.IntN(4) > 0 {
				return
			}
			if err := d.log.Assign(i, nil); !errors.Is(err, ErrNotDurable) {
				d.fatal("assigning %d, which is not on disk: %v", i, err)
			}
			return
		}
		a := applied{index: i}
		end := m.end
		if e := m.entries[i]; e.Records > 0 {
			for rest := record.Batch(e.Data); len(rest) > 0; rest = rest[rest.Size():] {
				records := rest.LastOffsetDelta() + 1
				if d.rng.IntN(5) == 0 {
					a.fates = append(a.fates, Fate{Records: records, Refused: true})
					continue
				}
				a.fates = append(a.fates, Fate{Base: end, Records: records})
				end += record.Offset(records)
			}
		}
		d.did("assign %d, end %d", i, end)
		d.must(a.to(d.log), "assign")
		m.apply(a)
	}
}

func (d *driver) truncate() {
	m := d.model
	if m.last <= m.kept() {
		return
	}
	from := m.kept() + 1 + record.Index(d.rng.Uint64N(uint64(m.last-m.kept())))
	d.flight.from = from
	d.did("truncate from %d", from)
	d.must(d.log.TruncateTail(from), "truncate")
	m.cutFrom(from)
	d.term++
	if from > 1 && m.kept() > 0 {
		if err := d.log.TruncateTail(m.kept()); !errors.Is(err, ErrApplied) && m.kept() <= m.last {
			d.fatal("cutting applied entries: %v", err)
		}
	}
}

func (d *driver) trim() {
	m := d.model
	if m.windowFirst > m.windowLast {
		return
	}
	through := m.windowFirst + record.Index(d.rng.Uint64N(uint64(m.windowLast-m.windowFirst)+2))
	if through < m.windowLast && through > m.snapshot.index {
		through = m.snapshot.index
	}
	if through >= m.windowLast && m.snapshot.index < m.kept() {
		return // Raft empties its log only after a snapshot
	}
	d.did("trim through %d", through)
	m.trim(through) // before it is done: a crash may find the old window or the new one
	d.must(d.log.TrimWindow(through), "trim")
}

func (d *driver) advance() {
	m := d.model
	if m.end == m.start {
		return
	}
	to := m.start + record.Offset(d.rng.Int64N(int64(m.end-m.start)+1))
	if d.rng.IntN(3) > 0 {
		to = m.start + (to-m.start)/4
	}
	a := applied{advance: to}
	d.did("advance start to %d of %d", to, m.end)
	m.apply(a) // before it is done: it is committed, and a restart replays it
	d.together(func() { d.must(a.to(d.log), "advance") })
}

func (d *driver) snapshot() {
	m := d.model
	y := d.log.Layout()
	if want := m.layout(); !sameLayout(y, want) {
		d.fatal("layout %+v, want %+v", y, want)
	}
	decoded, err := DecodeLayout(y.AppendTo(nil))
	d.must(err, "decode layout")
	if y.Index <= m.snapshot.index {
		return
	}
	m.snapshot = snapshotState{index: y.Index, layout: decoded}
	m.since = nil
	d.did("snapshot of %d, start %d, end %d", y.Index, y.StartOffset, y.EndOffset)
	d.together(func() { d.must(d.log.SetSnapshotIndex(y.Index), "snapshot index") })
}

// catchUp merges committed entries of a peer: what is here, perhaps a conflict, and more.
func (d *driver) catchUp() {
	m := d.model
	low := max(m.kept()+1, m.needed())
	if low > m.last+1 {
		return
	}
	from := low + record.Index(d.rng.Uint64N(uint64(m.last-low)+2))
	var entries []Entry
	conflict := from + record.Index(d.rng.Uint64N(uint64(m.last-from)+3))
	for i := from; i <= m.last && i < conflict; i++ {
		entries = append(entries, m.entries[i])
	}
	at := from + record.Index(len(entries))
	d.term++
	more := d.run(at, d.rng.IntN(4))
	entries = append(entries, more...)
	if len(more) > 0 && at <= m.last {
		d.flight.from = at
	}
	d.flight.entries, d.flight.pulled = more, true
	d.did("catch up %d to %d, conflict at %d", from, from+record.Index(len(entries))-1, at)
	d.must(d.log.AppendCatchUp(entries), "catch up")
	if len(more) > 0 {
		first, last := m.windowFirst, min(m.windowLast, at-1)
		empty := first > m.windowLast
		m.append(more)
		m.windowFirst, m.windowLast = min(first, at), last
		if empty {
			m.windowFirst, m.windowLast = m.last+1, m.last
		} else if m.windowFirst > m.windowLast {
			m.windowFirst, m.windowLast = m.last+1, m.last
		}
		m.durable = m.last
	}
	if d.rng.IntN(4) > 0 {
		// Raft does not know of these entries and is opened anew.
		d.flight = flight{}
		d.reopen(nil)
	}
}

// reset catches up from a peer whose log begins above our end.
func (d *driver) reset() {
	m := d.model
	next := m.last + 1 + record.Index(d.rng.IntN(3)) + 1
	start := m.end + record.Offset(d.rng.IntN(50))
	d.did("reset to %d", next)
	d.must(d.log.Reset(next, start), "reset")
	n := newModel()
	n.begin, n.last = next, next-1
	d.term++
	for range 1 + d.rng.IntN(8) {
		entries := d.run(n.last+1, 1+d.rng.IntN(4))
		d.must(d.log.AppendCatchUp(entries), "append after reset")
		for _, e := range entries {
			n.entries[e.Index] = e
			n.last = e.Index
		}
	}
	if got := d.log.LastIndex(); got != n.last {
		d.fatal("pulled to %d, log says %d", n.last, got)
	}
	if term, err := d.log.Term(n.last); err != nil || term != n.entries[n.last].Term {
		d.fatal("term of %d: %d, %v", n.last, term, err)
	}
	if d.rng.IntN(3) == 0 {
		d.did("catch-up given up")
		d.must(d.log.DiscardCatchUp(), "discard")
		return
	}
	// The peer's state: everything applied, some refused, nothing below its log start.
	n.start, n.end = start, start
	n.assigned = next - 1
	for i := next; i <= n.last; i++ {
		if e := n.entries[i]; e.Records > 0 {
			a := applied{index: i}
			for rest := record.Batch(e.Data); len(rest) > 0; rest = rest[rest.Size():] {
				a.fates = append(a.fates, Fate{Records: rest.LastOffsetDelta() + 1, Refused: d.rng.IntN(5) == 0})
			}
			n.apply(a)
		}
	}
	n.assigned = n.last
	n.durable = n.last
	n.since = nil
	n.windowFirst, n.windowLast = n.last+1, n.last
	n.snapshot = snapshotState{index: n.last, layout: n.layout()}
	// From here on the snapshot is durable: a crash finds it, and the log must fit.
	d.flight.replaced = n
	*d.model = *n
	d.did("installed snapshot of %d", n.snapshot.index)
	d.must(d.log.SetSnapshotIndex(n.snapshot.index), "snapshot index")
	d.must(d.log.Restore(n.snapshot.layout, n.snapshot.index), "restore")
}

func (d *driver) roll() {
	d.did("roll")
	d.together(func() {
		if err := d.log.Roll(); !d.refused(err, d.model.last+1) {
			d.must(err, "roll")
		}
	})
}

func (d *driver) lookUp() {
	m := d.model
	limit := m.end
	if m.end > m.start && d.rng.IntN(2) == 0 {
		limit = m.start + record.Offset(d.rng.Int64N(int64(m.end-m.start)+1))
	}
	maxBytes := d.rng.IntN(3000)
	if m.end > m.start {
		from := m.start + record.Offset(d.rng.Int64N(int64(m.end-m.start)))
		if from < limit {
			c, err := d.log.Read(from, limit, maxBytes)
			d.must(err, "read")
			if err := sameBatches(c, from, m.read(from, limit, maxBytes)); err != nil {
				d.fatal("read from %d, limit %d, %d bytes: %v", from, limit, maxBytes, err)
			}
		}
		crc, n, err := d.log.Checksum(from, limit)
		d.must(err, "checksum")
		if wantCRC, wantN := m.checksum(from, limit); from < limit && (crc != wantCRC || n != wantN) {
			d.fatal("checksum of %d to %d: %08x of %d, want %08x of %d", from, limit, crc, n, wantCRC, wantN)
		}
	}
	for _, o := range []record.Offset{m.start - 1, m.end + 1} {
		if _, err := d.log.Read(o, m.end+10, 100); !errors.Is(err, ErrOffsetOutOfRange) {
			d.fatal("read at %d: %v", o, err)
		}
	}
	ts := d.clock + int64(d.rng.IntN(200)) - 150
	var got moment
	var err error
	got.offset, got.timestamp, got.term, got.found, err = d.log.OffsetForTime(ts, limit)
	d.must(err, "offset for time")
	if want := m.offsetForTime(ts, limit); got != want {
		d.fatal("offset for time %d below %d: %+v, want %+v", ts, limit, got, want)
	}
	got.offset, got.timestamp, got.term, got.found, err = d.log.MaxTimestamp(limit)
	d.must(err, "max timestamp")
	if want := m.maxTimestamp(limit); got != want {
		d.fatal("max timestamp below %d: %+v, want %+v", limit, got, want)
	}
	if i := m.needed(); i <= m.durable {
		i += record.Index(d.rng.Uint64N(uint64(m.durable-i) + 1))
		got, err := d.log.EntriesForPeer(i, m.last, maxBytes)
		d.must(err, "entries for peer")
		if len(got) == 0 {
			d.fatal("no entries for peer from %d", i)
		}
		for k, e := range got {
			d.must(sameEntry(e, m.entries[i+record.Index(k)]), "entry for peer")
		}
	}
}

// reopen goes on with another state of the disk: nil for the present one, after Close.
func (d *driver) reopen(fsys *vfs.Mem) {
	m := d.model
	d.fill(false)
	if fsys == nil {
		d.must(d.log.Close(), "close")
		if m.durable != m.last {
			d.fatal("closed with entries up to %d on disk, of %d", m.durable, m.last)
		}
		fsys = d.fs
	}
	m.cutFrom(m.durable + 1)
	d.did("reopen, snapshot %d, log to %d", m.snapshot.index, m.last)
	d.fs = fsys
	d.start(fsys)
	f, la := d.log.Window()
	if la != 0 && la != m.last {
		d.fatal("window ends at %d, log at %d", la, m.last)
	}
	if la == 0 {
		f, la = m.last+1, m.last
	}
	// Raft trims up to its snapshot only. What it trimmed may be back; nothing above may be missing.
	if most := max(m.windowFirst, m.snapshot.index+1); f > most {
		d.fatal("window begins with %d, want %d or below", f, most)
	}
	m.windowFirst, m.windowLast = f, la
	d.must(m.replay(d.log), "replay")
	d.check()
}

func (d *driver) check() {
	d.t.Helper()
	if err := d.model.checkEntries(d.log); err != nil {
		d.fatal("entries: %v", err)
	}
	if err := d.model.checkRecords(d.log, d.rng.IntN(4000)); err != nil {
		d.fatal("records: %v", err)
	}
}
