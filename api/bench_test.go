package api

import (
	"context"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// benchServer serves a log that takes everything at once on a TCP port of the loopback interface.
func benchServer(b *testing.B, log *fakeLog) clientv1.LogServiceClient {
	b.Helper()
	s, err := New(Config{Log: log, Replicas: &fakeReplicas{}, Cluster: &fakeCluster{}, Self: &fakeCluster{}, Health: newFakeHealth(true),
		Transactions: &fakeTransactions{}, Groups: &fakeGroups{}, Coordinators: &fakeTransactions{}})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve("default", l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(streamWindowBytes), grpc.WithStaticConnWindowSize(connectionWindowBytes),
		grpc.WithReadBufferSize(readBufferBytes), grpc.WithWriteBufferSize(writeBufferBytes),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(clientv1.Codec{}), grpc.MaxCallRecvMsgSize(128<<20)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = conn.Close()
		_ = s.Stop(context.Background())
		<-served
	})
	return clientv1.NewLogServiceClient(conn)
}

// BenchmarkProduce sends batches over TCP to a log that answers at once, with requests in flight.
func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{100, 16 << 10, 100 << 10} {
		for _, inFlight := range []int{1, 5} {
			b.Run(fmt.Sprintf("%dB/%d", size, inFlight), func(b *testing.B) {
				log := &fakeLog{onProduce: func(_ partition.ProduceRequest, done func(partition.ProduceResult, error)) {
					done(partition.ProduceResult{LogAppendTime: -1}, nil)
				}}
				log.forget = true
				s, err := benchServer(b, log).Produce(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				builder := record.NewBuilder(record.CodecNone)
				for builder.Len() == 0 || builder.Size() < size {
					if err := builder.Append(1, nil, make([]byte, min(size, 1000)), nil); err != nil {
						b.Fatal(err)
					}
				}
				batch := builder.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
				b.SetBytes(int64(len(batch)))
				b.ReportAllocs()
				slots := make(chan struct{}, inFlight)
				received := make(chan error, 1)
				b.ResetTimer()
				go func() {
					for range b.N {
						a, err := s.Recv()
						if err == nil && a.Error != nil {
							err = fmt.Errorf("%v", a.Error)
						}
						if err != nil {
							received <- err
							return
						}
						<-slots
					}
					received <- nil
				}()
				for i := range b.N {
					slots <- struct{}{}
					if err := s.Send(&clientv1.ProduceRequest{RequestId: uint64(i), Topic: "t", Batch: batch}); err != nil {
						b.Fatal(err)
					}
				}
				if err := <-received; err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkFetch reads answers over TCP from a log that has them ready.
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{100 << 10, 1 << 20, 8 << 20} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			log := &fakeLog{onFetch: func(_ context.Context, req partition.FetchRequest) []partition.FetchedPartition {
				return []partition.FetchedPartition{{TopicPartition: req.Partitions[0].TopicPartition, Batches: [][]byte{make([]byte, size)}, Bytes: size}}
			}}
			c := benchServer(b, log)
			req := &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Fetch(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
