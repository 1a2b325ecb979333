package recordlog

import (
	"errors"
	"io/fs"
	"sync"

	"github.com/oncelog/oncelog/internal/vfs"
)

// files keeps a bounded number of segment files open, and the sparse indexes of closed segments
// in memory. Who uses a file holds it; a segment that is dropped is closed after its last user.
type files struct {
	fs    vfs.FS
	path  func(string) string
	limit int

	// mu guards what is below. Files are opened and closed without it.
	mu      sync.Mutex
	open    map[*segment]*handle
	clock   uint64
	done    bool
	opening int // counts the files being opened
}

// handle is an open segment file.
type handle struct {
	vfs.File
	segment *segment
	// The rest is guarded by files.mu.
	users  int
	used   uint64
	gone   bool    // dropped: close after the last user
	blocks []block // of a closed segment, nil: not loaded
}

func newFiles(fsys vfs.FS, path func(string) string, limit int) *files {
	return &files{fs: fsys, path: path, limit: limit, open: map[*segment]*handle{}}
}

// acquire gives the segment's file, opening it if need be. release gives it back.
func (f *files) acquire(s *segment) (*handle, error) {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return nil, ErrClosed
	}
	if h := f.open[s]; h != nil {
		f.use(h)
		f.mu.Unlock()
		return h, nil
	}
	if s.dropped {
		f.mu.Unlock()
		return nil, &fs.PathError{Op: "open", Path: f.path(s.name), Err: fs.ErrNotExist}
	}
	f.opening++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.opening--
		f.mu.Unlock()
	}()
	file, err := f.fs.Open(f.path(s.name))
	if err != nil {
		return nil, err
	}
	return f.adopt(s, file)
}

// adopt takes an open file. If another was faster, its handle is given and file closed.
func (f *files) adopt(s *segment, file vfs.File) (*handle, error) {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return nil, errors.Join(ErrClosed, file.Close())
	}
	h := f.open[s]
	if h == nil {
		h = &handle{File: file, segment: s}
		f.open[s] = h
		file = nil
	}
	f.use(h)
	idle := f.evict()
	f.mu.Unlock()
	if file != nil {
		idle = append(idle, &handle{File: file})
	}
	return h, closeHandles(idle)
}

func (f *files) use(h *handle) {
	f.clock++
	h.users++
	h.used = f.clock
}

// evict takes idle handles beyond the limit out of the map, the longest unused first.
func (f *files) evict() []*handle {
	var idle []*handle
	for len(f.open) > f.limit {
		var oldest *handle
		for _, h := range f.open {
			if h.users == 0 && (oldest == nil || h.used < oldest.used) {
				oldest = h
			}
		}
		if oldest == nil {
			break
		}
		delete(f.open, oldest.segment)
		idle = append(idle, oldest)
	}
	return idle
}

// release ends one use of a handle.
func (f *files) release(h *handle) {
	f.mu.Lock()
	h.users--
	last := h.users == 0 && h.gone
	f.mu.Unlock()
	if last {
		h.Close() // of a dropped segment: nothing depends on it
	}
}

// forget closes a segment's file, now or after its last user. unused: nobody has it open, nor will.
func (f *files) forget(s *segment) (unused bool) {
	f.mu.Lock()
	h := f.open[s]
	s.dropped = true
	unused = f.opening == 0 && (h == nil || h.users == 0)
	delete(f.open, s)
	if h != nil {
		h.gone = true
	}
	last := h != nil && h.users == 0
	f.mu.Unlock()
	if last {
		h.Close() // as above
	}
	return unused
}

// index gives the blocks of a closed segment, as load finds them; they are kept with the handle.
func (f *files) index(h *handle, load func() ([]block, error)) ([]block, error) {
	f.mu.Lock()
	b := h.blocks
	f.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b, err := load()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	h.blocks = b
	f.mu.Unlock()
	return b, nil
}

// dropIndex forgets the index of a segment that will be written to again.
func (f *files) dropIndex(s *segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.open[s]; h != nil {
		h.blocks = nil
	}
}

// closeAll closes every file, those in use after their last user.
func (f *files) closeAll() error {
	f.mu.Lock()
	f.done = true
	var idle []*handle
	for s, h := range f.open {
		delete(f.open, s)
		h.gone = true
		if h.users == 0 {
			idle = append(idle, h)
		}
	}
	f.mu.Unlock()
	return closeHandles(idle)
}

func closeHandles(handles []*handle) error {
	var err error
	for _, h := range handles {
		if e := h.Close(); err == nil {
			err = e
		}
	}
	return err
}
