package parity

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/record"
)

// scene is one scenario on one cluster.
type scene struct {
	t   *testing.T
	ctx context.Context
	// target is who is asked.
	target string
	name   string
	seeds  []string
	wires  map[string]*wire
	// lines is what was noted.
	lines []line
	// pids are the producer ids that were heard, in order: they are told by their numbers.
	pids []int64
}

// line is one step and what came of it.
type line struct{ step, result string }

// note enters what came of a step.
func (s *scene) note(step, format string, args ...any) {
	s.lines = append(s.lines, line{step, fmt.Sprintf(format, args...)})
}

// wireTo gives the connection to a broker.
func (s *scene) wireTo(addr string) *wire {
	s.t.Helper()
	if w := s.wires[addr]; w != nil {
		return w
	}
	w, err := dial(s.ctx, addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.wires[addr] = w
	return w
}

// try asks a broker; an error is mostly that it closes the connection.
func (s *scene) try(addr string, req kmsg.Request) (kmsg.Response, error) {
	s.t.Helper()
	resp, err := s.wireTo(addr).ask(req)
	if err != nil {
		_ = s.wires[addr].conn.Close() // it is of no more use
		delete(s.wires, addr)
	}
	return resp, err
}

// ask asks a broker that has to answer.
func ask[R kmsg.Response](s *scene, addr string, req kmsg.Request) R {
	s.t.Helper()
	resp, err := s.try(addr, req)
	if err != nil {
		s.t.Fatalf("%s: %s version %d: %v", s.name, kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	return resp.(R)
}

// until repeats until the answer is yes.
func (s *scene) until(what string, yes func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !yes(); {
		if time.Now().After(deadline) || s.ctx.Err() != nil {
			s.t.Fatalf("%s: waited in vain for %s", s.name, what)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// settled repeats a request whose code says that something is not ready yet, and gives the code that it comes to.
func (s *scene) settled(f func() int16) int16 {
	s.t.Helper()
	last := int16(0)
	s.until("a coordinator", func() bool {
		last = f()
		switch last {
		case 14, 15, 16, 51: // loading, not available, moved, busy
			return false
		}
		return true
	})
	return last
}

// pid tells a producer id by its number.
func (s *scene) pid(id int64) string {
	if id < 0 {
		return fmt.Sprint(id)
	}
	for i, known := range s.pids {
		if known == id {
			return fmt.Sprintf("p%d", i+1)
		}
	}
	s.pids = append(s.pids, id)
	return fmt.Sprintf("p%d", len(s.pids))
}

func ptr[T any](v T) *T { return &v }

// metadata asks a broker for a topic, by name.
func (s *scene) metadata(addr, topic string) *kmsg.MetadataResponse {
	s.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = []kmsg.MetadataRequestTopic{t}
	return ask[*kmsg.MetadataResponse](s, addr, req)
}

// topic makes a topic with a name of this scenario and waits until all brokers know who leads it.
func (s *scene) topic(suffix string, partitions int32, configs ...string) string {
	s.t.Helper()
	name := s.name + "-" + suffix
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 5, 20_000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, int16(len(s.seeds))
	for i := 0; i+1 < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	req.Topics = []kmsg.CreateTopicsRequestTopic{t}
	if got := ask[*kmsg.CreateTopicsResponse](s, s.controller(), req).Topics[0]; got.ErrorCode != 0 {
		s.t.Fatalf("create %s: %s %v", name, code(got.ErrorCode), got.ErrorMessage)
	}
	s.until("leaders of "+name, func() bool {
		for _, seed := range s.seeds {
			got := s.metadata(seed, name).Topics[0]
			if got.ErrorCode != 0 || len(got.Partitions) != int(partitions) {
				return false
			}
			for _, p := range got.Partitions {
				if p.Leader < 0 {
					return false
				}
			}
		}
		for p := range partitions {
			if c, _, _ := s.offset(name, p, -1, false); c != 0 {
				return false
			}
		}
		return true
	})
	return name
}

// leader is the address of the broker that leads a partition.
func (s *scene) leader(topic string, partition int32) string {
	s.t.Helper()
	m := s.metadata(s.seeds[0], topic)
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			for _, b := range m.Brokers {
				if p.Partition == partition && p.Leader == b.NodeID {
					return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
				}
			}
		}
	}
	s.t.Fatalf("%s: nobody leads %s-%d", s.name, topic, partition)
	return ""
}

const (
	kindGroup = 0
	kindTxn   = 1
)

// coordinator is the address of the broker that coordinates a name.
func (s *scene) coordinator(kind int8, key string) string {
	s.t.Helper()
	addr := ""
	s.until("coordinator of "+key, func() bool {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorType, req.CoordinatorKey = 3, kind, key
		resp := ask[*kmsg.FindCoordinatorResponse](s, s.seeds[0], req)
		addr = net.JoinHostPort(resp.Host, strconv.Itoa(int(resp.Port)))
		return resp.ErrorCode == 0
	})
	return addr
}

// offset looks an offset up by time.
func (s *scene) offset(topic string, partition int32, timestamp int64, committed bool) (c int16, offset, at int64) {
	s.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = 6, -1
	if committed {
		req.IsolationLevel = 1
	}
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp, p.CurrentLeaderEpoch = partition, timestamp, -1
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
	got := ask[*kmsg.ListOffsetsResponse](s, s.leader(topic, partition), req).Topics[0].Partitions[0]
	return got.ErrorCode, got.Offset, got.Timestamp
}

// batch is what a producer sends: n records of a byte.
type batch struct {
	pid   int64
	epoch int16
	seq   int32
	n     int
	txn   bool
	// at is the timestamp of the first record; the others have the next milliseconds. 0: now.
	at int64
	// codec, if not none.
	codec record.Codec
	// spoil changes the bytes before their CRC is made; broken after that.
	spoil, broken func([]byte)
}

// plain is a batch without a producer id.
func plain(n int) batch { return batch{pid: -1, epoch: -1, seq: -1, n: n} }

func (b batch) bytes(t testing.TB) []byte {
	t.Helper()
	at := b.at
	if at == 0 {
		at = time.Now().UnixMilli()
	}
	builder := record.NewBuilder(b.codec)
	for i := range b.n {
		if err := builder.Append(at+int64(i), nil, []byte{'a' + byte(i%26)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	raw := []byte(builder.Finish(record.ProducerID(b.pid), record.Epoch(b.epoch), record.Sequence(b.seq), b.txn))
	if b.spoil != nil {
		b.spoil(raw)
		seal(raw)
	}
	if b.broken != nil {
		b.broken(raw)
	}
	return raw
}

// produce sends one batch to the leader of partition 0 and tells the outcome.
func (s *scene) produce(version int16, topic, id string, b batch) string {
	s.t.Helper()
	return s.produceRaw(version, -1, topic, id, b.bytes(s.t))
}

func (s *scene) produceRaw(version, acks int16, topic, id string, raw []byte) string {
	s.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 10_000
	if id != "" {
		req.TransactionID = &id
	}
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = raw
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{p}}}
	resp, err := s.try(s.leader(topic, 0), req)
	if err != nil {
		return err.Error()
	}
	got := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		return code(got.ErrorCode)
	}
	return fmt.Sprintf("offset %d", got.BaseOffset)
}

// initProducer asks for a producer id; it waits for what passes.
func (s *scene) initProducer(version int16, id string, timeout int32, pid int64, epoch int16) (int64, int16, string) {
	s.t.Helper()
	var resp *kmsg.InitProducerIDResponse
	addr := s.coordinator(kindTxn, id)
	c := s.settled(func() int16 {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = version, &id, timeout, pid, epoch
		resp = ask[*kmsg.InitProducerIDResponse](s, addr, req)
		return resp.ErrorCode
	})
	return resp.ProducerID, resp.ProducerEpoch, fmt.Sprintf("%s %s/%d", code(c), s.pid(resp.ProducerID), resp.ProducerEpoch)
}

// begin makes a transactional producer.
func (s *scene) begin(id string) (pid int64, epoch int16) {
	s.t.Helper()
	pid, epoch, said := s.initProducer(4, id, 60_000, -1, -1)
	if pid < 0 {
		s.t.Fatalf("%s: begin %s: %s", s.name, id, said)
	}
	return pid, epoch
}

// add lets partition 0 of topics join a transaction of version 1.
func (s *scene) add(version int16, id string, pid int64, epoch int16, topics ...string) string {
	s.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = version, id, pid, epoch
	for _, topic := range topics {
		req.Topics = append(req.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic, Partitions: []int32{0}})
	}
	var resp *kmsg.AddPartitionsToTxnResponse
	addr := s.coordinator(kindTxn, id)
	s.settled(func() int16 {
		resp = ask[*kmsg.AddPartitionsToTxnResponse](s, addr, req)
		if len(resp.Topics) > 0 {
			return resp.Topics[0].Partitions[0].ErrorCode
		}
		return 0
	})
	var said []string
	for _, t := range resp.Topics {
		said = append(said, code(t.Partitions[0].ErrorCode))
	}
	slices.Sort(said) // in no order
	return strings.Join(said, " ")
}

// end ends a transaction; it waits until the one before has ended.
func (s *scene) end(version int16, id string, pid int64, epoch int16, commit bool) (int64, int16, string) {
	s.t.Helper()
	var resp *kmsg.EndTxnResponse
	addr := s.coordinator(kindTxn, id)
	c := s.settled(func() int16 {
		req := kmsg.NewPtrEndTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = version, id, pid, epoch, commit
		resp = ask[*kmsg.EndTxnResponse](s, addr, req)
		return resp.ErrorCode
	})
	said := code(c)
	if version >= 5 && c == 0 {
		said += fmt.Sprintf(" %s/%d", s.pid(resp.ProducerID), resp.ProducerEpoch)
	}
	return resp.ProducerID, resp.ProducerEpoch, said
}

// state waits until a transaction is decided and its markers are written, and tells its state.
func (s *scene) state(id string) string {
	s.t.Helper()
	said := ""
	s.until("transaction "+id, func() bool {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{id}
		got := ask[*kmsg.DescribeTransactionsResponse](s, s.coordinator(kindTxn, id), req).TransactionStates[0]
		said = got.State
		if got.ErrorCode != 0 {
			said = code(got.ErrorCode)
		}
		return got.State != "PrepareCommit" && got.State != "PrepareAbort" && got.ErrorCode != 14 && got.ErrorCode != 16
	})
	return said
}
