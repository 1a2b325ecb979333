package recordlog

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// slowSync makes every sync of a segment take a second.
func slowSync(fsys *vfs.Mem) {
	fsys.SetDelay(func(op vfs.Op) time.Duration {
		if op.Kind == vfs.OpSync && strings.HasSuffix(op.Name, segmentSuffix) {
			return time.Second
		}
		return 0
	})
}

// listen notes what is told of an entry.
func listen(l *Log, i record.Index) <-chan error {
	told := make(chan error, 1)
	l.AwaitDurable(i, func(err error) { told <- err })
	return told
}

// Queue does not wait for the disk. What it took can be read by index at once, is told to be on disk
// when it is, and everything that gathers during a sync goes out with the next one.
func TestQueueDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 5)
		slowSync(fsys)
		n := counted(fsys)
		began := time.Now()
		must(t, l.Queue([]Entry{dataEntry(t, 6, 1, batchOf(t, 50, 6))}))
		synctest.Wait()
		for i := record.Index(7); i <= 60; i++ {
			must(t, l.Queue([]Entry{dataEntry(t, i, 1, batchOf(t, 50, 7))}))
		}
		if took := time.Since(began); took != 0 {
			t.Fatalf("queueing took %v", took)
		}
		wantWindow(t, l, 1, 60)
		if e, err := l.Entry(60); err != nil || e.Index != 60 {
			t.Fatalf("entry 60: %+v, %v", e, err)
		}
		if err := l.Assign(6, []Fate{{Base: 5, Records: 1}}); !errors.Is(err, ErrNotDurable) {
			t.Fatalf("assigned before it was on disk: %v", err)
		}
		if d, last := l.Durable(), l.LastIndex(); d != 5 || last != 5 {
			t.Fatalf("durable through %d, %d on disk", d, last)
		}
		six, sixty := listen(l, 6), listen(l, 60)
		must(t, <-six)
		if took := time.Since(began); took != time.Second {
			t.Fatalf("entry 6 was on disk after %v", took)
		}
		must(t, <-sixty)
		if took := time.Since(began); took != 2*time.Second || l.Durable() != 60 {
			t.Fatalf("entry 60 was on disk after %v, durable through %d", took, l.Durable())
		}
		if n[vfs.OpWrite] != 2 || n[vfs.OpSync] != 2 {
			t.Fatalf("%v", n)
		}
		must(t, l.Assign(6, []Fate{{Base: 5, Records: 1}}))
		fsys.ClearFaults()
		must(t, l.Close())
	})
}

// Waiters are told in the order of their entries, those of one entry in the order they came.
func TestWaitersAreToldInOrder(t *testing.T) {
	var d durability
	d.advance(10)
	var told []string
	wait := func(i record.Index, name string) {
		d.wait(i, func(err error) { told = append(told, fmt.Sprint(name, err)) })
	}
	wait(10, "a")
	wait(14, "b")
	wait(12, "c")
	wait(12, "d")
	wait(13, "e")
	wait(20, "f")
	d.advance(12)
	d.cut(14)
	d.advance(13)
	wait(15, "g")
	d.end(ErrFailed)
	wait(13, "h")
	wait(14, "i")
	want := "[a<nil> c<nil> d<nil> bentry was cut off before it was on disk: entry 14 fentry was cut off before it was on disk: entry 20 " +
		"e<nil> grecord log has failed h<nil> irecord log has failed]"
	if got := fmt.Sprint(told); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// Entries that are cut off before they are on disk are told to be, and never to be durable, although
// others come in their place.
func TestQueuedEntriesAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 5)
		slowSync(fsys)
		must(t, l.Queue([]Entry{plainEntry(6, 1, "six")}))
		synctest.Wait() // six is being synced
		must(t, l.Queue([]Entry{plainEntry(7, 1, "seven"), plainEntry(8, 1, "eight")}))
		six, seven, eight := listen(l, 6), listen(l, 7), listen(l, 8)
		must(t, l.TruncateTail(7))
		must(t, l.Queue([]Entry{plainEntry(7, 2, "other"), plainEntry(8, 2, "other")}))
		must(t, <-six)
		for _, told := range []<-chan error{seven, eight} {
			if err := <-told; !errors.Is(err, ErrCutOff) {
				t.Fatalf("told %v", err)
			}
		}
		must(t, <-listen(l, 8))
		if e, err := l.Entry(7); err != nil || string(e.Data) != "other" {
			t.Fatalf("entry 7: %q, %v", e.Data, err)
		}
		// What is on disk is cut off there, and durable falls with it.
		must(t, l.TruncateTail(6))
		if l.Durable() != 5 {
			t.Fatalf("durable through %d", l.Durable())
		}
		fsys.ClearFaults()
		must(t, l.Close())
		l = open(t, fsys)
		wantWindow(t, l, 1, 5)
	})
}

// A write or sync that fails after Queue has returned ends all waiting and makes the log fail; the
// owner is told once.
func TestQueuedWriteFails(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpSync} {
		t.Run(kind.String(), func(t *testing.T) {
			fsys := newMem(t, 1)
			l := filled(t, fsys, 5)
			failures := make(chan error, 10)
			l.OnFailure(func(err error) { failures <- err })
			fsys.FailNth(kind, segmentSuffix, 1, syscall.EIO)
			must(t, l.Queue([]Entry{plainEntry(6, 1, "six")}))
			for _, i := range []record.Index{6, 7} {
				if err := <-listen(l, i); !errors.Is(err, ErrFailed) {
					t.Fatalf("entry %d: told %v", i, err)
				}
			}
			must(t, <-listen(l, 5))
			if err := <-failures; !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("told %v", err)
			}
			for what, err := range map[string]error{
				"queue": l.Queue([]Entry{plainEntry(7, 1, "seven")}), "append": l.Append([]Entry{plainEntry(7, 1, "seven")}),
				"truncate": l.TruncateTail(6),
			} {
				if !errors.Is(err, ErrFailed) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if l.Durable() != 5 {
				t.Fatalf("durable through %d", l.Durable())
			}
			if e, err := l.Entry(6); err != nil || string(e.Data) != "six" {
				t.Fatalf("Raft cannot read entry 6: %v", err)
			}
			must(t, l.Close())
			late := make(chan error, 1)
			l.OnFailure(func(err error) { late <- err })
			if err := <-late; !errors.Is(err, ErrFailed) || len(failures) > 0 {
				t.Fatalf("told %v, and %d more", err, len(failures))
			}
		})
	}
}

// A full disk refuses what comes, before Queue returns. What was taken has its space and is written,
// even if there is none for a new segment.
func TestQueueOnAFullDisk(t *testing.T) {
	for _, reserve := range []bool{true, false} {
		t.Run(map[bool]string{true: "reserved", false: "without reservation"}[reserve], func(t *testing.T) {
			fsys := newMem(t, 1)
			fsys.RefuseReserve(!reserve)
			l := filled(t, fsys, 20, func(o *Options) { o.SegmentBytes = 1024 })
			fsys.SetCapacity(fsys.Used())
			next, refused := record.Index(21), 0
			for refused == 0 {
				err := l.Queue([]Entry{dataEntry(t, next, 1, batchOf(t, 100, 1))})
				switch {
				case err == nil:
					next++
				case errors.Is(err, ErrNoSpace):
					refused++
				default:
					t.Fatal(err)
				}
			}
			if reserve && next < 30 {
				t.Fatalf("only %d entries fitted into what was reserved", next-21)
			}
			must(t, l.Failed())
			must(t, <-listen(l, next-1))
			if err := l.Queue([]Entry{dataEntry(t, next, 1, batchOf(t, 30000, 1))}); !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
			fsys.SetCapacity(0)
			must(t, l.Queue([]Entry{dataEntry(t, next, 1, batchOf(t, 30000, 1))}))
			must(t, l.Close())
			wantWindow(t, open(t, fsys), 1, next)
		})
	}
}

// The queue is bounded: what comes beyond it waits for the disk.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMem(t, 1)
		metrics := NewMetrics(nil)
		l := open(t, fsys, func(o *Options) { o.SegmentBytes, o.Metrics = 64<<20, metrics })
		big := plainEntry(1, 1, strings.Repeat("x", 1<<20))
		next := record.Index(1)
		for ; next <= 10; next++ { // so that much is reserved ahead
			big.Index = next
			must(t, l.Append([]Entry{big}))
		}
		slowSync(fsys)
		most, began := 0.0, time.Now()
		for ; next <= 50; next++ {
			big.Index = next
			must(t, l.Queue([]Entry{big}))
			most = max(most, testutil.ToFloat64(metrics.queued))
		}
		if most > maxQueued || most < 1<<20 {
			t.Fatalf("%v bytes were queued", most)
		}
		if time.Since(began) < time.Second {
			t.Fatal("nothing has waited for the disk")
		}
		must(t, <-listen(l, 50))
		if n := testutil.ToFloat64(metrics.queued); n != 0 {
			t.Fatalf("%v bytes are queued", n)
		}
		if l.cache.bytes > l.cache.limit {
			t.Fatalf("the cache holds %d bytes", l.cache.bytes)
		}
		must(t, l.Close())
	})
}

// Closing writes the queue out; who waits hears of it.
func TestCloseWritesTheQueue(t *testing.T) {
	fsys := newMem(t, 1)
	var writer func()
	l := filled(t, fsys, 3, func(o *Options) { o.background = func(f func()) { writer = f } })
	must(t, l.Queue([]Entry{plainEntry(4, 1, "four")}))
	four, five := listen(l, 4), listen(l, 5)
	must(t, l.Close())
	must(t, <-four)
	if err := <-five; !errors.Is(err, ErrClosed) {
		t.Fatalf("told %v", err)
	}
	writer() // too late
	if err := l.Queue([]Entry{plainEntry(5, 1, "five")}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	wantWindow(t, open(t, fsys), 1, 4)
}

// Everything that changes the log's end or its window first lets the queue become a part of it.
func TestQueueGoesFirst(t *testing.T) {
	for what, do := range map[string]func(*Log) error{
		"append": func(l *Log) error { return l.Append([]Entry{plainEntry(7, 1, "seven")}) },
		"catch up": func(l *Log) error {
			return l.AppendCatchUp([]Entry{plainEntry(6, 1, "six"), plainEntry(7, 1, "seven")})
		},
		"reset":   func(l *Log) error { return l.Reset(99, 99) },
		"restore": func(l *Log) error { return l.Restore(l.Layout(), l.Layout().Index) },
		"trim":    func(l *Log) error { return l.TrimWindow(6) },
		"close":   func(l *Log) error { return l.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			l := filled(t, newMem(t, 1), 5, func(o *Options) { o.background = func(func()) {} })
			must(t, l.Queue([]Entry{plainEntry(6, 1, "six")}))
			six := listen(l, 6)
			must(t, do(l))
			must(t, <-six)
			if what == "trim" {
				wantWindow(t, l, 0, 0)
			}
		})
	}
}

// How long the disk has been busy with one write can be seen from outside.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 3)
		if d := l.Stalled(); d != 0 {
			t.Fatalf("stalled for %v", d)
		}
		slowSync(fsys)
		must(t, l.Queue([]Entry{plainEntry(4, 1, "four")}))
		time.Sleep(700 * time.Millisecond)
		if d := l.Stalled(); d != 700*time.Millisecond {
			t.Fatalf("stalled for %v", d)
		}
		must(t, <-listen(l, 4))
		synctest.Wait()
		if d := l.Stalled(); d != 0 {
			t.Fatalf("stalled for %v", d)
		}
		must(t, l.Close())
	})
}

// A new segment has room for everything that is queued, also for what comes while it is made.
func TestNewSegmentHasRoomForTheQueue(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 20, func(o *Options) { o.SegmentBytes, o.background = 4096, func(func()) {} })
	for l.live.active().size < 4096 {
		must(t, l.Append([]Entry{plainEntry(l.windowLast+1, 1, "to the end of the segment")}))
	}
	big := func() []Entry { return []Entry{plainEntry(l.windowLast+1, 1, strings.Repeat("x", 100<<10))} }
	l.live.active().reserved += 1 << 20 // as if much had been reserved, which is not reserved again
	must(t, l.Queue(big()))
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind == vfs.OpReserve && l.queued.bytes < 200<<10 && !l.enqueue(big()) {
			t.Error("no room in the old segment")
		}
		return nil
	})
	segments := len(l.live.segments)
	must(t, l.Roll())
	fsys.OnBefore(nil)
	if s := l.live.active(); len(l.live.segments) != segments+1 || l.queued.bytes < 200<<10 || s.size+l.queued.bytes > s.reserved {
		t.Fatalf("%d bytes are queued behind byte %d, reserved is up to %d", l.queued.bytes, s.size, s.reserved)
	}
}
