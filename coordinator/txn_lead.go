package coordinator

import (
	"context"
	"slices"
	"sync"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/timeofday"
	"github.com/oncelog/oncelog/record"
)

// txnLeader is what one leadership of a transaction shard has to do: markers, timeouts, expiry. All of it starts from the applied
// state and ends with the term.
type txnLeader struct {
	t       *Transactions
	s       *txnShard
	ctx     context.Context
	term    record.Term
	metrics *txnMetrics
	// slots bounds the markers that are being written.
	slots chan struct{}
	// work are the goroutines that write markers.
	work sync.WaitGroup

	// mu guards what follows. Nothing blocks under it.
	mu sync.Mutex
	// ending has the version of the decision whose markers are being written, by id.
	ending map[string]uint64
	over   bool
}

// lead does the coordinator's work of one term (service).
func (t *Transactions) lead(ctx context.Context, s *shard, term record.Term) {
	t.mu.RLock()
	ts := t.shards[s]
	t.mu.RUnlock()
	l := &txnLeader{
		t: t, s: ts, ctx: ctx, term: term, metrics: t.metrics,
		slots: make(chan struct{}, maxMarkerWrites), ending: make(map[string]uint64),
	}
	// From here on apply tells of every decision; those before are in the state (T32). Either way each is taken up once.
	ts.leader.Store(l)
	l.resume()
	l.run()
	ts.leader.CompareAndSwap(l, nil)
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.work.Wait()
	l.metrics.forget(ts)
}

// resume takes up every decision that has no completion: all its markers are sent again, with this term's epoch (T32).
func (l *txnLeader) resume() {
	var open []*txn.Transaction
	l.s.machine.read(func(m *txn.State) { open = m.Open() })
	for _, t := range open {
		if t.Status.Ending() {
			l.decided(t)
		}
	}
}

// run looks after clocks and bounds until the term ends.
func (l *txnLeader) run() {
	timeouts := time.NewTicker(l.t.config.TimeoutCheck)
	defer timeouts.Stop()
	expiry := time.NewTicker(l.t.config.ExpirationCheck)
	defer expiry.Stop()
	due := make(map[string]deadline)
	var seen timeofday.Marks[record.Index]
	seen.Note(time.Now(), l.s.machine.Applied()+1, 0)
	l.setLimits()
	for {
		select {
		case <-timeouts.C:
			l.abortLate(due)
			l.setLimits()
			l.metrics.observe(l.s)
		case <-expiry.C:
			watch := min(l.t.config.Expiration, timeofday.IdleWatch)
			l.expire(uint64(seen.Note(time.Now(), l.s.machine.Applied()+1, watch)))
		case <-l.ctx.Done():
			return
		}
	}
}

// propose has a command applied in this term.
func (l *txnLeader) propose(c *statev1.TransactionCommand) (txn.Result, *Error) {
	data, err := txn.EncodeCommand(c)
	if err != nil {
		return txn.Result{}, refused(CodeUnknown, "%v", err)
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.t.config.RequestTimeout)
	defer cancel()
	r, refusal := l.s.propose(ctx, l.term, data)
	if refusal != nil {
		return txn.Result{}, refusal
	}
	return r.(txn.Result), nil
}

func completion(t *txn.Transaction, next []*waiter) *statev1.TransactionCommand {
	c := &statev1.CompleteTransaction{}
	for _, w := range next {
		c.Next = append(c.Next, w.add)
	}
	return &statev1.TransactionCommand{TransactionalId: t.ID, Version: t.Version, Command: &statev1.TransactionCommand_Complete{Complete: c}}
}

// setLimits makes the configured bounds part of the state (R5). A failure is left to the next look.
func (l *txnLeader) setLimits() {
	var have txn.Limits
	l.s.machine.read(func(m *txn.State) { have = m.Limits() })
	if want := l.t.config.Limits; want != have {
		c := &statev1.TransactionCommand{Command: &statev1.TransactionCommand_Limits{Limits: txn.LimitsToProto(want)}}
		if _, err := l.propose(c); err != nil && l.ctx.Err() == nil {
			l.s.logger.Warn("limits not agreed", "err", err)
		}
	}
}

// deadline is when a transaction is to be aborted, by this leader's own clock.
type deadline struct {
	version uint64
	start   int64
	at      time.Time
}

// abortLate aborts the transactions whose time is up (T30). The start in the state is another leader's time, maybe; if that
// clock was ahead of ours, the transaction gets at most its whole timeout from the moment we first saw it (KAFKA-8803).
func (l *txnLeader) abortLate(due map[string]deadline) {
	now := time.Now()
	var open []*txn.Transaction
	l.s.machine.read(func(m *txn.State) { open = m.Open() })
	seen := make(map[string]bool, len(open))
	var late []*txn.Transaction
	for _, t := range open {
		if t.Status != txn.Ongoing {
			continue
		}
		seen[t.ID] = true
		d := due[t.ID]
		if d.version != t.Version || d.start != t.StartMS {
			left := min(t.Deadline()-l.t.host.nowMS(), int64(t.TimeoutMS))
			d = deadline{t.Version, t.StartMS, now.Add(time.Duration(left) * time.Millisecond)}
			due[t.ID] = d
		}
		if !now.Before(d.at) {
			late = append(late, t)
		}
	}
	for some := range slices.Chunk(late, maxMarkerWrites) {
		var aborts sync.WaitGroup
		for _, t := range some {
			aborts.Go(func() { l.abortTimedOut(t) })
		}
		aborts.Wait()
	}
	for id := range due {
		if !seen[id] {
			delete(due, id)
		}
	}
}

func (l *txnLeader) abortTimedOut(t *txn.Transaction) {
	ctx, cancel := context.WithTimeout(l.ctx, l.t.config.RequestTimeout)
	defer cancel()
	c := &statev1.TransactionCommand{TransactionalId: t.ID, Command: &statev1.TransactionCommand_Abort{Abort: &statev1.AbortTransaction{
		Reason: statev1.AbortReason_ABORT_REASON_TIMEOUT, ProducerId: int64(t.ProducerID), ProducerEpoch: int32(t.Epoch),
		StartedUntilMs: t.StartMS, ServerVersion: serverVersion, FreshProducerId: int64(record.NoProducerID),
	}}}
	r, err := l.t.attempt(ctx, l.s, c)
	if err == nil && r.Code == txn.NeedsProducerID {
		if err = l.t.freshID(ctx, c); err == nil {
			r, err = l.t.attempt(ctx, l.s, c)
		}
	}
	switch {
	case err != nil && l.ctx.Err() == nil:
		l.s.logger.Warn("transaction that is open for too long is not aborted yet", "transactional_id", t.ID, "err", err)
	case err == nil && r.Code == txn.OK:
		l.metrics.timedOut.Inc()
		l.s.logger.Info("transaction timed out and is aborted", "transactional_id", t.ID, "producer_id", int64(t.ProducerID), "epoch", int16(t.Epoch),
			"open_ms", l.t.host.nowMS()-t.StartMS, "timeout_ms", t.TimeoutMS)
	}
}

// expire forgets ids that have not been used for long; apply checks each again (T31, R5). Ages are judged without jumps of the
// clock, and only ids are meant that this leader has seen unused for a while by its own time: below has the index of
// the last command then.
func (l *txnLeader) expire(below uint64) {
	now, _ := l.t.host.clock.Judge(l.s.logger)
	cutoff := now.Add(-l.t.config.Expiration).UnixMilli()
	for l.ctx.Err() == nil {
		var idle []*txn.Transaction
		l.s.machine.read(func(m *txn.State) { idle = m.Idle(cutoff, below, txn.MaxExpired) })
		if len(idle) == 0 {
			return
		}
		cmd := &statev1.ExpireTransactionalIds{CutoffMs: cutoff}
		for _, t := range idle {
			cmd.Ids = append(cmd.Ids, &statev1.ExpiredId{TransactionalId: t.ID, Version: t.Version, ProducerEpoch: int32(t.Epoch)})
		}
		r, err := l.propose(&statev1.TransactionCommand{Command: &statev1.TransactionCommand_Expire{Expire: cmd}})
		if err != nil {
			if l.ctx.Err() == nil {
				l.s.logger.Warn("idle transactional ids not forgotten", "err", err)
			}
			return
		}
		l.metrics.expired.Add(float64(r.Expired))
		if r.Expired == 0 {
			return
		}
	}
}
