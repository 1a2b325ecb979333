package test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/vfs"
)

// A broker that finds files of a newer version says so, and leaves them alone: they are whole, and the newer version reads
// them. They are not taken for damage, and nothing is put in their place.
func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.send(p, numbers(100))
	id := s.follower()
	s.caughtUp(id)
	segment, _ := s.firstSegment(id)
	for _, file := range []struct {
		name    string
		version int // where it stands
		seal    func([]byte)
	}{
		{filepath.Join(filepath.Dir(filepath.Dir(segment)), "replica"), 4, func([]byte) {}},
		{segment, 8, func(b []byte) { // the CRC over salt and header
			crc := crc32.Checksum(b[16:24], crc32.MakeTable(crc32.Castagnoli))
			binary.BigEndian.PutUint32(b[60:], crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), b[:60]))
		}},
	} {
		s.c.Stop(id)
		before, err := vfs.ReadFile(s.c.Disk(id), file.name)
		if err != nil {
			t.Fatal(err)
		}
		after := append([]byte(nil), before...)
		binary.BigEndian.PutUint16(after[file.version:], 77)
		file.seal(after)
		s.overwrite(id, file.name, after)
		s.c.StartAgain(id)
		s.until("the replica to be refused", func() bool {
			problem := s.raftGroup(id).Problem
			return strings.Contains(problem, "format 77") && strings.Contains(problem, "newer version")
		})
		if n := s.c.Metric(id, "brokerd_replicas_damaged_total"); n > 0 || len(s.partition().Lost) > 0 {
			t.Errorf("%s: a newer format counts as damage: %v, %v", filepath.Base(file.name), n, s.partition().Lost)
		}
		s.send(p, []string{fmt.Sprint("while ", filepath.Base(file.name)[:3])})
		s.c.Kill(id)
		if kept, err := vfs.ReadFile(s.c.Disk(id), file.name); err != nil || string(kept) != string(after) {
			t.Errorf("%s was changed: %v", file.name, err)
		}
		s.overwrite(id, file.name, before)
		s.c.Restart(id)
		s.caughtUp(id)
	}
	s.replicasAgree()
}

// overwrite changes a file of a broker that is down.
func (s *scenario) overwrite(id int32, name string, content []byte) {
	s.t.Helper()
	f, err := s.c.Disk(id).Open(name)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
