package compat

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkFranz writes and reads records of 1 KiB, in batches of up to 128 KiB, with acks=all.
func BenchmarkFranz(b *testing.B) {
	for _, partitions := range []int32{1, 8} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			c := startCluster(b)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			cl, err := kgo.NewClient(kgo.SeedBrokers(c.KafkaAddrs()...), kgo.DefaultProduceTopic("bench"), kgo.ProducerBatchMaxBytes(128<<10),
				kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(20_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 3, nil, "bench"); err != nil {
				b.Fatal(err)
			}
			value := make([]byte, 1024)
			b.Run("produce", func(b *testing.B) {
				b.SetBytes(1024)
				for range b.N {
					cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
						if err != nil {
							b.Error(err)
						}
					})
				}
				if err := cl.Flush(ctx); err != nil {
					b.Fatal(err)
				}
			})
			b.Run("consume", func(b *testing.B) {
				b.SetBytes(1024)
				for n := 0; n < b.N; {
					reader, err := kgo.NewClient(kgo.SeedBrokers(c.KafkaAddrs()...), kgo.ConsumeTopics("bench"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
					if err != nil {
						b.Fatal(err)
					}
					for last := -1; n < b.N && last != n; {
						last = n
						poll, end := context.WithTimeout(ctx, time.Second)
						n += reader.PollFetches(poll).NumRecords()
						end()
					}
					reader.Close()
				}
			})
		})
	}
}
