package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/oncelog/oncelog/internal/vfs"
)

// The stable stores hold what Raft must never forget of a replica: its term and its vote. All
// groups share a few Bolt files; a key is group id, incarnation and Raft's own key, so that a
// replica that comes back under a new incarnation finds nothing of the old one.
const (
	stableFileCount = 4
	stablePrefix    = 16

	// boltTimeout is how long to wait for another process to let go of a file.
	boltTimeout = time.Second

	// ballastBytes are kept on the disk and given up when it is full, so that a vote can still be
	// written while other files are refused.
	ballastBytes = 1 << 20
)

var (
	stableBucket = []byte("stable")

	// errNotFound is what Raft takes for "no such key": it looks at the text.
	errNotFound = errors.New("not found")

	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// stableFiles are a host's stable stores.
type stableFiles struct {
	files [stableFileCount]*stableFile
}

// openStableFiles opens or creates the files in dir. flush is Config.BoltFlush, or nil.
func openStableFiles(dir string, noSync bool, flush func(), logger *slog.Logger) (*stableFiles, error) {
	s := &stableFiles{}
	for i := range s.files {
		f, err := openStableFile(filepath.Join(dir, fmt.Sprintf("stable-%d.db", i)), noSync, flush, logger)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.files[i] = f
	}
	if noSync {
		return s, nil
	}
	// Bolt has synced the files; their names are durable only now.
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// dirSynced, where a test sets it, is told of every directory that is synced.
var dirSynced atomic.Pointer[func(dir string)]

// syncDir makes durable which files are in a directory.
func syncDir(dir string) error {
	if told := dirSynced.Load(); told != nil {
		(*told)(dir)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *stableFiles) close() error {
	var errs []error
	for _, f := range s.files {
		if f != nil {
			errs = append(errs, f.close())
		}
	}
	return errors.Join(errs...)
}

// open gives the store of one replica.
func (s *stableFiles) open(id GroupID, self ServerID) (*stableStore, error) {
	file, prefix, err := s.locate(id, self)
	if err != nil {
		return nil, err
	}
	st := &stableStore{file: file, prefix: prefix, values: make(map[string][]byte)}
	err = file.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(stableBucket).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			st.values[string(k[stablePrefix:])] = bytes.Clone(v)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read stable store: %w", err)
	}
	return st, nil
}

// forget removes what is stored of a replica.
func (s *stableFiles) forget(id GroupID, self ServerID) error {
	file, prefix, err := s.locate(id, self)
	if err != nil {
		return err
	}
	return file.write(func(b *bbolt.Bucket) error {
		c := b.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *stableFiles) locate(id GroupID, self ServerID) (*stableFile, []byte, error) {
	_, incarnation, err := ParseServerID(self)
	if err != nil {
		return nil, nil, err
	}
	prefix := make([]byte, stablePrefix)
	binary.BigEndian.PutUint64(prefix, uint64(id))
	binary.BigEndian.PutUint64(prefix[8:], incarnation)
	return s.files[uint64(id)%stableFileCount], prefix, nil
}

// stableFile is one Bolt file. One goroutine writes it, all that waits in one transaction: an
// election in many groups at once costs few fsyncs.
type stableFile struct {
	db      *bbolt.DB
	path    string
	logger  *slog.Logger
	writes  chan stableWrite
	closing chan struct{}
	done    chan struct{}
	once    sync.Once
	// flush is Config.BoltFlush.
	flush func()
	// failed is the first error of a commit: after a failed sync nothing can be trusted, so that
	// every later write fails too. Only run touches it.
	failed error
}

type stableWrite struct {
	change func(*bbolt.Bucket) error
	result chan error
}

func openStableFile(path string, noSync bool, flush func(), logger *slog.Logger) (*stableFile, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltTimeout, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: noSync})
	if err != nil {
		return nil, fmt.Errorf("open stable store %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(stableBucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare stable store %s: %w", path, err), db.Close())
	}
	f := &stableFile{
		db: db, path: path, logger: logger, flush: flush,
		writes:  make(chan stableWrite),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	if noSync {
		// No disk is to be filled.
	} else if err := f.layBallast(); err != nil {
		// Without it a full disk stops groups a little earlier.
		logger.Warn("no ballast beside the stable store", "path", path, "err", err)
	}
	go f.run()
	return f, nil
}

func (f *stableFile) close() error {
	f.once.Do(func() { close(f.closing) })
	<-f.done
	return f.db.Close()
}

// run writes what comes until the file is closed.
func (f *stableFile) run() {
	defer close(f.done)
	for {
		select {
		case w := <-f.writes:
			batch := []stableWrite{w}
		more:
			for len(batch) < 1024 {
				select {
				case w := <-f.writes:
					batch = append(batch, w)
				default:
					break more
				}
			}
			err := f.commit(batch)
			if f.flush != nil {
				f.flush()
			}
			for _, w := range batch {
				w.result <- err
			}
		case <-f.closing:
			return
		}
	}
}

// commit writes and syncs a batch. On a full disk the ballast makes room, once.
func (f *stableFile) commit(batch []stableWrite) error {
	if f.failed != nil {
		return f.failed
	}
	update := func() error {
		return f.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(stableBucket)
			for _, w := range batch {
				if err := w.change(b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := update()
	if vfs.IsFull(err) && os.Remove(f.ballast()) == nil {
		f.logger.Error("disk is full: the stable store's ballast was given up", "path", f.path)
		err = update()
	}
	if err != nil {
		f.failed = fmt.Errorf("%s: %w", f.path, err)
	}
	return f.failed
}

func (f *stableFile) ballast() string { return f.path + ".ballast" }

func (f *stableFile) layBallast() error {
	if info, err := os.Stat(f.ballast()); err == nil && info.Size() == ballastBytes {
		return nil
	}
	return os.WriteFile(f.ballast(), make([]byte, ballastBytes), 0o600)
}

// write makes a change durable before it returns.
func (f *stableFile) write(change func(*bbolt.Bucket) error) error {
	w := stableWrite{change: change, result: make(chan error, 1)}
	select {
	case f.writes <- w:
		return <-w.result
	case <-f.done:
		return fmt.Errorf("stable store %s is closed", f.path)
	}
}

// stableStore is one replica's part; it satisfies raft.StableStore. What is stored already is
// not written again.
type stableStore struct {
	file   *stableFile
	prefix []byte

	// voteTerm is the term of a vote whose candidate Raft stores next; nil: none.
	voteTerm []byte

	// mu guards values, what is durable. Not held while writing: Raft writes from one goroutine.
	mu     sync.Mutex
	values map[string][]byte
}

// Set stores a value durably, and with the candidate of a vote its term.
func (s *stableStore) Set(key, val []byte) error {
	changes := map[string][]byte{string(key): bytes.Clone(val)}
	if bytes.Equal(key, keyLastVoteCand) && s.voteTerm != nil {
		changes[string(keyLastVoteTerm)] = s.voteTerm
	}
	s.mu.Lock()
	for k, v := range changes {
		if old, ok := s.values[k]; ok && bytes.Equal(old, v) {
			delete(changes, k)
		}
	}
	s.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	err := s.file.write(func(b *bbolt.Bucket) error {
		for k, v := range changes {
			if err := b.Put(append(bytes.Clone(s.prefix), k...), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write stable store: %w", err)
	}
	s.mu.Lock()
	maps.Copy(s.values, changes)
	s.mu.Unlock()
	return nil
}

// Get gives a value or errNotFound.
func (s *stableStore) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

// SetUint64 stores a number durably. The term of a vote waits for its candidate, which Raft stores right after it, and before anybody hears of
// the vote: so a vote is one commit, and never half a one.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	if bytes.Equal(key, keyLastVoteTerm) {
		s.voteTerm = binary.BigEndian.AppendUint64(nil, val)
		return nil
	}
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 gives a number or errNotFound.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("stable store: %q holds %d bytes", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
