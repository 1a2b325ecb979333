// Package vfs is the part of a file system we use, with a real one and one that can crash.
//
// OS is the disk. Mem keeps everything in memory, remembers what was synced and what was not, and
// can be cloned as after a power cut (CrashClone) or a killed process (KillClone); it fails, fills
// up, stalls and flips bits when told to. Code that stores something takes an FS and is thereby
// testable against every crash.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
)

// FS is a file system. All methods may be called at once from any goroutine. Names are paths as
// package filepath makes them. Errors wrap fs.ErrNotExist and fs.ErrExist where that is the cause.
//
// Durability: a file's bytes are durable after File.Sync, its name (creation, rename, removal)
// after SyncDir of the directory that holds it. Neither implies the other.
type FS interface {
	// Create makes a new empty file, open for reading and writing. The name must not exist.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Remove deletes a file or an empty directory. Open files stay readable.
	Remove(name string) error
	// RemoveAll deletes a directory with everything in it. A name that does not exist is no error.
	RemoveAll(name string) error
	// Rename moves a file or directory, over an existing file if there is one, atomically.
	Rename(from, to string) error
	// List gives the names in a directory, sorted.
	List(dir string) ([]string, error)
	// MkdirAll makes a directory and its missing parents. It is durable after SyncDir of each parent.
	MkdirAll(dir string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on a directory, by a file "LOCK" in it, until Close. It fails
	// with ErrLocked at once if another process, or this one, holds it.
	Lock(dir string) (io.Closer, error)
}

// File is an open file. ReadAt may be called from any goroutine, at once with everything but
// Close; the writing methods are called by one goroutine at a time.
type File interface {
	io.ReaderAt
	io.Closer
	// WriteAt writes p at off. It returns how many bytes may have been written, and an error if
	// they are not all.
	WriteAt(p []byte, off int64) (int, error)
	// WritevAt writes the buffers one after the other at off, in as few system calls as possible.
	// The buffers are neither kept nor changed.
	WritevAt(bufs [][]byte, off int64) (int64, error)
	// Sync makes bytes and size durable (fdatasync). After an error nothing written since the
	// last success can be trusted, whatever a later Sync says.
	Sync() error
	// Truncate sets the size. It is durable after Sync.
	Truncate(size int64) error
	// Size is the current size in bytes.
	Size() (int64, error)
	// Reserve takes disk space for n bytes from off on without changing the size, so that
	// writing them cannot fail for lack of space. ErrNoReserve: this file system cannot.
	Reserve(off, n int64) error
}

// StartSync has the disk begin with bytes that were written, so that a Sync later has less to do. It does not wait and promises nothing;
// file systems that cannot do nothing.
func StartSync(f File, off, n int64) {
	if s, ok := f.(interface{ StartSync(off, n int64) }); ok {
		s.StartSync(off, n)
	}
}

var (
	// ErrLocked: another holder has the directory's lock.
	ErrLocked = errors.New("directory is locked by another process")
	// ErrNoReserve: space cannot be reserved ahead here; writes may fail for lack of it.
	ErrNoReserve = errors.New("file system cannot reserve space")
)

// IsFull says whether an error is a full disk, or a quota's.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// OutOfFiles says whether an error is that too many files are open, in the process or on the machine. Whoever gets it has opened nothing, and so changed nothing.
func OutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// Space says how many bytes a file system still takes below a directory, and how many it has in all; not ok: it
// does not tell.
func Space(fsys FS, dir string) (free, total int64, ok bool) {
	s, ok := fsys.(interface {
		Space(dir string) (free, total int64, err error)
	})
	if !ok {
		return 0, 0, false
	}
	free, total, err := s.Space(dir)
	return free, total, err == nil
}

// lockName is the file that Lock locks.
const lockName = "LOCK"

// maxReadFile bounds ReadFile; it is meant for small files such as identities.
const maxReadFile = 64 << 20

// ReadFile reads a whole small file, at most 64 MiB.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxReadFile {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d can be read whole", name, size, maxReadFile)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && (err != io.EOF || n < len(b)) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// WriteFileAtomic makes name hold exactly data, durably: after a crash it holds the old content
// (or does not exist, if it did not) or the new one. It writes name.tmp, syncs, renames and syncs
// the directory. Two calls for the same name at once are not allowed.
func WriteFileAtomic(fsys FS, name string, data []byte) error {
	tmp := name + ".tmp"
	// A crash before the rename leaves the temporary file; nothing reads it, we start over.
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// Exists says whether a name exists.
func Exists(fsys FS, name string) (bool, error) {
	names, err := fsys.List(filepath.Dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	base := filepath.Base(name)
	for _, n := range names {
		if n == base {
			return true, nil
		}
	}
	return false, nil
}
