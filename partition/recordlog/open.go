package recordlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// Create makes an empty log in dir, which must exist durably, unless there is one. What it made is on disk when it returns. An
// owner who remembers that it has created a log opens it with Options.MustExist from then on: if
// all files are gone, that is loss and not a new beginning.
func Create(fsys vfs.FS, dir string) error {
	found, err := vfs.Exists(fsys, filepath.Join(dir, metaName))
	if err == nil && !found {
		l := &Log{o: Options{FS: fsys, Dir: dir}}
		err = l.createMeta(decision{generation: 1, sequence: 1, begin: 1})
	}
	if err != nil {
		return fmt.Errorf("create record log %s: %w", dir, err)
	}
	return nil
}

// Open opens a log, or makes an empty one. What was appended before is there; a tail that was never
// synced may be cut off. Afterwards everything that is visible is on disk.
//
// Errors: *CorruptionError (damage; the replica must be quarantined), ErrBehindSnapshot,
// ErrNewerFormat, or an I/O error.
//
// The order: the meta file says which generation counts and from which index on. What lies at or below
// the snapshot is known by the segments' sidecars, or scanned; entries above it are always scanned, since
// Raft reads them on its start and cannot bear an error there. The last segment's torn tail is cut, the
// rest synced: what a killed process wrote may be visible and not yet on disk,
// and Raft is about to count on it.
func Open(o Options) (*Log, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	l := &Log{o: o, metrics: o.Metrics, logger: o.Logger, gate: make(chan struct{}, 1), holds: map[*Hold]struct{}{}}
	l.SetSegmentBytes(o.SegmentBytes)
	l.files = newFiles(o.FS, l.path, o.OpenSegments)
	l.cache.limit = o.CacheBytes
	if err := l.open(); err != nil {
		var damage *CorruptionError
		if errors.As(err, &damage) {
			l.metrics.corruptions.Inc()
		}
		return nil, errors.Join(fmt.Errorf("open record log %s: %w", o.Dir, err), l.files.closeAll(), l.meta.close())
	}
	l.metrics.bytes.Add(float64(l.Bytes()))
	return l, nil
}

func (l *Log) open() error {
	if err := l.o.FS.MkdirAll(l.o.Dir); err != nil {
		return err
	}
	names, err := l.o.FS.List(l.o.Dir)
	if err != nil {
		return err
	}
	if err := l.findMeta(names); err != nil {
		return err
	}
	found, err := l.sortOut(names)
	if err != nil {
		return err
	}
	r := recovery{log: l, begin: l.meta.decision.begin, generation: l.meta.decision.generation,
		claimed: max(l.meta.mark.synced, l.o.SnapshotIndex), mark: l.meta.mark.synced}
	if l.live, err = r.chain(found[l.meta.decision.generation]); err != nil {
		return err
	}
	l.snapshot = l.o.SnapshotIndex
	if err := l.finishCatchUp(found[l.meta.decision.generation+1]); err != nil {
		return err
	}
	last := l.live.last()
	if l.snapshot > last || l.snapshot+1 < l.live.begin {
		return fmt.Errorf("%w: log holds entries %d to %d, snapshot is of %d", ErrBehindSnapshot, l.live.begin, last, l.snapshot)
	}
	if l.snapshot == 0 && l.live.begin > 1 {
		return corrupt(metaName, 0, 1, differ("a state snapshot, since the log begins later", fmt.Sprintf("none, log begins at %d", l.live.begin)))
	}
	l.windowFirst, l.windowLast = l.live.begin, last
	if !l.o.WholeWindow {
		// Where the snapshot is gone behind which Raft went on, what lies above the one before must be seen again: it was acknowledged.
		l.windowFirst = max(min(l.meta.mark.window, l.snapshot+1), l.live.begin)
	}
	if err := l.findCleaned(); err != nil {
		return err
	}
	// What is compacted is no entry of Raft's any more. The mark that tells the window may be old.
	l.windowFirst = min(max(l.windowFirst, l.cleanedThrough+1), last+1)
	if l.cleanedThrough > l.snapshot {
		return fmt.Errorf("%w: entries up to %d are compacted, snapshot is of %d", ErrBehindSnapshot, l.cleanedThrough, l.snapshot)
	}
	l.durable.advance(last)
	l.restored = l.snapshot == 0
	l.start.floating = true
	return nil
}

// findMeta opens the meta file, or makes it in an empty directory.
func (l *Log) findMeta(names []string) error {
	var err error
	l.meta, err = l.openMeta()
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		if s := segmentNamed(n); s != nil {
			return corrupt(metaName, 0, s.first, differ("a meta file beside the segments", "none"))
		}
	}
	if l.o.MustExist {
		return corrupt(metaName, 0, 1, differ("the meta file of a log that was created", "none"))
	}
	if l.o.SnapshotIndex > 0 {
		return fmt.Errorf("%w: log is empty, snapshot is of %d", ErrBehindSnapshot, l.o.SnapshotIndex)
	}
	// If we die before all of this is durable, no entry has been acknowledged from here.
	if err := l.createMeta(decision{generation: 1, sequence: 1, begin: 1}); err != nil {
		return err
	}
	if err := l.o.FS.SyncDir(filepath.Dir(l.o.Dir)); err != nil {
		return err
	}
	l.meta, err = l.openMeta()
	return err
}

// sortOut groups the segments by generation, each in order of index, and removes those of
// generations that a decision has ended.
func (l *Log) sortOut(names []string) (map[uint32][]*segment, error) {
	live := l.meta.decision.generation
	found := map[uint32][]*segment{}
	for _, n := range names {
		s := segmentNamed(n)
		if s == nil {
			if strings.HasSuffix(n, rewriteSuffix) { // a pass did not get to its end
				if err := removeIfThere(l.o.FS, l.path(n)); err != nil {
					return nil, err
				}
			}
			continue
		}
		switch generation := s.generation; {
		case generation < live:
			if err := removeIfThere(l.o.FS, l.path(n)); err != nil {
				return nil, err
			}
		case generation > live+1:
			return nil, corrupt(n, 0, s.first, differ(fmt.Sprintf("generation %d or %d", live, live+1), fmt.Sprintf("generation %d", generation)))
		default:
			found[generation] = append(found[generation], s)
		}
	}
	if err := l.removeOrphans(names, found); err != nil {
		return nil, err
	}
	for k := range found {
		var err error
		if found[k], err = l.newest(found[k]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// newest sorts segments and removes those that compaction has replaced, once the names of what replaces them are durable: whoever gave
// them may have been killed before they were.
func (l *Log) newest(g []*segment) ([]*segment, error) {
	sort.Slice(g, func(i, j int) bool { return before(g[i], g[j]) })
	kept, replaced := g[:0:0], g[:0:0]
	for _, s := range g {
		if n := len(kept); n > 0 && s.first <= kept[n-1].through {
			if s.revision >= kept[n-1].revision {
				return nil, corrupt(s.name, 0, s.first, differ(fmt.Sprintf("a segment that begins after entry %d", kept[n-1].through), fmt.Sprintf("entry %d", s.first)))
			}
			replaced = append(replaced, s)
			continue
		}
		kept = append(kept, s)
	}
	if len(replaced) > 0 {
		if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
			return nil, err
		}
	}
	for _, s := range replaced {
		if err := l.removeSegment(s); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// removeOrphans removes sidecars whose segment is gone.
func (l *Log) removeOrphans(names []string, found map[uint32][]*segment) error {
	orphans := map[string]bool{}
	for _, n := range names {
		if strings.HasSuffix(n, sidecarSuffix) {
			orphans[n] = true
		}
	}
	for _, g := range found {
		for _, s := range g {
			delete(orphans, s.sidecar())
		}
	}
	for n := range orphans {
		if err := removeIfThere(l.o.FS, l.path(n)); err != nil {
			return err
		}
	}
	return nil
}

// finishCatchUp carries out what catch-up prepared if the snapshot that needs it is durable, and
// removes it otherwise: it is not acknowledged to anyone, and can be pulled again.
func (l *Log) finishCatchUp(segments []*segment) error {
	if len(segments) == 0 {
		return nil
	}
	if l.snapshot > l.live.last() {
		r := recovery{log: l, begin: segments[0].first, generation: l.meta.decision.generation + 1}
		staged, err := r.chain(segments)
		if err == nil && staged.begin <= l.snapshot+1 && staged.last() >= l.snapshot {
			l.staged = &staged
			return l.adoptStaged()
		}
		if err != nil && !errors.As(err, new(*CorruptionError)) {
			return err
		}
		return nil // told as ErrBehindSnapshot; the files stay for whoever looks into it
	}
	for _, s := range segments {
		if err := l.removeSegment(s); err != nil {
			return err
		}
	}
	return l.o.FS.SyncDir(l.o.Dir)
}

// dropSegment takes a dropped segment's files away. The log begins above it, durably. Its file goes to the spares if nobody reads it.
func (l *Log) dropSegment(s *segment) error {
	if l.o.Spares == nil || s.revision != 0 || !l.files.forget(s) {
		return l.removeSegment(s)
	}
	if err := removeIfThere(l.o.FS, l.path(s.sidecar())); err != nil {
		return err
	}
	moved, err := l.o.Spares.put(l.path(s.name), s.size)
	if moved && err == nil {
		return nil
	}
	if err != nil {
		l.logger.Warn("the file of a dropped segment could not be kept for another, and is removed", "segment", s.name, "err", err)
	}
	return removeIfThere(l.o.FS, l.path(s.name))
}

// removeSegment removes a segment's files.
func (l *Log) removeSegment(s *segment) error {
	l.files.forget(s)
	if err := removeIfThere(l.o.FS, l.path(s.sidecar())); err != nil {
		return err
	}
	return removeIfThere(l.o.FS, l.path(s.name))
}

// recovery reads the segments of one generation.
type recovery struct {
	log        *Log
	generation uint32
	begin      record.Index
	// claimed is up to where entries were on disk, as far as is known outside the segments; mark
	// is the part of it that the mark tells.
	claimed, mark record.Index
	// next is where the segment behind a closed one begins.
	next record.Index
	// synced is up to where the last frame of all says that entries are on disk.
	synced record.Index
}

// chain checks that the segments hold begin and everything after it, without gaps.
func (r *recovery) chain(segments []*segment) (chain, error) {
	l := r.log
	c := chain{generation: r.generation, begin: r.begin}
	segments, err := r.dropGarbage(segments)
	if err != nil {
		return c, err
	}
	var term record.Term
	var chained uint32
	next := r.begin
	if len(segments) == 0 && r.begin > 1 {
		return c, corrupt(metaName, 0, next, differ(fmt.Sprintf("a segment that begins with %d", next), "none"))
	}
	for k, s := range segments {
		closed := k < len(segments)-1
		if s.first != next {
			return c, corrupt(s.name, 0, next, differ(fmt.Sprintf("a segment with entry %d", next), fmt.Sprintf("one that begins with %d", s.first)))
		}
		if closed {
			// The name of the next segment proves it: it is made after all before it is on disk.
			r.next = segments[k+1].first
			r.claimed = max(r.claimed, r.next-1)
		}
		torn, err := r.segment(s, scanLimits{previousTerm: term, chained: chained, linked: k > 0 && linked(segments[k-1], s)}, k, closed)
		if err != nil {
			return c, err
		}
		if torn {
			if err := l.removeSegment(s); err != nil {
				return c, err
			}
			break
		}
		if closed && s.last+1 != segments[k+1].first {
			return c, corrupt(s.name, s.size, s.last+1, differ(fmt.Sprintf("entries up to %d", segments[k+1].first-1), "the end of the file"))
		}
		c.segments = append(c.segments, s)
		term, chained, next = s.lastTerm, s.chained, s.last+1
	}
	if last := c.last(); r.mark > last {
		return c, r.missing(&c, last)
	}
	return c, r.finish(&c)
}

// missing says that entries which were on disk are not there any more.
func (r *recovery) missing(c *chain, last record.Index) error {
	name, size := metaName, int64(markAt)
	if s := c.active(); s != nil {
		name, size = s.name, s.size
	}
	return corrupt(name, size, last+1, differ(fmt.Sprintf("entries up to %d, which were on disk", r.mark), "the end of the log"))
}

// dropGarbage removes segments wholly below begin: retention decided to drop them, and we died
// before all were gone.
func (r *recovery) dropGarbage(segments []*segment) ([]*segment, error) {
	for len(segments) > 1 && segments[1].first <= r.begin {
		if err := r.log.removeSegment(segments[0]); err != nil {
			return nil, err
		}
		segments = segments[1:]
	}
	return segments, nil
}

// segment reads one segment file. torn: it is the last one and we died while it was being made.
func (r *recovery) segment(s *segment, from scanLimits, k int, closed bool) (torn bool, err error) {
	l := r.log
	h, err := l.files.acquire(s)
	if err != nil {
		return false, err
	}
	defer l.files.release(h)
	size, err := h.Size()
	if err != nil {
		return false, err
	}
	head := make([]byte, min(size, segmentHeaderSize))
	if err := readFull(h, head, 0); err != nil {
		return false, err
	}
	header, err := decodeSegmentHeader(head, s.salt)
	if err == nil && (header.first != s.first || header.generation != s.generation || (from.linked && header.previous != from.chained)) {
		err = differ(fmt.Sprintf("a segment that continues the one before: generation %d, entry %d, chained to %08x", s.generation, s.first, from.chained),
			fmt.Sprintf("generation %d, entry %d, chained to %08x", header.generation, header.first, header.previous))
	}
	switch {
	case errors.Is(err, ErrNewerFormat):
		return false, err
	case err == nil:
	case !closed && size <= segmentHeaderSize && r.claimed < s.first && (k > 0 || s.first == 1):
		// The header is synced before the first frame is written, and before a decision that the
		// log begins with this segment. We died in between.
		l.logger.Info("removing a segment that was never begun", "dir", l.o.Dir, "segment", s.name)
		return true, nil
	default:
		return false, corrupt(s.name, 0, s.first, err)
	}
	s.header, s.chained, s.lastTerm, s.recycled = header.crc, header.crc, from.previousTerm, header.recycled
	if closed && r.trustSidecar(s, size) {
		return false, nil
	}
	found, ok, err := r.scanRest(h, s, size, closed)
	if err == nil && !ok {
		found, err = scan(h, s, size, l.o.IndexBytes, scanLimits{previousTerm: from.previousTerm, chained: header.crc})
	}
	if err != nil {
		return false, err
	}
	s.summary = found.summary
	r.synced = max(r.synced, found.synced)
	switch {
	case closed && s.size < size && s.last+1 == r.next:
		// All that the next segment stands behind is here: we died before what follows was given back.
		err = l.setBack(s)
	case found.bad != nil:
		err = r.cutTorn(s, &found, closed)
	}
	if err != nil {
		return false, err
	}
	if closed {
		l.writeSidecar(s, &s.summary, found.index.all())
		return false, nil
	}
	s.index = found.index // if it was cut, finish sets the file back before anything is written behind the cut
	return false, nil
}

// trustSidecar takes over a closed segment's sidecar if it fits the file and all its entries are
// below the snapshot.
func (r *recovery) trustSidecar(s *segment, size int64) bool {
	side, _, err := r.log.readSidecar(s, false)
	if err != nil || side.first != s.first || side.header != s.header || side.size != size || side.last > r.log.o.SnapshotIndex {
		return false
	}
	s.summary = side.summary
	return true
}

// cutTorn decides what a bad frame is. What lies at or below an index that was on disk is damage, as in all of a closed segment;
// else it is the tail of a write that was never synced, and cut off.
func (r *recovery) cutTorn(s *segment, found *scanned, closed bool) error {
	l := r.log
	bad := s.last + 1
	known := r.claimed
	if s.recycled {
		// The file does not end where its frames do. What is missing here that a snapshot tells of is judged as if it ended.
		known = r.mark
	}
	if closed || bad <= max(known, found.claimed) {
		return corrupt(s.name, s.size, bad, found.bad)
	}
	l.logger.Info("cutting a torn tail", "dir", l.o.Dir, "segment", s.name, "position", s.size, "index", uint64(bad), "reason", found.bad)
	l.metrics.tornTails.Inc()
	return nil
}

// finish makes what was found durable. The process that wrote it may have died before its sync; or
// its sync failed, and then the kernel shows bytes that it will never write, not even if the next
// sync succeeds, because it takes them for clean. Therefore what is not known to be on disk is
// written again.
func (r *recovery) finish(c *chain) error {
	l := r.log
	if s := c.active(); s != nil {
		if s.index.len() == 0 && !s.empty() {
			if err := l.reopenIndex(s); err != nil {
				return err
			}
		}
		if err := r.rewriteTail(s); err != nil {
			return err
		}
	}
	return l.o.FS.SyncDir(l.o.Dir)
}

// rewriteTail writes a segment's header and frames above the known ones again, in place, sets its
// size, and syncs it. If we die meanwhile, the bytes are the same as before.
func (r *recovery) rewriteTail(s *segment) error {
	l := r.log
	known := min(max(r.claimed, r.synced), s.last)
	h, err := l.files.acquire(s)
	if err != nil {
		return err
	}
	defer l.files.release(h)
	if known < s.last || s.empty() {
		from := int64(0)
		if known >= s.first {
			if from, err = l.positionOf(s, known+1); err != nil {
				return err
			}
		}
		if err := rewrite(h, from, s.size); err != nil {
			return err
		}
	}
	if err := h.Truncate(s.size); err != nil {
		return err
	}
	return h.Sync()
}

// positionOf gives where entry i of a segment begins.
func (l *Log) positionOf(s *segment, i record.Index) (int64, error) {
	l.mu.RLock()
	x := l.extentOf(s)
	l.mu.RUnlock()
	c, err := l.openCursor(x, lookChunk)
	if err != nil {
		return 0, err
	}
	defer c.close()
	if err := c.seekIndex(i); err != nil {
		return 0, err
	}
	return c.position, nil
}

// rewrite writes a part of a file over itself.
func rewrite(f vfs.File, from, to int64) error {
	b := make([]byte, min(to-from, scanChunk))
	for from < to {
		b = b[:min(to-from, int64(len(b)))]
		if err := readFull(f, b, from); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return nil
}

// reopened makes the index of a segment grow again.
func reopened(blocks []block) sparse {
	n := len(blocks) - 1
	return sparse{blocks: blocks[:n:n], open: blocks[n]}
}

// reopenIndex loads the index of a segment that was closed and becomes the last one again.
func (l *Log) reopenIndex(s *segment) error {
	h, err := l.files.acquire(s)
	if err != nil {
		return err
	}
	defer l.files.release(h)
	blocks, err := l.loadIndex(h, extent{segment: s, summary: s.summary})
	if err != nil {
		return err
	}
	l.mu.Lock()
	s.index = reopened(blocks)
	l.mu.Unlock()
	l.files.dropIndex(s)
	// Its sidecar would not fit any more once it grows; a stale one is told by size and salt, so
	// that it need not be gone durably.
	return removeIfThere(l.o.FS, l.path(s.sidecar()))
}
