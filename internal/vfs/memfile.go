package vfs

import (
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"
)

// memHandle is an open file of a Mem.
type memHandle struct {
	m      *Mem
	f      *memFile
	name   string
	closed atomic.Bool
}

var _ File = (*memHandle)(nil)

func (h *memHandle) begin(op Op, verb string) error {
	if h.closed.Load() {
		return pathError(verb, h.name, fs.ErrClosed)
	}
	if err := h.m.before(op); err != nil {
		return pathError(verb, h.name, err)
	}
	return nil
}

// ReadAt reads what is visible, synced or not.
func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	op := Op{Kind: OpRead, Name: h.name, Off: off, Bytes: int64(len(p))}
	if err := h.begin(op, "read"); err != nil {
		return 0, err
	}
	defer h.m.after(op)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if off < 0 {
		return 0, pathError("read", h.name, fs.ErrInvalid)
	}
	if off >= int64(len(h.f.cur)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.cur[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes; the bytes are visible at once and durable after Sync.
func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	n, err := h.WritevAt([][]byte{p}, off)
	return int(n), err
}

// WritevAt writes the buffers as one write. If a fault fails it, any part of the front may have
// been written.
func (h *memHandle) WritevAt(bufs [][]byte, off int64) (int64, error) {
	data := make([]byte, 0, 64)
	for _, b := range bufs {
		data = append(data, b...)
	}
	op := Op{Kind: OpWrite, Name: h.name, Off: off, Bytes: int64(len(data))}
	if h.closed.Load() {
		return 0, pathError("write", h.name, fs.ErrClosed)
	}
	failure := h.m.before(op)
	defer h.m.after(op)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if off < 0 {
		return 0, pathError("write", h.name, fs.ErrInvalid)
	}
	if failure != nil && len(data) > 0 {
		data = data[:h.m.rng.IntN(len(data))]
	}
	if room := h.m.room(h.f, off+int64(len(data))); room < off+int64(len(data)) {
		data = data[:max(room-off, 0)]
		if failure == nil {
			failure = syscall.ENOSPC
		}
	}
	if len(data) > 0 {
		h.m.grow(h.f, off+int64(len(data)))
		h.f.write(memWrite{off: off, data: data})
	}
	if failure != nil {
		return int64(len(data)), pathError("write", h.name, failure)
	}
	return int64(len(data)), nil
}

// Sync makes the file durable. If a fault fails it, what it should have covered stays visible and
// never becomes durable by a later Sync, as on Linux.
func (h *memHandle) Sync() error {
	if h.closed.Load() {
		return pathError("sync", h.name, fs.ErrClosed)
	}
	op := Op{Kind: OpSync, Name: h.name}
	failure := h.m.before(op)
	defer h.m.after(op)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if failure != nil {
		for i := range h.f.pending {
			h.f.pending[i].doomed = true
		}
		return pathError("sync", h.name, failure)
	}
	if !h.m.faults.lying {
		h.f.sync()
	}
	return nil
}

// Truncate sets the size, durably after Sync.
func (h *memHandle) Truncate(size int64) error {
	op := Op{Kind: OpTruncate, Name: h.name, Off: size}
	if err := h.begin(op, "truncate"); err != nil {
		return err
	}
	defer h.m.after(op)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if size < 0 {
		return pathError("truncate", h.name, fs.ErrInvalid)
	}
	if room := h.m.room(h.f, size); room < size {
		return pathError("truncate", h.name, syscall.ENOSPC)
	}
	h.m.grow(h.f, size)
	h.f.write(memWrite{off: size})
	h.m.used -= h.f.reserved - size
	h.f.reserved = size
	return nil
}

// Size is the visible size.
func (h *memHandle) Size() (int64, error) {
	if h.closed.Load() {
		return 0, pathError("size", h.name, fs.ErrClosed)
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return int64(len(h.f.cur)), nil
}

// Reserve counts the bytes against the capacity.
func (h *memHandle) Reserve(off, n int64) error {
	op := Op{Kind: OpReserve, Name: h.name, Off: off, Bytes: n}
	if err := h.begin(op, "reserve"); err != nil {
		return err
	}
	defer h.m.after(op)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.m.faults.noReserve {
		return ErrNoReserve
	}
	if room := h.m.room(h.f, off+n); room < off+n {
		return pathError("reserve", h.name, syscall.ENOSPC)
	}
	h.m.grow(h.f, off+n)
	return nil
}

// Close closes the handle. Nothing becomes durable by it.
func (h *memHandle) Close() error {
	if h.closed.Swap(true) {
		return pathError("close", h.name, fs.ErrClosed)
	}
	return nil
}

// write changes what is visible and remembers how.
func (f *memFile) write(w memWrite) {
	f.cur = w.applyTo(f.cur)
	f.pending = append(f.pending, w)
	f.forgetOverwritten(w)
}

// forgetOverwritten keeps pending short for a place that is written again and again without a
// sync: of more than four equal ranges in a row the oldest is dropped, as if it had been lost.
func (f *memFile) forgetOverwritten(w memWrite) {
	const keep, look = 4, 64
	same := 0
	for i := len(f.pending) - 1; i >= 0 && i >= len(f.pending)-look; i-- {
		p := &f.pending[i]
		if p.data == nil || w.data == nil || p.doomed {
			return
		}
		if p.off != w.off || len(p.data) != len(w.data) {
			continue
		}
		if same++; same > keep {
			f.pending = append(f.pending[:i], f.pending[i+1:]...)
			return
		}
	}
}

// sync moves what is pending into the durable image, except what an earlier failure doomed. What is
// written again over doomed bytes replaces them.
func (f *memFile) sync() {
	var doomed []memWrite
	for _, w := range f.pending {
		if w.doomed {
			doomed = append(doomed, w)
			continue
		}
		f.synced = w.applyTo(f.synced)
		doomed = w.replace(doomed)
	}
	f.pending = doomed
}

// replace takes out of doomed writes what w writes or cuts off after them.
func (w memWrite) replace(doomed []memWrite) []memWrite {
	var left []memWrite
	for _, d := range doomed {
		switch {
		case d.data == nil && w.data == nil:
			// The size is set anew.
		case d.data == nil:
			left = append(left, d)
		case w.data == nil:
			if keep := w.off - d.off; keep > 0 {
				d.data = d.data[:min(keep, int64(len(d.data)))]
				left = append(left, d)
			}
		default:
			end, dEnd := w.off+int64(len(w.data)), d.off+int64(len(d.data))
			if d.off < w.off {
				left = append(left, memWrite{off: d.off, data: d.data[:min(w.off, dEnd)-d.off], doomed: true})
			}
			if dEnd > end {
				from := max(end, d.off)
				left = append(left, memWrite{off: from, data: d.data[from-d.off:], doomed: true})
			}
		}
	}
	return left
}

// applyTo does the write on an image and returns it.
func (w memWrite) applyTo(image []byte) []byte {
	if w.data == nil {
		if w.off <= int64(len(image)) {
			return image[:w.off]
		}
		return extend(image, w.off)
	}
	image = extend(image, w.off+int64(len(w.data)))
	copy(image[w.off:], w.data)
	return image
}

// extend grows an image with zeros to at least size. Truncation leaves old bytes behind the end,
// which are cleared here.
func extend(image []byte, size int64) []byte {
	old := int64(len(image))
	if size <= old {
		return image
	}
	if size <= int64(cap(image)) {
		image = image[:size]
		clear(image[old:])
		return image
	}
	grown := make([]byte, size, size+size/2)
	copy(grown, image)
	return grown
}
