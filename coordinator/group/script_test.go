package group

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// The scripts in testdata/scripts, named by rule. One command a line:
//
//	commit GROUP TOPIC/N=OFFSET[:METADATA],... [by=MEMBER[/INSTANCE]@EPOCH] [expire=MS] [leader=EPOCH]
//	txn GROUP P/E TOPIC/N=OFFSET,... [by=...] [unverified] [known=INDEX]
//	marker P/E commit|abort [ce=EPOCH] [tv=1|2]
//	delete-offsets GROUP TOPIC/N,...
//	delete GROUP
//	expire GROUP cutoff=MS
//	forget TOPIC,...
//	expire-producers cutoff=MS
//	limits GROUPS MEMBERS OFFSETS PRODUCERS BYTES
//	join GROUP MEMBER[/INSTANCE] [topics=TOPIC,...] [pattern=P] [assignor=A] [timeout=MS] [by=CLIENT@ADDRESS]
//	beat GROUP MEMBER[/INSTANCE]@EPOCH [owns=TOPIC/N,...|nothing] [topics=TOPIC,...] ...
//	leave GROUP MEMBER[/INSTANCE] [away]
//	fence GROUP MEMBER[@VERSION],...
//	assign GROUP [MEMBER=TOPIC/N,... ...] [epoch=N] [matched=TOPIC,...]
//	begin GROUP MEMBER[/INSTANCE][=TOPIC+TOPIC],...|nobody [previous=N] [type=TYPE] [protocol=P] [leader=MEMBER]
//	give GROUP MEMBER=TEXT,...|nothing [generation=N]
//	replace GROUP OLD NEW/INSTANCE[=TOPIC+TOPIC] [generation=N]
//	go GROUP MEMBER,... [generation=N]
//
// P/E is a producer id and epoch; its transaction is verified, with the last marker known, unless something else is said. A topic's
// id follows from its name: the topic "t" created again is written "t'". A group "-" has the empty id.
//
// The directive "apply" applies, "check" only asks. "fetch GROUP TOPIC/N,...|all [stable] [by=...]" fetches. "at MS" sets the clock, "show
// GROUP" prints all of a group, "producers" what is remembered of them, "sizes" the counters, "reload" goes on from a snapshot.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		p := newPlayer(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p.t = t
			var out strings.Builder
			switch d.Cmd {
			case "apply", "check":
				for line := range strings.Lines(d.Input) {
					out.WriteString(p.run(d.Cmd, strings.TrimSpace(line)))
				}
			case "fetch":
				for line := range strings.Lines(d.Input) {
					out.WriteString(p.fetch(strings.Fields(line)))
				}
			case "at":
				p.now, _ = strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
			case "show":
				for _, arg := range d.CmdArgs {
					out.WriteString(p.s.show(groupName(arg.Key)))
				}
			case "producers":
				out.WriteString(p.s.showProducers())
			case "sizes":
				fmt.Fprintf(&out, "%+v\n", p.s.Sizes())
			case "reload":
				p.reload()
			default:
				t.Fatalf("unknown directive %q", d.Cmd)
			}
			p.s.mustCount(t)
			if out.Len() == 0 {
				return "ok\n"
			}
			return out.String()
		})
	})
}

// player is a shard as a leader drives it.
type player struct {
	t     testing.TB
	s     *State
	index uint64
	now   int64
}

func newPlayer(t testing.TB) *player { return &player{t: t, s: New(), now: 1000} }

func (p *player) run(directive, line string) string {
	c := p.parse(strings.Fields(line))
	checked := p.s.Check(p.now, c)
	if directive == "check" {
		return describe(checked)
	}
	p.index++
	got := p.apply(c)
	if !sameResult(got, checked) {
		p.t.Fatalf("%s: Check says %+v, Apply %+v", line, checked, got)
	}
	return fmt.Sprintf("%d: %s", p.index, describe(got))
}

// sameResult compares what Apply and Check say, or two replicas; of members all but the version, which Check cannot know.
func sameResult(a, b Result) bool {
	same := (a.Member == nil) == (b.Member == nil) && (a.Member == nil || a.Member.same(b.Member))
	a.Member, b.Member = nil, nil
	return same && fmt.Sprint(a) == fmt.Sprint(b)
}

func (p *player) apply(c *statev1.GroupCommand) Result {
	p.t.Helper()
	data, err := EncodeCommand(c)
	if err != nil {
		p.t.Fatal(err)
	}
	before := snapshot(p.t, p.s)
	r, err := p.s.Apply(p.index, p.now, data)
	if err != nil {
		p.t.Fatal(err)
	}
	if !r.Changed && !bytes.Equal(snapshot(p.t, p.s), before) {
		p.t.Fatalf("%v changed something, and says that it did not", c)
	}
	return r
}

func groupName(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func (p *player) parse(words []string) *statev1.GroupCommand {
	c := &statev1.GroupCommand{}
	name := func() string { return groupName(words[1]) }
	switch words[0] {
	case "commit":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_Commit{Commit: &statev1.CommitOffsets{
			Committer: p.committer(words), Topics: p.offsets(words[2], words), ExpireMs: p.number(key(words, "expire", "-1"))}}
	case "txn":
		c.GroupId = name()
		id, epoch := p.producer(words[2])
		known := strconv.FormatUint(p.s.LastMarker(id), 10)
		c.Command = &statev1.GroupCommand_CommitInTransaction{CommitInTransaction: &statev1.CommitOffsetsInTransaction{
			Committer: p.committer(words), ProducerId: int64(id), ProducerEpoch: int32(epoch), Topics: p.offsets(words[3], words),
			Verified: !slices.Contains(words, "unverified"), KnownMarker: uint64(p.number(key(words, "known", known)))}}
	case "marker":
		id, epoch := p.producer(words[1])
		c.Command = &statev1.GroupCommand_EndTransaction{EndTransaction: &statev1.EndTransactionOfOffsets{
			ProducerId: int64(id), ProducerEpoch: int32(epoch), Commit: words[2] == "commit",
			CoordinatorEpoch: int32(p.number(key(words, "ce", "1"))), Version: uint32(p.number(key(words, "tv", "2")))}}
	case "delete-offsets":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_DeleteOffsets{DeleteOffsets: &statev1.DeleteOffsets{Topics: p.partitions(words[2])}}
	case "delete":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_DeleteGroup{DeleteGroup: &statev1.DeleteGroup{}}
	case "expire":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_ExpireOffsets{ExpireOffsets: &statev1.ExpireOffsets{
			CutoffMs: p.number(key(words, "cutoff", "0")), BelowIndex: uint64(p.number(key(words, "below", "0"))), NowMs: p.number(key(words, "now", "0"))}}
	case "join", "beat", "leave":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_Heartbeat{Heartbeat: p.heartbeat(words)}
	case "fence":
		c.GroupId = name()
		cmd := &statev1.FenceMembers{}
		for one := range strings.SplitSeq(words[2], ",") {
			id, version, explicit := strings.Cut(one, "@")
			f := &statev1.FencedMember{MemberId: id}
			if m := p.s.groups[name()].consumers().members[id]; m != nil {
				f.Version = m.Version
			}
			if explicit {
				f.Version = uint64(p.number(version))
			}
			cmd.Members = append(cmd.Members, f)
		}
		c.Command = &statev1.GroupCommand_Fence{Fence: cmd}
	case "assign":
		c.GroupId = name()
		c.Command = &statev1.GroupCommand_Assign{Assign: p.assignment(name(), words[2:])}
	case "begin", "give", "replace", "go":
		c.GroupId = name()
		p.classic(c, words)
	case "forget":
		var ids [][]byte
		for t := range strings.SplitSeq(words[1], ",") {
			id := topicID(t)
			ids = append(ids, id[:])
		}
		slices.SortFunc(ids, bytes.Compare)
		c.Command = &statev1.GroupCommand_ForgetTopics{ForgetTopics: &statev1.ForgetTopics{TopicIds: ids}}
	case "expire-producers":
		c.Command = &statev1.GroupCommand_ExpireProducers{ExpireProducers: &statev1.ExpireGroupProducers{
			CutoffMs: p.number(key(words, "cutoff", "0")), BelowIndex: uint64(p.number(key(words, "below", "0")))}}
	case "limits":
		c.Command = &statev1.GroupCommand_Limits{Limits: &statev1.SetGroupLimits{MaxGroups: uint32(p.number(words[1])), MaxMembers: uint32(p.number(words[2])),
			MaxOffsets: uint32(p.number(words[3])), MaxProducers: uint32(p.number(words[4])), MaxBytes: uint64(p.number(words[5]))}}
	default:
		p.t.Fatalf("unknown command %q", words[0])
	}
	return c
}

func (p *player) heartbeat(words []string) *statev1.ConsumerHeartbeat {
	who, epoch, _ := strings.Cut(words[2], "@")
	id, instance, _ := strings.Cut(who, "/")
	c := &statev1.ConsumerHeartbeat{MemberId: id, InstanceId: instance}
	switch words[0] {
	case "join":
		c.Owned = &statev1.OwnedPartitions{}
		if by := key(words, "by", ""); by != "" {
			client, address, _ := strings.Cut(by, "@")
			c.Client = &statev1.ClientRef{ClientId: client, Address: address}
		}
	case "beat":
		c.MemberEpoch = int32(p.number(epoch))
	case "leave":
		if c.MemberEpoch = LeaveEpoch; slices.Contains(words, "away") {
			c.MemberEpoch = LeaveStaticEpoch
		}
	}
	topics, pattern := key(words, "topics", ""), key(words, "pattern", "")
	if words[0] == "join" && topics == "" && pattern == "" {
		topics = "t"
	}
	if topics != "" || pattern != "" {
		c.Subscription = &statev1.ConsumerSubscription{Pattern: pattern, Assignor: key(words, "assignor", ""), RebalanceTimeoutMs: int32(p.number(key(words, "timeout", "60000")))}
		if topics != "" {
			c.Subscription.Topics = strings.Split(topics, ",")
		}
	}
	switch owns := key(words, "owns", ""); owns {
	case "":
	case "nothing":
		c.Owned = &statev1.OwnedPartitions{}
	default:
		c.Owned = &statev1.OwnedPartitions{Topics: PartitionsToProto(p.parts(owns))}
	}
	return c
}

// parts parses partitions, and sorts them.
func (p *player) parts(list string) []Partition {
	var parts []Partition
	for one := range strings.SplitSeq(list, ",") {
		topic, n, _ := strings.Cut(one, "/")
		parts = append(parts, Partition{topicID(topic), int32(p.number(n))})
	}
	slices.SortFunc(parts, comparePartitions)
	return parts
}

func (p *player) assignment(group string, words []string) *statev1.AssignPartitions {
	g := p.s.groups[group]
	c := &statev1.AssignPartitions{}
	if g != nil {
		c.GroupEpoch = g.epoch
	}
	targets := map[string][]Partition{}
	for id := range g.consumers().members {
		targets[id] = nil
	}
	for _, w := range words {
		switch name, value, _ := strings.Cut(w, "="); name {
		case "epoch":
			c.GroupEpoch = int32(p.number(value))
		case "matched":
			c.Matched = strings.Split(value, ",")
		case "only":
			targets = map[string][]Partition{value: nil}
		default:
			targets[name] = p.parts(value)
		}
	}
	encodeTargets(c, targets)
	return c
}

// encodeTargets puts targets into a command, with the topics named after their ids.
func encodeTargets(c *statev1.AssignPartitions, targets map[string][]Partition) {
	names := map[TopicID]string{}
	for _, target := range targets {
		for _, tp := range target {
			names[tp.TopicID] = topicName(tp.TopicID)
		}
	}
	c.Topics = topicsToProto(names)
	for _, id := range slices.Sorted(maps.Keys(targets)) {
		m := &statev1.MemberTarget{MemberId: id}
		for _, t := range PartitionsToProto(targets[id]) {
			at := slices.IndexFunc(c.Topics, func(a *statev1.AssignedTopic) bool { return bytes.Equal(a.TopicId, t.TopicId) })
			m.Topics = append(m.Topics, &statev1.TargetPartitions{Topic: uint32(at), Partitions: t.Partitions})
		}
		c.Members = append(c.Members, m)
	}
}

func topicName(id TopicID) string { return string(bytes.TrimRight(id[:15], "\x00")) }

// topicID follows from the name: 1 for "t", 2 for the "t" that comes after it, "t'".
func topicID(name string) TopicID {
	var id TopicID
	copy(id[:], strings.TrimRight(name, "'"))
	id[15] = byte(1 + strings.Count(name, "'"))
	return id
}

func (p *player) committer(words []string) *statev1.Committer {
	by := key(words, "by", "")
	if by == "" {
		return &statev1.Committer{Epoch: -1}
	}
	who, epoch, _ := strings.Cut(by, "@")
	member, instance, _ := strings.Cut(who, "/")
	return &statev1.Committer{MemberId: member, InstanceId: instance, Epoch: int32(p.number(epoch))}
}

func (p *player) offsets(list string, words []string) []*statev1.TopicOffsets {
	if list == "none" {
		return nil
	}
	byTopic := map[string]*statev1.TopicOffsets{}
	for one := range strings.SplitSeq(list, ",") {
		tp, value, _ := strings.Cut(one, "=")
		topic, n, _ := strings.Cut(tp, "/")
		offset, metadata, _ := strings.Cut(value, ":")
		id := topicID(topic)
		topic = strings.TrimRight(topic, "'")
		if byTopic[topic] == nil {
			byTopic[topic] = &statev1.TopicOffsets{Topic: topic, TopicId: id[:]}
		}
		byTopic[topic].Partitions = append(byTopic[topic].Partitions, &statev1.PartitionOffset{Partition: int32(p.number(n)), Offset: p.number(offset),
			Metadata: metadata, LeaderEpoch: int32(p.number(key(words, "leader", "-1")))})
	}
	var topics []*statev1.TopicOffsets
	for _, t := range byTopic {
		topics = append(topics, t)
	}
	slices.SortFunc(topics, func(a, b *statev1.TopicOffsets) int { return strings.Compare(a.Topic, b.Topic) })
	return topics
}

func (p *player) partitions(list string) []*statev1.TopicPartitions {
	var topics []*statev1.TopicPartitions
	for one := range strings.SplitSeq(list, ",") {
		topic, n, _ := strings.Cut(one, "/")
		if k := len(topics); k == 0 || topics[k-1].Topic != topic {
			topics = append(topics, &statev1.TopicPartitions{Topic: topic})
		}
		last := topics[len(topics)-1]
		last.Partitions = append(last.Partitions, int32(p.number(n)))
	}
	return topics
}

func key(words []string, name, otherwise string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			return v
		}
	}
	return otherwise
}

func (p *player) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) producer(s string) (record.ProducerID, record.Epoch) {
	id, epoch, _ := strings.Cut(s, "/")
	return record.ProducerID(p.number(id)), record.Epoch(p.number(epoch))
}

// fetch asks for offsets: "GROUP TOPIC/N,...|all [stable]".
func (p *player) fetch(words []string) string {
	id, stable := groupName(words[0]), slices.Contains(words, "stable")
	c := p.committer(words)
	if code := p.s.MayFetch(id, committerOf(c)); code != OK {
		return code.String() + "\n"
	}
	var list []Fetched
	if words[1] == "all" {
		list = p.s.FetchAll(id, stable)
	} else {
		var wanted []Want
		for _, t := range p.partitions(words[1]) {
			wanted = append(wanted, Want{Topic: strings.TrimRight(t.Topic, "'"), TopicID: topicID(t.Topic), Partitions: t.Partitions})
		}
		list = p.s.Fetch(id, wanted, stable)
	}
	var out strings.Builder
	for _, f := range list {
		tp := record.TopicPartition{Topic: f.Topic, Partition: f.Partition}
		switch {
		case f.Unstable:
			fmt.Fprintf(&out, "%v UNSTABLE_OFFSET_COMMIT\n", tp)
		case !f.Found:
			fmt.Fprintf(&out, "%v none\n", tp)
		default:
			fmt.Fprintf(&out, "%v %v\n", tp, showOffset(&f.Offset))
		}
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

// reload goes on from a snapshot, whose bytes must be those of what is restored (R6).
func (p *player) reload() {
	p.t.Helper()
	b := snapshot(p.t, p.s)
	s, err := Restore(b)
	if err != nil {
		p.t.Fatal(err)
	}
	if !bytes.Equal(snapshot(p.t, s), b) {
		p.t.Fatal("the restored shard has other bytes")
	}
	p.s = s
}

func snapshot(t testing.TB, s *State) []byte {
	t.Helper()
	b, err := s.AppendSnapshot(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mustCount counts again what the shard keeps count of.
func (s *State) mustCount(t testing.TB) {
	t.Helper()
	n, bytes := 0, int64(0)
	written := make(map[record.ProducerID][]string)
	for _, g := range s.groups {
		k, b := g.offsets.size()
		n, bytes = n+k, bytes+b+g.bytes()+g.consumer.bytes()+g.classic.bytes()
		g.consumers().mustHold(t, g)
		g.classics().mustHold(t, g)
		for pid, o := range g.pending {
			written[pid] = append(written[pid], g.id)
			k, b := o.size()
			if n, bytes = n+k, bytes+b; k == 0 {
				t.Fatalf("group %q: pending offsets without any", g.id)
			}
		}
	}
	for pid, p := range s.producers { // who remembers more is bounded by nothing
		slices.Sort(written[pid])
		if !slices.Equal(p.groups, written[pid]) {
			t.Fatalf("producer %d remembers groups %q, and has pending offsets in %q", pid, p.groups, written[pid])
		}
	}
	if n != s.offsets || bytes != s.bytes {
		t.Fatalf("%d offsets and %d bytes; the shard says %d and %d", n, bytes, s.offsets, s.bytes)
	}
}

// mustHold checks what is always true of a group of KIP-848: nothing belongs to two members, nothing is forgotten, epochs are in
// order.
func (c *consumer) mustHold(t testing.TB, g *group) {
	t.Helper()
	held, targets := 0, map[Partition]bool{}
	for id, m := range c.members {
		if m.ID != id || m.InstanceID != "" && c.instances[m.InstanceID] != id {
			t.Fatalf("member %s is in the wrong place: %+v", id, m)
		}
		for _, list := range [][]Held{m.Assigned, m.Revoking} {
			for _, h := range list {
				if held++; c.owners[h.Partition] != id {
					t.Fatalf("%s has %v, and the owner is %q", id, h, c.owners[h.Partition])
				}
				if c.topics[h.TopicID] == "" {
					t.Fatalf("%v is of a topic without a name", h)
				}
			}
		}
		for _, p := range m.Target {
			if targets[p] {
				t.Fatalf("%v is to go to two members", p)
			}
			targets[p] = true
		}
		if m.Epoch > c.assignmentEpoch || c.assignmentEpoch > g.epoch {
			t.Fatalf("member epoch %d, assignment epoch %d, group epoch %d", m.Epoch, c.assignmentEpoch, g.epoch)
		}
		if m.Status == Stable && m.Epoch == c.assignmentEpoch && len(m.Assigned) != len(m.Target) {
			t.Fatalf("%+v is stable without its target", m)
		}
	}
	if held != len(c.owners) {
		t.Fatalf("%d partitions are held, %d have owners", held, len(c.owners))
	}
}

func describe(r Result) string {
	out := r.Code.String()
	if r.Removed > 0 {
		out += fmt.Sprintf(" removes %d", r.Removed)
	}
	if len(r.Subscribed) > 0 {
		out += fmt.Sprintf(" not of %s", strings.Join(r.Subscribed, ","))
	}
	if r.Code != OK && r.StoredEpoch != record.NoEpoch {
		out += fmt.Sprintf(" stored epoch %d", r.StoredEpoch)
	}
	if r.Changed {
		out += " *"
	}
	if r.Member != nil {
		out += "\n   " + showMember(r.Member)
	}
	return out + "\n"
}

func showMember(m *Member) string {
	out := m.ID
	if m.InstanceID != "" {
		out += "/" + m.InstanceID
	}
	out += fmt.Sprintf(" %v at %d, before %d", m.Status, m.Epoch, m.PreviousEpoch)
	if len(m.Assigned) > 0 {
		out += " has" + showHeld(m.Assigned)
	}
	if len(m.Revoking) > 0 {
		out += " gives back" + showHeld(m.Revoking)
	}
	return out
}

func showHeld(list []Held) string {
	out := ""
	for _, h := range list {
		out += fmt.Sprintf(" %s/%d@%d", topicName(h.TopicID)+strings.Repeat("'", int(h.TopicID[15])-1), h.Number, h.Epoch)
	}
	return out
}

func showOffset(o *Offset) string {
	out := fmt.Sprintf("%d @%d", o.Offset, o.Position)
	if o.LeaderEpoch >= 0 {
		out += fmt.Sprintf(" leader epoch %d", o.LeaderEpoch)
	}
	if o.Metadata != "" {
		out += fmt.Sprintf(" %q", o.Metadata)
	}
	if o.ExpireMS != NoExpiry {
		out += fmt.Sprintf(" expires %d", o.ExpireMS)
	}
	return out
}

func (s *State) show(id string) string {
	g := s.groups[id]
	if g == nil {
		return "no such group\n"
	}
	out := fmt.Sprintf("group %q", id)
	if g.epoch > 0 {
		out += fmt.Sprintf(" epoch %d", g.epoch)
	}
	if g.classic != nil {
		out += fmt.Sprintf(" %v", g.state())
	}
	if c := g.consumer; c != nil {
		out += fmt.Sprintf(" assignment %d %v", c.assignmentEpoch, g.state())
		if len(c.matched) > 0 {
			out += " matched " + strings.Join(c.matched, ",")
		}
		for _, m := range c.sorted() {
			out += fmt.Sprintf("\n  %s v%d", showMember(m), m.Version)
			if len(m.Target) > 0 {
				out += " wants"
				for _, p := range m.Target {
					out += fmt.Sprintf(" %s/%d", topicName(p.TopicID)+strings.Repeat("'", int(p.TopicID[15])-1), p.Number)
				}
			}
		}
	}
	out += g.classic.show() + "\n"
	print := func(prefix string) func(string, int32, *Offset) {
		return func(topic string, partition int32, o *Offset) {
			out += fmt.Sprintf("  %s%s%s/%d %s, committed %d\n", prefix, topic, strings.Repeat("'", int(o.TopicID[15])-1), partition, showOffset(o), o.CommittedMS)
		}
	}
	g.offsets.each(print(""))
	for _, p := range s.producerIDs() {
		g.pending[p].each(print(fmt.Sprintf("pending of %d: ", p)))
	}
	return out
}

func (s *State) producerIDs() []record.ProducerID {
	var ids []record.ProducerID
	for id := range s.producers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (s *State) showProducers() string {
	out := ""
	for _, id := range s.producerIDs() {
		p := s.producers[id]
		out += fmt.Sprintf("%d/%d", id, p.epoch)
		if p.open() {
			out += fmt.Sprintf(" open from %d in %q", p.openFrom, p.groups)
		}
		out += fmt.Sprintf(" markers %d, %d by coordinator %d, touched %d at %d\n", p.lastMarker, p.voidingMarker, p.coordinatorEpoch, p.touched, p.updatedMS)
	}
	if out == "" {
		return "none\n"
	}
	return out
}
