package api

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// damaged is a good batch with one change, its CRC made good again unless the change is about that.
func damaged(change func(b record.Batch)) []byte {
	b := record.Batch(bytes.Clone(batchOf("v")))
	change(b)
	b.Rewrite(b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()) // seals
	return b
}

// badRequest is a produce request that must be refused.
type badRequest struct {
	name   string
	req    *clientv1.ProduceRequest
	reason string
	// in are parts of message, field and limit that the answer has to name.
	in []string
}

func withRecords(change func(*clientv1.Records)) *clientv1.ProduceRequest {
	r := &clientv1.Records{Records: []*clientv1.Record{{Value: []byte("v")}}}
	change(r)
	return &clientv1.ProduceRequest{Topic: "t", Records: r}
}

func withBatch(b []byte) *clientv1.ProduceRequest {
	return &clientv1.ProduceRequest{Topic: "t", Batch: b}
}

// badFields are wrong outside of the batch.
func badFields() []badRequest {
	long := strings.Repeat("n", 250)
	return []badRequest{
		{"empty", &clientv1.ProduceRequest{}, "INVALID_TOPIC_EXCEPTION", []string{"topic", "empty"}},
		{"long topic", request(1, long, "x"), "INVALID_TOPIC_EXCEPTION", []string{"topic", "250", "249"}},
		{"huge topic", request(1, strings.Repeat("n", 50_000), "x"), "INVALID_TOPIC_EXCEPTION", []string{"topic", "50000", "249"}},
		{"topic with a slash", request(1, "a/b", "x"), "INVALID_TOPIC_EXCEPTION", []string{"a/b"}},
		{"topic of dots", request(1, "..", "x"), "INVALID_TOPIC_EXCEPTION", []string{".."}},
		{"negative partition", &clientv1.ProduceRequest{Topic: "t", Partition: -3, Batch: batchOf("x")}, "INVALID_REQUEST", []string{"partition", "-3"}},
		{"acks 4", &clientv1.ProduceRequest{Topic: "t", Acks: 4, Batch: batchOf("x")}, "INVALID_REQUIRED_ACKS", []string{"acks", "4"}},
		{"acks -1", &clientv1.ProduceRequest{Topic: "t", Acks: -1, Batch: batchOf("x")}, "INVALID_REQUIRED_ACKS", []string{"acks", "-1"}},
		{"bad topic id", &clientv1.ProduceRequest{Topic: "t", TopicId: "77", Batch: batchOf("x")}, "INVALID_REQUEST", []string{"topic_id", "77"}},
		{"negative timeout", &clientv1.ProduceRequest{Topic: "t", TimeoutMs: -1, Batch: batchOf("x")}, "INVALID_REQUEST", []string{"timeout_ms", "-1"}},
		{"timeout too long", &clientv1.ProduceRequest{Topic: "t", TimeoutMs: math.MaxInt32, Batch: batchOf("x")}, "INVALID_REQUEST", []string{"timeout_ms", "600000"}},
		{"plain batch in a transaction", &clientv1.ProduceRequest{Topic: "t", TransactionalId: "tx", Batch: batchOf("x")}, "INVALID_REQUEST", []string{"transactional bit"}},
		{"long transactional id", &clientv1.ProduceRequest{Topic: "t", TransactionalId: strings.Repeat("x", 1025), Batch: batchOf("x")}, "INVALID_REQUEST", []string{"transactional_id", "1025", "1 to 1024"}},
		{"transactional records without a producer", &clientv1.ProduceRequest{Topic: "t", TransactionalId: "tx", Records: &clientv1.Records{Records: []*clientv1.Record{{}}}},
			"INVALID_REQUEST", []string{"producer_id"}},
		{"internal topic", request(1, "__transaction_state", "x"), "INVALID_TOPIC_EXCEPTION", []string{"__transaction_state", "belongs to the brokers"}},
		{"name that collides with an internal topic", request(1, "_.transaction.state", "x"), "INVALID_TOPIC_EXCEPTION", []string{"belongs to the brokers"}},
		{"neither batch nor records", &clientv1.ProduceRequest{Topic: "t"}, "INVALID_REQUEST", []string{"batch, records", "neither"}},
		{"batch and records", &clientv1.ProduceRequest{Topic: "t", Batch: batchOf("x"), Records: &clientv1.Records{}}, "INVALID_REQUEST", []string{"batch, records", "both"}},
		{"no record", &clientv1.ProduceRequest{Topic: "t", Records: &clientv1.Records{}}, "INVALID_RECORD", []string{"records", "at least one"}},
		{"producer id alone", withRecords(func(r *clientv1.Records) { r.ProducerId = proto.Int64(1) }), "INVALID_REQUEST", []string{"producer_id, producer_epoch, base_sequence", "all three"}},
		{"negative producer id", withRecords(func(r *clientv1.Records) {
			r.ProducerId, r.ProducerEpoch, r.BaseSequence = proto.Int64(-1), proto.Int32(0), proto.Int32(0)
		}), "INVALID_REQUEST", []string{"producer_id", "-1"}},
		{"epoch above int16", withRecords(func(r *clientv1.Records) {
			r.ProducerId, r.ProducerEpoch, r.BaseSequence = proto.Int64(1), proto.Int32(32768), proto.Int32(0)
		}), "INVALID_REQUEST", []string{"producer_epoch", "32768", "32767"}},
		{"negative sequence", withRecords(func(r *clientv1.Records) {
			r.ProducerId, r.ProducerEpoch, r.BaseSequence = proto.Int64(1), proto.Int32(0), proto.Int32(-5)
		}), "INVALID_REQUEST", []string{"base_sequence", "-5"}},
		{"negative timestamp", withRecords(func(r *clientv1.Records) { r.Records[0].TimestampMs = -2 }), "INVALID_TIMESTAMP", []string{"record 0", "timestamp_ms", "-2"}},
		{"timestamp in the far future", withRecords(func(r *clientv1.Records) { r.Records[0].TimestampMs = time.Now().UnixMilli() + 7_200_000 }), "INVALID_TIMESTAMP", []string{"message.timestamp.after.max.ms"}},
		{"records above max.message.bytes", withRecords(func(r *clientv1.Records) {
			r.Records = append(r.Records, &clientv1.Record{Value: make([]byte, 1<<20)})
		}), "MESSAGE_TOO_LARGE", []string{"record 1", "max.message.bytes", "1048576"}},
	}
}

// badBatches are wrong inside.
func badBatches() []badRequest {
	return []badRequest{
		{"batch above max.message.bytes", withBatch(batchOf(strings.Repeat("x", 1<<20))), "MESSAGE_TOO_LARGE", []string{"max.message.bytes", "1048576"}},
		{"bad CRC", withBatch(func() []byte { b := batchOf("v"); b[len(b)-1] ^= 1; return b }()), "CORRUPT_MESSAGE", []string{"CRC"}},
		{"cut short", withBatch(batchOf("v")[:65]), "INVALID_RECORD", []string{"bytes"}},
		{"less than a header", withBatch([]byte{1, 2, 3}), "INVALID_RECORD", []string{"3 bytes"}},
		{"two batches", withBatch(append(batchOf("v"), batchOf("w")...)), "INVALID_RECORD", []string{"exactly one batch"}},
		{"magic 3", withBatch(damaged(func(b record.Batch) { b[16] = 3 })), "CORRUPT_MESSAGE", []string{"magic 3"}},
		{"magic 1", withBatch(damaged(func(b record.Batch) { b[16] = 1 })), "INVALID_RECORD", []string{"magic 1"}},
		{"undecompressable", withBatch(damaged(func(b record.Batch) { b[22] |= 2 })), "CORRUPT_MESSAGE", []string{"snappy"}},
		{"codec 7", withBatch(damaged(func(b record.Batch) { b[22] |= 7 })), "UNSUPPORTED_COMPRESSION_TYPE", []string{"codec 7"}},
		{"base offset 5", withBatch(damaged(func(b record.Batch) { b.SetBaseOffset(5) })), "INVALID_RECORD", []string{"base offset", "5"}},
		{"count 9", withBatch(damaged(func(b record.Batch) { b[60] = 9 })), "INVALID_RECORD", []string{"last offset delta"}},
		{"control bit", withBatch(damaged(func(b record.Batch) { b[22] |= 0x20 })), "INVALID_RECORD", []string{"control"}},
		{"transactional bit", withBatch(func() []byte {
			b := batchOf("v")
			b[22] |= 0x10
			b.Rewrite(7, 0, 0)
			return b
		}()), "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", []string{"transactional"}},
	}
}

// final are the refusals that Kafka calls retriable, for damage on the way, and that will stay
// as they are however often the same bytes are sent.
var final = []string{"magic 3", "undecompressable"}

// Whatever a client sends is answered with a reason that names what is wrong; nothing has happened
// then, and the stream goes on.
func TestProduceRefusesBadInput(t *testing.T) {
	for _, c := range append(badFields(), badBatches()...) {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			s := r.produce()
			c.req.RequestId = 77
			s.send(c.req)
			a := s.recv()
			e := a.Error
			if e.GetReason() != c.reason || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN || a.RequestId != 77 || a.BaseOffset != -1 || a.LogAppendTimeMs != -1 || a.LogStartOffset != fakeLogStart {
				t.Fatalf("answer %v, want %s", a, c.reason)
			}
			if want := frontdoor.KindOf(c.reason).Retry != frontdoor.RetryNever && !slices.Contains(final, c.name); e.Retriable != want {
				t.Errorf("retriable: %t, want %t", e.Retriable, want)
			}
			text := e.Message + " " + e.Metadata["field"] + " " + e.Metadata["limit"]
			for _, part := range c.in {
				if !strings.Contains(text, part) {
					t.Errorf("%q does not name %q", text, part)
				}
			}
			if len(text) > 600 {
				t.Errorf("message of %d bytes", len(text))
			}
			if n := len(r.log.produced()); n != 0 {
				t.Errorf("%d proposals of bad input", n)
			}
			s.send(request(78, "t", "good"))
			if a := s.recv(); a.RequestId != 78 || a.Error != nil {
				t.Errorf("answer %v to a good request after a bad one", a)
			}
			s.end()
			if got := r.metric(r.server.metrics.produceErrors.WithLabelValues(c.reason)); got != 1 {
				t.Errorf("metric counts %v errors %s, want 1", got, c.reason)
			}
		})
	}
}

// A batch within the broker's cap and above the topic's limit leaves the stream usable; what is
// above the cap is not even read, and gRPC ends the stream, whose header has told the cap.
func TestProduceRefusesWhatIsTooLargeToRead(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxMessageBytes = 1 << 20 })
	s := r.produce()
	s.send(request(1, "t", strings.Repeat("x", 1<<20)))
	if a := s.recv(); a.Error.GetReason() != "MESSAGE_TOO_LARGE" {
		t.Fatalf("answer %v, want MESSAGE_TOO_LARGE", a)
	}
	s.send(request(2, "t", "x"))
	if a := s.recv(); a.RequestId != 2 || a.Error != nil {
		t.Fatalf("answer %v, want the one to the good request", a)
	}
	s.send(request(3, "t", strings.Repeat("x", 2<<20)))
	_, err := s.Recv()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), strconv.Itoa(1<<20+messageSlack)) {
		t.Fatalf("the stream ended with %v, want RESOURCE_EXHAUSTED with the limit", err)
	}
	header, err := s.Header()
	if got := header.Get(clientv1.MaxRequestBytesHeader); err != nil || !slices.Equal(got, []string{strconv.Itoa(1<<20 + messageSlack)}) {
		t.Fatalf("header %v, %v", header, err)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func TestProduceRefusesWhatIsNoRequest(t *testing.T) {
	r := newRig(t, nil)
	s, err := r.conn.NewStream(r.ctx(), &clientv1.LogService_ServiceDesc.Streams[0], clientv1.LogService_Produce_FullMethodName,
		grpc.ForceCodecV2(rawCodec{clientv1.Codec{}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg([]byte{0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	err = s.RecvMsg(&clientv1.ProduceResponse{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "unmarshal") {
		t.Fatalf("the stream ended with %v, want INTERNAL", err)
	}
	if got := r.metric(r.server.metrics.panics); got != 0 {
		t.Errorf("%v panics", got)
	}
}

// Records in proto form become one batch that says exactly what they said.
func TestProduceEncodesRecords(t *testing.T) {
	r := newRig(t, nil)
	s := r.produce()
	const now = 1_700_000_000_000
	r.log.limits = func(record.TopicPartition) (record.Limits, error) {
		return record.Limits{Now: now, TimestampBeforeMax: record.NoTimestampLimit, TimestampAfterMax: 1000}, nil
	}
	s.send(&clientv1.ProduceRequest{RequestId: 1, Topic: "t", Records: &clientv1.Records{
		ProducerId: proto.Int64(1 << 40), ProducerEpoch: proto.Int32(3), BaseSequence: proto.Int32(math.MaxInt32),
		Records: []*clientv1.Record{
			{Key: []byte("k"), Value: []byte("v"), TimestampMs: now - 5, Headers: []*clientv1.Header{{Key: "h", Value: []byte("x")}, {Key: "null"}, {Key: "empty", Value: []byte{}}}},
			{Value: []byte{}},
			{Key: []byte{}},
		}}})
	if a := s.recv(); a.Error != nil {
		t.Fatal(a)
	}
	s.end()
	b := r.log.produced()[0].Batch
	if b.ProducerID() != 1<<40 || b.ProducerEpoch() != 3 || b.BaseSequence() != math.MaxInt32 || b.LastSequence() != 1 || b.Count() != 3 || b.BaseOffset() != 0 {
		t.Errorf("batch of producer %d epoch %d sequence %d to %d, %d records", b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.LastSequence(), b.Count())
	}
	records, err := b.Records(0)
	if err != nil {
		t.Fatal(err)
	}
	var got []record.Record
	for records.Next() {
		rec := *records.Record()
		rec.Headers = append([]record.Header(nil), rec.Headers...)
		got = append(got, rec)
	}
	if records.Err() != nil || len(got) != 3 {
		t.Fatalf("%d records, %v", len(got), records.Err())
	}
	if string(got[0].Key) != "k" || string(got[0].Value) != "v" || got[0].Timestamp != now-5 || got[1].Timestamp != now {
		t.Errorf("first record %+v, second %+v", got[0], got[1])
	}
	if h := got[0].Headers; len(h) != 3 || h[0].Key != "h" || string(h[0].Value) != "x" || h[1].Value != nil || h[2].Value == nil {
		t.Errorf("headers %+v", h)
	}
	if got[1].Key != nil || got[1].Value == nil || got[2].Key == nil || got[2].Value != nil {
		t.Errorf("null and empty were mixed up: %+v, %+v", got[1], got[2])
	}
	// Without idempotence.
	s = r.produce()
	s.send(&clientv1.ProduceRequest{RequestId: 1, Topic: "t", Records: &clientv1.Records{Records: []*clientv1.Record{nil}}})
	if a := s.recv(); a.Error != nil {
		t.Fatal(a)
	}
	s.end()
	if b := r.log.produced()[1].Batch; b.ProducerID() != record.NoProducerID || b.BaseSequence() != record.NoSequence {
		t.Errorf("producer %d, sequence %d without idempotence", b.ProducerID(), b.BaseSequence())
	}
}

// A received batch is the log's: nothing of gRPC may still write to it.
func TestProducedBatchesStayAsTheyWere(t *testing.T) {
	r := newRig(t, nil)
	s := r.produce()
	var want [][]byte
	for i := range 200 {
		req := request(uint64(i), "t", strings.Repeat(string(rune('a'+i%26)), 1000*(i%40)))
		want = append(want, bytes.Clone(req.Batch))
		s.send(req)
	}
	for range want {
		s.recv()
	}
	s.end()
	for i, req := range r.log.produced() {
		if !bytes.Equal(req.Batch, want[i]) {
			t.Fatalf("batch %d has changed", i)
		}
	}
}

// badCall is a call that must be refused because of a field.
type badCall struct {
	name   string
	call   func(ctx context.Context, r *rig) error
	reason string
	field  string
}

func fetching(change func(*clientv1.FetchRequest)) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		req := &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}}
		change(req)
		_, err := r.client.Fetch(ctx, req)
		return err
	}
}

func listing(req *clientv1.ListOffsetsRequest) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		_, err := r.client.ListOffsets(ctx, req)
		return err
	}
}

// badLogCalls are of the service for records.
func badLogCalls() []badCall {
	describing := func(req *clientv1.DescribeProducersRequest) func(context.Context, *rig) error {
		return func(ctx context.Context, r *rig) error {
			_, err := r.client.DescribeProducers(ctx, req)
			return err
		}
	}
	return []badCall{
		{"fetch nothing", fetching(func(q *clientv1.FetchRequest) { q.Partitions = nil }), reasonInvalidRequest, "partitions"},
		{"fetch too much", fetching(func(q *clientv1.FetchRequest) { q.Partitions = make([]*clientv1.FetchPartition, maxPartitions+1) }), reasonInvalidRequest, "partitions"},
		{"fetch wait", fetching(func(q *clientv1.FetchRequest) { q.MaxWaitMs = 60_001 }), reasonInvalidRequest, "max_wait_ms"},
		{"fetch negative wait", fetching(func(q *clientv1.FetchRequest) { q.MaxWaitMs = -1 }), reasonInvalidRequest, "max_wait_ms"},
		{"fetch min bytes", fetching(func(q *clientv1.FetchRequest) { q.MinBytes = -1 }), reasonInvalidRequest, "min_bytes"},
		{"fetch max bytes", fetching(func(q *clientv1.FetchRequest) { q.MaxBytes = -1 }), reasonInvalidRequest, "max_bytes"},
		{"fetch isolation", fetching(func(q *clientv1.FetchRequest) { q.IsolationLevel = 9 }), reasonInvalidRequest, "isolation_level"},
		{"list nothing", listing(&clientv1.ListOffsetsRequest{}), reasonInvalidRequest, "partitions"},
		{"list too much", listing(&clientv1.ListOffsetsRequest{Partitions: make([]*clientv1.ListOffsetsPartition, maxPartitions+1)}), reasonInvalidRequest, "partitions"},
		{"list isolation", listing(&clientv1.ListOffsetsRequest{IsolationLevel: 3}), reasonInvalidRequest, "isolation_level"},
		{"describe producers", describing(&clientv1.DescribeProducersRequest{Topic: "t", Partition: -1}), reasonInvalidRequest, "partition"},
		{"describe too many", describing(&clientv1.DescribeProducersRequest{Topic: "t", ProducerIds: make([]int64, maxProducers+1)}), reasonInvalidRequest, "producer_ids"},
	}
}

// badAdminCalls are of the service for topics and the cluster.
func badAdminCalls() []badCall {
	return []badCall{
		{"metadata of too many", func(ctx context.Context, r *rig) error {
			_, err := r.admin.GetMetadata(ctx, &clientv1.GetMetadataRequest{Topics: make([]string, maxTopicsNamed+1)})
			return err
		}, reasonInvalidRequest, "topics"},
		{"create without a name", func(ctx context.Context, r *rig) error {
			_, err := r.admin.CreateTopic(ctx, &clientv1.CreateTopicRequest{})
			return err
		}, "INVALID_TOPIC_EXCEPTION", "topic"},
		{"create and wait for ever", func(ctx context.Context, r *rig) error {
			_, err := r.admin.CreateTopic(ctx, &clientv1.CreateTopicRequest{Name: "n", WaitReadyMs: 600_001})
			return err
		}, reasonInvalidRequest, "wait_ready_ms"},
		{"alter without a name", func(ctx context.Context, r *rig) error {
			_, err := r.admin.AlterTopic(ctx, &clientv1.AlterTopicRequest{})
			return err
		}, "INVALID_TOPIC_EXCEPTION", "topic"},
		{"alter nothing", func(ctx context.Context, r *rig) error {
			_, err := r.admin.AlterTopic(ctx, &clientv1.AlterTopicRequest{Name: "t"})
			return err
		}, reasonInvalidRequest, "partitions, set_configs, unset_configs"},
		{"delete a bad name", func(ctx context.Context, r *rig) error {
			_, err := r.admin.DeleteTopic(ctx, &clientv1.DeleteTopicRequest{Name: "ä"})
			return err
		}, "INVALID_TOPIC_EXCEPTION", "topic"},
		{"describe a bad name", func(ctx context.Context, r *rig) error {
			_, err := r.admin.DescribeTopic(ctx, &clientv1.DescribeTopicRequest{Name: "."})
			return err
		}, "INVALID_TOPIC_EXCEPTION", "topic"},
		{"describe an unknown one", func(ctx context.Context, r *rig) error {
			_, err := r.admin.DescribeTopic(ctx, &clientv1.DescribeTopicRequest{Name: "gone"})
			return err
		}, reasonUnknownTopic, "topic"},
		{"groups of a partition only", func(ctx context.Context, r *rig) error {
			_, err := r.admin.ListRaftGroups(ctx, &clientv1.ListRaftGroupsRequest{Partition: proto.Int32(0)})
			return err
		}, reasonInvalidRequest, "topic"},
		{"groups of a negative one", func(ctx context.Context, r *rig) error {
			_, err := r.admin.ListRaftGroups(ctx, &clientv1.ListRaftGroupsRequest{Topic: "t", Partition: proto.Int32(-1)})
			return err
		}, reasonInvalidRequest, "partition"},
		{"transfer to broker -2", func(ctx context.Context, r *rig) error {
			_, err := r.admin.TransferLeadership(ctx, &clientv1.TransferLeadershipRequest{Topic: "t", ToBroker: proto.Int32(-2)})
			return err
		}, reasonInvalidRequest, "to_broker"},
		{"checksum up to -2", func(ctx context.Context, r *rig) error {
			_, err := r.admin.GetChecksums(ctx, &clientv1.GetChecksumsRequest{Topic: "t", UpTo: proto.Int64(-2)})
			return err
		}, reasonInvalidRequest, "up_to"},
		{"delete records without an offset", func(ctx context.Context, r *rig) error {
			_, err := r.admin.DeleteRecords(ctx, &clientv1.DeleteRecordsRequest{Topic: "t"})
			return err
		}, reasonInvalidRequest, "before_offset"},
	}
}

// The other calls name what is wrong as well.
func TestCallsRefuseBadInput(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range append(badLogCalls(), badAdminCalls()...) {
		t.Run(c.name, func(t *testing.T) {
			err := c.call(r.ctx(), r)
			e, _, ok := clientv1.ErrorOf(err)
			if !ok || e.Reason != c.reason || e.Metadata["field"] != c.field || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
				t.Errorf("%v (%v), want %s for field %s", err, e, c.reason, c.field)
			}
			if k := frontdoor.KindOf(c.reason); status.Code(err) != k.GRPC {
				t.Errorf("gRPC code %v, want %v", status.Code(err), k.GRPC)
			}
		})
	}
}
