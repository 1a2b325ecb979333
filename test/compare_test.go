package test

import (
	"bytes"
	"hash/crc32"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// forge changes a record's value in a broker's log so that all checksums still fit: a CRC32C does not see that its own
// polynomial was added to what it is over.
func (s *scenario) forge(id int32) {
	s.t.Helper()
	name, content := s.firstSegment(id)
	at := bytes.Index(content, bytes.Repeat([]byte("c"), 64))
	if at < 0 {
		s.t.Fatal("no value to forge")
	}
	at += 16
	table := crc32.MakeTable(crc32.Castagnoli)
	changed := bytes.Clone(content)
	const polynomial = uint64(0x11EDC6F41) // 33 bits, the highest goes first
	for k := range 33 {
		if polynomial>>(32-k)&1 == 0 {
			continue
		}
		if err := s.c.Disk(id).FlipBit(name, int64(at+k/8), uint(k%8)); err != nil {
			s.t.Fatal(err)
		}
		changed[at+k/8] ^= 1 << (k % 8)
	}
	if bytes.Equal(changed, content) || crc32.Checksum(changed, table) != crc32.Checksum(content, table) {
		s.t.Fatal("the checksum sees it")
	}
}

// A record that was changed beneath checksums that still fit is noticed by nobody who reads one replica. Replicas are
// compared: the one that differs from the majority, follower or leader, stops and is rebuilt.
func TestReplicasAreCompared(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.Scrub.Interval = time.Second
		c.Scrub.BytesPerSecond = 64 * broker.MiB
		c.LeaderBalance = 0
	}}, map[string]string{"segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
	values := filled(0, 200)
	s.send(p, values)
	for _, who := range []func() int32{s.follower, s.leader} {
		id := who()
		damaged := s.c.Metric(id, "brokerd_replicas_damaged_total")
		s.forge(id)
		s.until("the difference is found", func() bool { return s.c.Metric(id, "brokerd_replicas_damaged_total") == damaged+1 })
		s.until("another replica in its place", func() bool {
			return s.replicaDirs(id) == 1 && s.raftGroup(id).Problem == "" && s.raftGroup(id).HighWatermark > 0
		})
		s.settled(s.partition().Replicas...)
		s.replicasAgree()
		s.wantStored(values...)
	}
	for _, id := range s.c.Brokers() {
		if n := s.c.Metric(id, `brokerd_replica_comparisons_total{result="undecided"}`); n > 0 {
			t.Errorf("%v comparisons on broker %d were undecided", n, id)
		}
	}
}
