package raftgroup

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// snapshots are the state snapshots of one group, newest first, in a directory of their own. A
// snapshot is visible once its file, whole and synced, has been renamed and the directory synced;
// what a crash leaves before that is removed when the directory is opened. The newest two are
// kept. One whose header or checksum is wrong is skipped and reported: it was whole once, since it has its name.
type snapshots struct {
	fs     vfs.FS
	dir    string
	logger *slog.Logger

	// lost is the index of the newest one that is damaged, by its name; 0: none was found.
	lost record.Index

	// mu guards list. Nothing blocks under it.
	mu   sync.Mutex
	list []snapshotFile
	// tmp numbers temporary files.
	tmp int
}

// snapshotFile is one good snapshot.
type snapshotFile struct {
	name string
	head snapshotHead
}

const (
	snapshotDir     = "snapshots"
	snapshotName    = "%020d-%020d"
	snapshotSuffix  = ".snap"
	snapshotTmp     = ".tmp"
	snapshotsKept   = 2
	snapshotReading = 256 << 10
)

// openSnapshots reads what is in dir/snapshots. keep, when not nil, may veto a snapshot.
func openSnapshots(fsys vfs.FS, dir string, logger *slog.Logger, bad func()) (*snapshots, error) {
	s := &snapshots{fs: fsys, dir: filepath.Join(dir, snapshotDir), logger: logger}
	names, err := fsys.List(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := fsys.MkdirAll(s.dir); err != nil {
			return nil, fmt.Errorf("make snapshot directory: %w", err)
		}
		return s, fsys.SyncDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range slices.Backward(names) { // the newest first
		path := filepath.Join(s.dir, name)
		if strings.HasSuffix(name, snapshotTmp) {
			if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("remove unfinished snapshot: %w", err)
			}
			continue
		}
		if !strings.HasSuffix(name, snapshotSuffix) {
			continue
		}
		head, err := verifySnapshot(fsys, path)
		if unread := new(fs.PathError); errors.As(err, &unread) && len(s.list) == 0 {
			// That is no proof of damage. What was put in place for this snapshot is not thrown away because it cannot be read now.
			return nil, fmt.Errorf("newest snapshot: %w", err)
		}
		if err != nil {
			logger.Error("snapshot cannot be used; going on with the one before it", "path", path, "err", err)
			if bad != nil {
				bad()
			}
			s.lost = max(s.lost, snapshotNamed(name))
			continue
		}
		s.list = append(s.list, snapshotFile{name: name, head: head})
	}
	s.sort()
	return s, nil
}

// snapshotNamed is the index in the name of a snapshot's file; 0: it has none.
func snapshotNamed(name string) record.Index {
	var index, term uint64
	if _, err := fmt.Sscanf(name, snapshotName, &index, &term); err != nil {
		return 0
	}
	return record.Index(index)
}

// settle makes durable what was found: the log is about to be trimmed and put in place by it, and who wrote a snapshot may have been
// killed before its name was on disk.
func (s *snapshots) settle() error {
	if s.newest() == 0 {
		return nil
	}
	return s.syncName()
}

// syncName makes durable the names of the snapshots, and that of their directory, which is as old as the first of them.
func (s *snapshots) syncName() error {
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(s.dir))
}

// sort puts the newest first. Held: mu, or nobody else has s yet.
func (s *snapshots) sort() {
	slices.SortFunc(s.list, func(a, b snapshotFile) int {
		switch {
		case a.head.index != b.head.index:
			if a.head.index > b.head.index {
				return -1
			}
			return 1
		case a.head.term > b.head.term:
			return -1
		case a.head.term < b.head.term:
			return 1
		}
		return 0
	})
}

// newest gives the index of the newest snapshot, 0 for none.
func (s *snapshots) newest() record.Index { return s.nth(0) }

// previous gives the index of the one before it.
func (s *snapshots) previous() record.Index { return s.nth(1) }

func (s *snapshots) nth(n int) record.Index {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) <= n {
		return 0
	}
	return record.Index(s.list[n].head.index)
}

// metas lists the snapshots as Raft wants them.
func (s *snapshots) metas() []*raft.SnapshotMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*raft.SnapshotMeta, len(s.list))
	for i := range s.list {
		list[i] = s.list[i].meta()
	}
	return list
}

func (f *snapshotFile) meta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: 1, ID: f.name, Index: f.head.index, Term: f.head.term, Size: f.head.size,
		Configuration: f.head.configuration.Clone(), ConfigurationIndex: f.head.configurationIndex,
	}
}

// open checks a snapshot once more and gives its state for reading. A bad one is forgotten, so
// that the next attempt finds the one before it.
func (s *snapshots) open(id string) (*raft.SnapshotMeta, *snapshotReader, error) {
	s.mu.Lock()
	i := slices.IndexFunc(s.list, func(f snapshotFile) bool { return f.name == id })
	if i < 0 {
		s.mu.Unlock()
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, fs.ErrNotExist)
	}
	f := s.list[i]
	s.mu.Unlock()
	path := filepath.Join(s.dir, f.name)
	if _, err := verifySnapshot(s.fs, path); err != nil {
		s.logger.Error("snapshot cannot be used; going on with the one before it", "path", path, "err", err)
		s.mu.Lock()
		s.list = slices.DeleteFunc(s.list, func(g snapshotFile) bool { return g.name == id })
		s.mu.Unlock()
		return nil, nil, err
	}
	file, err := s.fs.Open(path)
	if err != nil {
		return nil, nil, err
	}
	start := int64(f.head.encodedSize())
	return f.meta(), &snapshotReader{index: record.Index(f.head.index), file: file,
		r: io.NewSectionReader(file, start, f.head.size)}, nil
}

// snapshotReader reads a snapshot's state.
type snapshotReader struct {
	index record.Index
	file  vfs.File
	r     *io.SectionReader
}

func (r *snapshotReader) Read(p []byte) (int, error) { return r.r.Read(p) }

// Close closes the file.
func (r *snapshotReader) Close() error { return r.file.Close() }

// verifySnapshot reads a whole file and checks it.
func verifySnapshot(fsys vfs.FS, path string) (snapshotHead, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return snapshotHead{}, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return snapshotHead{}, err
	}
	head, err := readSnapshotHead(f, size)
	if err != nil {
		return head, err
	}
	var crc uint32
	buf := make([]byte, min(snapshotReading, head.size+1))
	r := io.NewSectionReader(f, int64(head.encodedSize()), head.size)
	for {
		n, err := r.Read(buf)
		crc = crc32.Update(crc, castagnoli, buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return head, fmt.Errorf("read state: %w", err)
		}
	}
	if crc != head.stateCRC {
		return head, fmt.Errorf("state sums to %08x, its header says %08x", crc, head.stateCRC)
	}
	return head, nil
}

// create begins a snapshot.
func (s *snapshots) create(head snapshotHead) (*snapshotSink, error) {
	s.mu.Lock()
	s.tmp++
	name := fmt.Sprintf(snapshotName, head.index, head.term)
	tmp := filepath.Join(s.dir, fmt.Sprintf("%s.%d%s", name, s.tmp, snapshotTmp))
	s.mu.Unlock()
	f, err := s.fs.Create(tmp)
	if err != nil {
		return nil, fmt.Errorf("create snapshot: %w", err)
	}
	return &snapshotSink{store: s, head: head, file: f, tmp: tmp, name: name + snapshotSuffix, at: int64(head.encodedSize())}, nil
}

// errMayBeThere says that a snapshot was not finished, and that a start may find it all the same.
var errMayBeThere = errors.New("the snapshot may be found by the next start")

// publish makes a finished file visible and removes those no longer kept. If we die before the
// directory is synced, the snapshot may be there or not; nothing has relied on it yet. Nor has anything if that fails, but who goes on
// must not make of the log what does not go with the snapshot (errMayBeThere).
func (s *snapshots) publish(sink *snapshotSink) error {
	if err := s.fs.Rename(sink.tmp, filepath.Join(s.dir, sink.name)); err != nil {
		return fmt.Errorf("publish snapshot: %w", err)
	}
	if err := s.syncName(); err != nil {
		return fmt.Errorf("publish snapshot: %w: %w", errMayBeThere, err)
	}
	s.mu.Lock()
	s.list = slices.DeleteFunc(s.list, func(f snapshotFile) bool { return f.name == sink.name })
	s.list = append(s.list, snapshotFile{name: sink.name, head: sink.head})
	s.sort()
	var old []snapshotFile
	if len(s.list) > snapshotsKept {
		old = slices.Clone(s.list[snapshotsKept:])
		s.list = s.list[:snapshotsKept]
	}
	s.mu.Unlock()
	for _, f := range old {
		if err := s.fs.Remove(filepath.Join(s.dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.logger.Warn("old snapshot not removed", "name", f.name, "err", err)
		}
	}
	return nil
}

// snapshotSink writes one snapshot. It is used by one goroutine.
type snapshotSink struct {
	store *snapshots
	head  snapshotHead
	file  vfs.File
	tmp   string
	name  string
	at    int64
	err   error
	ended bool
}

// Write appends state.
func (k *snapshotSink) Write(p []byte) (int, error) {
	if k.err != nil || k.ended {
		return 0, errors.Join(fs.ErrClosed, k.err)
	}
	n, err := k.file.WriteAt(p, k.at)
	k.head.stateCRC = crc32.Update(k.head.stateCRC, castagnoli, p[:n])
	k.at += int64(n)
	k.head.size += int64(n)
	k.err = err
	return n, err
}

// finish makes the snapshot durable and visible. before runs when all state is written; its error
// ends the snapshot.
func (k *snapshotSink) finish(before func(state func() ([]byte, error)) error) error {
	if k.ended {
		return nil
	}
	err := k.err
	if err == nil && before != nil {
		err = before(k.state)
	}
	if err == nil {
		_, err = k.file.WriteAt(k.head.encode(), 0)
	}
	if err == nil {
		err = k.file.Sync()
	}
	if err != nil {
		return errors.Join(err, k.cancel())
	}
	k.ended = true
	if err := k.file.Close(); err != nil {
		return err
	}
	return k.store.publish(k)
}

// state reads back what was written.
func (k *snapshotSink) state() ([]byte, error) {
	b := make([]byte, k.head.size)
	if n, err := k.file.ReadAt(b, int64(k.head.encodedSize())); err != nil && (err != io.EOF || n < len(b)) {
		return nil, fmt.Errorf("read snapshot back: %w", err)
	}
	return b, nil
}

// cancel removes an unfinished snapshot.
func (k *snapshotSink) cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	return errors.Join(k.file.Close(), k.store.fs.Remove(k.tmp))
}
