package recordlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// crashes looks at the disk before and after every change of it, as it may be found after a power
// cut or a kill at that point, and reopens the log there.
type crashes struct {
	d       *driver
	rng     *rand.Rand
	subsets int
	busy    bool
	points  int
	opened  int
	outcome map[string]int
	// struck: the run was ended by a crash or an I/O error at this point, and goes on from there.
	armed, struck bool
}

// errCrash unwinds the call in which a crash strikes.
var errCrash = errors.New("crash")

func (c *crashes) watch(fsys *vfs.Mem) {
	look := func(op vfs.Op) {
		if c.busy {
			return
		}
		c.d.appendBeside()
		if !op.Kind.Changes() {
			return
		}
		c.busy = true
		defer func() { c.busy = false }()
		c.points++
		for range c.subsets {
			c.check(c.d.fs.CrashClone(c.rng), op)
		}
		if c.rng.IntN(4) == 0 {
			killed := c.d.fs.KillClone()
			crashed := killed.CrashClone(c.rng)
			c.check(killed, op)
			c.check(crashed, op)
		}
	}
	fsys.OnBefore(func(op vfs.Op) error {
		look(op)
		if !op.Kind.Changes() || c.busy || !c.armed || c.rng.IntN(8) > 0 {
			return nil
		}
		c.armed, c.struck = false, true
		if c.rng.IntN(2) == 0 {
			c.outcome["crash in a call"]++
			panic(errCrash)
		}
		c.outcome["I/O error in a call"]++
		return syscall.EIO
	})
	fsys.OnAfter(look)
}

// next lets the driver do one thing, in which a crash or an I/O error may strike. Then the run goes
// on with what is found on the disk.
func (c *crashes) next() {
	d := c.d
	c.armed, c.struck = c.rng.IntN(3) == 0, false
	defer func() {
		c.armed = false
		d.tolerant = nil
		if r := recover(); r != nil && r != any(errCrash) {
			panic(r)
		}
		if c.struck {
			c.goOn()
		}
	}()
	d.tolerant = func(err error) {
		if d.full && errors.Is(err, ErrNoSpace) {
			c.struck = true // half of a catch-up may be there
		}
		if c.struck && (errors.Is(err, syscall.EIO) || d.full) {
			panic(errCrash)
		}
	}
	if c.rng.IntN(10) == 0 {
		d.fill(!d.full)
	}
	d.next()
}

// goOn takes what a crash in the middle of a call left as the state of things.
func (c *crashes) goOn() {
	d := c.d
	fsys := d.fs
	d.full = false
	c.busy = true
	if c.rng.IntN(3) == 0 {
		d.fs = fsys.KillClone()
	} else {
		d.fs = fsys.CrashClone(c.rng)
	}
	c.busy = false
	fsys.OnBefore(nil)
	fsys.OnAfter(nil)
	d.did("crash in a call")
	if d.flight.replaced != nil {
		d.model = d.flight.replaced
	}
	d.start(d.fs)
	m, err := c.match(d.log, d.model)
	d.must(err, "what the crash left")
	m.windowFirst, m.windowLast = d.log.Window()
	if m.windowLast == 0 {
		m.windowFirst, m.windowLast = m.last+1, m.last
	}
	d.model, d.flight = m, flight{}
	d.term++
	d.must(m.replay(d.log), "replay")
	d.check()
	c.watch(d.fs)
}

// check opens the log as a crash left it: everything synced must be there, nothing that was cut
// off, and a torn tail must not be called damage.
func (c *crashes) check(fsys *vfs.Mem, op vfs.Op) {
	d := c.d
	c.opened++
	var again []*vfs.Mem
	if c.rng.IntN(16) == 0 {
		again = c.opening(fsys)
	}
	if err := c.recover(fsys); err != nil {
		d.fatal("crash at %v of %s, byte %d: %v", op.Kind, op.Name, op.Off, err)
	}
	for _, left := range again {
		if err := c.recover(left); err != nil {
			d.fatal("crash at %v of %s, byte %d, and again when the log was opened: %v", op.Kind, op.Name, op.Off, err)
		}
	}
}

// opening gives what a second crash leaves, anywhere in the opening of the log as the first one left it.
func (c *crashes) opening(first *vfs.Mem) (left []*vfs.Mem) {
	fsys := first.KillClone()
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind.Changes() && c.rng.IntN(6) == 0 {
			left = append(left, fsys.CrashClone(c.rng))
		}
		return nil
	})
	base := c.d.model
	if c.d.flight.replaced != nil {
		base = c.d.flight.replaced
	}
	l, err := tryOpen(fsys, func(o *Options) { c.d.options(o); o.SnapshotIndex = base.snapshot.index })
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		c.d.fatal("open after a crash: %v", err)
	}
	c.outcome["crash in opening"] += len(left)
	return left
}

// recover opens a crashed log, compares it with what may be there, and uses it a little.
func (c *crashes) recover(fsys *vfs.Mem) error {
	d := c.d
	base := d.model
	if d.flight.replaced != nil {
		base = d.flight.replaced
	}
	l, err := tryOpen(fsys, func(o *Options) { d.options(o); o.SnapshotIndex = base.snapshot.index })
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer l.Close()
	m, err := c.match(l, base)
	if err != nil {
		return err
	}
	first, last := l.Window()
	switch {
	case last != 0 && last != m.last:
		return fmt.Errorf("window ends at %d, log at %d", last, m.last)
	case last == 0:
		first = m.last + 1
	}
	// Raft trims up to its snapshot only. What it trimmed may be back; nothing above may be missing.
	most := max(m.windowFirst, m.snapshot.index+1)
	emptied := d.flight.from > 0 && d.flight.from <= m.windowFirst
	if d.flight.pulled && (m.windowFirst > m.windowLast || emptied) {
		most = last + 1 // an empty window stays empty over what is pulled
		if last == 0 {
			most = m.last + 1
		}
	}
	if first > most {
		return fmt.Errorf("window begins with %d, want %d or below", first, most)
	}
	if err := m.replay(l); err != nil {
		return err
	}
	if err := m.checkRecords(l, 1000); err != nil {
		return fmt.Errorf("records: %w", err)
	}
	if c.rng.IntN(8) == 0 {
		if err := c.durable(fsys, m); err != nil {
			return err
		}
	}
	// It works on.
	next := dataEntry(d.t, m.last+1, d.term+1, batchOf(d.t, 10, 5))
	if err := l.Append([]Entry{next}); err != nil {
		return fmt.Errorf("append after crash: %w", err)
	}
	return nil
}

// durable checks that what an opened log shows is on disk: Raft counts on it.
func (c *crashes) durable(fsys *vfs.Mem, m *model) error {
	l, err := tryOpen(fsys.CrashClone(c.rng), func(o *Options) { c.d.options(o); o.SnapshotIndex = m.snapshot.index })
	if err != nil {
		return fmt.Errorf("open after a second crash: %w", err)
	}
	defer l.Close()
	if err := m.checkEntries(l); err != nil {
		return fmt.Errorf("after a second crash: %w", err)
	}
	return nil
}

// match finds out what is there and whether it may be.
func (c *crashes) match(l *Log, base *model) (*model, error) {
	f := c.d.flight
	m := *base
	m.entries = map[record.Index]Entry{}
	for i, e := range base.entries {
		m.entries[i] = e
	}
	last := l.LastIndex()
	kept := base.durable // all up to here must be there
	if f.from > 0 {
		kept = min(kept, f.from-1)
	}
	if last < kept {
		return nil, fmt.Errorf("log ends at %d, entries up to %d were acknowledged", last, kept)
	}
	newer := false
	for i := m.needed(); i <= last; i++ {
		got, err := l.entry(i, raftReader, nil)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		old, isOld := base.entries[i]
		flying, isFlying := Entry{}, false
		if n := len(f.entries); n > 0 && i >= f.entries[0].Index && i <= f.entries[n-1].Index {
			flying, isFlying = f.entries[i-f.entries[0].Index], true
		}
		switch {
		case isOld && !newer && sameEntry(got, old) == nil:
		case isFlying && sameEntry(got, flying) == nil:
			newer = true
			m.entries[i] = flying
		default:
			return nil, fmt.Errorf("entry %d of term %d must not be there", i, got.Term)
		}
	}
	switch {
	case newer && last == f.entries[len(f.entries)-1].Index:
		c.outcome["all of what was being appended"]++
	case newer:
		c.outcome["a part of what was being appended"]++
	case last < base.durable:
		c.outcome["a part of what was being cut off"]++
	case last > base.durable:
		c.outcome["a part of the queue"]++
	case last < base.last:
		c.outcome["nothing of the queue"]++
	case f.entries != nil:
		c.outcome["nothing of what was being appended"]++
	}
	for i := last + 1; i <= base.last; i++ {
		delete(m.entries, i)
	}
	m.last, m.durable = last, last
	m.windowLast = min(m.windowLast, last)
	m.windowFirst = min(m.windowFirst, last+1)
	return &m, nil
}

// Everything that was acknowledged survives a power cut or a kill at every point, nothing that was
// cut off comes back, and a torn tail is not called damage.
func TestCrashAnywhere(t *testing.T) {
	seed := seedOfRun(t)
	until := time.Now().Add(budget(t, 5*time.Second))
	outcome := map[string]int{}
	missing := func() []string {
		return slices.DeleteFunc([]string{"all of what was being appended", "a part of what was being appended",
			"nothing of what was being appended", "a part of what was being cut off", "a part of the queue", "nothing of the queue",
			"a file was written over", "zeros were ahead", "crash in a call", "I/O error in a call",
			"refused by a full disk"}, func(what string) bool { return outcome[what] > 0 })
	}
	points, opened := 0, 0
	// A loaded machine gets the time it needs to see every kind of outcome.
	for ; time.Now().Before(until) || len(missing()) > 0 && time.Now().Before(until.Add(time.Minute)); seed++ {
		fsys := newMem(t, seed)
		c := &crashes{rng: rand.New(rand.NewPCG(seed, 4)), subsets: 2, outcome: outcome}
		c.d = &driver{t: t, rng: rand.New(rand.NewPCG(seed, 5)), fs: fsys, model: newModel(), term: 1, clock: 1000}
		c.d.did("seed %d", seed)
		if seed%3 == 0 {
			c.d.segmentBytes = 16 << 10 // room for zeros behind the last frame
		}
		c.watch(fsys)
		c.d.start(fsys)
		for range 120 {
			c.next()
			if c.d.rng.IntN(15) == 0 {
				c.crash()
			}
			if time.Now().After(until.Add(time.Second)) && len(missing()) == 0 {
				break
			}
		}
		outcome["refused by a full disk"] += c.d.refusals
		outcome["a file was written over"] += c.d.recycled + c.d.spares.taken
		points, opened = points+c.points, opened+c.opened
	}
	t.Logf("%d points, %d crashes: %v", points, opened, outcome)
	if m := missing(); len(m) > 0 {
		t.Errorf("never happened: %v", m)
	}
}

// crash goes on with the disk as a crash left it.
func (c *crashes) crash() {
	d := c.d
	if s := d.log.live.active(); s != nil && s.written > s.size && !s.recycled {
		c.outcome["zeros were ahead"]++
	}
	c.busy = true
	var next *vfs.Mem
	switch d.rng.IntN(3) {
	case 0:
		next = d.fs.KillClone()
	default:
		next = d.fs.CrashClone(c.rng)
	}
	d.life++ // what closing writes is on the disk that is gone
	d.log.Close()
	d.fs.OnBefore(nil)
	d.fs.OnAfter(nil)
	d.fs = next
	c.busy = false
	c.watch(next)
	d.reopen(next)
}

// A bit that flips in what was synced is noticed on opening or on reading, and never served.
func TestFlippedBitIsNoticed(t *testing.T) {
	seed := seedOfRun(t)
	until := time.Now().Add(budget(t, 2*time.Second))
	flips, onOpen, harmless := 0, 0, 0
	for ; time.Now().Before(until); seed++ {
		d := newDriver(t, seed, newMem(t, seed))
		d.did("seed %d", seed)
		for range 40 + d.rng.IntN(100) {
			d.next()
		}
		must(t, d.log.Close())
		for range 30 {
			fsys := d.fs.KillClone()
			names := fsys.Files()
			name := names[d.rng.IntN(len(names))]
			b, err := vfs.ReadFile(fsys, name)
			must(t, err)
			if len(b) == 0 {
				continue
			}
			at, bit := d.rng.Int64N(int64(len(b))), uint(d.rng.IntN(8))
			must(t, fsys.FlipBit(name, at, bit))
			flips++
			looked := d.inspect(fsys)
			what, held, err := d.readDamaged(fsys, base(name))
			if err != nil {
				d.fatal("seed %d: bit %d of byte %d of %s: %v", seed, bit, at, name, err)
			}
			// What the replay drops, because everything in it was deleted, nobody but Inspect has read.
			if found, noticed := len(looked.Damage) > 0, what != "harmless"; found != noticed && (noticed || held) {
				d.fatal("bit %d of byte %d of %s: Open and readers say %s, Inspect %v", bit, at, name, what, looked.Damage)
			}
			switch what {
			case "open":
				onOpen++
			case "harmless":
				harmless++
				// Sidecars, marks and one copy of the decision are written anew, and so is a segment
				// without entries. The replay may have dropped a segment.
				if held && len(b) > segmentHeaderSize {
					d.fatal("bit %d of byte %d of %s of %d went unnoticed", bit, at, name, len(b))
				}
			}
		}
	}
	t.Logf("%d flips, %d noticed on opening, %d on reading, %d harmless", flips, onOpen, flips-onOpen-harmless, harmless)
}

// inspect looks at the log's directory and makes sure that nothing is changed.
func (d *driver) inspect(fsys *vfs.Mem) Inspection {
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind.Changes() {
			d.fatal("Inspect does %v", op)
		}
		return nil
	})
	defer fsys.OnBefore(nil)
	var o Options
	d.options(&o)
	n := Inspector{FS: fsys, Dir: testDir, Snapshot: o.SnapshotIndex}
	found, err := n.Inspect()
	if err != nil {
		d.fatal("inspect: %v", err)
	}
	return found
}

func base(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[i+1:]
		}
	}
	return name
}

// readDamaged opens and reads everything; what comes must be right, or a *CorruptionError. It gives
// where the damage was noticed, and whether the named file is one of the log's segments.
func (d *driver) readDamaged(fsys *vfs.Mem, name string) (what string, held bool, err error) {
	var damage *CorruptionError
	m := d.model
	l, err := tryOpen(fsys, d.options)
	if errors.As(err, &damage) {
		return "open", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer l.Close()
	noticed := false
	if err := m.replay(l); errors.As(err, &damage) {
		return "read", false, nil
	} else if err != nil {
		return "", false, err
	}
	if l.LastIndex() != m.last {
		return "", false, fmt.Errorf("log ends at %d, acknowledged was %d", l.LastIndex(), m.last)
	}
	for at := m.start; at < m.end; {
		c, err := l.Read(at, m.end, 300)
		if errors.As(err, &damage) {
			noticed = true
			at += record.Offset(record.Batch(m.read(at, m.end, 1)[0]).LastOffsetDelta()) + 1
			continue
		}
		if err != nil {
			return "", false, err
		}
		if err := sameBatches(c, at, m.read(at, m.end, 300)); err != nil {
			return "", false, err
		}
		at = c.End
	}
	for i := l.live.begin; i <= m.last; i++ {
		got, err := l.entry(i, raftReader, nil)
		if errors.As(err, &damage) {
			noticed = true
			continue
		}
		if err != nil {
			return "", false, err
		}
		if want, ok := m.entries[i]; ok {
			if err := sameEntry(got, want); err != nil {
				return "", false, err
			}
		}
	}
	if noticed {
		return "read", false, nil
	}
	for _, s := range l.live.segments {
		held = held || s.name == name
	}
	return "harmless", held, nil
}
