package vfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// ErrReadOnly refuses a change: the file system is only looked at.
var ErrReadOnly = errors.New("the file system is opened for reading only")

// OSReadOnly is the real file system for those who only look: everything that would change it fails with
// ErrReadOnly, so that read-only mounts and directories of others can be read. Its Lock keeps nobody out; it
// fails with ErrLocked if somebody holds the directory.
func OSReadOnly() FS { return readOnlyFS{} }

type readOnlyFS struct{ osFS }

func (readOnlyFS) Open(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{&osFile{File: f}}, nil
}

func (readOnlyFS) Create(name string) (File, error) { return nil, refuse("create", name) }
func (readOnlyFS) Remove(name string) error         { return refuse("remove", name) }
func (readOnlyFS) RemoveAll(name string) error      { return refuse("remove", name) }
func (readOnlyFS) Rename(from, _ string) error      { return refuse("rename", from) }
func (readOnlyFS) MkdirAll(dir string) error        { return refuse("mkdir", dir) }
func (readOnlyFS) SyncDir(dir string) error         { return refuse("sync", dir) }

// Lock looks whether the directory is locked; a directory that never was is not.
func (readOnlyFS) Lock(dir string) (io.Closer, error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	err = lockFile(f)
	// Let go at once: who looks must not keep a broker from starting.
	return io.NopCloser(nil), errors.Join(err, f.Close())
}

func refuse(op, name string) error { return &os.PathError{Op: op, Path: name, Err: ErrReadOnly} }

type readOnlyFile struct{ *osFile }

func (f readOnlyFile) WriteAt([]byte, int64) (int, error)      { return 0, refuse("write", f.Name()) }
func (f readOnlyFile) WritevAt([][]byte, int64) (int64, error) { return 0, refuse("write", f.Name()) }
func (f readOnlyFile) Sync() error                             { return refuse("sync", f.Name()) }
func (f readOnlyFile) Truncate(int64) error                    { return refuse("truncate", f.Name()) }
func (f readOnlyFile) Reserve(int64, int64) error              { return refuse("reserve", f.Name()) }
