package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// A replica that pulls a peer's log while the peer's start moves ends with the peer's entries, whatever
// tail it had; and until the snapshot is durable, a crash leaves everything that it held and that was
// committed.
func TestPullMeetsAMovingStart(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &pulling{t: t, rng: rand.New(rand.NewPCG(seed, 12))}
			c.begin()
			c.pull()
		})
	}
}

type pulling struct {
	t   *testing.T
	rng *rand.Rand
	fs  *vfs.Mem
	log *recordlog.Log
	// peer are the terms of the peer's entries, from 1; the snapshot is of the last of them.
	peer []record.Term
	// held is how many of them the log holds, applied how many of these are applied; tail is how many
	// entries of other terms it holds behind.
	held, applied, tail int
}

func entryOf(i record.Index, term record.Term) recordlog.Entry {
	return recordlog.Entry{Index: i, Term: term, Type: 3, Data: fmt.Appendf(nil, "entry %d of term %d", i, term)}
}

func (c *pulling) begin() {
	c.fs = vfs.NewMem(c.rng.Uint64())
	if err := errors.Join(c.fs.MkdirAll("data"), c.fs.SyncDir("/")); err != nil {
		c.t.Fatal(err)
	}
	term := record.Term(1)
	for range 20 + c.rng.IntN(40) {
		if c.rng.IntN(6) == 0 {
			term += 2
		}
		c.peer = append(c.peer, term)
	}
	c.held = c.rng.IntN(len(c.peer))
	c.applied = c.rng.IntN(c.held + 1)
	c.tail = c.rng.IntN(80)
	c.log = c.open(c.fs, 0)
	for i := range c.held {
		c.append(entryOf(record.Index(i+1), c.peer[i]))
	}
	other := record.Term(1)
	if c.held > 0 {
		other = c.peer[c.held-1]
	}
	other += 1 + record.Term(2*c.rng.IntN(3)) // even: none of the peer's
	if other%2 == 1 {
		other++
	}
	for i := range c.tail {
		c.append(entryOf(record.Index(c.held+i+1), other))
	}
}

func (c *pulling) open(fs vfs.FS, snapshot record.Index) *recordlog.Log {
	l, err := recordlog.Open(recordlog.Options{FS: fs, Dir: "data/log", SegmentBytes: 1 << 10, SnapshotIndex: snapshot})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (c *pulling) append(e recordlog.Entry) {
	if err := c.log.Append([]recordlog.Entry{e}); err != nil {
		c.t.Fatal(err)
	}
}

// pull is what catchUp does, with a peer that deletes meanwhile.
func (c *pulling) pull() {
	start := 1 + c.rng.IntN(c.applied+10)
	p := puller{r: &Replica{log: c.log, logger: slog.New(slog.DiscardHandler)}, next: record.Index(max(start, c.applied+1))}
	p.joined = p.next == record.Index(c.applied+1)
	lowest := p.next
	for p.next <= record.Index(len(c.peer)) {
		if c.rng.IntN(4) == 0 {
			start = min(len(c.peer), max(start, int(p.next)+c.rng.IntN(12)-6))
		}
		from := max(p.next, record.Index(start))
		if from > p.next {
			lowest = from
		}
		var batch []recordlog.Entry
		for i := from; i <= record.Index(len(c.peer)) && len(batch) < 1+c.rng.IntN(8); i++ {
			batch = append(batch, entryOf(i, c.peer[i-1]))
		}
		if err := p.take(batch); err != nil {
			c.t.Fatalf("entries from %d: %v", from, err)
		}
		c.survives()
	}
	last := record.Index(len(c.peer))
	// Behind the last entry that was applied there may be entries of Raft's own, which the snapshot covers.
	layout := recordlog.Layout{Index: last - record.Index(c.rng.IntN(4))}
	layout.StartIndex = layout.Index + 1
	if err := c.log.Restore(layout, last); err != nil {
		c.t.Fatalf("take over the snapshot's layout: %v", err)
	}
	c.holds(lowest, last)
	// Raft gives up what it had, and goes on behind the snapshot.
	_, had := c.log.Window()
	if err := errors.Join(c.log.SetSnapshotIndex(last), c.log.TrimWindow(had)); err != nil {
		c.t.Fatal(err)
	}
	c.peer = append(c.peer, c.peer[last-1])
	c.append(entryOf(last+1, c.peer[last]))
	if err := c.log.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.log = c.open(c.fs, last)
	if err := c.log.Restore(layout, last); err != nil {
		c.t.Fatalf("take over the snapshot's layout after a restart: %v", err)
	}
	c.holds(max(lowest, c.log.StartIndex()), last+1)
}

// holds makes sure that the log holds the peer's entries first..last, and ends there.
func (c *pulling) holds(first, last record.Index) {
	c.t.Helper()
	for i := first; i <= last; i++ {
		if term, err := c.log.Term(i); err != nil || term != c.peer[i-1] {
			c.t.Fatalf("entry %d is of term %d, %v; the peer's is of term %d", i, term, err, c.peer[i-1])
		}
	}
	if at := c.log.LastIndex(); at != last {
		c.t.Fatalf("the log ends at %d, the peer's at %d", at, last)
	}
}

// Where everything is deleted nothing is pulled, and a log that lies behind or holds what was never committed begins anew behind
// the snapshot.
func TestNothingIsLeftToPull(t *testing.T) {
	for name, ours := range map[string][]record.Term{"empty": {}, "behind": {1, 1}, "conflict": {1, 1, 2, 2, 2, 2}, "whole": {1, 1, 3, 3}, "ahead": {1, 1, 3, 3, 3}} {
		t.Run(name, func(t *testing.T) {
			x := newTable(t, 1)
			for i, term := range ours {
				if err := x.log.Append([]recordlog.Entry{entryOf(record.Index(i+1), term)}); err != nil {
					t.Fatal(err)
				}
			}
			x.state.applied = record.Index(min(2, len(ours)))
			x.host.config.Pull = func(context.Context, raftgroup.ServerID, raftgroup.GroupID, record.Index, record.Index, func([]recordlog.Entry) error) error {
				return errors.New("the peer has no entries")
			}
			info := raftgroup.SnapshotInfo{Index: 4, Term: 3}
			state := &stateSnapshot{state: newState(), layout: recordlog.Layout{Index: 4, StartIndex: 5, StartBase: 9, StartOffset: 9, EndOffset: 9}}
			state.state.applied, state.state.start, state.state.next = 4, 9, 9
			if err := x.catchUp(context.Background(), info, state.encode()); err != nil {
				t.Fatal(err)
			}
			clone := x.fs.CrashClone(rand.New(rand.NewPCG(1, 1))) // the snapshot is durable, and we die
			if err := x.log.Restore(state.layout, info.Index); err != nil {
				t.Fatal(err)
			}
			last := record.Index(4)
			if name == "ahead" {
				last = 5
			}
			for _, l := range []*recordlog.Log{x.log, x.open(clone, info.Index)} {
				if got := l.LastIndex(); got != last {
					t.Errorf("the log ends at %d, want %d", got, last)
				}
				if err := l.Append([]recordlog.Entry{entryOf(last+1, 4)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// survives crashes now: what was held of the peer's entries is there.
func (c *pulling) survives() {
	l, err := recordlog.Open(recordlog.Options{FS: c.fs.CrashClone(c.rng), Dir: "data/log", SegmentBytes: 1 << 10})
	if err != nil {
		c.t.Fatalf("open after a crash: %v", err)
	}
	defer func() { _ = l.Close() }()
	for i := record.Index(1); i <= record.Index(c.held); i++ {
		if term, err := l.Term(i); err != nil || term != c.peer[i-1] {
			c.t.Fatalf("entry %d of %d held is of term %d after a crash, %v; it was of term %d", i, c.held, term, err, c.peer[i-1])
		}
	}
}

// What a peer sends out of order, twice, or not at all is refused.
func TestPullIsInOrder(t *testing.T) {
	for name, indexes := range map[string][]record.Index{"early": {2}, "gap": {3, 5}, "twice": {3, 3}, "back": {4, 3}} {
		c := &pulling{t: t, rng: rand.New(rand.NewPCG(1, 1)), fs: vfs.NewMem(1)}
		if err := errors.Join(c.fs.MkdirAll("data"), c.fs.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		c.log = c.open(c.fs, 0)
		c.append(entryOf(1, 1))
		c.append(entryOf(2, 1))
		p := puller{r: &Replica{log: c.log, logger: slog.New(slog.DiscardHandler)}, next: 3, joined: true}
		var batch []recordlog.Entry
		for _, i := range indexes {
			batch = append(batch, entryOf(i, 1))
		}
		if err := p.take(batch); err == nil {
			t.Errorf("%s: entries %v were taken", name, indexes)
		}
		if last := c.log.LastIndex(); last != 2 || p.next != 3 {
			t.Errorf("%s: the log ends at %d, next is %d", name, last, p.next)
		}
	}
}
