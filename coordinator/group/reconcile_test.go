package group

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
	"github.com/oncelog/oncelog/record"
)

// TestReconciliation lets members live with a group as clients do, with answers that are lost, processes that are replaced, zombies
// that know nothing of it, and targets that change at any time. It holds the group to what matters (G16):
//
//   - what two members of the group read is never the same, by what they themselves know;
//   - nobody's commit is taken for a partition that another member reads (G20, G22);
//   - epochs never go back;
//   - once nothing new comes, everyone gets its target.
func TestReconciliation(t *testing.T) {
	rnd := machinetest.Rand(t)
	wanted := []string{"joined", "rejoined", "left", "fenced", "away", "back", "answer lost", "revoked", "zombie refused", "older epoch commits", "thread refused", "fenced epoch", "unreleased", "settled"}
	machinetest.Runs(t, 3*time.Second, wanted, func(seen map[string]int) int {
		w := &world{t: t, r: rnd, p: newPlayer(t), seen: seen}
		steps := 50 + rnd.IntN(200)
		for range steps {
			var clone *State
			var encoded []byte
			if rnd.IntN(20) == 0 {
				clone = w.p.s.Clone()
				encoded = snapshot(t, clone)
			}
			w.step()
			w.check()
			if clone != nil && !bytes.Equal(snapshot(t, clone), encoded) {
				t.Fatal("a clone has changed")
			}
			if rnd.IntN(30) == 0 {
				w.p.reload()
			}
		}
		w.settle()
		return steps
	})
}

// process is a member as it knows itself.
type process struct {
	id, instance string
	epoch        int32
	reads        map[Partition]bool
	// revoking are what it has been told to give back and has not yet.
	revoking map[Partition]bool
	// thread is what one of its threads still believes of it.
	thread *process
}

type world struct {
	t       *testing.T
	r       *rand.Rand
	p       *player
	seen    map[string]int
	alive   []*process
	zombies []*process
	next    int
	epoch   int32
}

const partitions = 6

func (w *world) apply(c *statev1.GroupCommand) Result {
	w.t.Helper()
	c.GroupId = "g"
	w.p.index++
	r := w.p.apply(c)
	w.p.s.mustCount(w.t)
	return r
}

func (w *world) group() *group { return w.p.s.groups["g"] }

func (w *world) step() {
	switch n := w.r.IntN(100); {
	case n < 10 && len(w.alive) < 4 || len(w.alive) == 0:
		w.start()
	case n < 65:
		w.heartbeat(pick(w.r, w.alive))
	case n < 78:
		w.assign()
	case n < 82:
		w.leave()
	case n < 86:
		w.fence(pick(w.r, w.alive))
	case n < 92 && len(w.zombies) > 0:
		w.zombie(pick(w.r, w.zombies))
	default:
		w.commit(pick(w.r, slices.Concat(w.alive, w.zombies)))
	}
}

// start starts a process, one with an instance id sometimes.
func (w *world) start() {
	w.next++
	p := &process{id: fmt.Sprint("m", w.next), reads: map[Partition]bool{}, revoking: map[Partition]bool{}}
	if w.r.IntN(3) == 0 {
		p.instance = pick(w.r, []string{"i", "j"})
	}
	if w.join(p) {
		w.alive = append(w.alive, p)
		w.seen["joined"]++
	}
}

func (w *world) join(p *process) bool {
	was := w.group().consumers().instances[p.instance]
	p.epoch, p.reads, p.revoking = 0, map[Partition]bool{}, map[Partition]bool{}
	r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: &statev1.ConsumerHeartbeat{MemberId: p.id, InstanceId: p.instance,
		Subscription: &statev1.ConsumerSubscription{Topics: []string{"t"}, RebalanceTimeoutMs: 1}, Owned: &statev1.OwnedPartitions{}}}})
	if r.Code != OK {
		if r.Code != UnreleasedInstanceID || p.instance == "" {
			w.t.Fatalf("join: %v", r.Code)
		}
		w.seen["unreleased"]++
		return false
	}
	if p.instance != "" && was != "" && was != p.id {
		w.seen["back"]++
	}
	w.answered(p, r.Member)
	return true
}

// heartbeat says what a process reads, gives back what it has been told to, sometimes, and takes the answer, mostly.
func (w *world) heartbeat(p *process) {
	if p.epoch == 0 || w.r.IntN(20) == 0 {
		if w.join(p) {
			w.seen["rejoined"]++
		}
		return
	}
	if len(p.revoking) > 0 && w.r.IntN(2) == 0 {
		for tp := range p.revoking {
			delete(p.reads, tp)
		}
		clear(p.revoking)
		w.seen["revoked"]++
	}
	hb := &statev1.ConsumerHeartbeat{MemberId: p.id, InstanceId: p.instance, MemberEpoch: p.epoch}
	if w.r.IntN(3) > 0 {
		hb.Owned = &statev1.OwnedPartitions{Topics: PartitionsToProto(sorted(p.reads))}
	}
	if w.r.IntN(20) == 0 {
		hb.Subscription = &statev1.ConsumerSubscription{Topics: []string{"t"}, RebalanceTimeoutMs: 1, Assignor: pick(w.r, []string{"", "range"})}
	}
	r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}})
	switch {
	case r.Code == FencedMemberEpoch:
		w.seen["fenced epoch"]++
		w.join(p)
	case r.Code != OK:
		w.t.Fatalf("%s at %d: %v\n%s", p.id, p.epoch, r.Code, w.p.s.show("g"))
	case r.Changed && w.r.IntN(5) == 0:
		w.seen["answer lost"]++
	default:
		w.answered(p, r.Member)
	}
}

// answered takes the answer to a heartbeat: the epoch, and what is assigned. What is not has to be given back, which takes a while.
func (w *world) answered(p *process, m *Member) {
	if m.Epoch < p.epoch {
		w.t.Fatalf("the epoch of %s goes back from %d to %d", p.id, p.epoch, m.Epoch)
	}
	if w.r.IntN(4) == 0 {
		p.thread = &process{id: p.id, instance: p.instance, epoch: p.epoch, reads: maps.Clone(p.reads)}
	}
	p.epoch = m.Epoch
	for _, h := range m.Assigned {
		p.reads[h.Partition] = true
		delete(p.revoking, h.Partition)
	}
	for tp := range p.reads {
		if _, ok := findHeld(m.Assigned, tp); !ok {
			p.revoking[tp] = true
		}
	}
}

func sorted(set map[Partition]bool) []Partition {
	return slices.SortedFunc(maps.Keys(set), comparePartitions)
}

// assign gives targets, any targets.
func (w *world) assign() {
	if w.group() == nil {
		return
	}
	targets := map[string][]Partition{}
	for id := range w.group().consumers().members {
		targets[id] = nil
	}
	ids := slices.Sorted(maps.Keys(targets))
	for n := range int32(partitions) {
		if len(ids) > 0 && w.r.IntN(10) > 0 {
			id := pick(w.r, ids)
			targets[id] = append(targets[id], Partition{topicID("t"), n})
		}
	}
	w.setTargets(targets)
}

func (w *world) setTargets(targets map[string][]Partition) {
	c := &statev1.AssignPartitions{GroupEpoch: w.group().epoch}
	encodeTargets(c, targets)
	if r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Assign{Assign: c}}); r.Code != OK {
		w.t.Fatal(r.Code)
	}
}

// gone makes a process one that is a member no more. A zombie does not know it.
func (w *world) gone(p *process, zombie bool) {
	w.alive = slices.DeleteFunc(w.alive, func(q *process) bool { return q == p })
	if zombie {
		w.zombies = append(w.zombies, p)
	}
}

func (w *world) leave() {
	p := pick(w.r, w.alive)
	epoch := LeaveEpoch
	if p.instance != "" && w.r.IntN(3) > 0 {
		epoch = LeaveStaticEpoch
		w.seen["away"]++
	}
	r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: &statev1.ConsumerHeartbeat{MemberId: p.id, InstanceId: p.instance, MemberEpoch: epoch}}})
	if r.Code != OK {
		w.t.Fatal(r.Code)
	}
	w.seen["left"]++
	w.gone(p, w.r.IntN(3) == 0) // who has left may have a thread that does not know
}

func (w *world) fence(p *process) {
	m := w.group().consumer.members[p.id]
	if r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Fence{Fence: &statev1.FenceMembers{Members: []*statev1.FencedMember{{MemberId: p.id, Version: m.Version}}}}}); r.Code != OK {
		w.t.Fatal(r.Code)
	}
	w.seen["fenced"]++
	w.gone(p, true)
}

// zombie goes on as if nothing had happened. It is refused, whatever it says; only as a new member it may come back.
func (w *world) zombie(p *process) {
	if p.epoch == 0 {
		return
	}
	hb := &statev1.ConsumerHeartbeat{MemberId: p.id, InstanceId: p.instance, MemberEpoch: p.epoch, Owned: &statev1.OwnedPartitions{Topics: PartitionsToProto(sorted(p.reads))}}
	switch r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}}); r.Code {
	case OK:
		w.t.Fatalf("zombie %s is taken for a member", p.id)
	case FencedInstanceID:
	default:
		if w.r.IntN(3) == 0 && w.join(p) {
			w.zombies = slices.DeleteFunc(w.zombies, func(q *process) bool { return q == p })
			w.alive = append(w.alive, p)
		}
	}
}

// commit commits one partition that the process, or one of its threads, believes to read.
func (w *world) commit(p *process) {
	reader := p
	if p.thread != nil && w.r.IntN(2) == 0 {
		p = p.thread
	}
	if len(p.reads) == 0 {
		return
	}
	tp := pick(w.r, sorted(p.reads))
	id := tp.TopicID
	topics := []*statev1.TopicOffsets{{Topic: "t", TopicId: id[:], Partitions: []*statev1.PartitionOffset{{Partition: tp.Number, Offset: 1, LeaderEpoch: -1}}}}
	by := &statev1.Committer{MemberId: p.id, InstanceId: p.instance, Epoch: p.epoch}
	c := &statev1.GroupCommand{Command: &statev1.GroupCommand_Commit{Commit: &statev1.CommitOffsets{Committer: by, Topics: topics, ExpireMs: NoExpiry}}}
	if w.r.IntN(2) == 0 {
		c.Command = &statev1.GroupCommand_CommitInTransaction{CommitInTransaction: &statev1.CommitOffsetsInTransaction{Committer: by, Topics: topics, ProducerId: int64(record.ProducerID(w.next)), Verified: true}}
	}
	older := w.group().consumers().members[p.id] != nil && w.group().consumer.members[p.id].Epoch > p.epoch
	r := w.apply(c)
	if r.Code != OK {
		if r.Code != StaleMemberEpoch && r.Code != UnknownMemberID {
			w.t.Fatal(r.Code)
		}
		if r.Code == StaleMemberEpoch && reader != p {
			w.seen["thread refused"]++
		}
		if slices.Contains(w.zombies, reader) {
			w.seen["zombie refused"]++
		}
		return
	}
	if older {
		w.seen["older epoch commits"]++
	}
	for _, other := range w.alive {
		if other != reader && other.reads[tp] {
			w.t.Fatalf("%s at %d commits %v, which %s reads\n%s", p.id, p.epoch, tp, other.id, w.p.s.show("g"))
		}
	}
}

func (w *world) check() {
	w.t.Helper()
	readers := map[Partition]string{}
	for _, p := range w.alive {
		for tp := range p.reads {
			if other, ok := readers[tp]; ok {
				w.t.Fatalf("%v is read by %s and %s\n%s", tp, other, p.id, w.p.s.show("g"))
			}
			readers[tp] = p.id
		}
	}
	g := w.group()
	if g == nil {
		return
	}
	if g.epoch < w.epoch {
		w.t.Fatalf("the group epoch goes back from %d to %d", w.epoch, g.epoch)
	}
	w.epoch = g.epoch
}

// settle gives last targets, with everything assigned, and lets everyone answer until nothing changes any more.
func (w *world) settle() {
	if len(w.alive) == 0 {
		return
	}
	targets := map[string][]Partition{}
	var away []*Member
	for _, m := range w.group().consumers().sorted() {
		if targets[m.ID] = nil; m.Epoch == LeaveStaticEpoch {
			away = append(away, m)
		}
	}
	for _, m := range away { // their sessions end
		if r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Fence{Fence: &statev1.FenceMembers{Members: []*statev1.FencedMember{{MemberId: m.ID, Version: m.Version}}}}}); r.Code != OK {
			w.t.Fatal(r.Code)
		}
		delete(targets, m.ID)
	}
	for n := range int32(partitions) {
		id := pick(w.r, w.alive).id
		targets[id] = append(targets[id], Partition{topicID("t"), n})
	}
	w.setTargets(targets)
	for range 10 {
		if g := w.group(); g.consumer.assignmentEpoch != g.epoch {
			w.setTargets(targets) // whoever was fenced and joined again wants no other assignor any more
		}
		for _, p := range w.alive {
			for tp := range p.revoking {
				delete(p.reads, tp)
			}
			clear(p.revoking)
			hb := &statev1.ConsumerHeartbeat{MemberId: p.id, InstanceId: p.instance, MemberEpoch: p.epoch, Owned: &statev1.OwnedPartitions{Topics: PartitionsToProto(sorted(p.reads))}}
			if p.epoch == 0 {
				w.join(p)
				continue
			}
			r := w.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}})
			if r.Code == FencedMemberEpoch {
				w.join(p)
			} else if r.Code != OK {
				w.t.Fatal(r.Code)
			} else {
				w.answered(p, r.Member)
			}
			w.check()
		}
	}
	if g := w.group(); g.state() != PhaseStable {
		w.t.Fatalf("not settled:\n%s", w.p.s.show("g"))
	}
	for _, p := range w.alive {
		if !slices.Equal(sorted(p.reads), targets[p.id]) {
			w.t.Fatalf("%s reads %v and was to get %v", p.id, sorted(p.reads), targets[p.id])
		}
	}
	w.seen["settled"]++
}
