package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxIovecs is Linux's IOV_MAX: buffers of one pwritev.
const maxIovecs = 1024

// WritevAt uses pwritev, and again for what is beyond IOV_MAX or was not written.
func (f *osFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	var total int64
	var first []byte // what is left of bufs[0] after a partial write
	for len(bufs) > 0 {
		head := bufs[:min(len(bufs), maxIovecs)]
		var n int
		var err error
		if first != nil {
			n, err = unix.Pwrite(int(f.Fd()), first, off+total)
		} else {
			n, err = unix.Pwritev(int(f.Fd()), head, off+total)
		}
		if n > 0 {
			total += int64(n)
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return total, &os.PathError{Op: "pwritev", Path: f.Name(), Err: err}
		}
		if first != nil {
			if first = first[n:]; len(first) == 0 {
				first, bufs = nil, bufs[1:]
			} else if n == 0 {
				return total, &os.PathError{Op: "pwrite", Path: f.Name(), Err: io.ErrShortWrite}
			}
			continue
		}
		wrote := n
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		switch {
		case len(bufs) == 0:
		case n > 0:
			first = bufs[0][n:]
		case wrote == 0:
			return total, &os.PathError{Op: "pwritev", Path: f.Name(), Err: io.ErrShortWrite}
		}
	}
	return total, nil
}

// Sync is fdatasync: bytes, size and what is needed to read them back, not the times.
func (f *osFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	}
}

// StartSync is sync_file_range, which begins to write pages back. What becomes of it Sync says.
func (f *osFile) StartSync(off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// Reserve is fallocate that keeps the size.
func (f *osFile) Reserve(off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return ErrNoReserve
		case err != nil:
			return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
		return nil
	}
}

func syncDir(d *os.File) error { return d.Sync() }

func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", ErrLocked, f.Name())
	}
	return err
}

// Space is what statfs says that is left for who is not root.
func (osFS) Space(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}
