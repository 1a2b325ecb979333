package raftgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// boltLog is the log of the metadata group, and of other control groups before they have a record log: a Bolt file of its
// own, with the newest entries in memory. It is for what is written rarely.
type boltLog struct {
	raft.LogStore
	bolt *raftboltdb.BoltStore
}

const (
	boltLogName  = "log.db"
	boltLogCache = 256 // entries
)

func boltLogPath(dir string) string { return filepath.Join(dir, boltLogName) }

func openBoltLog(dir string, noSync bool) (*boltLog, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil { // it exists on Config.FS, which may be another one
		return nil, fmt.Errorf("open log: %w", err)
	}
	path := boltLogPath(dir)
	b, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{Timeout: boltTimeout, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true},
		NoSync:                  noSync,
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	if !noSync {
		err = syncDir(dir)
	}
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	cache, err := raft.NewLogCache(boltLogCache, b)
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	return &boltLog{LogStore: cache, bolt: b}, nil
}

func (l *boltLog) truncateTail(from uint64) error {
	last, err := l.LastIndex()
	if err != nil || last < from {
		return err
	}
	return l.DeleteRange(from, last)
}

func (l *boltLog) trim(through uint64) error {
	first, err := l.FirstIndex()
	if err != nil || first == 0 || first > through {
		return err
	}
	return l.DeleteRange(first, through)
}

// queueLogs does not queue: what Bolt has stored is on disk.
func (l *boltLog) queueLogs(logs []*raft.Log) error { return l.StoreLogs(logs) }

func (l *boltLog) durable() uint64 { return math.MaxUint64 }

func (l *boltLog) awaitDurable(_ uint64, told func(error)) { told(nil) }

func (l *boltLog) onFailure(func(error)) {}

func (l *boltLog) stalled() time.Duration { return 0 }

// body is never asked for: entries come with their data.
func (l *boltLog) body(e *raft.Log, _ func() []byte) (*raft.Log, error) { return e, nil }

func (l *boltLog) snapshotAt(uint64) error { return nil }

func (l *boltLog) refused(*raft.Log) error { return nil }

func (l *boltLog) holdsBatches(*raft.Log) bool { return false }

func (l *boltLog) close() error { return l.bolt.Close() }

// installing needs nothing: Raft empties the file, and goes on behind the snapshot.
func (l *boltLog) installing(uint64) error { return nil }

func boltLogExists(dir string) (bool, error) {
	_, err := os.Stat(boltLogPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// removeBoltLog removes the file, if there is one, durably unless noSync: whoever looks at the directory
// after a power cut must not find a log that ends where the group was long ago.
func removeBoltLog(dir string, noSync bool) error {
	err := os.Remove(boltLogPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !noSync {
		err = syncDir(dir)
	}
	return err
}
