package group

import (
	"bytes"
	"fmt"
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
	if fmt.Sprint(got) != fmt.Sprint(checked) {
		p.t.Fatalf("%s: Check says %+v, Apply %+v", line, checked, got)
	}
	return fmt.Sprintf("%d: %s", p.index, describe(got))
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
		c.Command = &statev1.GroupCommand_ExpireOffsets{ExpireOffsets: &statev1.ExpireOffsets{CutoffMs: p.number(key(words, "cutoff", "0"))}}
	case "forget":
		var ids [][]byte
		for t := range strings.SplitSeq(words[1], ",") {
			id := topicID(t)
			ids = append(ids, id[:])
		}
		slices.SortFunc(ids, bytes.Compare)
		c.Command = &statev1.GroupCommand_ForgetTopics{ForgetTopics: &statev1.ForgetTopics{TopicIds: ids}}
	case "expire-producers":
		c.Command = &statev1.GroupCommand_ExpireProducers{ExpireProducers: &statev1.ExpireGroupProducers{CutoffMs: p.number(key(words, "cutoff", "0"))}}
	case "limits":
		c.Command = &statev1.GroupCommand_Limits{Limits: &statev1.SetGroupLimits{MaxGroups: uint32(p.number(words[1])), MaxMembers: uint32(p.number(words[2])),
			MaxOffsets: uint32(p.number(words[3])), MaxProducers: uint32(p.number(words[4])), MaxBytes: uint64(p.number(words[5]))}}
	default:
		p.t.Fatalf("unknown command %q", words[0])
	}
	return c
}

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
	for _, g := range s.groups {
		k, b := g.offsets.size()
		n, bytes = n+k, bytes+b+g.bytes()
		for _, o := range g.pending {
			k, b := o.size()
			if n, bytes = n+k, bytes+b; k == 0 {
				t.Fatalf("group %q: pending offsets without any", g.id)
			}
		}
	}
	if n != s.offsets || bytes != s.bytes {
		t.Fatalf("%d offsets and %d bytes; the shard says %d and %d", n, bytes, s.offsets, s.bytes)
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
	return out + "\n"
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
	out := fmt.Sprintf("group %q\n", id)
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
