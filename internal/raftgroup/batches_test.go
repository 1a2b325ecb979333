package raftgroup

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

func testLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testBatch is a batch of two records.
func testBatch() []byte {
	b := record.NewBuilder(record.CodecNone)
	b.Append(1, nil, []byte("one"), nil)
	b.Append(2, nil, []byte("two"), nil)
	return b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
}

// openBatches opens group 7 with a machine that gives every batch its offsets.
func openBatches(t *testing.T, c *cluster, n *node) {
	t.Helper()
	dir := filepath.Join(n.dir, "group-7")
	if err := n.fs.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	classify := func(ext, data []byte) (int32, int64) {
		if kind, _, err := Envelope(ext); err != nil || kind != KindCommand || len(data) == 0 {
			return 0, 0
		}
		b, _, err := record.Parse(data)
		if err != nil {
			return 0, 0
		}
		return b.Count(), b.MaxTimestamp()
	}
	log, err := recordlog.Open(recordlog.Options{FS: n.fs, Dir: filepath.Join(dir, "log"), Classify: classify})
	if err != nil {
		t.Fatal(err)
	}
	m := &journal{}
	m.before = func(e *Entry) {
		if e.Kind != KindCommand {
			return
		}
		if err := log.Assign(e.Index, []recordlog.Fate{{Base: log.EndOffset(), Records: 2}}); err != nil {
			panic(err)
		}
	}
	r := &replica{machine: m, log: log}
	r.group, err = n.host.Open(GroupConfig{ID: 7, Name: "t/0", Self: MakeServerID(n.id, 1), Dir: dir, Log: log, Machine: m, Bootstrap: members(len(c.nodes))})
	if err != nil {
		t.Fatal(err)
	}
	n.replicas[7] = r
}
