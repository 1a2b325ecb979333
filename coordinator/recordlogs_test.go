package coordinator

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/oncelog/oncelog/coordinator/txn"
)

// Coordinators that began with Bolt logs go on with record logs, a broker at a time once the feature level allows it: what
// was open stays open, what was decided stays decided.
func TestCoordinatorsMoveToRecordLogs(t *testing.T) {
	var allowed atomic.Bool
	level := func() uint16 {
		if allowed.Load() {
			return recordLogLevel
		}
		return recordLogLevel - 1
	}
	run(t, 3, func(c *TransactionsConfig) { c.Host.config.FeatureLevel = level }, func(t *testing.T, r *rig) {
		b := r.leader()
		open, done := r.mustInit(b, "open", NoProducer), r.mustInit(b, "done", NoProducer)
		r.mustAdd(b, "open", open, 0, 1)
		r.mustAdd(b, "done", done, 2)
		r.mustEnd(b, "done", done, true)
		r.awaitState(b, "done", txn.CompleteCommit)
		boltLogs := func() (n int) {
			for _, b := range r.brokers {
				found, err := filepath.Glob(filepath.Join(b.host.config.Dir, "*", "log.db"))
				if err != nil {
					t.Fatal(err)
				}
				n += len(found)
			}
			return n
		}
		if n := boltLogs(); n != 3 {
			t.Fatalf("%d Bolt logs before", n)
		}
		allowed.Store(true)
		for _, b := range r.brokers {
			b.stop()
			b.start()
			b.open()
			r.leader()
		}
		if n := boltLogs(); n != 0 {
			t.Errorf("%d Bolt logs after", n)
		}
		b = r.leader()
		r.awaitState(b, "done", txn.CompleteCommit)
		open = r.mustEnd(b, "open", open, true)
		r.awaitState(b, "open", txn.CompleteCommit)
		r.mustAdd(b, "open", open, 0)
	})
}
