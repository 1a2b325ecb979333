package recordlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// What a log's directory holds, for who looks at it while no broker has it open: at a copy, or at one that does not
// open any more. Nothing is changed, and what Open would stop at is noted and passed.

// Inspection is what Inspect found.
type Inspection struct {
	// Generation, Begin and Sequence are the decision that counts.
	Generation uint32
	Begin      record.Index
	Sequence   uint64
	// Synced and Window are the mark: what was on disk for sure, and where Raft's window begins. 0: no mark.
	Synced, Window record.Index
	// First and Last are the first and last intact entries of the live segments; Last is below First if
	// there are none.
	First, Last record.Index
	Entries     int64
	Bytes       int64
	Segments    []SegmentFile
	// Torn is the tail that a crash left, which Open would cut off; nil: there is none.
	Torn *CorruptionError
	// Damage is what was on disk and is not intact, at most one for each file, first things first.
	Damage []error
}

// SegmentFile is a segment file as it lies in the directory.
type SegmentFile struct {
	Name       string
	Role       string // "live"; "staged": catch-up that is not finished; "garbage": to be removed by the next start
	Generation uint32
	First      record.Index
	// Last is the last entry before the end or the first damage; First-1 if there is none.
	Last    record.Index
	Entries int64
	Size    int64 // of the file
	// Intact is up to which byte the frames are whole.
	Intact int64
	// Records is how many offsets its batches take if none is refused.
	Records   int64
	CreatedAt int64 // unix ns, 0 if the header cannot be read
	// Sidecar is "fits", "none" or "stale". A stale one is made anew and harms nobody.
	Sidecar string
}

// Frame is one entry where it lies.
type Frame struct {
	Position        int64
	Bytes           int
	Synced          record.Index
	Header, BodyCRC uint32
	// Entry aliases a buffer that the next frame overwrites.
	Entry Entry
}

// Inspector says what to look at, and who is told. Functions may be nil; their errors end the inspection.
type Inspector struct {
	FS  vfs.FS
	Dir string
	// Snapshot is the index of the newest state snapshot, 0 for none.
	Snapshot record.Index
	// Segment is told of each segment of the directory before its frames.
	Segment func(SegmentFile) error
	// Frame is told of each intact frame of the live segments, in order.
	Frame func(SegmentFile, Frame) error
	// Read is told of bytes that were read.
	Read func(n int64)

	out      Inspection
	damaged  map[string]bool
	previous *segment // the live one before, nil if it is not known how it ends
	claimed  record.Index
	next     record.Index // where the segment behind a closed one begins
}

// Inspect reads the whole directory. Its error is one of reading, of a newer format, or of a function; damage is
// in the result.
func (n *Inspector) Inspect() (Inspection, error) {
	n.out, n.damaged = Inspection{First: 1}, map[string]bool{}
	names, err := n.FS.List(n.Dir)
	if err != nil {
		return n.out, fmt.Errorf("inspect record log: %w", err)
	}
	found := segmentsIn(names)
	if err := n.meta(found); err != nil {
		return n.out, fmt.Errorf("inspect record log %s: %w", n.Dir, err)
	}
	live := n.sortOut(found)
	n.claimed = max(n.out.Synced, n.Snapshot)
	for k, s := range live {
		if err := n.live(live, k, s); err != nil {
			return n.out, fmt.Errorf("inspect record log %s: segment %s: %w", n.Dir, s.name, err)
		}
	}
	n.ends(live)
	return n.out, nil
}

// segmentsIn gives the segments among file names, by generation and first index.
func segmentsIn(names []string) []*segment {
	var found []*segment
	for _, name := range names {
		if s := segmentNamed(name); s != nil {
			found = append(found, s)
		}
	}
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i], found[j]
		if a.generation != b.generation {
			return a.generation < b.generation
		}
		return before(a, b)
	})
	return found
}

// meta reads the meta file. Without one that can be read the highest generation counts from its first segment on.
func (n *Inspector) meta(found []*segment) error {
	f, err := n.FS.Open(filepath.Join(n.Dir, metaName))
	if err == nil {
		var d decision
		var k mark
		d, k, _, err = lookMeta(f)
		err = errors.Join(err, f.Close())
		n.out.Generation, n.out.Begin, n.out.Sequence, n.out.Synced, n.out.Window = d.generation, d.begin, d.sequence, k.synced, k.window
	}
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*CorruptionError)):
		n.damage(metaName, err)
	case errors.Is(err, fs.ErrNotExist):
		n.damage(metaName, corrupt(metaName, 0, 0, differ("a meta file", "none")))
	default:
		return err
	}
	for _, s := range found {
		if s.generation > n.out.Generation {
			n.out.Generation, n.out.Begin = s.generation, s.first
		}
	}
	return nil
}

// sortOut notes what is not live and gives what is.
func (n *Inspector) sortOut(found []*segment) []*segment {
	var live []*segment
	current, replaced := found[:0:0], found[:0:0]
	for _, s := range found {
		if k := len(current) - 1; k >= 0 && current[k].generation == s.generation && s.first <= current[k].through && s.revision < current[k].revision {
			replaced = append(replaced, s) // by compaction
		} else {
			current = append(current, s)
		}
	}
	for _, s := range replaced {
		n.note(s, "garbage")
	}
	found = current
	for k, s := range found {
		last := k == len(found)-1 || found[k+1].generation != s.generation
		switch {
		case s.generation == n.out.Generation && (last || found[k+1].first > n.out.Begin):
			live = append(live, s)
		case s.generation <= n.out.Generation:
			n.note(s, "garbage")
		case s.generation == n.out.Generation+1:
			n.note(s, "staged")
		default:
			n.note(s, "garbage")
			n.damage(s.name, corrupt(s.name, 0, s.first, differ(fmt.Sprintf("generation %d or %d", n.out.Generation, n.out.Generation+1), fmt.Sprintf("generation %d", s.generation))))
		}
	}
	return live
}

func (n *Inspector) note(s *segment, role string) {
	f := SegmentFile{Name: s.name, Role: role, Generation: s.generation, First: s.first, Last: s.first - 1, Sidecar: "none"}
	if file, err := n.FS.Open(filepath.Join(n.Dir, s.name)); err == nil {
		f.Size, _ = file.Size()
		file.Close() // it was only read
	}
	n.out.Segments = append(n.out.Segments, f)
}

// live reads one live segment.
func (n *Inspector) live(live []*segment, k int, s *segment) error {
	closed := k < len(live)-1
	if closed {
		// The name of the next one proves it: it is made after all before it is on disk.
		n.next = live[k+1].first
		n.claimed = max(n.claimed, n.next-1)
	}
	file, err := n.FS.Open(filepath.Join(n.Dir, s.name))
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	f := SegmentFile{Name: s.name, Role: "live", Generation: s.generation, First: s.first, Last: s.first - 1, Size: size, Sidecar: "none"}
	follows := k == 0 && s.first == n.out.Begin || k > 0 && s.first == live[k-1].last+1
	if !follows && (k == 0 || !n.damaged[live[k-1].name]) {
		want := n.out.Begin
		if k > 0 {
			want = live[k-1].last + 1
		}
		n.damage(s.name, corrupt(s.name, 0, want, differ(fmt.Sprintf("a segment with entry %d", want), fmt.Sprintf("one that begins with %d", s.first))))
	}
	header, err := n.header(file, s, size, closed, k)
	if err != nil {
		return err
	}
	if header != nil {
		f.CreatedAt = header.createdAt
		s.header, s.chained, s.recycled = header.crc, header.crc, header.recycled
		if n.previous != nil {
			s.lastTerm = n.previous.lastTerm
		}
	}
	if n.Segment != nil {
		if err := n.Segment(f); err != nil {
			return err
		}
	}
	if header == nil {
		// Frames cannot be chained to a header that cannot be read: what lies behind it is not looked at.
		n.out.Segments = append(n.out.Segments, f)
		n.previous = nil
		return nil
	}
	if err := n.frames(file, s, &f, closed); err != nil {
		return err
	}
	f.Sidecar = n.sidecar(s, closed)
	n.out.Segments = append(n.out.Segments, f)
	n.previous = s
	if n.damaged[s.name] {
		n.previous = nil
	}
	return nil
}

// header reads a segment's header; nil: it is not intact, and was noted if that is damage.
func (n *Inspector) header(file io.ReaderAt, s *segment, size int64, closed bool, k int) (*segmentHeader, error) {
	head := make([]byte, min(size, segmentHeaderSize))
	if err := readFull(file, head, 0); err != nil {
		return nil, err
	}
	h, err := decodeSegmentHeader(head, s.salt)
	if err == nil && (h.first != s.first || h.generation != s.generation || n.previous != nil && linked(n.previous, s) && h.previous != n.previous.chained) {
		err = differ(fmt.Sprintf("the header of %s, chained to the segment before", s.name),
			fmt.Sprintf("one of generation %d, entry %d, chained to %08x", h.generation, h.first, h.previous))
	}
	switch {
	case err == nil:
		return &h, nil
	case errors.Is(err, ErrNewerFormat):
		return nil, err
	case !closed && size <= segmentHeaderSize && n.claimed < s.first && (k > 0 || s.first == 1):
		n.out.Torn = corrupt(s.name, 0, s.first, err)
	default:
		n.damage(s.name, corrupt(s.name, 0, s.first, err))
	}
	return nil, nil
}

// frames reads a segment's frames up to the first that is not intact.
func (n *Inspector) frames(file io.ReaderAt, s *segment, f *SegmentFile, closed bool) error {
	r := newFrames(file, s, segmentHeaderSize, f.Size, s.first, scanChunk)
	defer r.close()
	for r.more() {
		position := r.position
		h, err := r.header()
		if err == nil {
			err = follows(&h, &s.summary)
		}
		var body []byte
		if err == nil {
			body, err = r.body(&h)
		}
		if err != nil {
			return n.bad(r, s, position, f.Size, closed, err)
		}
		s.add(&s.index, &h, position, 1<<62)
		f.Last, f.Intact, f.Records = s.last, s.size, s.records
		f.Entries++
		n.out.Entries++
		n.out.Bytes += int64(h.length)
		if n.out.Entries == 1 {
			n.out.First = h.first()
		}
		n.out.Last = h.index
		if n.Read != nil {
			n.Read(int64(h.length))
		}
		if n.Frame != nil {
			if err := n.Frame(*f, Frame{Position: position, Bytes: h.length, Synced: h.synced, Header: h.crc, BodyCRC: h.body, Entry: h.entry(body)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// bad judges a frame that is not intact as Open does.
func (n *Inspector) bad(r *frames, s *segment, position, size int64, closed bool, cause error) error {
	if !errors.As(cause, new(*mismatch)) {
		return cause
	}
	if ahead, err := zerosFrom(r, position, size); ahead || err != nil {
		return err // the file ends where the zeros begin
	}
	bad := s.last + 1
	what := corrupt(s.name, position, bad, cause)
	claimed, err := claims(r, position, size)
	if err != nil {
		return err
	}
	known := n.claimed
	if s.recycled {
		known = n.out.Synced
	}
	switch {
	case closed && bad == n.next:
	case closed || bad <= max(known, claimed):
		n.damage(s.name, what)
	default:
		n.out.Torn = what
	}
	return nil
}

// ends looks whether the log ends before something that was on disk.
func (n *Inspector) ends(live []*segment) {
	for k, s := range live[:max(0, len(live)-1)] {
		if s.last+1 != live[k+1].first && !n.damaged[s.name] {
			n.damage(s.name, corrupt(s.name, s.size, s.last+1, differ(fmt.Sprintf("entries up to %d", live[k+1].first-1), "the end of the file")))
		}
	}
	last, name, size := n.out.Begin-1, metaName, int64(markAt)
	if len(live) > 0 {
		s := live[len(live)-1]
		last, name, size = s.last, s.name, s.size
	}
	switch {
	case n.damaged[name] || n.out.Begin == 0:
	case n.out.Synced > last:
		n.damage(name, corrupt(name, size, last+1, differ(fmt.Sprintf("entries up to %d, which were on disk", n.out.Synced), "the end of the log")))
	case n.Snapshot > last:
		n.damage(name, corrupt(name, size, last+1, differ(fmt.Sprintf("entries up to %d, which the state snapshot covers", n.Snapshot), "the end of the log")))
	case n.Snapshot == 0 && n.out.Begin > 1:
		n.damage(metaName, corrupt(metaName, 0, 1, differ("a state snapshot, since the log begins later", fmt.Sprintf("none, log begins at %d", n.out.Begin))))
	}
}

// sidecar says whether a segment's sidecar is of its frames.
func (n *Inspector) sidecar(s *segment, closed bool) string {
	l := &Log{o: Options{FS: n.FS, Dir: n.Dir}}
	side, _, err := l.readSidecar(s, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "none"
	case err != nil || side.first != s.first || side.header != s.header || closed && side.summary != s.summary || side.last > s.last:
		return "stale"
	}
	return "fits"
}

func (n *Inspector) damage(file string, err error) {
	n.damaged[file] = true
	n.out.Damage = append(n.out.Damage, err)
}
