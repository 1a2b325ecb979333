package txn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
	"github.com/oncelog/oncelog/record"
)

// TestAgreesWithModel applies random commands to the machine and to the dumb model and compares every answer and every state.
// Beside that: Check says the same as Apply; a shard that goes through snapshots ends in the bytes of the one that does not
// (R6); a clone stays as it was; and nobody is ever handed what another one has (watch).
func TestAgreesWithModel(t *testing.T) {
	rnd := machinetest.Rand(t)
	machinetest.Runs(t, 3*time.Second, wanted, func(seen map[string]int) int { return randomRun(t, rnd, seen) })
}

// wanted are answers, by command, that must have been met.
var wanted = []string{
	"Init NONE", "Init STALE", "Init PRODUCER_FENCED", "Init CONCURRENT_TRANSACTIONS", "Init NEEDS_PRODUCER_ID", "Init TOO_MANY_TRANSACTIONAL_IDS",
	"Add NONE", "Add STALE", "Add INVALID_PRODUCER_ID_MAPPING", "Add PRODUCER_FENCED", "Add CONCURRENT_TRANSACTIONS", "Add TRANSACTION_ABORTABLE",
	"End NONE", "End STALE", "End INVALID_PRODUCER_ID_MAPPING", "End PRODUCER_FENCED", "End CONCURRENT_TRANSACTIONS", "End INVALID_TXN_STATE", "End NEEDS_PRODUCER_ID",
	"Next NONE", "Next INVALID_PRODUCER_ID_MAPPING", "Next PRODUCER_FENCED", "Next TRANSACTION_ABORTABLE", "Next of a new producer id",
	"Complete NONE", "Complete STALE", "Complete INVALID_TXN_STATE",
	"Abort NONE", "Abort STALE", "Abort INVALID_TXN_STATE", "Abort CONCURRENT_TRANSACTIONS", "Abort TRANSACTIONAL_ID_NOT_FOUND", "Abort NEEDS_PRODUCER_ID",
	"Note NONE", "Note STALE", "Note INVALID_PRODUCER_ID_MAPPING", "expired", "rotated", "lost answer",
}

func randomRun(t *testing.T, rnd *rand.Rand, seen map[string]int) int {
	t.Helper()
	s, m := New(), newModel()
	g := &generator{r: rnd, s: s, fresh: 1000, now: 1_000_000}
	g.start(t, s, m)
	restored := s.Clone() // goes through snapshots
	w := newWatch(t)
	n := 50 + rnd.IntN(400)
	index := uint64(100)
	for range n {
		index += 1 + uint64(rnd.IntN(3)) // with gaps, as in a Raft log
		c := g.command()
		data, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Find(c.TransactionalId)
		checked := s.checkAny(g.now, c)
		clone, encoded := s.Clone(), []byte(nil)
		if rnd.IntN(20) == 0 {
			encoded = snapshot(t, clone)
		}
		r, err := s.Apply(index, g.now, data)
		if err != nil {
			t.Fatal(err)
		}
		if encoded != nil && !bytes.Equal(snapshot(t, clone), encoded) {
			t.Fatalf("a clone has changed with %v", c)
		}
		if again, err := restored.Apply(index, g.now, data); err != nil || fmt.Sprint(again.Code, again.ProducerID, again.Epoch, again.Changed) != fmt.Sprint(r.Code, r.ProducerID, r.Epoch, r.Changed) {
			t.Fatalf("restored shard answers %+v, %v; the other %+v", again, err, r)
		}
		want := m.apply(index, g.now, c)
		compareAnswers(t, c, r, checked, want)
		compareID(t, c, s.Find(c.TransactionalId), m.ids)
		if rnd.IntN(30) == 0 {
			compareStates(t, c, s, m)
		}
		tally(seen, c, r)
		w.see(c, before, r)
		if rnd.IntN(25) == 0 {
			var err error
			if restored, err = Restore(snapshot(t, restored)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if a, b := snapshot(t, s), snapshot(t, restored); !bytes.Equal(a, b) {
		t.Fatal("restore and replay end in different bytes")
	}
	return n
}

func snapshot(t testing.TB, s *State) []byte {
	t.Helper()
	b, err := s.AppendSnapshot(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compareAnswers(t *testing.T, c *statev1.TransactionCommand, r, checked Result, want mResult) {
	t.Helper()
	got := mResult{code: r.Code.String(), pid: int64(r.ProducerID), epoch: int64(r.Epoch), expired: r.Expired}
	for _, n := range r.Next {
		got.next += n.Code.String() + " "
	}
	if c.GetExpire() == nil && c.GetLimits() == nil && got != want || r.Expired != want.expired {
		t.Fatalf("%v\nmachine says %+v\nmodel says %+v\n%+v", c, got, want, r.Transaction)
	}
	if c.GetExpire() == nil && c.GetLimits() == nil && r.Code != Stale &&
		(checked.Code != r.Code || checked.ProducerID != r.ProducerID || checked.Epoch != r.Epoch || checked.Changed != r.Changed || checked.Version() != c.Version) {
		t.Fatalf("%v\nApply says %+v\nCheck said %+v", c, r, checked)
	}
}

func compareID(t *testing.T, c *statev1.TransactionCommand, got *Transaction, ids map[string]mID) {
	t.Helper()
	if got == nil {
		return
	}
	if want := ids[got.ID]; modelOf(got).String() != want.String() {
		t.Fatalf("after %v\nmachine: %v\nmodel: %v", c, got, want)
	}
	if what := got.broken(); what != "" {
		t.Fatalf("after %v: %s: %+v", c, what, got)
	}
}

func compareStates(t *testing.T, c *statev1.TransactionCommand, s *State, m *model) {
	t.Helper()
	open, partitions := 0, 0
	for id, want := range m.ids {
		compareID(t, c, s.Find(id), m.ids)
		if want.ending() || want.status == "Ongoing" {
			open++
			partitions += len(want.partitions)
		}
	}
	if s.Len() != len(m.ids) || s.OpenLen() != open || s.OpenPartitions() != partitions {
		t.Fatalf("after %v: %d ids, %d open, %d partitions; model has %d, %d, %d", c, s.Len(), s.OpenLen(), s.OpenPartitions(), len(m.ids), open, partitions)
	}
}

func kindOf(c *statev1.TransactionCommand) string {
	return fmt.Sprintf("%T", c.Command)[len("*statev1.TransactionCommand_"):]
}

func tally(seen map[string]int, c *statev1.TransactionCommand, r Result) {
	seen[kindOf(c)+" "+r.Code.String()]++
	for _, n := range r.Next {
		seen["Next "+n.Code.String()]++
		if n.Changed && n.Transaction.Epoch == 0 && n.Transaction.Status == Ongoing && r.Next != nil {
			seen["Next of a new producer id"]++
		}
	}
	if r.Expired > 0 {
		seen["expired"]++
	}
	if r.Changed && r.Transaction != nil && r.Transaction.PreviousProducerID != record.NoProducerID {
		seen["rotated"]++
	}
	if r.Code == OK && !r.Changed && r.ProducerID >= 0 {
		seen["lost answer"]++
	}
}

// watch holds what must be true of the whole history of a shard, whatever the rules in between.
type watch struct {
	t *testing.T
	// given are the producers that were handed out anew. Nobody gets what another one got.
	given map[string]string
	// highest is the highest epoch that each producer id had.
	highest map[record.ProducerID]record.Epoch
}

func newWatch(t *testing.T) *watch {
	return &watch{t: t, given: map[string]string{}, highest: map[record.ProducerID]record.Epoch{}}
}

func (w *watch) see(c *statev1.TransactionCommand, before *Transaction, r Result) {
	w.t.Helper()
	t := r.Transaction
	if t == nil {
		return
	}
	if t.Epoch < w.highest[t.ProducerID] {
		w.t.Fatalf("%v: epoch of %d goes back from %d to %d", c, t.ProducerID, w.highest[t.ProducerID], t.Epoch)
	}
	w.highest[t.ProducerID] = t.Epoch
	if before != nil && before.Status.Ending() && t.Status != before.Status && c.GetComplete() == nil {
		w.t.Fatalf("%v leaves %v while markers are on their way (T24)", c, before.Status)
	}
	if r.ProducerID == record.NoProducerID || !r.Changed {
		return
	}
	if r.Epoch > lastEpoch {
		w.t.Fatalf("%v hands out epoch %d", c, r.Epoch)
	}
	if c.GetEnd().GetClientVersion() == 1 || c.GetInit() != nil && before != nil && r.Epoch == before.Epoch && r.ProducerID == before.ProducerID {
		return // no new epoch: TV1, or only the timeout was changed
	}
	key := fmt.Sprintf("%d/%d", r.ProducerID, r.Epoch)
	if first, ok := w.given[key]; ok {
		w.t.Fatalf("%s was handed out by %s, and again by %v", key, first, c)
	}
	w.given[key] = fmt.Sprint(c)
}

// generator makes commands that have a fair chance to be accepted.
type generator struct {
	r     *rand.Rand
	s     *State
	fresh int64
	now   int64
}

// start puts ids with few epochs left into the shard, so that runs reach their end.
func (g *generator) start(t *testing.T, s *State, m *model) {
	t.Helper()
	for i, id := range []string{"a", "b"} {
		if g.r.IntN(2) == 0 {
			continue
		}
		tr := &Transaction{ID: id, Version: uint64(i + 1), ProducerID: record.ProducerID(500 + i), Epoch: lastEpoch - record.Epoch(g.r.IntN(3)),
			PreviousProducerID: record.NoProducerID, NextProducerID: record.NoProducerID, LastEpoch: record.NoEpoch, TimeoutMS: 5, StartMS: -1, UpdatedMS: g.now}
		s.replace(nil, tr, tr.Version)
		m.ids[id] = modelOf(tr)
	}
}

func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func (g *generator) freshID(percent int) int64 {
	if !g.chance(percent) {
		return -1
	}
	g.fresh++
	return g.fresh
}

func (g *generator) command() *statev1.TransactionCommand {
	g.now += int64(g.r.IntN(20)) - 2 // it may go back
	if g.r.IntN(100) == 0 {
		return &statev1.TransactionCommand{Command: &statev1.TransactionCommand_Limits{Limits: &statev1.SetTransactionLimits{
			MaxIds: uint32(2 + g.r.IntN(4)), MaxPartitions: uint32(1 + g.r.IntN(4)), MaxOpenPartitions: uint32(1 + g.r.IntN(6))}}}
	}
	if g.r.IntN(60) == 0 {
		return g.expire()
	}
	id := string(rune('a' + g.r.IntN(5)))
	t := g.s.Find(id)
	c := &statev1.TransactionCommand{TransactionalId: id, Version: t.version()}
	if g.chance(5) {
		c.Version = uint64(g.r.IntN(200))
	}
	if g.chance(50) {
		c.Client = &statev1.ClientRef{ClientId: "app" + id, Address: "10.0.0.1:9"}
	}
	pid, epoch := g.producer(t)
	version := uint32(1 + g.r.IntN(2))
	n := g.r.IntN(100)
	if t != nil && t.Status == Ongoing && t.Epoch == lastEpoch && g.chance(20) {
		n = 90 // there are few of these
	}
	switch {
	case t == nil && n < 70 || n < 15:
		cmd := &statev1.InitTransactions{ProducerId: -1, ProducerEpoch: -1, TimeoutMs: int32(1 + g.r.IntN(3)), FreshProducerId: g.freshID(70), ServerVersion: version}
		if g.chance(60) {
			cmd.ProducerId, cmd.ProducerEpoch = pid, epoch
		}
		c.Command = &statev1.TransactionCommand_Init{Init: cmd}
	case n < 45:
		c.Command = &statev1.TransactionCommand_Add{Add: &statev1.AddPartitions{ProducerId: pid, ProducerEpoch: epoch, Partitions: g.partitions(), ClientVersion: version}}
	case n < 70:
		c.Command = &statev1.TransactionCommand_End{End: &statev1.EndTransaction{ProducerId: pid, ProducerEpoch: epoch, Commit: g.chance(50),
			ClientVersion: version, FreshProducerId: g.freshID(50)}}
	case n < 85:
		cmd := &statev1.CompleteTransaction{}
		for range g.r.IntN(4) {
			pid, epoch := g.producer(t)
			cmd.Next = append(cmd.Next, &statev1.AddPartitions{ProducerId: pid, ProducerEpoch: epoch, Partitions: g.partitions(), ClientVersion: version})
		}
		c.Command = &statev1.TransactionCommand_Complete{Complete: cmd}
	case n < 92:
		c.Command = &statev1.TransactionCommand_Abort{Abort: &statev1.AbortTransaction{Reason: statev1.AbortReason(1 + g.r.IntN(2)), ProducerId: pid, ProducerEpoch: epoch,
			StartedUntilMs: g.now + 10 - int64(g.r.IntN(20)), ServerVersion: version, FreshProducerId: g.freshID(40)}}
	default:
		c.Command = &statev1.TransactionCommand_Note{Note: &statev1.NoteRefusal{ProducerId: pid, ProducerEpoch: epoch, Topic: "t", Partition: int32(g.r.IntN(3)),
			Code: "OUT_OF_ORDER_SEQUENCE_NUMBER", ExpectedSequence: int32(g.r.IntN(9)), ReceivedSequence: int32(g.r.IntN(9))}}
	}
	return c
}

// producer is the id's own, mostly, or someone near it.
func (g *generator) producer(t *Transaction) (id int64, epoch int32) {
	if t == nil {
		return int64(g.r.IntN(3)), int32(g.r.IntN(3))
	}
	id, epoch = int64(t.ProducerID), int32(t.Epoch)
	switch n := g.r.IntN(20); {
	case n < 2:
		epoch = max(epoch-1, 0)
	case n < 4 && t.LastEpoch >= 0:
		epoch = int32(t.LastEpoch)
	case n < 5:
		epoch = min(epoch+1, 32767)
	case n < 6:
		id = int64(g.r.IntN(3))
	}
	if t.PreviousProducerID >= 0 && g.chance(40) {
		id, epoch = int64(t.PreviousProducerID), 32764+int32(g.r.IntN(4))
	}
	if t.NextProducerID >= 0 && g.chance(50) {
		id, epoch = int64(t.NextProducerID), 0
	}
	return id, epoch
}

func (g *generator) partitions() []*statev1.TopicPartitions {
	var list []record.TopicPartition
	for range g.r.IntN(4) {
		list = append(list, record.TopicPartition{Topic: string(rune('t' + g.r.IntN(2))), Partition: int32(g.r.IntN(3))})
	}
	return PartitionsToProto(list)
}

func (g *generator) expire() *statev1.TransactionCommand {
	cmd := &statev1.ExpireTransactionalIds{CutoffMs: g.now - int64(g.r.IntN(100))}
	for _, t := range g.s.All() {
		e := &statev1.ExpiredId{TransactionalId: t.ID, Version: t.Version, ProducerEpoch: int32(t.Epoch)}
		if g.chance(20) {
			e.Version--
		}
		cmd.Ids = append(cmd.Ids, e)
	}
	return &statev1.TransactionCommand{Command: &statev1.TransactionCommand_Expire{Expire: cmd}}
}
