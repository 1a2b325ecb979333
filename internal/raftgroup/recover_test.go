package raftgroup

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// TestRecoveryBelievesTheSnapshot: the members are those of the newest configuration, be it in the log or in the snapshot. What the
// log still holds below the snapshot is older than that.
func TestRecoveryBelievesTheSnapshot(t *testing.T) {
	voters := func(ids ...raft.ServerID) []byte {
		var c raft.Configuration
		for _, id := range ids {
			c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
		}
		return raft.EncodeConfiguration(c)
	}
	for _, c := range []struct {
		name           string
		snapshot       record.Index // 0: none
		configurations map[uint64][]byte
		last           uint64
		want           string
		end            record.Index
	}{
		{"no snapshot", 0, map[uint64][]byte{1: voters("1/1", "2/2")}, 9, "[1/1 2/2]", 9},
		{"the newest in the log", 0, map[uint64][]byte{1: voters("1/1"), 5: voters("1/1", "3/3")}, 9, "[1/1 3/3]", 9},
		{"older ones below the snapshot", 7, map[uint64][]byte{1: voters("1/1", "9/9"), 6: voters("9/9")}, 9, "[1/1 2/2 3/3]", 9},
		{"a newer one above it", 7, map[uint64][]byte{6: voters("9/9"), 8: voters("4/4")}, 9, "[4/4]", 9},
		{"a log that ends below it", 20, map[uint64][]byte{6: voters("9/9")}, 9, "[1/1 2/2 3/3]", 20},
	} {
		logs := raft.NewInmemStore()
		for i := uint64(1); i <= c.last; i++ {
			l := &raft.Log{Index: i, Term: 2, Type: raft.LogCommand}
			if data, ok := c.configurations[i]; ok {
				l.Type, l.Data = raft.LogConfiguration, data
			}
			if err := logs.StoreLog(l); err != nil {
				t.Fatal(err)
			}
		}
		out := Recovery{Last: c.snapshot, Term: 2}
		if c.snapshot > 0 {
			out.Voters = []ServerID{"1/1", "2/2", "3/3"}
		}
		if err := lookAtLog(logs, &out); err != nil || fmt.Sprint(out.Voters) != c.want || out.Last != c.end {
			t.Errorf("%s: voters %v, last entry %d (%v), want %s, %d", c.name, out.Voters, out.Last, err, c.want, c.end)
		}
	}
}

// R7, P21: a replica that is recovered goes on above all terms that the lost ones can have been at, by what it remembers and by its log; others keep
// theirs.
func TestRecoveryRaisesTerms(t *testing.T) {
	dir := t.TempDir()
	term := func(id GroupID, self ServerID, set uint64) uint64 {
		t.Helper()
		files, err := openStableFiles(dir, true, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		st, err := files.open(id, self)
		if err == nil && set > 0 {
			err = st.SetUint64(keyCurrentTerm, set)
		}
		var got uint64
		if err == nil {
			got, err = st.GetUint64(keyCurrentTerm)
		}
		if err = errors.Join(err, files.close()); err != nil {
			t.Fatal(err)
		}
		return got
	}
	term(7, "1/1", 5)
	term(8, "1/1", 5)
	list := []Recovery{{Group: 7, Self: "1/1", Term: 3}, {Group: 9, Self: "1/2", Term: 4}} // of the second nothing is remembered
	terms, err := OpenTerms(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if err := terms.raise(&list[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := terms.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   GroupID
		self ServerID
		want uint64
	}{{7, "1/1", 5 + recoveredTerms}, {8, "1/1", 5}, {9, "1/2", 4 + recoveredTerms}} {
		if got := term(c.id, c.self, 0); got != c.want {
			t.Errorf("group %d is at term %d, want %d", c.id, got, c.want)
		}
	}
}

// R7, P21: no replica is made the only voter whose term was not raised, whatever failed when it was looked at before. Where the term cannot be
// raised, the log is left as it is.
func TestNoRecoveryWithoutRaisedTerm(t *testing.T) {
	fsys, dir := vfs.NewMem(1), t.TempDir()
	if err := fsys.MkdirAll("replica"); err != nil {
		t.Fatal(err)
	}
	recovered := func(terms *Terms) (Recovery, record.Index, error) {
		l, err := recordlog.Open(recordlog.Options{FS: fsys, Dir: "replica/log"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.LastIndex() == 0 {
			first := &raft.Log{Index: 1, Term: 3, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
				{ID: "1/1", Address: "1/1"}, {ID: "2/1", Address: "2/1"}, {ID: "3/1", Address: "3/1"}}})}
			if err := newRecordStore(l).StoreLog(first); err != nil {
				t.Fatal(err)
			}
		}
		r := Replica{FS: fsys, Dir: "replica", ID: 7, Self: "1/1", Log: l}
		out, err := r.Recover(terms)
		return out, l.LastIndex(), err
	}
	terms := func() *Terms {
		t.Helper()
		terms, err := OpenTerms(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		return terms
	}
	broken := errors.New("broken")
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind == vfs.OpList && op.Name == "replica/snapshots" {
			return broken
		}
		return nil
	})
	if out, last, err := recovered(nil); !errors.Is(err, broken) || out.Changed || last != 1 {
		t.Fatalf("%+v, last entry %d, %v: want it to fail", out, last, err)
	}
	fsys.OnBefore(nil)
	if out, last, err := recovered(nil); err != nil || !out.Changed || last != 1 {
		t.Fatalf("%+v, last entry %d, %v: want it planned", out, last, err)
	}
	closed := terms()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if out, last, err := recovered(closed); err == nil || out.Changed || last != 1 {
		t.Fatalf("%+v, last entry %d, %v: want it refused, and the log as it was", out, last, err)
	}
	open := terms()
	out, last, err := recovered(open)
	if err != nil || !out.Changed || last != 2 || out.Last != 2 {
		t.Fatalf("%+v, last entry %d, %v", out, last, err)
	}
	again, last, err := recovered(open)
	if err != nil || again.Changed || last != 2 {
		t.Errorf("the second time %+v, last entry %d, %v", again, last, err)
	}
	st, err := open.files.open(7, "1/1")
	if err != nil {
		t.Fatal(err)
	}
	if term, err := st.GetUint64(keyCurrentTerm); err != nil || term != 3+recoveredTerms {
		t.Errorf("term %d, %v, want %d", term, err, 3+recoveredTerms)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
}

// A replica whose newest snapshot cannot be read now is left as it is, and so is one that would not start afterwards, because that snapshot is damaged
// and its log does not make up for it.
func TestNoRecoveryWithoutNewestSnapshot(t *testing.T) {
	unread := func(kind vfs.OpKind, name string) func(*testing.T, *vfs.Mem, string) {
		return func(_ *testing.T, fsys *vfs.Mem, _ string) { fsys.FailNth(kind, name, 0, errDisk) }
	}
	damaged := func(t *testing.T, fsys *vfs.Mem, dir string) {
		flip(t, fsys, filepath.Join(dir, snapshotDir, fmt.Sprintf(snapshotName, 20, 1)+snapshotSuffix))
	}
	for _, x := range []struct {
		name        string
		trouble     func(*testing.T, *vfs.Mem, string)
		first, last uint64 // of the log
		want        error
	}{
		{"well", func(*testing.T, *vfs.Mem, string) {}, 21, 22, nil},
		{"the newest is not opened", unread(vfs.OpOpen, "20-"), 11, 22, errDisk},
		{"the newest is not read", unread(vfs.OpRead, "20-"), 11, 22, errDisk},
		{"the one before is not read", unread(vfs.OpRead, "10-"), 11, 22, nil},
		{"the newest is damaged", damaged, 11, 22, nil},
		{"it is damaged, and the log begins behind it", damaged, 21, 22, ErrStateLost},
		{"it is damaged, and the log ends below it", damaged, 11, 15, ErrStateLost},
	} {
		fsys, dir := vfs.NewMem(1), t.TempDir()
		if err := makeDir(fsys, dir); err != nil {
			t.Fatal(err)
		}
		s, err := openSnapshots(fsys, dir, testLogger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		head := snapshotHead{term: 1, configuration: raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}, {ID: "2/2", Address: "2/2"}}}}
		for head.index = 10; head.index <= 20; head.index += 10 {
			k, err := s.create(head)
			if err == nil {
				err = k.finish(nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		logs, err := openBoltLog(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		for i := x.first; i <= x.last; i++ {
			if err := logs.StoreLog(&raft.Log{Index: i, Term: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := logs.close(); err != nil {
			t.Fatal(err)
		}
		x.trouble(t, fsys, dir)
		r := Replica{FS: fsys, Dir: dir, ID: 7, Self: "1/1", NoSync: true}
		out, err := r.Recover(nil)
		if !errors.Is(err, x.want) || out.Changed != (x.want == nil) {
			t.Errorf("%s: %+v, %v; want %v", x.name, out, err, x.want)
		}
	}
}
