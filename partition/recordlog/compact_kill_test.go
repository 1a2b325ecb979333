package recordlog

import (
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
)

// TestCompactKilledThenCut kills the process at every change of the disk that a pass makes, and cuts the power at every change that the next
// opening makes of what is found then: a compacted segment may have its name, and not durably.
func TestCompactKilledThenCut(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 4, 60)
	rng := rand.New(rand.NewPCG(4, 4))
	m := Mark{Below: k.bound(rng, 0)}
	want := k.left(m)
	old, err := readAll(k.log, 0, 1<<20)
	must(t, err)
	busy, points := false, 0
	k.fs.OnBefore(func(op vfs.Op) error {
		if busy || !op.Kind.Changes() {
			return nil
		}
		busy = true
		defer func() { busy = false }()
		killed := k.fs.KillClone()
		var cut []*vfs.Mem
		killed.OnBefore(func(op vfs.Op) error {
			if op.Kind.Changes() && rng.IntN(4) == 0 {
				cut = append(cut, killed.CrashClone(rng))
			}
			return nil
		})
		l, err := k.reopen(killed)
		must(t, err)
		must(t, l.Close())
		for _, clone := range append(cut, killed.CrashClone(rng)) {
			points++
			if err := k.goesOn(clone, m, old, want); err != nil {
				t.Fatalf("killed at %v of %s, then cut: %v", op.Kind, op.Name, err)
			}
		}
		return nil
	})
	_, err = k.log.Compact(compactionOf(m))
	must(t, err)
	k.fs.OnBefore(nil)
	t.Logf("%d power cuts", points)
}
