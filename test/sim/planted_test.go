package sim

import (
	"testing"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/partition"
)

// plantedSeeds is how many seeds may pass before a planted bug must have been found.
const plantedSeeds = 8

// TestPlantedBugs: a simulation that finds no planted bug would find no other either.
func TestPlantedBugs(t *testing.T) {
	for name, o := range map[string]Options{
		"no deduplication":           {Sabotage: broker.Sabotage{Partition: partition.Sabotage{NoDedup: true}}},
		"disks that lie about syncs": {LyingDisks: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for o.Seed = 1; o.Seed <= plantedSeeds; o.Seed++ {
				r := Run(t, o)
				t.Logf("seed %d: %s", o.Seed, r)
				if !r.OK() {
					return
				}
			}
			t.Errorf("not found by %d seeds", plantedSeeds)
		})
	}
}

// TestWithoutIdempotence: the same faults write duplicates when nobody tells them apart, and lose
// nothing.
func TestWithoutIdempotence(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= plantedSeeds; seed++ {
		r := Run(t, Options{Seed: seed, Plain: true})
		t.Logf("seed %d: %s", seed, r)
		if r.Report == nil || len(r.Problems) > 0 || r.Report.Counts[history.Lost]+r.Report.Counts[history.Inconsistent] > 0 {
			t.Fatalf("seed %d: more is wrong than duplicates:\n%s", seed, r.Trace)
		}
		if r.Report.Counts[history.Duplicate] > 0 {
			return
		}
	}
	t.Errorf("no duplicates in %d seeds: the faults do not bite, or the checker is blind", plantedSeeds)
}
