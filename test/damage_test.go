package test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/vfs"
)

// flip turns a bit in the middle of the first segment of a broker's only replica of the topic.
func (s *scenario) flip(id int32) {
	s.t.Helper()
	found, content := s.firstSegment(id)
	disk := s.c.Disk(id)
	if err := disk.FlipBit(found, int64(len(content)/2), 3); err != nil {
		s.t.Fatal(err)
	}
}

// firstSegment is the first segment of a broker's only replica of the topic, and what is in it.
func (s *scenario) firstSegment(id int32) (name string, content []byte) {
	s.t.Helper()
	disk := s.c.Disk(id)
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if err != nil {
			return // a file
		}
		for _, n := range names {
			if strings.HasSuffix(n, ".seg") && name == "" {
				name = filepath.Join(dir, n)
			}
			walk(filepath.Join(dir, n))
		}
	}
	walk("/")
	if name == "" {
		s.t.Fatalf("broker %d has no segment", id)
	}
	content, err := vfs.ReadFile(disk, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return name, content
}

// A bit that turned at rest is found by the search for damage. The replica that has it hands its
// leadership over and stops; the others have every record, and another takes its place on the same
// broker, with everything in it.
func TestDamageAtRestIsFound(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.Scrub.Interval = time.Second
	}}, map[string]string{"segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{BatchBytes: 8 << 10})
	s.writeMany(p, 20_000, func(int) {})
	leader := s.leader()
	s.flip(leader)
	s.until("the damage is found", func() bool { return s.c.Metric(leader, "brokerd_replicas_damaged_total") == 1 })
	s.until("another leader", func() bool { return s.leader() != leader })
	s.write(p, "20000")
	s.wantStored(numbers(20_001)...)

	s.until("another replica in its place", func() bool {
		return s.c.Metric(leader, "brokerd_catch_up_bytes_total") > 0 || s.raftGroup(leader).HighWatermark == 20_001
	})
	s.settled(s.partition().Replicas...)
	s.replicasAgree()
	if n := s.replicaDirs(leader); n != 1 {
		t.Errorf("%d directories of replicas are on broker %d", n, leader)
	}
	s.c.Stop(leader)
	s.c.Restart(leader)
	s.settled(s.partition().Replicas...)
}
