package sim

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/partition"
)

// TestTransactionSeeds: what is promised of transactions holds, whatever happens. -seed, -first, -seeds and -times are those of TestSeeds;
// by default it runs a quarter as many. -lasts 1m is what the speed is measured with: a minute for each, and brokers do not forget.
func TestTransactionSeeds(t *testing.T) {
	var seeds, faults, records, transactions atomic.Int64
	began := time.Now()
	t.Cleanup(func() {
		took := time.Since(began)
		fmt.Printf("sim: transactions: %d seeds in %s (%.0f a minute): %d faults %d records %d transactions\n", seeds.Load(), took.Round(time.Millisecond),
			float64(seeds.Load())/took.Minutes(), faults.Load(), records.Load(), transactions.Load())
	})
	eachSeed(t, func(t *testing.T, n uint64) {
		r := RunTransactions(t, Options{Seed: n, LogLevel: logLevel(), Lasts: *lastsFlag})
		report(t, n, r)
		seeds.Add(1)
		if x := r.Report; x != nil {
			faults.Add(x.Faults)
			records.Add(x.Sent)
			transactions.Add(x.Committed + x.Aborted + x.Undecided)
		}
	})
}

// TestMutations: brokers with a bug in what transactions rest on are found out, by what the bug breaks. A checker that misses one of these
// would miss others too.
func TestMutations(t *testing.T) {
	for _, m := range []struct {
		name string
		bug  broker.Sabotage
		// Most bugs show themselves at once; some need time or brokers that fail.
		lasts time.Duration
		finds []history.Anomaly
	}{
		{"no deduplication", broker.Sabotage{Partition: partition.Sabotage{NoDedup: true}}, 10 * time.Second, []history.Anomaly{history.Duplicate}},
		{"producers forgotten with a snapshot", broker.Sabotage{Partition: partition.Sabotage{ForgetProducers: true}}, 10 * time.Second, []history.Anomaly{history.Duplicate, history.Inconsistent, history.AbortedRead}},
		{"readers pass open transactions", broker.Sabotage{Partition: partition.Sabotage{PassOpen: true}}, 4 * time.Second, []history.Anomaly{history.Early}},
		{"batches of a stale epoch are taken", broker.Sabotage{Partition: partition.Sabotage{StaleEpoch: true}}, 4 * time.Second, []history.Anomaly{history.AbortedRead}},
		{"a marker is skipped", broker.Sabotage{Coordinator: coordinator.Sabotage{SkipMarker: true}}, 4 * time.Second, []history.Anomaly{history.Torn}},
		{"a stale epoch ends a transaction", broker.Sabotage{Coordinator: coordinator.Sabotage{StaleEnd: true}}, 10 * time.Second, []history.Anomaly{history.Lost, history.AbortedRead, history.Early}},
		{"offsets of a transaction are lost", broker.Sabotage{Coordinator: coordinator.Sabotage{LosePending: true}}, 4 * time.Second, []history.Anomaly{history.OffsetBack}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= plantedSeeds; seed++ {
				r := RunTransactions(t, Options{Seed: seed, Sabotage: m.bug, Lasts: m.lasts})
				t.Logf("seed %d: %s", seed, r)
				if r.Report != nil && slices.ContainsFunc(m.finds, func(a history.Anomaly) bool { return r.Report.Counts[a] > 0 }) {
					return
				}
			}
			t.Errorf("none of %v found in %d seeds", m.finds, plantedSeeds)
		})
	}
}
