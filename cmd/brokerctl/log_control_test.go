package main

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// The logs of coordinators are checked like those of partitions, where they are record logs.
func TestLogVerifyReadsControlLogs(t *testing.T) {
	fsys, dir := vfs.OS(), t.TempDir()
	logDir := raftgroup.ControlLogDir(filepath.Join(dir, "coordinators", "9-2"))
	if err := fsys.MkdirAll(logDir); err != nil {
		t.Fatal(err)
	}
	l, err := recordlog.Open(recordlog.Options{FS: fsys, Dir: logDir})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]recordlog.Entry{{Index: 1, Term: 1, Data: []byte("first")}, {Index: 2, Term: 1, Data: []byte("second")}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var read atomic.Int64
	if bad, err := verifyControlGroups(fsys, dir, &read); err != nil || len(bad) > 0 || read.Load() == 0 {
		t.Fatalf("%v, %v, %d bytes read", bad, err, read.Load())
	}
	segments, err := filepath.Glob(filepath.Join(logDir, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	if err := flip(segments[0], 64+70); err != nil {
		t.Fatal(err)
	}
	bad, err := verifyControlGroups(fsys, dir, &read)
	if err != nil || len(bad) != 1 || !strings.HasPrefix(bad[0], "coordinators/9-2: ") || !strings.Contains(bad[0], "entry 1") {
		t.Errorf("%q, %v", bad, err)
	}
}
