//go:build !linux

package vfs

import (
	"os"
	"runtime"
)

// WritevAt copies the buffers into one; elsewhere than on Linux oncelog is for development.
func (f *osFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	n, err := f.WriteAt(joined(bufs), off)
	return int64(n), err
}

// Sync is fsync.
func (f *osFile) Sync() error { return f.File.Sync() }

// Reserve is not available.
func (f *osFile) Reserve(off, n int64) error { return ErrNoReserve }

// syncDir: Windows cannot sync a directory; its file systems keep the order of names themselves.
func syncDir(d *os.File) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return d.Sync()
}

// lockFile holds no lock between processes here.
func lockFile(f *os.File) error { return nil }

// joined copies the buffers into one.
func joined(bufs [][]byte) []byte {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	one := make([]byte, 0, n)
	for _, b := range bufs {
		one = append(one, b...)
	}
	return one
}
