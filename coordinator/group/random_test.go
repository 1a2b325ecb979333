package group

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
	"github.com/oncelog/oncelog/record"
)

// TestAgreesWithModel applies random commands to the machine and to the dumb model and compares every answer and every state.
// Beside that: Check says the same as Apply; a shard that goes through snapshots ends in the bytes of the one that does not
// (R6); a clone stays as it was; the counters are right; and offsets are found as they are held (fetches).
func TestAgreesWithModel(t *testing.T) {
	rnd := machinetest.Rand(t)
	machinetest.Runs(t, 3*time.Second, wanted, func(seen map[string]int) int { return randomRun(t, rnd, seen) })
}

// wanted are answers, by command, that must have been met.
var wanted = []string{
	"BeginGeneration NONE", "BeginGeneration STALE", "BeginGeneration GROUP_MAX_SIZE_REACHED", "BeginGeneration TOO_MANY_BYTES", "BeginGeneration TOO_MANY_GROUPS",
	"AssignGeneration NONE", "AssignGeneration STALE", "AssignGeneration TOO_MANY_BYTES", "ReplaceMember NONE", "ReplaceMember STALE", "LeaveGeneration NONE", "LeaveGeneration STALE",
	"Commit ILLEGAL_GENERATION", "Commit FENCED_INSTANCE_ID", "Commit REBALANCE_IN_PROGRESS", "CommitInTransaction ILLEGAL_GENERATION", "CommitInTransaction FENCED_INSTANCE_ID",
	"DeleteGroup NON_EMPTY_GROUP", "DeleteOffsets NON_EMPTY_GROUP",
	"Commit NONE", "Commit GROUP_ID_NOT_FOUND", "Commit UNKNOWN_MEMBER_ID", "Commit TOO_MANY_GROUPS", "Commit TOO_MANY_OFFSETS", "Commit TOO_MANY_BYTES",
	"CommitInTransaction NONE", "CommitInTransaction INVALID_PRODUCER_EPOCH", "CommitInTransaction INVALID_TXN_STATE", "CommitInTransaction GROUP_ID_NOT_FOUND",
	"CommitInTransaction UNKNOWN_MEMBER_ID", "CommitInTransaction TOO_MANY_OFFSETS", "CommitInTransaction TOO_MANY_PRODUCERS",
	"EndTransaction NONE", "EndTransaction INVALID_PRODUCER_EPOCH", "EndTransaction TRANSACTION_COORDINATOR_FENCED", "EndTransaction TOO_MANY_PRODUCERS",
	"DeleteOffsets NONE", "DeleteGroup NONE", "ExpireOffsets NONE", "ForgetTopics NONE", "ExpireProducers NONE",
	"offsets deleted", "offsets expired", "group expired", "topic forgotten", "producers expired", "producers evicted", "unstable", "overtaken",
}

func randomRun(t *testing.T, rnd *rand.Rand, seen map[string]int) int {
	t.Helper()
	s, m := New(), newModel()
	g := &generator{r: rnd, s: s, now: 1_000_000}
	restored := s.Clone() // goes through snapshots
	n := 50 + rnd.IntN(300)
	index := uint64(100)
	for range n {
		index += 1 + uint64(rnd.IntN(3)) // with gaps, as in a Raft log
		c := g.command()
		data, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Sizes()
		checked := s.Check(g.now, c)
		var clone *State
		var encoded []byte
		if rnd.IntN(20) == 0 {
			clone = s.Clone()
			encoded = snapshot(t, clone)
		}
		r, err := s.Apply(index, g.now, data)
		if err != nil {
			t.Fatal(err)
		}
		if encoded != nil && !bytes.Equal(snapshot(t, clone), encoded) {
			t.Fatalf("a clone has changed with %v", c)
		}
		if !sameResult(checked, r) {
			t.Fatalf("%v\nApply says %+v\nCheck said %+v", c, r, checked)
		}
		if again, err := restored.Apply(index, g.now, data); err != nil || !sameResult(again, r) {
			t.Fatalf("%v\nrestored shard answers %+v, %v; the other %+v", c, again, err, r)
		}
		if want := m.apply(index, g.now, c); want != (mResult{r.Code.String(), r.Changed, r.Removed}) {
			t.Fatalf("%v\nmachine says %+v\nmodel says %+v", c, r, want)
		}
		if got := modelOf(s); !got.equal(m) {
			t.Fatalf("after %v\nmachine: %s\nmodel: %s", c, got, m)
		}
		s.mustCount(t)
		tally(seen, c, r, before, s.Sizes())
		if rnd.IntN(10) == 0 {
			fetches(t, s, m, seen)
		}
		if rnd.IntN(25) == 0 {
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

func kindOf(c *statev1.GroupCommand) string {
	return fmt.Sprintf("%T", c.Command)[len("*statev1.GroupCommand_"):]
}

func tally(seen map[string]int, c *statev1.GroupCommand, r Result, before, after Sizes) {
	seen[kindOf(c)+" "+r.Code.String()]++
	note := func(what string, happened bool) {
		if happened {
			seen[what]++
		}
	}
	note("offsets deleted", c.GetDeleteOffsets() != nil && r.Removed > 0)
	note("offsets expired", c.GetExpireOffsets() != nil && r.Removed > 0)
	note("group expired", c.GetExpireOffsets() != nil && after.Groups < before.Groups)
	note("topic forgotten", c.GetForgetTopics() != nil && r.Removed > 0)
	note("producers expired", c.GetExpireProducers() != nil && r.Removed > 0)
	note("producers evicted", c.GetExpireProducers() == nil && after.Producers < before.Producers)
	// A transaction was committed, and one of its offsets was older than what had been committed beside it.
	note("overtaken", c.GetEndTransaction().GetCommit() && r.Changed && after.Offsets < before.Offsets)
}

// fetches compares what is found with what the model holds.
func fetches(t *testing.T, s *State, m *model, seen map[string]int) {
	t.Helper()
	for _, group := range names {
		var all []string
		for _, topic := range topics {
			for n := range int32(3) {
				at := place{group, topic[:1], n}
				id := topicID(topic)
				o, ok := m.committed[at]
				ok = ok && o.topicID == string(id[:])
				unstable := false
				for p, o := range m.pending {
					unstable = unstable || p.place == at && o.topicID == string(id[:])
				}
				f := s.Fetch(group, []Want{{at.topic, id, []int32{n}}}, true)[0]
				if f.Unstable != unstable || f.Found != (ok && !unstable) || f.Found && int64(f.Offset.Offset) != o.offset {
					t.Fatalf("%+v: found %+v, the model has %+v, unstable %v", at, f, o, unstable)
				}
				if f = s.Fetch(group, []Want{{at.topic, id, []int32{n}}}, false)[0]; f.Unstable || f.Found != ok || ok && f.Offset.Position != o.position {
					t.Fatalf("%+v: found %+v, the model has %+v", at, f, o)
				}
				if unstable {
					seen["unstable"]++
				}
				if ok {
					all = append(all, fmt.Sprint(at.topic, n, o.offset))
				}
			}
		}
		var found []string
		for _, f := range s.FetchAll(group, false) {
			found = append(found, fmt.Sprint(f.Topic, f.Partition, int64(f.Offset.Offset)))
		}
		slices.Sort(all)
		slices.Sort(found)
		if !slices.Equal(all, found) {
			t.Fatalf("group %q: found %v, the model has %v", group, found, all)
		}
	}
}

// generator makes commands that have a fair chance to be accepted.
type generator struct {
	r   *rand.Rand
	s   *State
	now int64
}

var (
	names  = []string{"", "a", "b", "c"}
	topics = []string{"t", "t'", "u"}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (g *generator) expiry() *statev1.ExpireOffsets {
	c := &statev1.ExpireOffsets{CutoffMs: g.now - int64(g.r.IntN(200)), BelowIndex: g.bound()}
	if g.chance(50) {
		c.NowMs = max(1, g.now-int64(g.r.IntN(50)))
	}
	return c
}

// bound is an index that some of what there is lies above; mostly 0, none.
func (g *generator) bound() uint64 {
	if g.chance(70) {
		return 0
	}
	newest := uint64(0)
	for _, p := range g.s.producers {
		newest = max(newest, p.touched)
	}
	return newest - min(newest, uint64(g.r.IntN(40)))
}

func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func (g *generator) command() *statev1.GroupCommand {
	g.now += int64(g.r.IntN(20)) - 2 // it may go back
	group := pick(g.r, names)
	switch n := g.r.IntN(120); {
	case n >= 100:
		return g.classic(group)
	case n < 25:
		expire := int64(-1)
		if g.chance(10) {
			expire = g.now + int64(g.r.IntN(100))
		}
		return &statev1.GroupCommand{GroupId: group, Command: &statev1.GroupCommand_Commit{Commit: &statev1.CommitOffsets{
			Committer: g.committer(), Topics: g.offsets(), ExpireMs: expire}}}
	case n < 55:
		return &statev1.GroupCommand{GroupId: group, Command: &statev1.GroupCommand_CommitInTransaction{CommitInTransaction: g.inTransaction()}}
	case n < 80:
		return &statev1.GroupCommand{Command: &statev1.GroupCommand_EndTransaction{EndTransaction: g.marker()}}
	case n < 84:
		return &statev1.GroupCommand{GroupId: group, Command: &statev1.GroupCommand_DeleteOffsets{DeleteOffsets: &statev1.DeleteOffsets{
			Topics: []*statev1.TopicPartitions{{Topic: "t", Partitions: []int32{0, 2}}}}}}
	case n < 87:
		return &statev1.GroupCommand{GroupId: group, Command: &statev1.GroupCommand_DeleteGroup{DeleteGroup: &statev1.DeleteGroup{}}}
	case n < 93:
		return &statev1.GroupCommand{GroupId: group, Command: &statev1.GroupCommand_ExpireOffsets{ExpireOffsets: g.expiry()}}
	case n < 95:
		id := topicID(pick(g.r, topics))
		return &statev1.GroupCommand{Command: &statev1.GroupCommand_ForgetTopics{ForgetTopics: &statev1.ForgetTopics{TopicIds: [][]byte{id[:]}}}}
	case n < 97:
		return &statev1.GroupCommand{Command: &statev1.GroupCommand_ExpireProducers{ExpireProducers: &statev1.ExpireGroupProducers{CutoffMs: g.now - int64(g.r.IntN(300)), BelowIndex: g.bound()}}}
	}
	return &statev1.GroupCommand{Command: &statev1.GroupCommand_Limits{Limits: &statev1.SetGroupLimits{MaxGroups: uint32(2 + g.r.IntN(3)), MaxMembers: 3,
		MaxOffsets: uint32(3 + g.r.IntN(20)), MaxProducers: uint32(2 + g.r.IntN(4)), MaxBytes: uint64(1000 + g.r.IntN(4000))}}}
}

func (g *generator) committer() *statev1.Committer {
	c := &statev1.Committer{Epoch: -1}
	if g.chance(40) {
		c.MemberId, c.Epoch = pick(g.r, []string{"m", "m", "n", "o", "q", ""}), int32(g.r.IntN(4))
		if g.chance(20) {
			c.InstanceId = pick(g.r, []string{"im", "in"})
		}
		if g.chance(10) {
			c.Epoch = -1
		}
	}
	return c
}

func (g *generator) offsets() []*statev1.TopicOffsets {
	var list []*statev1.TopicOffsets
	for _, topic := range []string{"t", "u"} {
		name := topic
		if topic == "t" && g.chance(30) {
			name = "t'"
		}
		id := topicID(name)
		t := &statev1.TopicOffsets{Topic: topic, TopicId: id[:]}
		for n := range int32(3) {
			if g.chance(30) {
				t.Partitions = append(t.Partitions, &statev1.PartitionOffset{Partition: n, Offset: int64(g.r.IntN(1000)), LeaderEpoch: -1, Metadata: "note"[:g.r.IntN(4)]})
			}
		}
		if len(t.Partitions) > 0 {
			list = append(list, t)
		}
	}
	return list
}

func (g *generator) inTransaction() *statev1.CommitOffsetsInTransaction {
	id := record.ProducerID(g.r.IntN(6))
	c := &statev1.CommitOffsetsInTransaction{Committer: g.committer(), Topics: g.offsets(), ProducerId: int64(id), ProducerEpoch: int32(max(g.s.producers[id].epoch, 0)),
		Verified: g.chance(90), KnownMarker: g.s.LastMarker(id)}
	switch n := g.r.IntN(20); {
	case n < 2:
		c.ProducerEpoch++
	case n < 4:
		c.ProducerEpoch = max(c.ProducerEpoch-1, 0)
	case n < 6:
		c.KnownMarker = uint64(g.r.IntN(int(c.KnownMarker) + 1))
	}
	return c
}

func (g *generator) marker() *statev1.EndTransactionOfOffsets {
	id := record.ProducerID(g.r.IntN(6))
	c := &statev1.EndTransactionOfOffsets{ProducerId: int64(id), ProducerEpoch: int32(max(g.s.producers[id].epoch, 0)), CoordinatorEpoch: 3, Commit: g.chance(60), Version: uint32(1 + g.r.IntN(2))}
	if c.Version == 2 {
		c.ProducerEpoch++
	}
	switch n := g.r.IntN(20); {
	case n < 3:
		c.ProducerEpoch = max(c.ProducerEpoch-1, 0)
	case n < 4:
		c.ProducerEpoch++
	case n < 6:
		c.CoordinatorEpoch = int32(2 + g.r.IntN(3))
	}
	return c
}
