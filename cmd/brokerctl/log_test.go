package main

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// changeLog makes a broker's directory with one replica, whose bytes are the same in each run, or harms it:
//
//	log make
//	log flip segment=0 at=300
//	log cut segment=1 bytes=20      from the end
//	log remove segment=0 | file=meta
//	log lock
func changeLog(t *testing.T, dir string, d *datadriven.TestData) string {
	replica := filepath.Join(dir, "broker", "partitions", "7-3")
	name := func() string {
		if d.HasArg("file") {
			var file string
			d.ScanArgs(t, "file", &file)
			return filepath.Join(replica, file)
		}
		var k int
		d.ScanArgs(t, "segment", &k)
		found, err := filepath.Glob(filepath.Join(partition.LogDir(replica), "*.seg"))
		if err != nil || k >= len(found) {
			d.Fatalf(t, "segment %d of %d: %v", k, len(found), err)
		}
		return found[k]
	}
	var err error
	switch d.CmdArgs[0].Key {
	case "make":
		makeReplica(t, replica)
	case "flip":
		var at int64
		d.ScanArgs(t, "at", &at)
		err = flip(name(), at)
	case "cut":
		var n int64
		d.ScanArgs(t, "bytes", &n)
		var info os.FileInfo
		if info, err = os.Stat(name()); err == nil {
			err = os.Truncate(name(), info.Size()-n)
		}
	case "remove":
		err = os.Remove(name())
	case "lock":
		var lock interface{ Close() error }
		if lock, err = vfs.OS().Lock(filepath.Join(dir, "broker")); err == nil {
			t.Cleanup(func() { lock.Close() })
		}
	default:
		d.Fatalf(t, "unknown argument %s", d.CmdArgs[0].Key)
	}
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return ""
}

func flip(name string, at int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 4
	_, err = f.WriteAt(b, at)
	return err
}

// logMaker writes entries as a group does.
type logMaker struct {
	t       *testing.T
	entries []recordlog.Entry
	term    record.Term
}

// envelope is what docs/formats/raft-envelope.md draws.
func (m *logMaker) add(kind byte, admitted record.Term, meta, data []byte) {
	ext := []byte{1, kind, 0, 1}
	ext = binary.BigEndian.AppendUint64(ext, uint64(admitted))
	ext = append(binary.BigEndian.AppendUint64(ext, uint64(1795398578332+int64(len(m.entries)))), meta...)
	e := recordlog.Entry{Index: record.Index(len(m.entries) + 1), Term: m.term, AppendedAt: 1e18, Ext: ext, Data: data}
	e.Records, e.MaxTimestamp = partition.Classify(ext, data)
	m.entries = append(m.entries, e)
}

func (m *logMaker) batch(producer record.ProducerID, sequence record.Sequence, transactional bool, values ...string) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for i, v := range values {
		if err := b.Append(1795398578000+int64(i), []byte("k"), []byte(v), nil); err != nil {
			m.t.Fatal(err)
		}
	}
	return append(record.Batch(nil), b.Finish(producer, 2, sequence, transactional)...)
}

func makeReplica(t *testing.T, dir string) {
	m := &logMaker{t: t, term: 2}
	appends := []byte{1, 1}
	m.add(1, 2, nil, nil) // leader start
	m.add(0, 2, appends, m.batch(record.NoProducerID, record.NoSequence, false, "plain"))
	m.add(0, 2, appends, m.batch(4001, 0, false, "one", "two", "three"))
	m.add(0, 2, appends, m.batch(4001, 0, false, "one", "two", "three")) // sent again
	m.add(0, 2, appends, m.batch(4001, 9, false, "gap"))
	m.add(0, 1, appends, m.batch(4001, 3, false, "late"))
	verified := append([]byte{1, 1, 1, 2}, make([]byte, 12)...)
	binary.BigEndian.PutUint64(verified[4:], 1<<64-1) // no marker before
	m.add(0, 2, verified, m.batch(5000, 0, true, "in a transaction"))
	marker := record.ControlBatch(record.Marker{ProducerID: 5000, Epoch: 3, CoordinatorEpoch: 7, Commit: true, Timestamp: 1795398579000})
	m.add(0, 2, []byte{1, 5, 2}, marker)
	m.add(0, 2, []byte{1, 3}, binary.BigEndian.AppendUint64(nil, 1))
	m.add(0, 2, appends, m.batch(4001, 3, false, "four"))

	fsys := vfs.OS()
	logDir := partition.LogDir(dir)
	id := raftgroup.Identity{Topic: [16]byte{0xab, 15: 1}, Partition: 2, Group: 7, Self: "1/3"}
	if err := id.CreateDir(fsys, dir, func() error { return fsys.MkdirAll(logDir) }); err != nil {
		t.Fatal(err)
	}
	salt := rand.New(rand.NewPCG(1, 1))
	l, err := recordlog.Open(recordlog.Options{FS: fsys, Dir: logDir, SegmentBytes: 700, Salt: salt.Uint64, Classify: partition.Classify})
	for i := range m.entries {
		if err == nil {
			err = l.Append(m.entries[i : i+1])
		}
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
