package raftgroup

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Recovery is what Recover found and did to one replica of a group whose majority is lost.
type Recovery struct {
	Group GroupID
	// Self is this replica.
	Self ServerID
	// Voters and Learners are the members as this replica knew them.
	Voters, Learners []ServerID
	// Last is the last entry that it holds; the lost ones may have acknowledged later ones.
	Last record.Index
	Term record.Term
	// Changed: it is, or without terms would be, made the only voter. It was already if not.
	Changed bool
}

// Replica names the files of a replica that no group has open.
type Replica struct {
	FS  vfs.FS
	Dir string
	ID  GroupID
	// Self is the replica, which is to be the only voter.
	Self ServerID
	// Log is its record log, opened and not restored; nil for a group that keeps its log itself.
	Log *recordlog.Log
	// NoSync leaves the Bolt file unsynced, as Config.NoSync.
	NoSync bool
}

// Recover makes a replica the only voter of its group, by one more entry in its log: a configuration, as Raft would have written
// it. On its next start it elects itself, and everything in its log is committed. That breaks what Raft promises: what
// the others acknowledged and this one lacks is lost, and entries that were never committed come to be. No other replica of
// the group may ever come back. Its term is raised first: if that fails, or this is cut short, the log is as it was. Without terms nothing is changed
// beyond what opening a log does, which cuts off what a crash left half written.
func (r *Replica) Recover(terms *Terms) (Recovery, error) {
	out := Recovery{Group: r.ID, Self: r.Self}
	logs, closeLog, err := r.open()
	if err != nil {
		return out, err
	}
	err = r.recoverIn(logs, &out, terms)
	return out, errors.Join(err, closeLog())
}

func (r *Replica) open() (logs raft.LogStore, closeLog func() error, err error) {
	if r.Log != nil {
		return newRecordStore(r.Log), func() error { return nil }, nil
	}
	is, err := vfs.Exists(r.FS, ControlLogDir(r.Dir))
	if err != nil {
		return nil, nil, err
	}
	if is {
		return r.openControl()
	}
	if _, err := os.Stat(boltLogPath(r.Dir)); err != nil { // Bolt files are on the real disk
		return nil, nil, err
	}
	b, err := openBoltLog(r.Dir, r.NoSync)
	if err != nil {
		return nil, nil, err
	}
	return b, b.bolt.Close, nil
}

func (r *Replica) openControl() (logs raft.LogStore, closeLog func() error, err error) {
	newest, _, err := NewestOnDisk(r.FS, r.Dir)
	if err != nil {
		return nil, nil, err
	}
	o := controlOptions(r.FS, ControlLogDir(r.Dir))
	o.SnapshotIndex = newest.Index
	l, err := recordlog.Open(o)
	if err != nil {
		return nil, nil, err
	}
	return newRecordStore(l), l.Close, nil
}

func (r *Replica) recoverIn(logs raft.LogStore, out *Recovery, terms *Terms) error {
	newest, lost, err := NewestOnDisk(r.FS, r.Dir)
	if err != nil {
		return err
	}
	out.Voters, out.Learners, out.Last, out.Term = newest.Voters, newest.Learner, newest.Index, newest.Term
	if err := lookAtLog(logs, out); err != nil {
		return err
	}
	// What would not start afterwards is not recovered.
	if err := checkCovered(logs, newest.Index, lost); err != nil {
		return fmt.Errorf("group %d: %w", r.ID, err)
	}
	if out.Last == 0 {
		return fmt.Errorf("group %d: %s holds nothing at all", r.ID, filepath.Base(r.Dir))
	}
	if len(out.Voters) == 1 && out.Voters[0] == r.Self {
		return nil
	}
	if terms == nil {
		out.Changed = true
		return nil
	}
	if err := terms.raise(out); err != nil {
		return fmt.Errorf("group %d: raise the term: %w", r.ID, err)
	}
	only := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(r.Self), Address: raft.ServerAddress(r.Self)}}}
	entry := &raft.Log{Index: uint64(out.Last) + 1, Term: uint64(out.Term), Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(only)}
	if err := logs.StoreLogs([]*raft.Log{entry}); err != nil {
		return fmt.Errorf("group %d: append the new configuration: %w", r.ID, err)
	}
	out.Changed = true
	out.Last++
	return nil
}

// lookAtLog finds the log's last entry and its newest configuration above the snapshot, of which out tells already: what lies
// below is older than the snapshot's own.
func lookAtLog(logs raft.LogStore, out *Recovery) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	for i, begin := last, max(first, uint64(out.Last)+1); i >= begin; i-- {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
		if record.Index(i) > out.Last {
			out.Last, out.Term = record.Index(i), record.Term(l.Term)
		}
		if l.Type != raft.LogConfiguration {
			continue
		}
		out.Voters, out.Learners = nil, nil
		for _, s := range raft.DecodeConfiguration(l.Data).Servers {
			if s.Suffrage == raft.Voter {
				out.Voters = append(out.Voters, ServerID(s.ID))
			} else {
				out.Learners = append(out.Learners, ServerID(s.ID))
			}
		}
		break
	}
	if len(out.Voters) == 0 {
		return errors.New("neither log nor snapshot says who the members are")
	}
	return nil
}

// recoveredTerms is by how much the term of a replica rises that is made the only voter. The lost ones may have been ahead of it, by as many
// elections as it has not heard of: far fewer. Terms have 32 bits where clients see them (R7), which is enough for 2,000 recoveries.
const recoveredTerms = 1 << 20

// Terms are what replicas remember of their terms, open for Replica.Recover.
type Terms struct{ files *stableFiles }

// OpenTerms opens the stable stores in dir, which nobody has open.
func OpenTerms(dir string, noSync bool) (*Terms, error) {
	files, err := openStableFiles(dir, noSync, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Terms{files}, nil
}

// Close closes the stores.
func (t *Terms) Close() error { return t.files.close() }

// raise sets the term of a replica above all that the lost ones can have been at. Terms are the epochs of leaders
// and coordinators: clients and partitions remember the highest that they have heard of, and would refuse what comes of a lower one for
// ever (P21, R7).
func (t *Terms) raise(r *Recovery) error {
	st, err := t.files.open(r.Group, r.Self)
	if err != nil {
		return err
	}
	term, err := st.GetUint64(keyCurrentTerm)
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	return st.SetUint64(keyCurrentTerm, max(term, uint64(r.Term))+recoveredTerms)
}
