package coordinator

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/vfs"
)

// flipIn turns a bit of a text in the log of a broker's replica of the first kind.
func (b *testBroker) flipIn(text string) {
	t := b.rig.t
	t.Helper()
	dir := filepath.Join(b.host.dir(b.specs()[0]), "log")
	names, err := b.disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".seg") {
			continue
		}
		path := filepath.Join(dir, n)
		content, err := vfs.ReadFile(b.disk, path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(content, []byte(text)); at >= 0 {
			if err := b.disk.(*vfs.Mem).FlipBit(path, int64(at), 3); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s is not in the log", text)
}

// A bit turns in the log of a replica that runs, and it meets that while it feeds a follower: it stops, another leads, and it is said to be
// lost at once, so that another takes its place.
func TestDamageMetWhileRunningIsLoss(t *testing.T) {
	for _, x := range []struct {
		name       string
		partitions int // those of one command: what is large is read by the transport, and not by Raft
	}{{"small", 1}, {"large", 10_000}} {
		t.Run(x.name, func(t *testing.T) {
			run(t, 3, nil, func(t *testing.T, r *rig) {
				b := r.leader()
				behind := r.brokers[(b.id+1)%3]
				behind.stop()
				p := r.mustInit(b, "spoiled", NoProducer)
				numbers := make([]int32, x.partitions)
				for i := range numbers {
					numbers[i] = int32(i)
				}
				r.mustAdd(b, "spoiled", p, numbers...)
				for _, b := range r.brokers { // nothing is in memory afterwards
					if b != behind {
						b.stop()
						b.start()
						b.open()
					}
				}
				b = r.leader(behind)
				b.flipIn("orders")
				behind.start()
				behind.open()
				for range 3000 {
					if len(b.host.Lost()) > 0 {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				if lost := b.host.Lost(); len(lost) != 1 || lost[0].Self != b.specs()[0].Self {
					t.Fatalf("lost are %v, want the replica of broker %d: %+v", lost, b.id, b.host.Groups())
				}
				next := r.leader(b)
				r.mustEnd(next, "spoiled", p, true)
				r.awaitState(next, "spoiled", txn.CompleteCommit)
				if problem := b.host.Groups()[0].Problem; !strings.Contains(problem, "damaged") {
					t.Errorf("the problem of the damaged replica is %q", problem)
				}
				for _, other := range r.brokers {
					if lost := other.host.Lost(); other != b && len(lost) > 0 {
						t.Errorf("broker %d is said to have lost %v", other.id, lost)
					}
				}
			})
		})
	}
}

// The only replica is not given up: nobody has more than it.
func TestDamageOfTheOnlyShard(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		b.host.find(KindTransactions, 0).onDamage(errDamaged, true)
		if lost := b.host.Lost(); len(lost) > 0 {
			t.Errorf("lost: %v", lost)
		}
		r.mustInit(b, "goes on", NoProducer)
	})
}
