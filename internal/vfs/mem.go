package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows what would survive a power cut. For every file it
// keeps what is visible, what was synced, and each write in between; for every directory likewise
// the names. It may be used inside testing/synctest: its lock is held for moments only, and hooks
// and delays run outside it.
type Mem struct {
	// mu guards everything below, the nodes included. Nothing else is locked under it.
	mu     sync.Mutex
	root   *memDir
	locked map[string]bool
	rng    *rand.Rand
	faults faults
	// used counts visible and reserved bytes against faults.capacity.
	used int64
}

// memFile is the content of one file, apart from its names.
type memFile struct {
	cur     []byte     // what readers see
	synced  []byte     // what survives for sure
	pending []memWrite // what turns synced into cur, in order
	// reserved is up to where space is set aside, at least len(cur).
	reserved int64
}

// memWrite is one write, or truncation (data nil), that was not yet synced.
type memWrite struct {
	off  int64 // or the size, of a truncation
	data []byte
	// doomed: a sync that should have covered it failed. Later syncs do not bring it to disk,
	// as the kernel has forgotten that it was dirty.
	doomed bool
}

// memDir maps names to *memFile or *memDir.
type memDir struct {
	cur     map[string]any
	synced  map[string]any
	pending []dirOp
}

// dirOp is a change of names that was not yet synced: name now means node, and gone means
// nothing. A renaming sets both; a removal only gone.
type dirOp struct {
	name string
	node any
	gone string
}

// NewMem makes an empty file system. The seed decides how failing writes fail; crashes are decided
// by the argument of CrashClone.
func NewMem(seed uint64) *Mem {
	return &Mem{root: newMemDir(), locked: map[string]bool{}, rng: rand.New(rand.NewPCG(seed, 0x6f6e63656c6f67))}
}

func newMemDir() *memDir { return &memDir{cur: map[string]any{}, synced: map[string]any{}} }

func (d *memDir) change(op dirOp) {
	op.applyTo(d.cur)
	d.pending = append(d.pending, op)
}

func (op dirOp) applyTo(names map[string]any) {
	if op.gone != "" {
		delete(names, op.gone)
	}
	if op.name != "" {
		names[op.name] = op.node
	}
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// split gives the elements of a path from the root; "." and "/" are the root itself.
func split(name string) []string {
	name = strings.Trim(filepath.ToSlash(filepath.Clean(name)), "/")
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// dir finds a directory. m.mu is held.
func (m *Mem) dir(elements []string) (*memDir, error) {
	d := m.root
	for _, e := range elements {
		next, ok := d.cur[e].(*memDir)
		if !ok {
			if d.cur[e] != nil {
				return nil, syscall.ENOTDIR
			}
			return nil, fs.ErrNotExist
		}
		d = next
	}
	return d, nil
}

// parent finds the directory that holds name, and the last element. m.mu is held.
func (m *Mem) parent(name string) (*memDir, string, error) {
	e := split(name)
	if len(e) == 0 {
		return nil, "", fs.ErrInvalid
	}
	d, err := m.dir(e[:len(e)-1])
	return d, e[len(e)-1], err
}

// Create makes a file.
func (m *Mem) Create(name string) (File, error) {
	op := Op{Kind: OpCreate, Name: name}
	if err := m.before(op); err != nil {
		return nil, pathError("create", name, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err == nil && d.cur[base] != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return nil, pathError("create", name, err)
	}
	f := &memFile{}
	d.change(dirOp{name: base, node: f})
	return &memHandle{m: m, f: f, name: name}, nil
}

// Open opens a file.
func (m *Mem) Open(name string) (File, error) {
	op := Op{Kind: OpOpen, Name: name}
	if err := m.before(op); err != nil {
		return nil, pathError("open", name, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	switch f := d.cur[base].(type) {
	case *memFile:
		return &memHandle{m: m, f: f, name: name}, nil
	case *memDir:
		return nil, pathError("open", name, syscall.EISDIR)
	}
	return nil, pathError("open", name, fs.ErrNotExist)
}

// Remove deletes a file or an empty directory.
func (m *Mem) Remove(name string) error {
	op := Op{Kind: OpRemove, Name: name}
	if err := m.before(op); err != nil {
		return pathError("remove", name, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	switch n := d.cur[base].(type) {
	case nil:
		return pathError("remove", name, fs.ErrNotExist)
	case *memDir:
		if len(n.cur) > 0 {
			return pathError("remove", name, syscall.ENOTEMPTY)
		}
	case *memFile:
		m.used -= n.reserved
	}
	d.change(dirOp{gone: base})
	return nil
}

// RemoveAll deletes a tree. The removal becomes durable as one, with the parent's SyncDir.
func (m *Mem) RemoveAll(name string) error {
	op := Op{Kind: OpRemove, Name: name}
	if err := m.before(op); err != nil {
		return pathError("removeall", name, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil || d.cur[base] == nil {
		return nil
	}
	walk(d.cur[base], base, func(_ string, f *memFile) { m.used -= f.reserved })
	d.change(dirOp{gone: base})
	return nil
}

// Rename moves a file or directory. Between directories the two changes become durable apart.
func (m *Mem) Rename(from, to string) error {
	op := Op{Kind: OpRename, Name: to}
	if err := m.before(op); err != nil {
		return pathError("rename", from, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(from)
	if err == nil && d.cur[base] == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return pathError("rename", from, err)
	}
	d2, base2, err := m.parent(to)
	if err != nil {
		return pathError("rename", to, err)
	}
	if old, ok := d2.cur[base2].(*memFile); ok {
		m.used -= old.reserved
	}
	node := d.cur[base]
	if d == d2 {
		d.change(dirOp{name: base2, node: node, gone: base})
		return nil
	}
	d2.change(dirOp{name: base2, node: node})
	d.change(dirOp{gone: base})
	return nil
}

// List gives the names in a directory, sorted.
func (m *Mem) List(dir string) ([]string, error) {
	op := Op{Kind: OpList, Name: dir}
	if err := m.before(op); err != nil {
		return nil, pathError("list", dir, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(split(dir))
	if err != nil {
		return nil, pathError("list", dir, err)
	}
	names := make([]string, 0, len(d.cur))
	for n := range d.cur {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, nil
}

// MkdirAll makes directories.
func (m *Mem) MkdirAll(dir string) error {
	op := Op{Kind: OpMkdir, Name: dir}
	if err := m.before(op); err != nil {
		return pathError("mkdir", dir, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.root
	for _, e := range split(dir) {
		switch n := d.cur[e].(type) {
		case *memDir:
			d = n
		case nil:
			made := newMemDir()
			d.change(dirOp{name: e, node: made})
			d = made
		default:
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func (m *Mem) SyncDir(dir string) error {
	op := Op{Kind: OpSyncDir, Name: dir}
	if err := m.before(op); err != nil {
		return pathError("syncdir", dir, err)
	}
	defer m.after(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(split(dir))
	if err != nil {
		return pathError("syncdir", dir, err)
	}
	for _, op := range d.pending {
		op.applyTo(d.synced)
	}
	d.pending = nil
	return nil
}

// Lock locks a directory within this Mem. A crash frees it.
func (m *Mem) Lock(dir string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	if m.locked[dir] {
		return nil, fmt.Errorf("lock %s: %w", dir, ErrLocked)
	}
	m.locked[dir] = true
	return &memLock{m: m, dir: dir}, nil
}

type memLock struct {
	m   *Mem
	dir string
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locked, l.dir)
	return nil
}

// Files lists every file's path, sorted, without a leading slash.
func (m *Mem) Files() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	walk(m.root, "", func(name string, _ *memFile) { names = append(names, name) })
	sort.Strings(names)
	return names
}

// walk visits the files under a node, as they are visible.
func walk(node any, path string, visit func(string, *memFile)) {
	switch n := node.(type) {
	case *memFile:
		visit(path, n)
	case *memDir:
		for name, child := range n.cur {
			walk(child, filepath.Join(path, name), visit)
		}
	}
}

var (
	_ FS = (*Mem)(nil)
	_ FS = osFS{}
)
