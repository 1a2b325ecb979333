package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
)

// RunTransactions runs one seed of transactions, by default for a minute, or three where brokers forget: producers with ids of their own
// write to all partitions and commit offsets, abort, die, are replaced and come back as zombies, while the cluster is broken and readers
// read along. In the end everything must have been decided by itself.
func RunTransactions(t *testing.T, o Options) *Result {
	t.Helper()
	// With some seeds the brokers forget fast, and producers rest for longer than that.
	forgetful := o.Lasts == 0 && rand.New(rand.NewPCG(o.Seed, 7)).IntN(4) == 0
	if o.Lasts == 0 {
		o.Lasts = time.Minute
	}
	if forgetful {
		o.Lasts = 3 * time.Minute
	}
	r := &Result{}
	logs := &logBuffer{}
	shape := cluster(o, logs)
	configure := shape.Configure
	shape.Configure = func(cfg *broker.Config) {
		configure(cfg)
		cfg.Transactions.Shards, cfg.Groups.Shards = 2, 2
		cfg.Transactions.TimeoutCheck = 100 * time.Millisecond
		if forgetful {
			cfg.ProducerIDExpiration, cfg.ProducerIDExpirationCheck = time.Minute, time.Second
			cfg.Transactions.IDExpiration, cfg.Transactions.IDExpirationCheck = time.Minute, time.Second
		}
	}
	brokertest.Simulate(t, shape, func(t *testing.T, c *brokertest.Cluster) {
		t.Helper()
		s := &run{t: t, o: o, c: c, result: r, rng: rand.New(rand.NewPCG(o.Seed, 6)), began: time.Now(), history: history.NewRecorder()}
		s.transactions(forgetful)
	})
	r.Logs = logs.bytes()
	return r
}

const (
	// transactionsPerSeed are begun in a seed, but never more than mostPerSecond.
	transactionsPerSeed = 250
	mostPerSecond       = 8.0
)

func (s *run) transactions(forgetful bool) {
	s.t.Helper()
	s.partitions = 2 + s.rng.Int32N(2)
	admin := s.client("admin")
	s.create(admin)
	producers := 2 + s.rng.IntN(2)
	rate, rest := min(mostPerSecond, transactionsPerSeed/s.o.Lasts.Seconds()), time.Duration(0)
	if forgetful {
		rate, rest = 3, 2*time.Minute
	}
	txns := workload.NewTxns(workload.TxnOptions{
		Topic: topic, Partitions: s.partitions, Producers: producers, Rate: rate, Rest: rest, Records: 8, Think: 100 * time.Millisecond, Size: s.rng.IntN(200), Timeout: between(s.rng, 2*time.Second, 6*time.Second),
		Producer: client.ProducerConfig{BatchBytes: pick(s.rng, 1<<10, 4<<10), Linger: pick(s.rng, client.NoLinger, 2*time.Millisecond), RequestTimeout: time.Second},
		Seed:     s.o.Seed, Recorder: s.history,
	})
	clients := make([]*client.Client, producers)
	for i := range clients {
		clients[i] = s.client(fmt.Sprintf("p%d", i+1))
	}
	stopProducers := s.c.Go(func(ctx context.Context) {
		if err := txns.Run(context.Background(), func(i int) *client.Client { return clients[i] }, ctx.Done()); err != nil {
			s.problem("transactions cannot go on: %v", err)
		}
	})
	watcher := s.client("w1")
	stopReaders := s.startReadersOf(txns, watcher)
	err := s.c.Torment(s.o.Lasts, brokertest.Nemesis{
		Faults: s.faults(admin),
		Every:  between(s.rng, time.Second, 4*time.Second), Lasts: between(s.rng, time.Second, 5*time.Second),
		Aim:  func() int32 { return s.leader(admin) },
		Note: func(what string) { s.history.Fault("%s", what); s.note(what) },
	})
	if err == nil {
		err = s.c.Mend()
	}
	if err != nil {
		s.problem("the cluster does not come back: %v", err)
		return
	}
	s.note("the cluster is mended")
	s.settle(admin)
	stopProducers()
	s.note(fmt.Sprintf("%d transactions have ended, %d by zombies", txns.Counts().Begun.Load(), txns.Counts().Zombies.Load()))
	patience := time.Minute
	if s.o.Sabotage != (broker.Sabotage{}) {
		patience = 5 * time.Second // what a bug holds up, it holds up for ever
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := workload.AwaitEnds(ctx, admin, topic+"-"); err != nil {
		s.problem("%v", err)
	}
	if err := txns.AskOffsets(ctx, admin); err != nil {
		s.problem("%v", err)
	}
	stopReaders()
	s.judge(admin)
}

// startReadersOf starts a consumer of each isolation level, and one who asks for the groups' offsets.
func (s *run) startReadersOf(txns *workload.Txns, watcher *client.Client) (stop func()) {
	all := []func(context.Context){func(ctx context.Context) { txns.WatchOffsets(ctx, watcher) }}
	return s.together(append(all, s.readers()...))
}
