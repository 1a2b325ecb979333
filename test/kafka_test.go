package test

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// kafkaWire speaks the Kafka protocol with one broker.
type kafkaWire struct {
	t    *testing.T
	conn net.Conn
	next int32
}

func dialKafka(t *testing.T, c *brokertest.Cluster, addr string) *kafkaWire {
	t.Helper()
	conn, err := c.Network.Dial(context.Background(), brokertest.DefaultClientHost, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &kafkaWire{t: t, conn: conn}
}

func (w *kafkaWire) ask(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	w.send(req)
	return w.recv(req)
}

func (w *kafkaWire) send(req kmsg.Request) {
	w.t.Helper()
	w.next++
	if _, err := w.conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, w.next)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *kafkaWire) recv(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(w.conn, size[:]); err != nil {
		w.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w.conn, b); err != nil {
		w.t.Fatal(err)
	}
	b = b[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() {
		b = b[1:]
	}
	if err := resp.ReadFrom(b); err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// kafkaMetadata asks any broker for one topic.
func kafkaMetadata(w *kafkaWire, topic string) *kmsg.MetadataResponse {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	return w.ask(req).(*kmsg.MetadataResponse)
}

func kafkaProduce(topic string, b []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 11, -1, 10_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: b}}}}
	return req
}

func kafkaFetch(id [16]byte, offset int64, wait int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = 17, wait, 1, 1<<20, -1, 1
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch, p.LastFetchedEpoch = offset, 1<<20, -1, -1
	req.Topics = []kmsg.FetchRequestTopic{{TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return req
}

func oneBatch(t *testing.T, pid record.ProducerID, sequence record.Sequence, value string) []byte {
	t.Helper()
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(time.Now().UnixMilli(), nil, []byte(value), nil); err != nil {
		t.Fatal(err)
	}
	if pid == record.NoProducerID {
		return b.Finish(pid, record.NoEpoch, record.NoSequence, false)
	}
	return b.Finish(pid, 0, sequence, false)
}

// Two doors, one log: what one writes the other reads, and a batch that comes again is known. Who asks a broker that does not lead is
// told who does, with its address, and a fetch that waits is woken by what comes.
func TestKafkaAndGRPCShareTheLog(t *testing.T) {
	t.Parallel()
	c := brokertest.Start(t, brokertest.Options{})
	first := dialKafka(t, c, c.KafkaAddrs()[0])
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.TimeoutMillis = 7, 20_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 3
	create.Topics = []kmsg.CreateTopicsRequestTopic{topic}
	made := first.ask(create).(*kmsg.CreateTopicsResponse).Topics[0]
	if made.ErrorCode != 0 || made.NumPartitions != 1 || made.ReplicationFactor != 3 {
		t.Fatalf("created: %+v", made)
	}
	meta := kafkaMetadata(first, "t")
	leader := meta.Topics[0].Partitions[0].Leader
	if len(meta.Brokers) != 3 || leader < 1 {
		t.Fatalf("metadata: %+v", meta)
	}
	at := dialKafka(t, c, c.KafkaAddrs()[leader-1])
	elsewhere := dialKafka(t, c, c.KafkaAddrs()[leader%3])

	init := kmsg.NewPtrInitProducerIDRequest()
	init.Version = 4
	pid := record.ProducerID(at.ask(init).(*kmsg.InitProducerIDResponse).ProducerID)
	batch := kafkaProduce("t", oneBatch(t, pid, 0, "from kafka"))
	for range 2 { // again: a duplicate, at the same offset
		if p := at.ask(batch).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != 0 {
			t.Fatalf("produced: %+v", p)
		}
	}
	gap := at.ask(kafkaProduce("t", oneBatch(t, pid, 7, "too early"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if gap.ErrorCode != 45 || gap.LogStartOffset != 0 {
		t.Errorf("a gap in the sequence: %+v", gap)
	}
	refused := elsewhere.ask(batch).(*kmsg.ProduceResponse)
	if p := refused.Topics[0].Partitions[0]; p.ErrorCode != 6 || p.CurrentLeader.LeaderID != leader || len(refused.Brokers) != 1 || refused.Brokers[0].Port != 9092 {
		t.Errorf("at another broker: %+v, %+v", p, refused.Brokers)
	}

	// Partitions that cannot be are not there; the connection goes on.
	markers := kmsg.NewPtrWriteTxnMarkersRequest()
	markers.Version = 1
	marker := kmsg.NewWriteTxnMarkersRequestMarker()
	marker.ProducerID = int64(pid)
	marker.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{-1, math.MinInt32, 1, math.MaxInt32}}}
	markers.Markers = []kmsg.WriteTxnMarkersRequestMarker{marker}
	for _, p := range at.ask(markers).(*kmsg.WriteTxnMarkersResponse).Markers[0].Topics[0].Partitions {
		if p.ErrorCode != 3 {
			t.Errorf("a marker for partition %d: error %d", p.Partition, p.ErrorCode)
		}
	}

	// The other door: one record more wakes the fetch that waits for it.
	waiting := kafkaFetch(meta.Topics[0].TopicID, 1, 20_000)
	at.send(waiting)
	p, err := c.Client().NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if res := p.SendSync(ctx, client.Record{Topic: "t", Value: []byte("from gRPC")}); res.Outcome != client.Written {
		t.Fatal(res)
	}
	woken := at.recv(waiting).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if woken.ErrorCode != 0 || woken.HighWatermark != 2 || woken.AbortedTransactions == nil {
		t.Errorf("woken by %+v", woken)
	}
	all := at.ask(kafkaFetch(meta.Topics[0].TopicID, 0, 0)).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if got := valuesOf(t, all.RecordBatches); len(got) != 2 || got[0] != "from kafka" || got[1] != "from gRPC" {
		t.Errorf("the log holds %q", got)
	}
	away := elsewhere.ask(kafkaFetch(meta.Topics[0].TopicID, 0, 0)).(*kmsg.FetchResponse)
	if p := away.Topics[0].Partitions[0]; p.ErrorCode != 6 || p.CurrentLeader.LeaderID != leader || len(away.Brokers) != 1 {
		t.Errorf("fetched at another broker: %+v, %+v", p, away.Brokers)
	}
}

// valuesOf reads batches as a client does.
func valuesOf(t *testing.T, b []byte) (list []string) {
	t.Helper()
	for len(b) > 0 {
		batch, rest, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		records, err := batch.Records(0)
		if err != nil {
			t.Fatal(err)
		}
		for records.Next() {
			list = append(list, string(records.Record().Value))
		}
		records.Close()
		b = rest
	}
	return list
}
