package raftgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// recordStore is the log of a partition: its record log, as Raft wants to see it. Only the raft
// window is shown; what Raft forgets stays where consumers read it.
type recordStore struct{ log *recordlog.Log }

// lazyAbove is the size above which GetLog leaves an entry's data and envelope on the disk. Raft collects
// up to maxAppendEntries entries before it hands them to the transport or to apply, which then read
// them one after another; those at the tail are in the log's cache. On its start Raft looks at every
// entry since the snapshot, and at what is in those that are no commands.
const lazyAbove = 16 << 10

func newRecordStore(l *recordlog.Log) *recordStore { return &recordStore{log: l} }

// FirstIndex is the window's first index, 0 for an empty one.
func (s *recordStore) FirstIndex() (uint64, error) {
	first, _ := s.log.Window()
	return uint64(first), nil
}

// LastIndex is the window's last index, 0 for an empty one.
func (s *recordStore) LastIndex() (uint64, error) {
	_, last := s.log.Window()
	return uint64(last), nil
}

// GetLog reads an entry of the window.
func (s *recordStore) GetLog(index uint64, l *raft.Log) error {
	e, left, err := s.log.Head(record.Index(index), lazyAbove)
	if err == nil && left > 0 && raft.LogType(e.Type) != raft.LogCommand {
		// Raft itself reads what is in a configuration.
		left = 0
		e, err = s.log.Entry(record.Index(index))
	}
	if errors.Is(err, recordlog.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	toRaft(&e, l)
	if left > 0 || len(l.Data) > lazyAbove && l.Type == raft.LogCommand {
		l.Data, l.Extensions = lazyData, nil
	}
	return nil
}

// body reads the data of an entry that GetLog gave without.
func (s *recordStore) body(l *raft.Log, room func() []byte) (*raft.Log, error) {
	e, err := s.log.EntryInto(record.Index(l.Index), room)
	if err != nil {
		return nil, err
	}
	if uint64(e.Term) != l.Term {
		return nil, fmt.Errorf("entry %d of term %d has been replaced by one of term %d", l.Index, l.Term, e.Term)
	}
	whole := new(raft.Log)
	toRaft(&e, whole)
	return whole, nil
}

func (s *recordStore) holdsBatches(l *raft.Log) bool {
	return l.Type == raft.LogCommand && s.log.HoldsBatches(l.Extensions, l.Data)
}

func toRaft(e *recordlog.Entry, l *raft.Log) {
	*l = raft.Log{Index: uint64(e.Index), Term: uint64(e.Term), Type: raft.LogType(e.Type), Data: e.Data, Extensions: e.Ext}
	if e.AppendedAt != 0 {
		l.AppendedAt = time.Unix(0, e.AppendedAt)
	}
}

// StoreLog stores one entry.
func (s *recordStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs makes entries durable, by one write and one sync.
func (s *recordStore) StoreLogs(logs []*raft.Log) error { return s.log.Append(fromRaft(logs)) }

func (s *recordStore) queueLogs(logs []*raft.Log) error { return s.log.Queue(fromRaft(logs)) }

func (s *recordStore) durable() uint64 { return uint64(s.log.Durable()) }

func (s *recordStore) awaitDurable(index uint64, told func(error)) {
	s.log.AwaitDurable(record.Index(index), told)
}

func (s *recordStore) onFailure(told func(error)) { s.log.OnFailure(told) }

func (s *recordStore) stalled() time.Duration { return s.log.Stalled() }

func fromRaft(logs []*raft.Log) []recordlog.Entry {
	entries := make([]recordlog.Entry, len(logs))
	for i, l := range logs {
		e := &entries[i]
		*e = recordlog.Entry{Index: record.Index(l.Index), Term: record.Term(l.Term), Type: uint8(l.Type), Ext: l.Extensions, Data: l.Data}
		if !l.AppendedAt.IsZero() {
			e.AppendedAt = l.AppendedAt.UnixNano()
		}
	}
	return entries
}

// DeleteRange is not used: guardedLog says what is meant.
func (s *recordStore) DeleteRange(low, high uint64) error {
	return fmt.Errorf("delete range %d to %d of a record log", low, high)
}

func (s *recordStore) truncateTail(from uint64) error { return s.log.TruncateTail(record.Index(from)) }

func (s *recordStore) trim(through uint64) error { return s.log.TrimWindow(record.Index(through)) }

// refused tells the log that the batches of an entry, if it has any, got no offsets (R4).
func (s *recordStore) refused(l *raft.Log) error {
	e, err := s.log.Entry(record.Index(l.Index))
	if err != nil || e.Records == 0 {
		return err
	}
	var fates []recordlog.Fate
	for rest := e.Data; len(rest) > 0; {
		var b record.Batch
		if b, rest, err = record.Parse(rest); err != nil {
			return fmt.Errorf("entry %d: %w", l.Index, err)
		}
		fates = append(fates, recordlog.Fate{Base: record.NoOffset, Records: b.LastOffsetDelta() + 1, Refused: true})
	}
	return s.log.Assign(e.Index, fates)
}

// installing needs nothing: the log's owner prepares it (GroupConfig.CatchUp).
func (s *recordStore) installing(uint64) error { return nil }

func (s *recordStore) snapshotAt(index uint64) error {
	return s.log.SetSnapshotIndex(record.Index(index))
}

// close leaves the log open: it is its owner's.
func (s *recordStore) close() error { return nil }

// nothingWritten tells the failures of a log that leave it as it was: the replica need not halt.
func nothingWritten(err error) bool {
	return errors.Is(err, recordlog.ErrNoSpace) || errors.Is(err, recordlog.ErrNoFiles)
}

// unwritable tells an entry that the log does not take, of which nothing was written either. A
// leader can do without it; a follower that cannot take what its leader has is lost.
func unwritable(err error) bool { return errors.Is(err, recordlog.ErrInvalidEntry) }
