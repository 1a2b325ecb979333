package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// overwriteBytes is the size of a file that is written over in a circle.
const overwriteBytes = 64 << 20

// logFile is one partition's file on one node.
type logFile struct {
	file   *os.File
	at     int64 // where the next byte goes
	circle int64 // begin anew here; 0: grow for ever
	noSync bool
}

// createLog makes an empty file, or one whose blocks have all been written.
func createLog(path string, overwrite, noSync bool) (*logFile, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	l := &logFile{file: file, noSync: noSync}
	if !overwrite {
		return l, nil
	}
	l.circle = overwriteBytes
	zeroes := make([]byte, 1<<20)
	for at := int64(0); at < l.circle; at += int64(len(zeroes)) {
		if _, err := file.WriteAt(zeroes, at); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	if err := file.Sync(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return l, nil
}

// append writes all vectors, one after the other, and makes them durable.
func (l *logFile) append(vectors [][]byte, total int) error {
	if l.circle > 0 && l.at+int64(total) > l.circle {
		l.at = 0
	}
	for len(vectors) > 0 {
		const most = 1024 // IOV_MAX
		n, err := unix.Pwritev(int(l.file.Fd()), vectors[:min(len(vectors), most)], l.at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %s at %d: %w", l.file.Name(), l.at, err)
		}
		l.at += int64(n)
		vectors = skip(vectors, n)
	}
	if l.noSync {
		return nil
	}
	for {
		err := unix.Fdatasync(int(l.file.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("fdatasync %s: %w", l.file.Name(), err)
		}
		return nil
	}
}

// skip drops the first n bytes of the vectors.
func skip(vectors [][]byte, n int) [][]byte {
	for len(vectors) > 0 && n >= len(vectors[0]) {
		n -= len(vectors[0])
		vectors = vectors[1:]
	}
	if n > 0 {
		vectors[0] = vectors[0][n:]
	}
	return vectors
}

func (l *logFile) close() error { return l.file.Close() }
