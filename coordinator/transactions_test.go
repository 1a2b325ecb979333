package coordinator

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

func newDir(dir string) error { return os.MkdirAll(dir, 0o755) }

// run plays a story on some brokers, on virtual time.
func run(t *testing.T, brokers int, change func(*TransactionsConfig), story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, brokers, change, nil)
		defer r.close()
		story(t, r)
	})
}

func wantCode(t *testing.T, err error, code Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	return e
}

// The hashes are what java.lang.String.hashCode gives (I4).
func TestShardOf(t *testing.T) {
	for name, hash := range map[string]int64{
		"": 0, "a": 97, "Aa": 2112, "BB": 2112, "hello world": 1794106052, "polygenelubricants": math.MinInt32, "\U0001F600": 1772899, "ä": 228,
		"hello": 99162322, "zzzzzzzz": -1910022912,
	} {
		want := max(hash, -hash)
		if hash == math.MinInt32 {
			want = 0
		}
		for _, n := range []int{1, 2, 16, 50} {
			if got := ShardOf(name, n); int64(got) != want%int64(n) {
				t.Errorf("shard of %q among %d is %d, want %d", name, n, got, want%int64(n))
			}
		}
	}
}

func TestTransactionCommitsAndAborts(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		if p != (Producer{100, 0}) {
			t.Fatalf("first producer %+v", p)
		}
		for i, commit := range []bool{true, false} {
			r.mustAdd(b, "tx", p, 0, 1)
			r.mustAdd(b, "tx", p, 2)
			next := r.mustEnd(b, "tx", p, commit)
			if next != (Producer{100, record.Epoch(i + 1)}) {
				t.Fatalf("next producer %+v", next)
			}
			state := map[bool]txn.Status{true: txn.CompleteCommit, false: txn.CompleteAbort}[commit]
			r.awaitState(b, "tx", state)
			got := r.takeWritten()
			if len(got) != 3 {
				t.Fatalf("%d markers: %+v", len(got), got)
			}
			for k, m := range got {
				if m.Partition != int32(k) || m.Commit != commit || m.Epoch != next.Epoch || m.ProducerID != 100 || m.Version != 2 || m.CoordinatorEpoch < 1 {
					t.Errorf("marker %+v", m)
				}
			}
			p = next
		}
	})
}

// A second instance aborts what the first one has open, waits for the markers, and is the owner. The first one is fenced
// everywhere, and hears by whom.
func TestSecondInstanceTakesOver(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		ctx := t.Context()
		first := r.mustInit(b, "tx", NoProducer)
		r.mustAdd(b, "tx", first, 0)
		second, err := b.txns.InitProducer(ctx, InitRequest{TransactionalID: "tx", Producer: NoProducer, Timeout: time.Minute,
			Client: txn.Client{ID: "second", Address: "10.0.0.2:99"}})
		if err != nil || second != (Producer{100, 2}) {
			t.Fatal(second, err)
		}
		if got := r.takeWritten(); len(got) != 1 || got[0].Commit || got[0].Epoch != 1 {
			t.Fatalf("markers %+v", got)
		}
		err = b.txns.AddPartitions(ctx, AddRequest{TransactionalID: "tx", Producer: first, Partitions: testPartitions(1), Version: 2})
		e := wantCode(t, err, CodeProducerFenced)
		if e.Event == nil || e.Event.Kind != txn.Initialised || e.Event.Client.ID != "second" || e.Outcome != raftgroup.DidNotHappen {
			t.Errorf("fenced by %+v", e.Event)
		}
		_, err = b.txns.EndTransaction(ctx, EndRequest{TransactionalID: "tx", Producer: first, Commit: true, Version: 2})
		wantCode(t, err, CodeProducerFenced)
		_, err = b.txns.InitProducer(ctx, InitRequest{TransactionalID: "tx", Producer: first, Timeout: time.Minute})
		wantCode(t, err, CodeProducerFenced)
		// The log says who took over and fenced, once each, and of the zombie that was refused three times, once.
		if got := r.log.lines("event.what=fenced"); len(got) != 1 || !strings.Contains(got[0], "event.client_id=second event.address=10.0.0.2:99") {
			t.Errorf("log of the fencing: %q", got)
		}
		if got := r.log.lines("event of a transactional id"); len(got) != 3 {
			t.Errorf("log of events: %q", got)
		}
		if got := r.log.lines("a fenced producer was refused"); len(got) != 1 || !strings.Contains(got[0], "producer_id=100 epoch=0 event.what=initialised") || !strings.Contains(got[0], "event.client_id=second") {
			t.Errorf("log of the zombie: %q", got)
		}
	})
}

// Concurrent adds of one transaction all get in, and none waits for the others in turn.
func TestConcurrentAdds(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		errs := make(chan error, 20)
		for n := range int32(20) {
			go func() {
				errs <- b.txns.AddPartitions(context.Background(), AddRequest{TransactionalID: "tx", Producer: p, Partitions: testPartitions(n), Version: 2})
			}()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got, err := b.txns.Describe(t.Context(), "tx"); err != nil || len(got.Partitions) != 20 {
			t.Fatal(got, err)
		}
		if err := b.txns.VerifyPartition(t.Context(), "tx", p, testPartitions(7)[0]); err != nil {
			t.Error(err)
		}
		wantCode(t, b.txns.VerifyPartition(t.Context(), "tx", p, testPartitions(20)[0]), CodeTransactionAbortable)
	})
}

// T30: the timeout runs from the first partition, aborts and fences; the producer may go on by asking with what it has.
func TestTransactionTimesOut(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p, err := b.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "tx", Producer: NoProducer, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		r.mustAdd(b, "tx", p, 0)
		time.Sleep(4 * time.Second)
		r.mustAdd(b, "tx", p, 1)
		got := r.awaitState(b, "tx", txn.CompleteAbort)
		if open := time.Since(begin); open < 5*time.Second || open > 7*time.Second {
			t.Errorf("aborted after %v", open)
		}
		if got.LastEvent().Kind != txn.TimedOut || got.Epoch != 1 {
			t.Errorf("%+v", got)
		}
		if markers := r.takeWritten(); len(markers) != 2 || markers[0].Commit || markers[0].Epoch != 1 {
			t.Errorf("markers %+v", markers)
		}
		_, err = b.txns.EndTransaction(t.Context(), EndRequest{TransactionalID: "tx", Producer: p, Commit: true, Version: 2})
		if e := wantCode(t, err, CodeInvalidTxnState); e.Event == nil || e.Event.Kind != txn.TimedOut {
			t.Errorf("event %+v", e.Event)
		}
		if p = r.mustInit(b, "tx", p); p != (Producer{100, 1}) {
			t.Errorf("goes on as %+v", p)
		}
	})
}

// The clock of an open transaction goes on under the next coordinator, from the start that is written down.
func TestTimeoutSurvivesCoordinator(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		old := r.leader()
		p, err := old.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "tx", Producer: NoProducer, Timeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		r.mustAdd(old, "tx", p, 0)
		time.Sleep(10 * time.Second)
		old.stop()
		b := r.leader()
		r.awaitState(b, "tx", txn.CompleteAbort)
		if open := time.Since(begin); open < 20*time.Second || open > 23*time.Second {
			t.Errorf("aborted after %v", open)
		}
	})
}

// A leader that is cut off does not answer from what it knows: neither what it would write nor what it would only read (R1). What
// it had in flight may have happened, and is either there afterwards or not (R2).
func TestDeposedCoordinatorDoesNotAnswer(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		old := r.leader()
		p := r.mustInit(old, "tx", NoProducer)
		r.mustAdd(old, "tx", p, 0)
		var others []string
		for _, b := range r.brokers {
			if b != old {
				others = append(others, b.name())
			}
		}
		r.net.Isolate(old.name(), others...)
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		errs := make(chan error, 3)
		go func() {
			_, err := old.txns.EndTransaction(ctx, EndRequest{TransactionalID: "tx", Producer: p, Commit: true, Version: 2})
			errs <- err
		}()
		go func() {
			_, err := old.txns.Describe(ctx, "tx")
			errs <- err
		}()
		go func() { // all there already: nothing would be written
			errs <- old.txns.AddPartitions(ctx, AddRequest{TransactionalID: "tx", Producer: p, Partitions: testPartitions(0), Version: 2})
		}()
		outcomes := map[raftgroup.Outcome]int{}
		for range 3 {
			var e *Error
			if err := <-errs; !errors.As(err, &e) || e.Code != CodeNotCoordinator && e.Code != CodeRequestTimedOut {
				t.Fatalf("a leader that is cut off says %v", err)
			} else {
				outcomes[e.Outcome]++
			}
		}
		if outcomes[raftgroup.MayHaveHappened] != 1 {
			t.Errorf("outcomes %v: the end, and only it, may have happened", outcomes)
		}
		b := r.leader(old)
		other := r.mustInit(b, "tx", NoProducer) // fences, after whatever came of the end
		r.net.HealAll()
		time.Sleep(5 * time.Second)
		if got := r.awaitState(b, "tx", txn.Empty); got.Epoch != other.Epoch {
			t.Errorf("%+v, want epoch %d", got, other.Epoch)
		}
	})
}

// Nor does one that leads again answer from what it knew when it led before: another has gone on between (R1).
func TestCoordinatorThatIsBackDoesNotAnswerFromBefore(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		r.mustInit(b, "tx", NoProducer)
		s, before, err := b.txns.leading(t.Context(), "tx", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.confirm(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		if err := s.group.TransferLeadership(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		other := r.leader(b)
		r.mustInit(other, "tx", NoProducer)
		between, _, err := other.txns.leading(t.Context(), "tx", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := between.group.TransferLeadership(t.Context(), s.spec.Self); err != nil {
			t.Fatal(err)
		}
		if r.leader(other) != b {
			t.Fatal("it does not lead again")
		}
		_, now, err := b.txns.leading(t.Context(), "tx", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.confirm(t.Context(), now); err != nil {
			t.Error(err)
		}
		wantCode(t, asError(s.confirm(t.Context(), before)), CodeNotCoordinator)
	})
}

// Whoever is not the leader says who is.
func TestFollowerNamesTheCoordinator(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		leader := r.leader()
		time.Sleep(2 * time.Second)
		for _, b := range r.brokers {
			if b == leader {
				continue
			}
			_, err := b.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "tx", Producer: NoProducer, Timeout: time.Minute})
			if e := wantCode(t, err, CodeNotCoordinator); e.Coordinator == nil || *e.Coordinator != leader.id || e.Outcome != raftgroup.DidNotHappen {
				t.Errorf("broker %d names %v", b.id, e.Coordinator)
			}
			if found, err := b.host.Find(t.Context(), KindTransactions, "tx"); err != nil || found != leader.id {
				t.Errorf("broker %d finds %d, %v", b.id, found, err)
			}
		}
	})
}

// T31: an id that is not used is forgotten; one with a transaction is not.
func TestUnusedIDsAreForgotten(t *testing.T) {
	change := func(c *TransactionsConfig) { c.Expiration, c.ExpirationCheck = 3*time.Minute, time.Minute }
	run(t, 1, change, func(t *testing.T, r *rig) {
		b := r.leader()
		old := r.mustInit(b, "unused", NoProducer)
		p, err := b.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "open", Producer: NoProducer, Timeout: 10 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		r.mustAdd(b, "open", p, 0)
		time.Sleep(5 * time.Minute)
		_, err = b.txns.Describe(t.Context(), "unused")
		wantCode(t, err, CodeTransactionalIDNotFound)
		err = b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: "unused", Producer: old, Partitions: testPartitions(0), Version: 2})
		wantCode(t, err, CodeInvalidProducerIDMapping)
		if now := r.mustInit(b, "unused", old); now.ID == old.ID {
			t.Errorf("the same producer id %d again", now.ID)
		}
		r.mustAdd(b, "open", p, 1)
	})
}

// A clock that jumps forward forgets nobody, and one that was ahead when a transaction began does not keep it open for longer than
// its timeout once another leader looks after it (KAFKA-8803).
func TestClockJumps(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		r.mustInit(b, "unused", NoProducer)
		r.setClock(30 * 24 * time.Hour)
		time.Sleep(3 * time.Hour)
		if _, err := b.txns.Describe(t.Context(), "unused"); err != nil {
			t.Errorf("after a jump: %v", err)
		}
		p := r.mustInit(b, "tx", NoProducer) // for a minute
		r.mustAdd(b, "tx", p, 0)
		r.setClock(0)
		b.stop()
		b = r.leader()
		begin := time.Now()
		r.awaitState(b, "tx", txn.CompleteAbort)
		if open := time.Since(begin); open > 62*time.Second {
			t.Errorf("aborted after %v", open)
		}
	})
}

func TestOperatorAborts(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		by := txn.Client{ID: "brokerctl", Address: "10.0.0.9:1"}
		wantCode(t, b.txns.Abort(t.Context(), "tx", NoProducer, by), CodeTransactionalIDNotFound)
		p := r.mustInit(b, "tx", NoProducer)
		wantCode(t, b.txns.Abort(t.Context(), "tx", NoProducer, by), CodeInvalidTxnState)
		r.mustAdd(b, "tx", p, 0)
		wantCode(t, b.txns.Abort(t.Context(), "tx", Producer{p.ID, p.Epoch + 1}, by), CodeInvalidTxnState)
		if err := b.txns.Abort(t.Context(), "tx", p, by); err != nil {
			t.Fatal(err)
		}
		got := r.awaitState(b, "tx", txn.CompleteAbort)
		if e := got.LastEvent(); e.Kind != txn.AbortedByOperator || e.Client != by {
			t.Errorf("event %+v", e)
		}
		next := r.mustInit(b, "tx", p)
		r.mustAdd(b, "tx", next, 0)
		next = r.mustEnd(b, "tx", next, true)
		// What the operator has seen ended meanwhile: nothing is lost.
		wantCode(t, b.txns.Abort(t.Context(), "tx", Producer{next.ID, next.Epoch - 1}, by), CodeInvalidTxnState)
		r.awaitState(b, "tx", txn.CompleteCommit)
	})
}

func TestHistoryKeepsRefusals(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "tx", NoProducer)
		bad := txn.RefusedBatch{TopicPartition: testPartitions(3)[0], Code: "OUT_OF_ORDER_SEQUENCE_NUMBER", Expected: 5, Received: 9}
		if err := b.txns.NoteRefusal(t.Context(), "tx", p, bad); err != nil {
			t.Fatal(err)
		}
		got, err := b.txns.Describe(t.Context(), "tx")
		if err != nil || got.LastEvent().Kind != txn.BatchRefused || *got.LastEvent().Refused != bad {
			t.Fatal(got, err)
		}
	})
}

func TestTransactionLimits(t *testing.T) {
	change := func(c *TransactionsConfig) { c.Limits = txn.Limits{MaxIDs: 2, MaxPartitions: 3, MaxOpenPartitions: 4} }
	run(t, 1, change, func(t *testing.T, r *rig) {
		b := r.leader()
		for b.host.find(KindTransactions, 0) != nil {
			limited := false
			for s := range b.txns.shards {
				b.txns.shards[s].machine.read(func(m *txn.State) { limited = m.Limits().MaxIDs == 2 })
			}
			if limited {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		p, q := r.mustInit(b, "p", NoProducer), r.mustInit(b, "q", NoProducer)
		_, err := b.txns.InitProducer(t.Context(), InitRequest{TransactionalID: "r", Producer: NoProducer, Timeout: time.Minute})
		if e := wantCode(t, err, CodePolicyViolation); e.Limit != "limits.max_transactional_ids" {
			t.Errorf("%+v", e)
		}
		add := func(id string, p Producer, partitions ...int32) error {
			return b.txns.AddPartitions(t.Context(), AddRequest{TransactionalID: id, Producer: p, Partitions: testPartitions(partitions...), Version: 2})
		}
		wantCode(t, add("p", p, 0, 1, 2, 3), CodeTransactionAbortable)
		r.mustAdd(b, "p", p, 0, 1, 2)
		wantCode(t, add("q", q, 0, 1), CodeTransactionAbortable)
		r.mustAdd(b, "q", q, 1)
		r.mustEnd(b, "p", p, false)
		r.mustEnd(b, "q", q, true)
	})
}

// Each refusal of bad input names the field, and nothing happens.
func TestTransactionInputIsChecked(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leader(), t.Context()
		long := strings.Repeat("x", txn.MaxIDLength+1)
		initID := func(id string, p Producer, timeout time.Duration) error {
			_, err := b.txns.InitProducer(ctx, InitRequest{TransactionalID: id, Producer: p, Timeout: timeout})
			return err
		}
		many := make([]record.TopicPartition, txn.MaxAdded+1)
		for what, c := range map[string]struct {
			err   error
			code  Code
			field string
		}{
			"empty id":       {initID("", NoProducer, time.Minute), CodeInvalidRequest, "transactional_id"},
			"long id":        {initID(long, NoProducer, time.Minute), CodeInvalidRequest, "transactional_id"},
			"no UTF-8":       {initID("\xff", NoProducer, time.Minute), CodeInvalidRequest, "transactional_id"},
			"half producer":  {initID("tx", Producer{5, -1}, time.Minute), CodeInvalidRequest, "producer_id, producer_epoch"},
			"no timeout":     {initID("tx", NoProducer, 0), CodeInvalidTimeout, "transaction_timeout_ms"},
			"half a ms":      {initID("tx", NoProducer, time.Microsecond), CodeInvalidTimeout, "transaction_timeout_ms"},
			"long timeout":   {initID("tx", NoProducer, 15*time.Minute+1), CodeInvalidTimeout, "transaction_timeout_ms"},
			"add: no id":     {b.txns.AddPartitions(ctx, AddRequest{Producer: Producer{1, 0}, Version: 2}), CodeInvalidRequest, "transactional_id"},
			"add: many":      {b.txns.AddPartitions(ctx, AddRequest{TransactionalID: "tx", Producer: Producer{1, 0}, Partitions: many, Version: 2}), CodeInvalidRequest, "partitions"},
			"verify: no id":  {b.txns.VerifyPartition(ctx, "", Producer{1, 0}, testPartitions(0)[0]), CodeInvalidRequest, "transactional_id"},
			"abort: no id":   {b.txns.Abort(ctx, "", NoProducer, txn.Client{}), CodeInvalidRequest, "transactional_id"},
			"refusal: no id": {b.txns.NoteRefusal(ctx, "", Producer{1, 0}, txn.RefusedBatch{}), CodeInvalidRequest, "transactional_id"},
		} {
			var e *Error
			if !errors.As(c.err, &e) || e.Code != c.code || e.Field != c.field || e.Outcome != raftgroup.DidNotHappen {
				t.Errorf("%s: %v (field %q)", what, c.err, e.Field)
			}
		}
		if list, _, err := b.txns.List(ctx, TransactionFilter{}, 10); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
	})
}

// T5, T17, T19: a producer whose id or epoch is negative is refused as any other one that is not the id's own.
func TestNegativeProducersAreStrangers(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leader(), t.Context()
		p := r.mustInit(b, "tx", NoProducer)
		for what, c := range map[string]struct {
			id   string
			p    Producer
			want Code
		}{
			"its id, no epoch":              {"tx", Producer{p.ID, -1}, CodeProducerFenced},
			"its id, a very negative epoch": {"tx", Producer{p.ID, -7}, CodeProducerFenced},
			"nobody's id":                   {"tx", Producer{-1, p.Epoch}, CodeInvalidProducerIDMapping},
			"nothing":                       {"tx", NoProducer, CodeInvalidProducerIDMapping},
			"nothing, an unknown id":        {"none", NoProducer, CodeInvalidProducerIDMapping},
		} {
			for _, version := range []int8{1, 2} {
				_, ended := b.txns.EndTransaction(ctx, EndRequest{TransactionalID: c.id, Producer: c.p, Commit: true, Version: version})
				for _, err := range []error{ended, b.txns.AddPartitions(ctx, AddRequest{TransactionalID: c.id, Producer: c.p, Partitions: testPartitions(0), Version: version})} {
					var e *Error
					if !errors.As(err, &e) || e.Code != c.want || e.Outcome != raftgroup.DidNotHappen {
						t.Errorf("%s, version %d: %v, want %s", what, version, err, c.want)
					}
				}
			}
		}
		r.mustAdd(b, "tx", p, 0)
		r.mustEnd(b, "tx", p, true)
	})
}

func TestListFilters(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leader()
		p := r.mustInit(b, "app-1", NoProducer)
		r.mustInit(b, "app-2", NoProducer)
		r.mustInit(b, "other", NoProducer)
		r.mustAdd(b, "app-1", p, 0)
		time.Sleep(10 * time.Second)
		for _, c := range []struct {
			f    TransactionFilter
			want string
		}{
			{TransactionFilter{}, "app-1 app-2 other"},
			{TransactionFilter{Prefix: "app-"}, "app-1 app-2"},
			{TransactionFilter{ProducerIDs: []record.ProducerID{101}}, "app-2"},
			{TransactionFilter{States: []txn.Status{txn.Ongoing}}, "app-1"},
			{TransactionFilter{OpenFor: 9 * time.Second}, "app-1"},
			{TransactionFilter{OpenFor: 11 * time.Second}, ""},
		} {
			list, _, err := b.txns.List(t.Context(), c.f, 100)
			var ids []string
			for _, one := range list {
				ids = append(ids, one.ID)
			}
			if err != nil || !slices.Equal(ids, strings.Fields(c.want)) {
				t.Errorf("%+v: %v, %v", c.f, ids, err)
			}
		}
	})
}
