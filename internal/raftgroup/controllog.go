package raftgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// controlLog is the log of a control group in the format of a partition's, so that an append costs one flush and
// can be queued (docs/decisions/0013). No entry has records: Raft alone reads it, and what a snapshot covers is dropped
// in whole segments.
type controlLog struct {
	*recordStore

	// mu guards stands.
	mu sync.Mutex
	// stands is the index of the newest snapshot that the log was told of.
	stands record.Index
}

const (
	controlLogDir = "log"
	// controlLogNew is where one is made. It has its name when it is whole.
	controlLogNew = "log.new"

	controlSegmentBytes = 4 << 20
	controlCacheBytes   = 512 << 10
	// convertBytes and convertEntries are about how much of a Bolt log is copied at once.
	convertBytes   = 1 << 20
	convertEntries = 64
)

// ControlLogDir is where the replica in a directory has its record log, if it is of a control group that has one.
func ControlLogDir(dir string) string { return filepath.Join(dir, controlLogDir) }

// openControlLog opens the log below a replica's directory. newest is the index of the newest good snapshot.
func openControlLog(h *Host, dir string, newest record.Index) (*controlLog, error) {
	o := controlOptions(h.config.FS, ControlLogDir(dir))
	o.SnapshotIndex, o.Logger, o.Metrics = newest, h.logger, h.controlLogs
	l, err := recordlog.Open(o)
	if errors.Is(err, recordlog.ErrBehindSnapshot) || errors.As(err, new(*recordlog.CorruptionError)) {
		return nil, fmt.Errorf("%w: %w", ErrStateLost, err)
	}
	if err != nil {
		return nil, err
	}
	c := &controlLog{recordStore: newRecordStore(l)}
	if newest > 0 {
		if err := c.snapshotAt(uint64(newest)); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return c, nil
}

func controlOptions(fsys vfs.FS, dir string) recordlog.Options {
	return recordlog.Options{FS: fsys, Dir: dir, MustExist: true, SegmentBytes: controlSegmentBytes, CacheBytes: controlCacheBytes, OpenSegments: 1}
}

// withoutRecords is the layout of a log that has never had a record.
func withoutRecords(through record.Index) recordlog.Layout {
	return recordlog.Layout{Index: through, StartIndex: through + 1}
}

// refused is nothing that the log must know: the entry has no records.
func (c *controlLog) refused(*raft.Log) error { return nil }

// installing makes a place for what comes behind a snapshot that is about to be installed: a log that begins there,
// beside the present one. It takes its place when the snapshot stands. Whoever reaches as far as the snapshot without
// covering it (engine.covers) has other entries there than the group has committed: these may go now, and have to, since
// what comes next may be of an earlier term.
func (c *controlLog) installing(index uint64) error {
	if err := c.log.TruncateTail(record.Index(index)); err != nil {
		return err
	}
	return c.log.Reset(record.Index(index)+1, 0)
}

// snapshotAt is called once the state machine has what the snapshot covers, and the snapshot is durable.
func (c *controlLog) snapshotAt(index uint64) error {
	c.mu.Lock()
	newer := record.Index(index) > c.stands
	c.stands = max(c.stands, record.Index(index))
	c.mu.Unlock()
	if newer {
		if err := c.log.Restore(withoutRecords(record.Index(index)), record.Index(index)); err != nil {
			return err
		}
	}
	return c.log.SetSnapshotIndex(record.Index(index))
}

func (c *controlLog) close() error { return c.log.Close() }

// prepareControlLog makes a replica's log, or converts its Bolt file, unless there is a record log already. want: one
// without either gets a record log; if not, it is left to Bolt. is says whether there is a record log now.
//
// A conversion leaves the Bolt file alone until the whole log is on disk under its name. If we die before, it begins
// anew; if we die after, the Bolt file is removed by the next.
func prepareControlLog(h *Host, dir string, newest record.Index, want bool) (is bool, err error) {
	fsys := h.config.FS
	is, err = vfs.Exists(fsys, ControlLogDir(dir))
	if err != nil {
		return false, err
	}
	if is {
		// Who renamed it may have been killed before that was durable.
		if err := fsys.SyncDir(dir); err != nil {
			return true, err
		}
		return true, removeBoltLog(dir, h.config.NoSync)
	}
	if !want {
		return false, nil
	}
	fresh := filepath.Join(dir, controlLogNew)
	if err := fsys.RemoveAll(fresh); err != nil {
		return false, err
	}
	if err := fsys.MkdirAll(fresh); err != nil {
		return false, err
	}
	err = recordlog.Create(fsys, fresh)
	had := false
	if err == nil {
		had, err = boltLogExists(dir)
	}
	if err == nil && had {
		err = convertBoltLog(h, dir, fresh, newest)
	}
	if err == nil {
		err = fsys.Rename(fresh, ControlLogDir(dir))
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return false, fmt.Errorf("make the log of %s: %w", dir, err)
	}
	return true, removeBoltLog(dir, h.config.NoSync)
}

// convertBoltLog copies what is in a Bolt file into a new record log.
func convertBoltLog(h *Host, dir, fresh string, newest record.Index) (err error) {
	from, err := openBoltLog(dir, h.config.NoSync)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	first, err := from.FirstIndex()
	if err != nil {
		return err
	}
	last, err := from.LastIndex()
	if err != nil {
		return err
	}
	if record.Index(last) < newest {
		first, last = uint64(newest)+1, uint64(newest) // all of it is covered, or there is nothing
	}
	if record.Index(first) > newest+1 {
		return fmt.Errorf("%w: %s begins at entry %d, and the newest good snapshot ends at %d: entries are missing", ErrStateLost, boltLogPath(dir), first, newest)
	}
	to, err := recordlog.Open(controlOptions(h.config.FS, fresh))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if first > 1 {
		if err := to.Reset(record.Index(first), 0); err != nil {
			return err
		}
		if err := to.Restore(withoutRecords(record.Index(first)-1), record.Index(first)-1); err != nil {
			return err
		}
	}
	if err := copyLog(from, newRecordStore(to), max(first, 1), last); err != nil {
		return err
	}
	h.logger.Info("log converted from Bolt", "dir", dir, "first", first, "last", last)
	return nil
}

// copyLog copies entries, some at a time.
func copyLog(from, to raft.LogStore, first, last uint64) error {
	var some []*raft.Log
	bytes := 0
	for i := first; i <= last; i++ {
		l := new(raft.Log)
		if err := from.GetLog(i, l); err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
		some, bytes = append(some, l), bytes+len(l.Data)+len(l.Extensions)
		if bytes < convertBytes && len(some) < convertEntries && i < last {
			continue
		}
		if err := to.StoreLogs(some); err != nil {
			return err
		}
		some, bytes = nil, 0
	}
	return nil
}
