package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// nullBroker acknowledges at once and keeps nothing; what it serves to fetches is one batch, over
// and over. It listens on a real socket, since that is part of the price.
type nullBroker struct {
	clientv1.UnimplementedLogServiceServer
	clientv1.UnimplementedAdminServiceServer
	addr       string
	partitions int
	offset     atomic.Int64
	batch      record.Batch
}

func startNull(b *testing.B, partitions int) *nullBroker {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	n := &nullBroker{addr: lis.Addr().String(), partitions: partitions}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(clientv1.Codec{}), grpc.MaxRecvMsgSize(64<<20),
		grpc.InitialWindowSize(8<<20), grpc.InitialConnWindowSize(32<<20), grpc.ReadBufferSize(128<<10), grpc.WriteBufferSize(128<<10))
	clientv1.RegisterLogServiceServer(srv, n)
	clientv1.RegisterAdminServiceServer(srv, n)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	b.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return n
}

func (n *nullBroker) connect(b *testing.B) *Client {
	c, err := New(Config{Bootstrap: []string{n.addr}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close(bg) })
	return c
}

func (n *nullBroker) GetMetadata(context.Context, *clientv1.GetMetadataRequest) (*clientv1.GetMetadataResponse, error) {
	t := &clientv1.Topic{Name: "t", TopicId: "1"}
	for i := range n.partitions {
		t.Partitions = append(t.Partitions, &clientv1.Partition{Partition: int32(i), Leader: 1, LeaderEpoch: 1})
	}
	return &clientv1.GetMetadataResponse{Brokers: []*clientv1.Broker{{BrokerId: 1, Address: n.addr}}, Topics: []*clientv1.Topic{t}}, nil
}

func (n *nullBroker) InitProducerId(context.Context, *clientv1.InitProducerIdRequest) (*clientv1.InitProducerIdResponse, error) {
	return &clientv1.InitProducerIdResponse{ProducerId: 1}, nil
}

func (n *nullBroker) Produce(stream grpc.BidiStreamingServer[clientv1.ProduceRequest, clientv1.ProduceResponse]) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil
		}
		count := int64(record.Batch(req.Batch).Count())
		if err := stream.Send(&clientv1.ProduceResponse{RequestId: req.RequestId, BaseOffset: n.offset.Add(count) - count}); err != nil {
			return err
		}
	}
}

func (n *nullBroker) Fetch(_ context.Context, req *clientv1.FetchRequest) (*clientv1.FetchResponse, error) {
	resp := &clientv1.FetchResponse{}
	for _, fp := range req.Partitions {
		p := &clientv1.FetchedPartition{Topic: fp.Topic, Partition: fp.Partition, HighWatermark: 1 << 60}
		for at, size := fp.Offset, 0; size+len(n.batch) <= int(fp.MaxBytes); size += len(n.batch) {
			b := append(record.Batch(nil), n.batch...)
			b.SetBaseOffset(record.Offset(at))
			at += int64(b.Count())
			p.Batches = append(p.Batches, b)
		}
		resp.Partitions = append(resp.Partitions, p)
	}
	return resp, nil
}

func (n *nullBroker) ListOffsets(_ context.Context, req *clientv1.ListOffsetsRequest) (*clientv1.ListOffsetsResponse, error) {
	resp := &clientv1.ListOffsetsResponse{}
	for _, p := range req.Partitions {
		resp.Partitions = append(resp.Partitions, &clientv1.ListedOffset{Topic: p.Topic, Partition: p.Partition})
	}
	return resp, nil
}

// BenchmarkSend is the producer's own price per record, callbacks included.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{100, 1000} {
		for _, partitions := range []int{1, 8} {
			b.Run(fmt.Sprintf("size=%d/partitions=%d", size, partitions), func(b *testing.B) {
				n := startNull(b, partitions)
				p, err := n.connect(b).NewProducer(ProducerConfig{})
				if err != nil {
					b.Fatal(err)
				}
				value := make([]byte, size)
				var failed atomic.Int64
				done := func(r Result) {
					if r.Outcome != Written {
						failed.Add(1)
					}
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := p.Send(bg, Record{Topic: "t", Value: value}, done); err != nil {
						b.Fatal(err)
					}
				}
				if err := p.Flush(bg); err != nil || failed.Load() > 0 {
					b.Fatal(err, failed.Load())
				}
			})
		}
	}
}

// BenchmarkSendParallel has several goroutines send to one producer.
func BenchmarkSendParallel(b *testing.B) {
	n := startNull(b, 8)
	p, err := n.connect(b).NewProducer(ProducerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 100)
	b.SetBytes(100)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := p.Send(bg, Record{Topic: "t", Value: value}, nil); err != nil {
				b.Error(err)
			}
		}
	})
	if err := p.Flush(bg); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSendSync is the time for one record there and back.
func BenchmarkSendSync(b *testing.B) {
	n := startNull(b, 1)
	p, err := n.connect(b).NewProducer(ProducerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if r := p.SendSync(bg, Record{Topic: "t", Value: value}); r.Outcome != Written {
			b.Fatal(r)
		}
	}
}

// BenchmarkPoll is the consumer's price, batches of 100 KiB, records read one by one.
func BenchmarkPoll(b *testing.B) {
	for _, decoded := range []bool{false, true} {
		b.Run(fmt.Sprintf("decoded=%v", decoded), func(b *testing.B) {
			n := startNull(b, 1)
			bd := record.NewBuilder(record.CodecNone)
			for bd.Size() < 100<<10 {
				if err := bd.Append(1, nil, make([]byte, 1000), nil); err != nil {
					b.Fatal(err)
				}
			}
			n.batch = bd.Finish(1, 0, 0, false)
			k, err := n.connect(b).NewConsumer(ConsumerConfig{Reset: ResetEarliest})
			if err != nil {
				b.Fatal(err)
			}
			if err := k.AssignTopic(bg, "t", Beginning()); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(n.batch)))
			b.ReportAllocs()
			left := 0
			for b.Loop() {
				for left == 0 {
					fs, err := k.Poll(bg)
					if err != nil {
						b.Fatal(err)
					}
					for _, f := range fs {
						left += len(f.Batches())
						if decoded {
							for r, err := range f.Records() {
								if err != nil || len(r.Value) != 1000 {
									b.Fatal(err)
								}
							}
						}
					}
				}
				left--
			}
		})
	}
}
