package group

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
)

// sample is a shard with something of everything.
func sample(t testing.TB) *State {
	t.Helper()
	p := newPlayer(t)
	for line := range strings.SplitSeq(`limits 50 40 100 30 100000
commit simple t/0=1,t/1=2:note,u/0=-1 leader=4 expire=9000
commit - t'/0=7
txn simple 7/0 t/0=5,u/3=6
txn other 7/0 t/2=8
txn other 8/2 t/2=9
txn simple 9/1 t/0=3
marker 9/2 commit ce=6
marker 10/32767 abort tv=1
join live a/i topics=t,u by=app@10.0.0.1 timeout=5000
join live b pattern=t.* assignor=range
assign live a=t/0,t/1,u/3 b=t/2 matched=t
join live a/i topics=t,u by=app@10.0.0.1 timeout=5000
join live b pattern=t.* assignor=range
join live c topics=u
assign live a=t/0 b=t/1 c=t/2,u/3
beat live a/i@2
beat live b@2 owns=nothing
join live c topics=u
join gone a
leave gone a
join away a/i
leave away a/i away
begin assigned a/i=t,b=u leader=b protocol=range
give assigned a=one
begin begun a=t type=connect protocol=v1
begin left a=t
begin left nobody`, "\n") {
		if out := p.run("apply", line); !strings.Contains(out, "NONE") {
			t.Fatal(out)
		}
	}
	return p.s
}

// TestEncodingIsStable: the bytes of this release are those of the releases before. A file here is never changed; a
// new format gets a new one.
func TestEncodingIsStable(t *testing.T) {
	b := snapshot(t, sample(t))
	machinetest.Golden(t, filepath.Join("testdata", "format", "snapshot-1.hex"), b)
	s, err := Restore(b)
	if err != nil {
		t.Fatal(err)
	}
	for id := range sample(t).groups {
		if got, want := s.show(id), sample(t).show(id); got != want {
			t.Errorf("restored %s, want %s", got, want)
		}
	}
	if got, want := s.Sizes(), sample(t).Sizes(); got != want {
		t.Errorf("sizes %+v, want %+v", got, want)
	}
}

func TestSnapshotDamage(t *testing.T) {
	machinetest.Damage(t, snapshotFormat, snapshot(t, sample(t)), func(b []byte) error { _, err := Restore(b); return err })
}

// A snapshot whose checksum is right can still hold what no machine ever wrote.
func mustNotRestore(t *testing.T, changes map[string]func(*statev1.GroupShardState)) {
	t.Helper()
	for what, change := range changes {
		p := new(statev1.GroupShardState)
		if err := snapshotFormat.Read(snapshot(t, sample(t)), p); err != nil {
			t.Fatal(err)
		}
		change(p)
		b, err := snapshotFormat.Append(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(b); !errors.Is(err, statev1.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRestoreChecksTheShard(t *testing.T) {
	producer := func(f func(*statev1.GroupProducerState)) func(*statev1.GroupShardState) {
		return func(p *statev1.GroupShardState) { f(p.Producers[0]) } // 7: open
	}
	mustNotRestore(t, map[string]func(*statev1.GroupShardState){
		"no limits":             func(p *statev1.GroupShardState) { p.Limits = nil },
		"a limit of 0":          func(p *statev1.GroupShardState) { p.Limits.MaxOffsets = 0 },
		"too many bytes":        func(p *statev1.GroupShardState) { p.Limits.MaxBytes = MaxStateBytes + 1 },
		"groups unsorted":       func(p *statev1.GroupShardState) { p.Groups[0], p.Groups[1] = p.Groups[1], p.Groups[0] },
		"group twice":           func(p *statev1.GroupShardState) { p.Groups[1] = p.Groups[0] },
		"long id":               func(p *statev1.GroupShardState) { groupOf(p, "simple").GroupId = strings.Repeat("x", MaxIDLength+1) },
		"producers unsorted":    func(p *statev1.GroupShardState) { p.Producers[0], p.Producers[1] = p.Producers[1], p.Producers[0] },
		"producer id":           producer(func(p *statev1.GroupProducerState) { p.ProducerId = -1 }),
		"producer epoch":        producer(func(p *statev1.GroupProducerState) { p.ProducerEpoch = 32768 }),
		"no producer epoch":     producer(func(p *statev1.GroupProducerState) { p.ProducerEpoch = -1 }),
		"coordinator epoch":     producer(func(p *statev1.GroupProducerState) { p.CoordinatorEpoch = -2 }),
		"coordinator, no mark":  producer(func(p *statev1.GroupProducerState) { p.CoordinatorEpoch = 1 }),
		"open after all":        producer(func(p *statev1.GroupProducerState) { p.OpenFrom = p.Touched + 1 }),
		"marker while open":     producer(func(p *statev1.GroupProducerState) { p.LastMarker, p.CoordinatorEpoch = p.Touched, 1 }),
		"voiding after marker":  producer(func(p *statev1.GroupProducerState) { p.VoidingMarker = 1 }),
		"never touched, idle":   func(p *statev1.GroupShardState) { p.Producers[3].Touched, p.Producers[3].LastMarker = 0, 0 },
		"marker, but not by it": func(p *statev1.GroupShardState) { p.Producers[3].CoordinatorEpoch = -1 },
	})
}

func TestRestoreChecksOffsets(t *testing.T) {
	offset := func(f func(*statev1.CommittedOffset)) func(*statev1.GroupShardState) {
		return func(p *statev1.GroupShardState) { f(groupOf(p, "simple").Offsets[0].Partitions[0]) } // t/0
	}
	mustNotRestore(t, map[string]func(*statev1.GroupShardState){
		"topics unsorted":     func(p *statev1.GroupShardState) { o := groupOf(p, "simple").Offsets; o[0], o[1] = o[1], o[0] },
		"no topic":            func(p *statev1.GroupShardState) { groupOf(p, "simple").Offsets[0].Topic = "" },
		"no partitions":       func(p *statev1.GroupShardState) { groupOf(p, "simple").Offsets[0].Partitions = nil },
		"partitions unsorted": offset(func(o *statev1.CommittedOffset) { o.Partition = 1 }),
		"negative partition":  offset(func(o *statev1.CommittedOffset) { o.Partition = -1 }),
		"leader epoch":        offset(func(o *statev1.CommittedOffset) { o.LeaderEpoch = -2 }),
		"topic id":            offset(func(o *statev1.CommittedOffset) { o.TopicId = []byte{1} }),
		"expiry":              offset(func(o *statev1.CommittedOffset) { o.ExpireMs = -2 }),
		"no position":         offset(func(o *statev1.CommittedOffset) { o.Position = 0 }),
		"long metadata":       offset(func(o *statev1.CommittedOffset) { o.Metadata = strings.Repeat("x", MaxMetadataUnits+1) }),
		"pending of nobody":   func(p *statev1.GroupShardState) { groupOf(p, "other").Pending[0].ProducerId = 77 },
		"pending of the idle": func(p *statev1.GroupShardState) { groupOf(p, "other").Pending[1].ProducerId = 9 },
		"pending unsorted":    func(p *statev1.GroupShardState) { o := groupOf(p, "other").Pending; o[0], o[1] = o[1], o[0] },
		"nothing pending":     func(p *statev1.GroupShardState) { groupOf(p, "other").Pending[0].Topics = nil },
	})
}

func TestRestoreChecksConsumerGroups(t *testing.T) {
	consumer := func(f func(*statev1.ConsumerGroupState)) func(*statev1.GroupShardState) {
		return func(p *statev1.GroupShardState) { f(groupOf(p, "live").Consumer) }
	}
	member := func(n int, f func(*statev1.ConsumerMemberState)) func(*statev1.GroupShardState) {
		return consumer(func(c *statev1.ConsumerGroupState) { f(c.Members[n]) }) // a: gives back, b: waits
	}
	mustNotRestore(t, map[string]func(*statev1.GroupShardState){
		"epoch":            func(p *statev1.GroupShardState) { groupOf(p, "gone").Epoch = -1 },
		"assignment epoch": consumer(func(c *statev1.ConsumerGroupState) { c.AssignmentEpoch = 4 }),
		"assigned twice":   consumer(func(c *statev1.ConsumerGroupState) { c.Members[2].Target = c.Members[0].Target }),
		"held twice":       consumer(func(c *statev1.ConsumerGroupState) { c.Members[2].Assigned = c.Members[0].Assigned }),
		"held and given back": consumer(func(c *statev1.ConsumerGroupState) {
			c.Members[0].Revoking = append(c.Members[0].Revoking, c.Members[0].Assigned...)
		}),
		"topic without a name":  consumer(func(c *statev1.ConsumerGroupState) { c.Topics[0].Topic = "" }),
		"topic that is missing": consumer(func(c *statev1.ConsumerGroupState) { c.Topics = c.Topics[1:] }),
		"topic id, short":       consumer(func(c *statev1.ConsumerGroupState) { c.Topics[0].TopicId = nil }),
		"matched unsorted":      consumer(func(c *statev1.ConsumerGroupState) { c.Matched = []string{"u", "t"} }),
		"members unsorted":      consumer(func(c *statev1.ConsumerGroupState) { c.Members[0], c.Members[1] = c.Members[1], c.Members[0] }),
		"no member id":          member(0, func(m *statev1.ConsumerMemberState) { m.MemberId = "" }),
		"instance id, again":    member(1, func(m *statev1.ConsumerMemberState) { m.InstanceId = "i" }),
		"no subscription":       member(0, func(m *statev1.ConsumerMemberState) { m.Subscription = nil }),
		"subscribed to nothing": member(0, func(m *statev1.ConsumerMemberState) { m.Subscription.Topics = nil }),
		"rebalance timeout":     member(0, func(m *statev1.ConsumerMemberState) { m.Subscription.RebalanceTimeoutMs = 0 }),
		"empty client":          member(1, func(m *statev1.ConsumerMemberState) { m.Client = &statev1.ClientRef{} }),
		"long client":           member(0, func(m *statev1.ConsumerMemberState) { m.Client.ClientId = strings.Repeat("x", MaxTextLength+1) }),
		"member epoch":          member(0, func(m *statev1.ConsumerMemberState) { m.MemberEpoch = 4 }),
		"member epoch -1":       member(0, func(m *statev1.ConsumerMemberState) { m.MemberEpoch = -1 }),
		"away, dynamic":         member(1, func(m *statev1.ConsumerMemberState) { m.MemberEpoch = -2 }),
		"previous epoch":        member(0, func(m *statev1.ConsumerMemberState) { m.PreviousEpoch = 9 }),
		"no status":             member(0, func(m *statev1.ConsumerMemberState) { m.Status = 0 }),
		"unknown status":        member(0, func(m *statev1.ConsumerMemberState) { m.Status = 4 }),
		"stable, gives back":    member(0, func(m *statev1.ConsumerMemberState) { m.Status = 1 }),
		"nothing to give back":  member(1, func(m *statev1.ConsumerMemberState) { m.Status = 2 }),
		"no version":            member(0, func(m *statev1.ConsumerMemberState) { m.Version = 0 }),
		"held epoch":            member(0, func(m *statev1.ConsumerMemberState) { m.Assigned[0].Epochs[0] = 4 }),
		"held epochs missing":   member(0, func(m *statev1.ConsumerMemberState) { m.Assigned[0].Epochs = nil }),
		"held unsorted":         member(0, func(m *statev1.ConsumerMemberState) { m.Revoking[0], m.Revoking[1] = m.Revoking[1], m.Revoking[0] }),
		"target unsorted":       consumer(func(c *statev1.ConsumerGroupState) { t := c.Members[2].Target; t[0], t[1] = t[1], t[0] }),
	})
}

func TestRestoreChecksClassicGroups(t *testing.T) {
	classic := func(f func(*statev1.ClassicGroupState)) func(*statev1.GroupShardState) {
		return func(p *statev1.GroupShardState) { f(groupOf(p, "assigned").Classic) } // a/i, and b, which leads
	}
	mustNotRestore(t, map[string]func(*statev1.GroupShardState){
		"classic and KIP-848":     func(p *statev1.GroupShardState) { groupOf(p, "live").Classic = groupOf(p, "left").Classic },
		"classic, no generation":  func(p *statev1.GroupShardState) { groupOf(p, "assigned").Epoch = 0 },
		"classic, no type":        classic(func(c *statev1.ClassicGroupState) { c.ProtocolType = "" }),
		"classic, no protocol":    classic(func(c *statev1.ClassicGroupState) { c.Protocol = "" }),
		"classic, no leader":      classic(func(c *statev1.ClassicGroupState) { c.Leader = "" }),
		"classic, foreign leader": classic(func(c *statev1.ClassicGroupState) { c.Leader = "x" }),
		"classic, given too soon": classic(func(c *statev1.ClassicGroupState) { c.Assigned = false }),
		"classic, given nobody":   func(p *statev1.GroupShardState) { groupOf(p, "left").Classic.Assigned = true },
		"classic, led by nobody":  func(p *statev1.GroupShardState) { groupOf(p, "left").Classic.Leader = "a" },
		"classic, unsorted":       classic(func(c *statev1.ClassicGroupState) { c.Members[0], c.Members[1] = c.Members[1], c.Members[0] }),
		"classic, no member":      classic(func(c *statev1.ClassicGroupState) { c.Members[0].Member = nil }),
		"classic, no timeout":     classic(func(c *statev1.ClassicGroupState) { c.Members[0].Member.SessionTimeoutMs = 0 }),
		"classic, empty client":   classic(func(c *statev1.ClassicGroupState) { c.Members[0].Member.Client = &statev1.ClientRef{} }),
		"classic, instance twice": classic(func(c *statev1.ClassicGroupState) { c.Members[1].Member.InstanceId = "i" }),
		"classic, metadata":       classic(func(c *statev1.ClassicGroupState) { c.Members[1].Member.Metadata = make([]byte, MaxOpaque+1) }),
		"classic, assignment":     classic(func(c *statev1.ClassicGroupState) { c.Members[1].Assignment = make([]byte, MaxOpaque+1) }),
	})
}

func groupOf(p *statev1.GroupShardState, id string) *statev1.GroupState {
	for _, g := range p.Groups {
		if g.GroupId == id {
			return g
		}
	}
	panic("no group " + id)
}

func FuzzRestore(f *testing.F) {
	f.Add(snapshot(f, New())[statev1.FormatHeader:])
	f.Add(snapshot(f, sample(f))[statev1.FormatHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append(make([]byte, statev1.FormatHeader), body...)
		snapshotFormat.Seal(b)
		s, err := Restore(b)
		if !machinetest.Fuzzed(t, err) {
			return
		}
		s.mustCount(t)
		again, err := Restore(snapshot(t, s))
		if err != nil || !bytes.Equal(snapshot(t, again), snapshot(t, s)) {
			t.Fatalf("not stable: %v", err)
		}
	})
}

// FuzzApply: no bytes in the log may panic the machine. It says that it cannot go on, and changes nothing.
func FuzzApply(f *testing.F) {
	p := newPlayer(f)
	for _, line := range []string{"commit g t/0=1:x by=m/i@3", "txn simple 7/0 t/0=1", "marker 7/1 commit", "delete-offsets simple t/0", "delete simple",
		"expire simple cutoff=5000", "join live d", "join live x/i", "beat live a/i@2 owns=t/0", "beat live c@3 topics=t",
		"begin live a=t", "begin assigned a=t,c=u leader=c", "begin begun nobody", "give begun a=x", "replace assigned a q/i=t", "leave live b", "leave away a/i away", "fence live a,c", "assign live a=t/5,u/1 b=u/2", "forget t", "expire-producers cutoff=9", "limits 1 2 3 4 5"} {
		b, err := EncodeCommand(p.parse(strings.Fields(line)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := sample(t)
		before := snapshot(t, s)
		r, err := s.Apply(1000, 5, b)
		after := snapshot(t, s)
		if (err != nil || !r.Changed) && !bytes.Equal(before, after) {
			t.Fatal("a command that was not taken has changed something")
		}
		s.mustCount(t)
		if _, err := Restore(after); err != nil {
			t.Fatal(err)
		}
	})
}

// What is as large as it may be can be restored, and so can what has grown since, by members with longer ids.
func TestLargestGenerationIsRestored(t *testing.T) {
	s, index := New(), uint64(0)
	apply := func(c *statev1.GroupCommand) {
		t.Helper()
		c.GroupId = "g"
		data, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		index++
		if r, err := s.Apply(index, 1, data); err != nil || r.Code != OK {
			t.Fatalf("%+v, %v", r, err)
		}
		snapshot, err := s.AppendSnapshot(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(snapshot); err != nil {
			t.Fatalf("after %T: %v", c.Command, err)
		}
	}
	begin := &statev1.BeginGeneration{ProtocolType: "connect", Protocol: "p", Leader: "a"}
	assign := &statev1.AssignGeneration{Generation: 1}
	left, room := MaxGenerationBytes, MaxGenerationBytes
	for _, id := range []string{"a", "b", "c", "d"} {
		m := &statev1.ClassicMember{MemberId: id, InstanceId: "i" + id, SessionTimeoutMs: 1, RebalanceTimeoutMs: 1}
		begin.Members = append(begin.Members, m)
		n := GenerationBytes(classicMemberOf(m))
		m.Metadata = make([]byte, min(MaxOpaque-2*n, room-n))
		room -= n + len(m.Metadata)
		if n := min(MaxOpaque, left-AssignmentBytes(id, nil)); n > 0 {
			assign.Assignments = append(assign.Assignments, &statev1.ClassicAssignment{MemberId: id, Assignment: make([]byte, n)})
			left -= AssignmentBytes(id, make([]byte, n))
		}
	}
	apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_BeginGeneration{BeginGeneration: begin}})
	apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_AssignGeneration{AssignGeneration: assign}}) // d is not given anything
	longer := &statev1.ClassicMember{MemberId: strings.Repeat("e", MaxIDLength), InstanceId: "ia", SessionTimeoutMs: 1, RebalanceTimeoutMs: 1, Metadata: begin.Members[0].Metadata}
	apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_ReplaceMember{ReplaceMember: &statev1.ReplaceClassicMember{Generation: 1, OldId: "a", Member: longer}}})
}
