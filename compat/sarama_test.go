package compat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

func saramaConfig() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	cfg.Producer.Return.Successes = true
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Retry.Max = 50
	cfg.Producer.Retry.Backoff = 200 * time.Millisecond
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Offsets.AutoCommit.Enable = false
	return cfg
}

// IBM's sarama: idempotent with every codec, transactions of version 1, a group that commits by hand; through a killed leader.
func TestSarama(t *testing.T) {
	ran(t, "sarama", moduleVersion("github.com/IBM/sarama"), "idempotent producer, every codec, through a kill; transactions; a group that commits by hand")
	t.Parallel()
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "plain", 3)
	createTopic(t, admin, "txn", 3)
	for i, codec := range []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD} {
		cfg := saramaConfig()
		cfg.Producer.Compression = codec
		p, err := sarama.NewSyncProducer(c.KafkaAddrs(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 5 {
			var list []*sarama.ProducerMessage
			for k := range 100 {
				list = append(list, &sarama.ProducerMessage{Topic: "plain", Key: sarama.StringEncoder(fmt.Sprint(k)), Value: sarama.StringEncoder(fmt.Sprintf("%v-%d-%d", codec, n, k))})
			}
			if i == 1 && n == 2 {
				kill(t, c, leaderOf(t, ctx, admin, "plain", 0))
			}
			if err := p.SendMessages(list); err != nil {
				t.Fatalf("%v: %v", codec, err)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	counts(t, ctx, c, "plain", 2500)
	counts(t, ctx, c, "txn", saramaTransactions(t, c))
	saramaGroup(t, ctx, c, 2500)
}

// saramaTransactions gives how many records were committed.
func saramaTransactions(t *testing.T, c *brokerproc.Cluster) (committed int) {
	t.Helper()
	cfg := saramaConfig()
	cfg.Producer.Transaction.ID = "sarama-job"
	p, err := sarama.NewSyncProducer(c.KafkaAddrs(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for round := range 15 {
		if err := p.BeginTxn(); err != nil {
			t.Fatal(err)
		}
		for k := range 10 {
			if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "txn", Value: sarama.StringEncoder(fmt.Sprintf("%d-%d", round, k))}); err != nil {
				t.Fatal(err)
			}
		}
		end := p.CommitTxn
		if round%3 == 2 {
			end = p.AbortTxn
		} else {
			committed += 10
		}
		if err := end(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	return committed
}

// saramaReader counts what a group reads.
type saramaReader struct {
	mu   sync.Mutex
	seen map[string]int
	want int
	done func()
}

func (*saramaReader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*saramaReader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (r *saramaReader) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			s.MarkMessage(m, "")
			r.mu.Lock()
			r.seen[string(m.Value)]++
			commit := len(r.seen)%100 == 0
			if len(r.seen) == r.want {
				r.done()
			}
			r.mu.Unlock()
			if commit {
				s.Commit()
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func saramaGroup(t *testing.T, ctx context.Context, c *brokerproc.Cluster, want int) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &saramaReader{seen: map[string]int{}, want: want, done: cancel}
	var members sync.WaitGroup
	for range 2 {
		g, err := sarama.NewConsumerGroup(c.KafkaAddrs(), "sarama", saramaConfig())
		if err != nil {
			t.Fatal(err)
		}
		members.Go(func() {
			defer g.Close()
			for ctx.Err() == nil {
				if err := g.Consume(ctx, []string{"plain"}, r); err != nil && !errors.Is(err, context.Canceled) {
					t.Log(err)
				}
			}
		})
	}
	members.Wait()
	if len(r.seen) != want {
		t.Errorf("the group read %d different records, want %d", len(r.seen), want)
	}
}
