package test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// badBatch is what a client may send and no broker may take.
type badBatch struct {
	name string
	r    *clientv1.ProduceRequest
	// reason is what the answer gives, again whether the client should send the same once more, and names what
	// the message has to name.
	reason string
	again  bool
	names  string
}

// plainBatch is a good batch of one record with a time.
func plainBatch(at time.Time) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	_ = b.Append(at.UnixMilli(), nil, []byte("x"), nil) // a small value always fits
	return b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
}

// spoiled is a good batch with one change, its checksum made good again.
func spoiled(change func(b record.Batch)) *clientv1.ProduceRequest {
	b := plainBatch(time.Now())
	change(b)
	b.Rewrite(b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	return &clientv1.ProduceRequest{Topic: topic, Batch: b}
}

// bomb is a batch of a few KiB that swells to more than a broker takes.
func bomb() *clientv1.ProduceRequest {
	b := record.NewBuilder(record.CodecZstd)
	for range 300 {
		_ = b.Append(time.Now().UnixMilli(), nil, make([]byte, 512<<10), nil) // fits
	}
	return &clientv1.ProduceRequest{Topic: topic, Batch: b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)}
}

func badBatches() []badBatch {
	unsealed := plainBatch(time.Now())
	unsealed[len(unsealed)-1] ^= 1
	batch := func(b record.Batch) *clientv1.ProduceRequest { return &clientv1.ProduceRequest{Topic: topic, Batch: b} }
	return []badBatch{
		{"unknown topic", &clientv1.ProduceRequest{Topic: "nowhere", Batch: plainBatch(time.Now())}, "UNKNOWN_TOPIC_OR_PARTITION", true, "nowhere"},
		{"unknown partition", &clientv1.ProduceRequest{Topic: topic, Partition: 7, Batch: plainBatch(time.Now())}, "UNKNOWN_TOPIC_OR_PARTITION", true, "only 0 to 0"},
		{"unknown acks", &clientv1.ProduceRequest{Topic: topic, Acks: 9, Batch: plainBatch(time.Now())}, "INVALID_REQUIRED_ACKS", false, "acks is 9"},
		{"no batch", &clientv1.ProduceRequest{Topic: topic}, "INVALID_REQUEST", false, "batch"},
		{"bad CRC", batch(unsealed), "CORRUPT_MESSAGE", true, "CRC"},
		{"record count too high", spoiled(func(b record.Batch) { b[60] = 2 }), "INVALID_RECORD", false, "record count 2"},
		{"record count 0", spoiled(func(b record.Batch) { b[60] = 0 }), "INVALID_RECORD", false, "record count is 0"},
		{"length too short", spoiled(func(b record.Batch) { b[11]-- }), "INVALID_RECORD", false, "bytes"},
		{"unknown codec", spoiled(func(b record.Batch) { b[22] |= 6 }), "UNSUPPORTED_COMPRESSION_TYPE", false, "codec 6"},
		{"undecompressable", spoiled(func(b record.Batch) { b[22] |= 3 }), "CORRUPT_MESSAGE", false, "lz4"},
		{"decompression bomb", bomb(), "MESSAGE_TOO_LARGE", false, "when decompressed"},
		{"too large", batch(batchOf(record.NoProducerID, record.NoSequence, strings.Repeat("x", 2<<20))), "MESSAGE_TOO_LARGE", false, "max.message.bytes 1048588"},
		{"control bit", batch(record.ControlBatch(record.Marker{ProducerID: 1})), "INVALID_RECORD", false, "control bit"},
		{"future magic", spoiled(func(b record.Batch) { b[16] = 3 }), "CORRUPT_MESSAGE", false, "magic 3"},
		{"old magic", spoiled(func(b record.Batch) { b[16] = 1 }), "INVALID_RECORD", false, "magic 1"},
		{"timestamp too old", batch(plainBatch(time.Now().Add(-2 * time.Hour))), "INVALID_TIMESTAMP", false, "message.timestamp.before.max.ms 3600000"},
		{"timestamp in the future", batch(plainBatch(time.Now().Add(2 * time.Hour))), "INVALID_TIMESTAMP", false, "message.timestamp.after.max.ms 3600000"},
		{"key missing", &clientv1.ProduceRequest{Topic: "compacted", Batch: plainBatch(time.Now())}, "INVALID_RECORD", false, "key is null"},
		{"producer half named", &clientv1.ProduceRequest{Topic: topic, Records: &clientv1.Records{
			ProducerId: proto.Int64(1), Records: []*clientv1.Record{{Value: []byte("x")}}}}, "INVALID_REQUEST", false, "all three or none"},
	}
}

// TestBadInput: what cannot be taken is refused with a reason that names what is wrong, certainly did nothing, and costs
// nothing that was acknowledged.
func TestBadInput(t *testing.T) {
	t.Parallel()
	hour := map[string]string{"message.timestamp.before.max.ms": "3600000", "message.timestamp.after.max.ms": "3600000"}
	s := beginWith(t, brokertest.Options{}, hour)
	if _, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: "compacted", Configs: map[string]string{"cleanup.policy": "compact"}, WaitReady: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	p := s.producer(client.ProducerConfig{})
	s.write(p, "before")
	for _, bad := range badBatches() {
		t.Run(bad.name, func(t *testing.T) {
			bad.r.RequestId = 1
			var res *clientv1.ProduceResponse
			s.until("ask the leader", func() bool {
				var err error
				res, err = s.ask(s.leaderOf(bad.r.Topic), bad.r)
				return err == nil && res.GetError().GetReason() != client.ReasonNotLeader
			})
			e := res.GetError()
			wantRefused(t, e, bad.reason)
			if e.GetRetriable() != bad.again || !strings.Contains(e.GetMessage(), bad.names) || res.GetBaseOffset() != -1 {
				t.Errorf("answered %v, want retriable %t, and %q named", res, bad.again, bad.names)
			}
		})
	}
	s.badTopics()
	s.write(p, "after")
	s.wantStored("before", "after")
	s.replicasAgree()
}

// leaderOf is the broker to ask about a topic; that of the usual one if there is none.
func (s *scenario) leaderOf(name string) int32 {
	s.t.Helper()
	m, err := s.cl.Metadata(s.ctx, name)
	if err == nil && m.Topics[0].Err == nil && m.Topics[0].Partitions[0].Leader > 0 {
		return m.Topics[0].Partitions[0].Leader
	}
	return s.leader()
}

// badTopics asks for topics that cannot be.
func (s *scenario) badTopics() {
	for _, bad := range []struct {
		name, reason, names string
		spec                client.TopicSpec
	}{
		{"topic name with a slash", "INVALID_TOPIC_EXCEPTION", "byte 1", client.TopicSpec{Name: "a/b"}},
		{"topic name of dots", "INVALID_TOPIC_EXCEPTION", "..", client.TopicSpec{Name: ".."}},
		{"topic name too long", "INVALID_TOPIC_EXCEPTION", "249", client.TopicSpec{Name: strings.Repeat("n", 250)}},
		{"topic exists", "TOPIC_ALREADY_EXISTS", topic, client.TopicSpec{Name: topic}},
		{"replication factor above brokers", "INVALID_REPLICATION_FACTOR", "3", client.TopicSpec{Name: "five", ReplicationFactor: 5}},
		{"even replication factor", "INVALID_REPLICATION_FACTOR", "1, 3 and 5", client.TopicSpec{Name: "two", ReplicationFactor: 2}},
		{"too many partitions", "INVALID_PARTITIONS", "10000", client.TopicSpec{Name: "wide", Partitions: 1 << 20}},
		{"unknown config key", "INVALID_CONFIG", "retention.ms", client.TopicSpec{Name: "odd", Configs: map[string]string{"retention.mss": "1"}}},
		{"config value out of range", "INVALID_CONFIG", "max.message.bytes", client.TopicSpec{Name: "odd", Configs: map[string]string{"max.message.bytes": "-5"}}},
		{"quorum that cannot be", "INVALID_CONFIG", "majority", client.TopicSpec{Name: "odd", Configs: map[string]string{"min.insync.replicas": "3"}}},
	} {
		s.t.Run(bad.name, func(t *testing.T) {
			_, err := s.cl.CreateTopic(s.ctx, bad.spec)
			var e *client.Error
			if !errors.As(err, &e) || e.Reason != bad.reason || e.Outcome != client.NotWritten || !strings.Contains(e.Message, bad.names) {
				t.Errorf("answered %v, want %s, not written, and %q named", err, bad.reason, bad.names)
			}
		})
	}
}
