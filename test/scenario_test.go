package test

import (
	"context"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/workload"
	"github.com/oncelog/oncelog/record"
)

// scenario is a cluster with one partition, and what a test needs to tell its story.
type scenario struct {
	t   *testing.T
	ctx context.Context
	c   *brokertest.Cluster
	cl  *client.Client
}

var only = record.TopicPartition{Topic: topic}

func begin(t *testing.T) *scenario {
	t.Helper()
	return beginWith(t, brokertest.Options{}, nil)
}

// beginWith begins on brokers and with a topic that are not the usual ones.
func beginWith(t *testing.T, o brokertest.Options, configs map[string]string) *scenario {
	t.Helper()
	return beginConfigured(t, brokertest.Start(t, o), configs)
}

// beginOn begins on a cluster that runs, such as a simulated one.
func beginOn(t *testing.T, c *brokertest.Cluster) *scenario {
	t.Helper()
	return beginConfigured(t, c, nil)
}

func beginConfigured(t *testing.T, c *brokertest.Cluster, configs map[string]string) *scenario {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	t.Cleanup(cancel)
	s := &scenario{t: t, ctx: ctx, c: c, cl: c.Client()}
	if _, err := s.cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 3, Configs: configs}); err != nil {
		t.Fatal(err)
	}
	if err := s.cl.WaitReady(ctx, topic); err != nil {
		t.Fatal(err)
	}
	return s
}

// until asks again and again until the answer is yes.
func (s *scenario) until(what string, yes func() bool) {
	s.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			s.t.Fatalf("%s: %v", what, s.ctx.Err())
		}
	}
}

func (s *scenario) leader() int32 {
	s.t.Helper()
	leader := int32(-1)
	s.until("find a leader", func() bool {
		m, err := s.cl.Metadata(s.ctx, topic)
		if err == nil && len(m.Topics) == 1 && len(m.Topics[0].Partitions) == 1 {
			leader = m.Topics[0].Partitions[0].Leader
		}
		return leader > 0
	})
	return leader
}

func (s *scenario) producer(cfg client.ProducerConfig) *client.Producer {
	s.t.Helper()
	p, err := s.cl.NewProducer(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func rec(value string) client.Record {
	return client.Record{Topic: topic, Partition: client.ToPartition(0), Value: []byte(value)}
}

// write sends a record and insists that it is written.
func (s *scenario) write(p *client.Producer, value string) client.Result {
	s.t.Helper()
	res := p.SendSync(s.ctx, rec(value))
	if res.Outcome != client.Written {
		s.t.Fatalf("send %q: %v", value, res)
	}
	return res
}

// writeMany sends the numbers from 0 to n-1, calling during after each send, and insists that all
// are written.
func (s *scenario) writeMany(p *client.Producer, n int, during func(i int)) {
	s.t.Helper()
	futures := make([]*client.Future, n)
	for i := range futures {
		f, err := p.SendFuture(s.ctx, rec(strconv.Itoa(i)))
		if err != nil {
			s.t.Fatalf("send %d: %v", i, err)
		}
		futures[i] = f
		during(i)
	}
	for i, f := range futures {
		if res := f.Result(s.ctx); res.Outcome != client.Written {
			s.t.Fatalf("record %d: %v", i, res)
		}
	}
}

func numbers(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = strconv.Itoa(i)
	}
	return list
}

// stored reads the whole partition.
func (s *scenario) stored() []string {
	s.t.Helper()
	var end record.Offset
	s.until("find the end", func() bool {
		at, err := s.cl.ListOffsets(s.ctx, client.ReadUncommitted, map[record.TopicPartition]client.Position{only: client.End()})
		end = at[only].Offset
		return err == nil && at[only].Err == nil
	})
	k, err := s.cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = k.Close(s.ctx) }()
	if err := k.Assign(s.ctx, only); err != nil {
		s.t.Fatal(err)
	}
	var values []string
	for next := record.Offset(0); next < end; {
		fetched, err := k.Poll(s.ctx)
		if err != nil {
			s.t.Fatalf("read back at %d of %d: %v", next, end, err)
		}
		for i := range fetched {
			if fetched[i].Err != nil {
				s.t.Fatal(fetched[i].Err)
			}
			for r, err := range fetched[i].Records() {
				if err != nil {
					s.t.Fatal(err)
				}
				values = append(values, string(r.Value))
			}
			next = fetched[i].Next
		}
	}
	return values
}

func (s *scenario) wantStored(want ...string) {
	s.t.Helper()
	got := s.stored()
	if slices.Equal(got, want) {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	s.t.Fatalf("%d records stored, want %d; first difference at %d: %q, want %q",
		len(got), len(want), i, got[i:min(i+5, len(got))], want[i:min(i+5, len(want))])
}

func (s *scenario) replicasAgree() {
	s.t.Helper()
	if err := workload.CompareReplicas(s.ctx, s.cl, topic, 3); err != nil {
		s.t.Fatal(err)
	}
}

// dial connects to one broker, below the client.
func (s *scenario) dial(id int32) *grpc.ClientConn {
	s.t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+s.c.Host(id)+":9095",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(clientv1.Codec{})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return s.c.Network.Dial(ctx, "client", addr)
		}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// ask sends one produce request to one broker; the error is that no answer came.
func (s *scenario) ask(id int32, r *clientv1.ProduceRequest) (*clientv1.ProduceResponse, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	stream, err := clientv1.NewLogServiceClient(s.dial(id)).Produce(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(r); err != nil {
		return nil, err
	}
	return stream.Recv()
}

// produce sends one batch to the leader, whoever that is by then.
func (s *scenario) produce(b record.Batch) *clientv1.ProduceResponse {
	s.t.Helper()
	var res *clientv1.ProduceResponse
	s.until("produce", func() bool {
		var err error
		res, err = s.ask(s.leader(), &clientv1.ProduceRequest{RequestId: 1, Topic: topic, Acks: clientv1.Acks_ACKS_ALL, TimeoutMs: 2000, Batch: b})
		return err == nil && !res.GetError().GetRetriable()
	})
	return res
}

// wantWritten insists on success at an offset.
func (s *scenario) wantWritten(res *clientv1.ProduceResponse, at int64, duplicate bool) {
	s.t.Helper()
	if res.GetError() != nil || res.GetBaseOffset() != at || res.GetDuplicate() != duplicate {
		s.t.Fatalf("answered %v, want offset %d, duplicate %t", res, at, duplicate)
	}
}

// wantRefused insists that the request certainly did nothing.
func wantRefused(t *testing.T, e *clientv1.Error, reason string) {
	t.Helper()
	if e.GetReason() != reason || e.GetOutcome() != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
		t.Errorf("answered %v, want %s, did not happen", e, reason)
	}
}

func (s *scenario) newID() record.ProducerID {
	s.t.Helper()
	var id record.ProducerID
	s.until("get a producer id", func() bool {
		r, err := clientv1.NewLogServiceClient(s.dial(s.leader())).InitProducerId(s.ctx, &clientv1.InitProducerIdRequest{})
		id = record.ProducerID(r.GetProducerId())
		return err == nil
	})
	return id
}

// batchOf makes a batch as a producer sends it.
func batchOf(id record.ProducerID, seq record.Sequence, values ...string) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for _, v := range values {
		_ = b.Append(1000, nil, []byte(v), nil) // small values always fit
	}
	epoch := record.Epoch(0)
	if id == record.NoProducerID {
		epoch = record.NoEpoch
	}
	return b.Finish(id, epoch, seq, false)
}
