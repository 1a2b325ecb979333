// Package recordlog is a partition's Raft log and record log in one: segment files that Raft
// appends to and consumers read by offset, whole after a crash at any point.
//
// Raft's side is Window, Entry, Append or Queue, TruncateTail and TrimWindow, by index. Apply's side is
// Assign, which gives the batches of each entry their offsets or says that they were refused (R4).
// The reader's side is Read and the look-ups, by offset; it never sees what is not assigned.
// Retention and snapshots are AdvanceStart, Layout and Restore, catch-up is Reset, AppendCatchUp
// and EntriesForPeer. DESIGN.md says why it is as it is, docs/formats/recordlog.md draws the files.
//
// What holds at all times:
//   - Append returns after the bytes are on disk; of Queue, AwaitDurable tells when they are. What is
//     on disk is never lost silently: bytes that are damaged or missing give a *CorruptionError, on
//     opening or on reading.
//   - begin of the log <= first of the window; last of the window <= last of the log.
//   - snapshot and assigned entries are never cut off; log start <= log end; neither ever falls.
package recordlog

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// Entry is one Raft entry.
type Entry struct {
	Index record.Index
	Term  record.Term
	// Type is Raft's log type; the log does not look at it.
	Type uint8
	// AppendedAt is when the leader appended it, unix ns; 0: unknown.
	AppendedAt int64
	// Records is how many offsets the batches in Data take if all are accepted; 0: Data is not
	// made of batches. Append fills it by Options.Classify, if there is one.
	Records int32
	// MaxTimestamp is at least the largest timestamp of the records, ms. Set with Records.
	MaxTimestamp int64
	// Ext is the envelope, Data the payload: one or more record batches back to back if Records is
	// not 0.
	Ext, Data []byte
	// First is not 0 if compaction has been here: Data is what it left of the batches of entries First to
	// Index, with their base offsets, Ext the encoded Mark, and Records the sum of theirs.
	First record.Index
}

// Begins is the first index that an entry stands for.
func (e *Entry) Begins() record.Index {
	if e.First != 0 {
		return e.First
	}
	return e.Index
}

// Options say where a log lies and how it behaves.
type Options struct {
	// FS and Dir are required. Dir is made if it does not exist; its parent must exist, durably. Only one Log may be open on it;
	// the broker's lock on its data directory sees to that between processes.
	FS  vfs.FS
	Dir string
	// SegmentBytes is the size at which a new segment is begun, 64 MiB by default, at most 1 GiB.
	SegmentBytes int64
	// CacheBytes bounds the entries kept in memory by reference, 4 MiB by default; negative: none.
	CacheBytes int64
	// MaxEntryBytes bounds Data of one entry, 64 MiB by default.
	MaxEntryBytes int
	// IndexBytes is how far apart entries of the sparse indexes are, 32 KiB by default.
	IndexBytes int
	// OpenSegments is how many closed segments keep their file open and their index in memory, 4 by
	// default.
	OpenSegments int
	// SnapshotIndex is the index of the newest good state snapshot, 0: none.
	SnapshotIndex record.Index
	// MustExist: Create has made the log, so that one without a meta file has lost what was in it.
	MustExist bool
	// WholeWindow makes all that the log holds Raft's window, as a power cut may: also what was pulled behind a window that was empty.
	WholeWindow bool
	// Classify tells how many offsets an entry's batches take and their largest timestamp; 0
	// records: no batches. nil: Entry.Records and MaxTimestamp are taken as given.
	Classify func(ext, data []byte) (records int32, maxTimestamp int64)
	// LeaderEpoch gives the epoch that batches of a term carry to consumers (R7). nil: the term.
	LeaderEpoch func(record.Term) int32
	// Salt gives the random number of a new segment. nil: crypto/rand.
	Salt    func() uint64
	Logger  *slog.Logger
	Metrics *Metrics
	// Spares gives files to write over and takes those of dropped segments. nil: files grow, and are removed.
	Spares *Spares

	// background starts what writes the queue out. nil: in a goroutine; tests choose the moment.
	background func(func())
}

const (
	defaultSegmentBytes  = 64 << 20
	minSegmentBytes      = 1 << 10
	maxSegmentBytes      = 1 << 30
	defaultCacheBytes    = 4 << 20
	defaultMaxEntryBytes = 64 << 20
	defaultIndexBytes    = 32 << 10
	defaultOpenSegments  = 4
	// maxAppendBytes bounds one Append, so that positions in a segment fit 32 bits.
	maxAppendBytes = 1 << 30
)

func (o *Options) setDefaults() error {
	switch {
	case o.FS == nil:
		return fmt.Errorf("record log options: FS is not set")
	case o.Dir == "":
		return fmt.Errorf("record log options: Dir is not set")
	case o.MaxEntryBytes > maxFrameSize/2:
		return fmt.Errorf("record log options: MaxEntryBytes is %d, at most %d", o.MaxEntryBytes, maxFrameSize/2)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MaxEntryBytes <= 0 {
		o.MaxEntryBytes = defaultMaxEntryBytes
	}
	if o.IndexBytes <= 0 {
		o.IndexBytes = defaultIndexBytes
	}
	if o.OpenSegments <= 0 {
		o.OpenSegments = defaultOpenSegments
	}
	if o.LeaderEpoch == nil {
		o.LeaderEpoch = func(t record.Term) int32 { return int32(min(uint64(t), math.MaxInt32)) }
	}
	if o.Salt == nil {
		o.Salt = randomSalt
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return nil
}

// randomSalt never fails: crypto/rand crashes the program rather than give predictable numbers.
func randomSalt() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// Log is one partition's log. One goroutine at a time calls Append, Queue and TruncateTail (Raft's
// main goroutine), one calls Assign and AdvanceStart (the applier); everything else may be
// called by any goroutine at any time.
type Log struct {
	o       Options
	metrics *Metrics
	logger  *slog.Logger

	// gate is held by whoever changes the disk, through the I/O. It is a channel and not a mutex,
	// because waiting for a channel lets virtual time go on (testing/synctest). Order: gate, mu.
	gate chan struct{}
	// busySince is when the holder of the gate took it, unix ns; 0: nobody holds it.
	busySince atomic.Int64
	trouble   trouble
	// The following are touched only with the gate held.
	meta     *metaFile
	appended int64   // bytes of frames written since the log was opened
	taken    []Entry // what takeQueued gave last
	// unsettled: zeros were written ahead that no sync has covered yet.
	unsettled bool

	// durable is up to where the live chain is on disk. Locks nothing but itself; never under mu.
	durable durability
	// owned counts the goroutine that writes the queue out.
	owned sync.WaitGroup

	files        *files
	segmentBytes atomic.Int64
	closed       atomic.Bool
	failure      atomic.Pointer[error]
	// near is where the last looked-up entry ended, for those who read one after the other.
	near [readers]atomic.Pointer[place]

	// mu guards what is below. It is never held during I/O. Who writes holds the gate too, except
	// for the applier's fields.
	mu     sync.RWMutex
	live   chain  // what is on disk
	staged *chain // what catch-up builds beside the live chain, nil most of the time
	// windowFirst and windowLast are the raft window; empty when first = last+1. It ends with the
	// live chain, or with the queue behind it.
	windowFirst, windowLast record.Index
	queued                  queueSize
	syncing                 bool // somebody has been started to write the queue out
	noReserve               bool // the file system cannot reserve
	onFailure               func(error)
	snapshot                record.Index
	cuts                    uint64 // counts tail truncations, so that readers notice
	cache                   cache
	holds                   map[*Hold]struct{}
	// cleaned is the mark of the last compacted frame of the live chain, which ends with cleanedThrough; 0: there
	// is none.
	cleaned        Mark
	cleanedThrough record.Index

	// The applier's fields.
	restored bool         // offsets are known: there was no snapshot, or Restore ran
	assigned record.Index // all up to here have their fates
	end      record.Offset
	start    startPoint
	refused  refusals
}

// chain is the segments of one generation, in order of index without gaps. A published slice of
// segments is never changed, only replaced.
type chain struct {
	generation uint32
	begin      record.Index // the lowest index that is or will be held
	segments   []*segment
}

// last is the index of the last entry, begin-1 if there is none.
func (c *chain) last() record.Index {
	if n := len(c.segments); n > 0 {
		return c.segments[n-1].last
	}
	return c.begin - 1
}

// bytes is the size of all segments.
func (c *chain) bytes() (n int64) {
	for _, s := range c.segments {
		n += s.size
	}
	return n
}

// active is the segment that is written to, nil if there is none yet.
func (c *chain) active() *segment {
	if n := len(c.segments); n > 0 {
		return c.segments[n-1]
	}
	return nil
}

// tail gives term and header CRC of the last frame, to which the next is chained.
func (c *chain) tail() (record.Term, uint32) {
	if s := c.active(); s != nil {
		return s.lastTerm, s.chained
	}
	return 0, 0
}

// find gives the position in segments of the one that holds i, -1 if none does.
func (c *chain) find(i record.Index) int {
	lo, hi := 0, len(c.segments)
	for lo < hi {
		mid := (lo + hi) / 2
		if c.segments[mid].first <= i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || c.segments[lo-1].last < i {
		return -1
	}
	return lo - 1
}

func (l *Log) lock() {
	l.gate <- struct{}{}
	l.busySince.Store(now())
}

func (l *Log) unlock() {
	l.busySince.Store(0)
	<-l.gate
}

// usable says why the log cannot be written to.
func (l *Log) usable() error {
	if l.closed.Load() {
		return ErrClosed
	}
	if f := l.failure.Load(); f != nil {
		return *f
	}
	return nil
}

// Failed gives the error that made the log stop, nil while it works. Reading what was on disk
// before goes on, since Raft panics when an entry cannot be read.
func (l *Log) Failed() error {
	if f := l.failure.Load(); f != nil {
		return *f
	}
	return nil
}

// fail ends writing for good: after a failed write or sync the kernel may have dropped what was
// dirty, and a sync that succeeds later says nothing about it. Never retried.
func (l *Log) fail(cause error) error {
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	if l.failure.CompareAndSwap(nil, &err) {
		l.metrics.failures.Inc()
		l.logger.Error("record log failed and takes no more writes", "dir", l.o.Dir, "err", cause)
		l.durable.end(err)
		l.tellFailure(err)
		return err
	}
	return *l.failure.Load()
}

func (l *Log) path(name string) string { return filepath.Join(l.o.Dir, name) }

// SetSegmentBytes changes the size at which the next segment is begun.
func (l *Log) SetSegmentBytes(n int64) {
	if n <= 0 {
		n = defaultSegmentBytes
	}
	l.segmentBytes.Store(min(max(n, minSegmentBytes), maxSegmentBytes))
}

// Bytes is the size of the log's segments on disk.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.live.bytes()
}

// PulledBytes is as Bytes; while a catch-up after Reset goes on, the size of what was pulled.
func (l *Log) PulledBytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pulled().bytes()
}

// Close writes the queue out and closes the files. Calls under way finish first; later ones fail
// with ErrClosed. Closing twice is allowed.
func (l *Log) Close() error {
	defer l.owned.Wait() // it needs the gate to notice
	l.lock()
	defer l.unlock()
	l.mu.Lock()
	again := l.closed.Swap(true) // under mu: nothing is queued from here on
	l.mu.Unlock()
	if again {
		return nil
	}
	if l.Failed() == nil {
		// Nobody counts on it any more. A failure has told who waits, and is in the log.
		_ = l.flush()
	}
	l.durable.end(ErrClosed)
	l.metrics.bytes.Sub(float64(l.Bytes()))
	l.mu.Lock()
	l.metrics.cacheBytes.Sub(float64(l.cache.bytes))
	l.metrics.refused.Sub(float64(l.refused.len()))
	l.metrics.queued.Sub(float64(l.queued.bytes))
	l.queued = queueSize{}
	l.cache.clear()
	active := l.live.active()
	l.mu.Unlock()
	if active != nil && l.Failed() == nil {
		l.releaseReserved(active)
	}
	err := l.files.closeAll()
	if e := l.meta.close(); err == nil {
		err = e
	}
	return err
}

func now() int64 { return time.Now().UnixNano() }
