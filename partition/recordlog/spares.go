package recordlog

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/oncelog/oncelog/internal/vfs"
)

// Spares are the files of dropped segments, kept to be written over: blocks that have been written before are synced faster
// than a file that grows. All logs of a broker share them. DESIGN.md says why their old bytes are never taken for new ones.
type Spares struct {
	fs    vfs.FS
	dir   string
	limit int
	least int64

	// mu guards what follows. It is not held during I/O.
	mu     sync.Mutex
	idle   []spare
	coming int // files that are on their way into idle
	taken  int // how often one was written over
	next   uint64
}

type spare struct {
	path string
	size int64
}

const (
	// maxSpares is how many files a broker keeps, of 64 MiB each with the default segment.bytes.
	maxSpares = 4
	// leastSpare is the size below which a file is not worth keeping, and maxSpare above which it takes too much of the disk.
	leastSpare = 8 << 20
	maxSpare   = 128 << 20
)

// OpenSpares begins with none in dir, which it makes, on the file system of the logs; its parent must exist. What is there is
// removed: nobody knows how far it was written.
func OpenSpares(fsys vfs.FS, dir string) (*Spares, error) {
	p := &Spares{fs: fsys, dir: dir, limit: maxSpares, least: leastSpare}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("spare segment files: %w", err)
	}
	names, err := fsys.List(dir)
	if err != nil {
		return nil, fmt.Errorf("spare segment files: %w", err)
	}
	for _, n := range names {
		if err := removeIfThere(fsys, filepath.Join(dir, n)); err != nil {
			return nil, fmt.Errorf("spare segment files: %w", err)
		}
	}
	return p, nil
}

// put takes over the file of a segment that no log and no reader uses any more; false: it is left where it is. It is offered
// once its old name is gone durably: whatever a crash brings back is not written over.
func (p *Spares) put(path string, size int64) (bool, error) {
	if p == nil || size < p.least || size > maxSpare {
		return false, nil
	}
	p.mu.Lock()
	if len(p.idle)+p.coming >= p.limit {
		p.mu.Unlock()
		return false, nil
	}
	p.coming++
	p.next++
	to := filepath.Join(p.dir, fmt.Sprintf("%08d.spare", p.next))
	p.mu.Unlock()
	err := p.fs.Rename(path, to)
	moved := err == nil
	if moved {
		err = p.fs.SyncDir(filepath.Dir(path))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.coming--
	if err == nil {
		p.idle = append(p.idle, spare{to, size})
	}
	return moved, err
}

// take gives a file to write over, and its size; not ok: there is none.
func (p *Spares) take() (s spare, ok bool) {
	if p == nil {
		return spare{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return spare{}, false
	}
	s = p.idle[n-1]
	p.idle = p.idle[:n-1]
	p.taken++
	return s, true
}

// Clear gives the disk space back.
func (p *Spares) Clear() {
	for {
		s, ok := p.take()
		if !ok {
			return
		}
		_ = p.fs.Remove(s.path) // the next start does, otherwise
	}
}

// Bytes is how much disk space they take.
func (p *Spares) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int64
	for _, s := range p.idle {
		n += s.size
	}
	return n
}

// recycle makes the file of a new segment of a spare one, with its header, under its name, on disk. nil: there is none, or it did not
// work: then another file does. If we die before the rename is durable, the spare is removed by the next start; its header was
// synced before, so that the segment is a whole one when its name is there. Behind the header are frames of other
// segments, none of which has this one's salt.
func (l *Log) recycle(old, s *segment, header *segmentHeader) vfs.File {
	p := l.o.Spares
	if p == nil || old == nil || old.size < p.least {
		return nil // a log that has written little takes little
	}
	from, ok := p.take()
	if !ok {
		return nil
	}
	f, err := l.o.FS.Open(from.path)
	if err == nil {
		header.recycled = true
		if _, err = f.WriteAt(header.encode(), 0); err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = l.o.FS.Rename(from.path, l.path(s.name))
		}
		if err == nil {
			s.reserved, s.written, s.recycled = from.size, from.size, true
			return f
		}
		header.recycled = false
		_ = f.Close()
	}
	_ = l.o.FS.Remove(from.path)
	l.logger.Warn("spare segment file not used", "path", from.path, "err", err)
	return nil
}
