package vfs

import (
	"math/rand/v2"
	"sort"
)

// sector is what a disk writes as a whole, except where CrashClone tears at byte boundaries.
const sector = 512

// CrashClone gives the file system as it may be found after a power cut at this moment. What was
// synced is there. Of the rest, r decides: each write and each change of names is lost or kept,
// alone, in any combination, and writes are torn at sectors or at any byte. The size may have grown
// without the bytes, which then are zeros or garbage. The clone is independent, has no faults and
// no hooks, and what it shows counts as synced.
func (m *Mem) CrashClone(r *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &crasher{rng: r, files: map[*memFile]*memFile{}}
	switch r.IntN(8) {
	case 0:
		c.keep = 0 // all lost
	case 1:
		c.keep = 1 // all kept
	default:
		c.keep = r.Float64()
	}
	clone := NewMem(r.Uint64())
	clone.root = c.dir(m.root)
	clone.account()
	return clone
}

// KillClone gives the file system as the next process finds it after this one was killed: all that
// was written is visible, and what was not synced can still be lost by a later CrashClone.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	clone := NewMem(m.rng.Uint64())
	k := &killer{nodes: map[any]any{}}
	clone.root = k.clone(m.root).(*memDir)
	clone.account()
	return clone
}

// account counts the visible bytes anew; a reservation does not outlive its process.
func (m *Mem) account() {
	m.used = 0
	walk(m.root, "", func(_ string, f *memFile) {
		f.reserved = int64(len(f.cur))
		m.used += f.reserved
	})
}

// crasher decides what survives one power cut.
type crasher struct {
	rng   *rand.Rand
	keep  float64 // chance of each unsynced change
	files map[*memFile]*memFile
}

func (c *crasher) kept() bool { return c.rng.Float64() < c.keep }

func (c *crasher) dir(d *memDir) *memDir {
	names := make(map[string]any, len(d.synced))
	for n, node := range d.synced {
		names[n] = node
	}
	for _, op := range d.pending {
		if c.kept() {
			op.applyTo(names)
		}
	}
	order := make([]string, 0, len(names))
	for n := range names {
		order = append(order, n)
	}
	sort.Strings(order) // so that the same seed gives the same crash
	clone := newMemDir()
	for _, n := range order {
		var node any
		switch old := names[n].(type) {
		case *memDir:
			node = c.dir(old)
		case *memFile:
			node = c.file(old)
		}
		clone.cur[n], clone.synced[n] = node, node
	}
	return clone
}

func (c *crasher) file(f *memFile) *memFile {
	if done := c.files[f]; done != nil {
		return done // two names of one file, after half a renaming
	}
	image := append([]byte(nil), f.synced...)
	for _, w := range f.pending {
		if w.doomed && c.rng.IntN(4) > 0 {
			continue
		}
		image = c.write(image, w)
	}
	clone := &memFile{cur: image, synced: append([]byte(nil), image...)}
	c.files[f] = clone
	return clone
}

// write brings one unsynced write to the image: wholly, in part or not at all.
func (c *crasher) write(image []byte, w memWrite) []byte {
	if w.data == nil {
		if c.kept() {
			return w.applyTo(image)
		}
		return image
	}
	end := w.off + int64(len(w.data))
	if c.rng.IntN(8) == 0 && end > int64(len(image)) {
		image = c.grown(image, w.off+c.rng.Int64N(int64(len(w.data)))+1)
	}
	switch c.rng.IntN(4) {
	case 0: // whole or not
		if c.kept() {
			image = c.put(image, w.off, w.data)
		}
		return image
	case 1: // torn at any byte
		return c.pieces(image, w, func(off int64) int64 { return off + 1 + c.rng.Int64N(1+int64(len(w.data))) })
	default: // torn at sectors
		return c.pieces(image, w, func(off int64) int64 { return (off/sector + 1) * sector })
	}
}

// pieces cuts a write where next says and keeps or loses each piece.
func (c *crasher) pieces(image []byte, w memWrite, next func(int64) int64) []byte {
	end := w.off + int64(len(w.data))
	for off := w.off; off < end; {
		to := min(next(off), end)
		if c.kept() {
			image = c.put(image, off, w.data[off-w.off:to-w.off])
		}
		off = to
	}
	return image
}

func (c *crasher) put(image []byte, off int64, data []byte) []byte {
	if off > int64(len(image)) {
		image = c.grown(image, off)
	}
	return memWrite{off: off, data: data}.applyTo(image)
}

// grown extends an image whose new bytes never reached the disk: zeros, or what lay there before.
func (c *crasher) grown(image []byte, size int64) []byte {
	old := int64(len(image))
	image = extend(image, size)
	if c.rng.IntN(8) == 0 {
		for i := old; i < size; i++ {
			image[i] = byte(c.rng.Uint32())
		}
	}
	return image
}

// killer copies everything as it is.
type killer struct{ nodes map[any]any }

func (k *killer) clone(node any) any {
	if done := k.nodes[node]; done != nil {
		return done
	}
	switch n := node.(type) {
	case *memFile:
		c := &memFile{cur: append([]byte(nil), n.cur...), synced: append([]byte(nil), n.synced...), reserved: n.reserved}
		c.pending = append(c.pending, n.pending...)
		k.nodes[node] = c
		return c
	case *memDir:
		c := newMemDir()
		k.nodes[node] = c
		for name, child := range n.cur {
			c.cur[name] = k.clone(child)
		}
		for name, child := range n.synced {
			c.synced[name] = k.clone(child)
		}
		for _, op := range n.pending {
			if op.node != nil {
				op.node = k.clone(op.node)
			}
			c.pending = append(c.pending, op)
		}
		return c
	}
	return nil
}
