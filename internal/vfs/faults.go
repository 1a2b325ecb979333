package vfs

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"time"
)

// OpKind says what is done to a Mem.
type OpKind uint8

// The operations that hooks see and faults can hit.
const (
	OpCreate OpKind = iota + 1
	OpOpen
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpReserve
	OpRename
	OpRemove
	OpList
	OpMkdir
	OpSyncDir
)

var opNames = [...]string{"?", "create", "open", "read", "write", "sync", "truncate", "reserve", "rename", "remove", "list", "mkdir", "syncdir"}

// String names the operation.
func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// Changes says whether the operation alters the disk or makes an alteration durable: the points
// at which a crash is worth testing.
func (k OpKind) Changes() bool {
	switch k {
	case OpCreate, OpWrite, OpSync, OpTruncate, OpRename, OpRemove, OpMkdir, OpSyncDir:
		return true
	}
	return false
}

// Op is one operation on a Mem.
type Op struct {
	Kind       OpKind
	Name       string
	Off, Bytes int64 // of reads, writes and reservations; Off is the size of a truncation
}

// faults are what a test has asked for. Guarded by Mem.mu.
type faults struct {
	before    func(Op) error
	after     func(Op)
	delay     func(Op) time.Duration
	nth       []*nthFault
	lying     bool  // syncs do nothing and succeed
	capacity  int64 // 0: unbounded
	noReserve bool
}

type nthFault struct {
	kind  OpKind
	match string
	left  int // calls until it strikes; below 0: it strikes always
	err   error
}

// OnBefore sets a function that sees each operation before it happens and may fail it with an
// error. It runs outside the lock and may use the Mem, except with operations that call it again
// without end. nil takes it away.
func (m *Mem) OnBefore(f func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.before = f
}

// OnAfter sets a function that sees each operation after it happened, outside the lock.
func (m *Mem) OnAfter(f func(Op)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.after = f
}

// SetDelay makes operations take time: the function says how much. It is spent by time.Sleep
// before the operation and outside the lock, so that it can be virtual. nil: none.
func (m *Mem) SetDelay(f func(Op) time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.delay = f
}

// FailNth makes the n-th operation from now (1: the next) of this kind whose file name contains
// match fail with err; n 0: each from now on.
func (m *Mem) FailNth(kind OpKind, match string, n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.nth = append(m.faults.nth, &nthFault{kind: kind, match: match, left: n - 1, err: err})
}

// LieAboutSync makes every sync from now on succeed without making anything durable, as disks do
// that keep a cache to themselves. Clones are honest again.
func (m *Mem) LieAboutSync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.lying = true
}

// ClearFaults ends FailNth faults and delays. Hooks and capacity stay.
func (m *Mem) ClearFaults() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.nth, m.faults.delay = nil, nil
}

// SetCapacity bounds the visible and reserved bytes of all files; beyond it, writes and
// reservations fail with ENOSPC. 0: unbounded.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.capacity = bytes
}

// Used is how many bytes count against the capacity.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// memTotal is what a Mem without capacity says that it has in all.
const memTotal = 1 << 40

// Space is what is left of the capacity.
func (m *Mem) Space(string) (free, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.faults.capacity == 0 {
		return max(memTotal-m.used, 0), memTotal, nil
	}
	return max(m.faults.capacity-m.used, 0), m.faults.capacity, nil
}

// RefuseReserve makes Reserve answer ErrNoReserve, as some file systems do.
func (m *Mem) RefuseReserve(refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.noReserve = refuse
}

// FlipBit turns one bit of a file, at rest: on disk and in what readers see.
func (m *Mem) FlipBit(name string, off int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return pathError("flip", name, err)
	}
	f, ok := d.cur[base].(*memFile)
	if !ok {
		return pathError("flip", name, fs.ErrNotExist)
	}
	if off < 0 || off >= int64(len(f.cur)) {
		return pathError("flip", name, fs.ErrInvalid)
	}
	f.cur[off] ^= 1 << (bit % 8)
	if off < int64(len(f.synced)) {
		f.synced[off] ^= 1 << (bit % 8)
	}
	return nil
}

// before runs hooks, delays and counted faults for an operation.
func (m *Mem) before(op Op) error {
	m.mu.Lock()
	hook, delay := m.faults.before, m.faults.delay
	var failure error
	for _, n := range m.faults.nth {
		if n.kind != op.Kind || !strings.Contains(filepath.ToSlash(op.Name), n.match) {
			continue
		}
		if n.left <= 0 && n.err != nil {
			failure = n.err
			if n.left == 0 {
				n.err = nil // struck
			}
		} else if n.left > 0 {
			n.left--
		}
	}
	m.mu.Unlock()
	if delay != nil {
		if d := delay(op); d > 0 {
			time.Sleep(d)
		}
	}
	if hook != nil {
		if err := hook(op); err != nil {
			return err
		}
	}
	return failure
}

func (m *Mem) after(op Op) {
	m.mu.Lock()
	hook := m.faults.after
	m.mu.Unlock()
	if hook != nil {
		hook(op)
	}
}

// room is up to which size a file can grow, at most want. m.mu is held.
func (m *Mem) room(f *memFile, want int64) int64 {
	if m.faults.capacity == 0 {
		return math.MaxInt64
	}
	return min(want, f.reserved+max(m.faults.capacity-m.used, 0))
}

// grow accounts for a file that reaches to size. m.mu is held.
func (m *Mem) grow(f *memFile, size int64) {
	if size > f.reserved {
		m.used += size - f.reserved
		f.reserved = size
	}
}
