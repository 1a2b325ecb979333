package session

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// The scripts in testdata. Sessions last 1,000 ms, changes settle for 10 ms, failures are tried again after 20 ms, rebalances may take
// 400 ms. Each directive shows what is to be done afterwards.
//
//	open TICKET MEMBER[/INSTANCE][@EPOCH] [owns=N,...] [topics=T,...]
//	say TICKET [ack=N] [owns=N,...|nothing] [topics=T,...] [leave] [away]
//	gone TICKET
//	applied [KEY]   the oldest proposal, or that about KEY, is applied, and the conversation hears what came of it
//	lost [KEY]      it fails
//	late [KEY]      it fails as far as is known, and is applied afterwards
//	targets MEMBER=N,... ...    what was to be computed
//	fail            it could not be computed
//	topics          there are other topics
//	at MS, tick     the clock
//	leader          another leader takes over
//	next            when something is due
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		p := &player{t: t, world: newWorld(t, nil, map[string]int{})}
		p.now = 0
		p.conv = New(testConfig, "g", p, nil, 0)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p.t = t
			var words []string
			for _, arg := range d.CmdArgs {
				words = append(words, arg.String())
			}
			p.out.Reset()
			p.run(d.Cmd, words)
			for line := range strings.Lines(d.Input) {
				words := strings.Fields(line)
				p.run(words[0], words[1:])
			}
			if p.out.Len() == 0 {
				return "nothing\n"
			}
			return p.out.String()
		})
	})
}

type player struct {
	*world
	t   *testing.T
	out strings.Builder
}

func (p *player) run(cmd string, words []string) {
	switch cmd {
	case "then":
	case "open":
		p.conv.Open(p.now, p.ticketOf(words[0]), p.hello(words[1:]))
	case "say":
		p.conv.Say(p.now, p.ticketOf(words[0]), p.said(words[1:]))
	case "gone":
		p.conv.Gone(p.ticketOf(words[0]))
	case "applied", "lost", "late":
		p.decide(cmd, words)
	case "targets":
		p.conv.Computed(p.now, p.targetsOf(words))
	case "fail":
		p.conv.Computed(p.now, nil)
	case "topics":
		p.conv.TopicsChanged(p.now)
	case "at":
		p.now = p.number(words[0])
		p.conv.Tick(p.now)
	case "leader":
		p.proposals = nil
		d, _ := p.state.Describe("g")
		p.conv = New(testConfig, "g", p, d.Members, p.now)
	case "next":
		if n := p.conv.Next(); n != Never {
			fmt.Fprintf(&p.out, "at %d\n", n)
		}
	case "idle":
		fmt.Fprintln(&p.out, p.conv.Idle())
	default:
		p.t.Fatalf("unknown directive %q", cmd)
	}
	p.show()
}

func (p *player) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) ticketOf(s string) Ticket { return Ticket(p.number(s)) }

func value(words []string, name string) (string, bool) {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func (p *player) ownedOf(words []string) *statev1.OwnedPartitions {
	v, ok := value(words, "owns")
	if !ok {
		return nil
	}
	o := &statev1.OwnedPartitions{}
	if v != "nothing" {
		o.Topics = group.PartitionsToProto(p.parts(v))
	}
	return o
}

func (p *player) parts(list string) []group.Partition {
	var parts []group.Partition
	for one := range strings.SplitSeq(strings.Trim(list, "()"), ",") {
		parts = append(parts, group.Partition{TopicID: group.TopicID{'t'}, Number: int32(p.number(strings.TrimSpace(one)))})
	}
	return parts
}

func (p *player) subscriptionOf(words []string) *statev1.ConsumerSubscription {
	if v, ok := value(words, "topics"); ok {
		return &statev1.ConsumerSubscription{Topics: strings.Split(strings.Trim(v, "()"), ","), RebalanceTimeoutMs: 400}
	}
	return nil
}

func (p *player) hello(words []string) *statev1.ConsumerHeartbeat {
	who, epoch, rejoin := strings.Cut(words[0], "@")
	id, instance, _ := strings.Cut(who, "/")
	hb := &statev1.ConsumerHeartbeat{MemberId: id, InstanceId: instance, Owned: p.ownedOf(words), Subscription: p.subscriptionOf(words)}
	if rejoin {
		hb.MemberEpoch = int32(p.number(epoch))
		return hb
	}
	hb.Owned = &statev1.OwnedPartitions{}
	if hb.Subscription == nil {
		hb.Subscription = p.subscriptionOf([]string{"topics=t"})
	}
	return hb
}

func (p *player) said(words []string) Said {
	s := Said{Owned: p.ownedOf(words), Subscription: p.subscriptionOf(words), Leave: slices.Contains(words, "leave"), Away: slices.Contains(words, "away")}
	if v, ok := value(words, "ack"); ok {
		s.Ack = uint64(p.number(v))
	}
	return s
}

// decide ends the oldest proposal, or the oldest with a key.
func (p *player) decide(cmd string, words []string) {
	i := 0
	if len(words) > 0 {
		i = slices.IndexFunc(p.proposals, func(q proposal) bool { return strings.TrimPrefix(string(q.Key), "\x00") == words[0] })
	}
	if i < 0 || len(p.proposals) == 0 {
		p.out.WriteString("there is no such proposal\n")
		return
	}
	q := p.proposals[i]
	p.proposals = slices.Delete(p.proposals, i, i+1)
	if cmd != "applied" {
		p.conv.Proposed(p.now, q.Key, group.Result{}, errors.New("lost"))
	}
	if cmd == "lost" {
		return
	}
	data, err := group.EncodeCommand(q.Command)
	if err != nil {
		p.t.Fatal(err)
	}
	p.index++
	r, err := p.state.Apply(p.index, p.now, data)
	if err != nil {
		p.t.Fatal(err)
	}
	if r.Code != group.OK {
		fmt.Fprintf(&p.out, "refused: %v\n", r.Code)
	}
	if cmd == "applied" {
		p.conv.Proposed(p.now, q.Key, r, nil)
	}
}

func (p *player) targetsOf(words []string) *statev1.AssignPartitions {
	d, _ := p.state.Describe("g")
	id := group.TopicID{'t'}
	c := &statev1.AssignPartitions{GroupEpoch: d.Epoch, Topics: []*statev1.AssignedTopic{{TopicId: id[:], Topic: "t"}}}
	for _, m := range d.Members {
		t := &statev1.MemberTarget{MemberId: m.ID}
		if v, ok := value(words, m.ID); ok {
			var numbers []int32
			for _, tp := range p.parts(v) {
				numbers = append(numbers, tp.Number)
			}
			t.Topics = []*statev1.TargetPartitions{{Partitions: numbers}}
		}
		c.Members = append(c.Members, t)
	}
	return c
}

// show prints the effects, and keeps the proposals.
func (p *player) show() {
	for _, e := range p.conv.Effects() {
		switch e := e.(type) {
		case Propose:
			p.proposals = append(p.proposals, proposal{Propose: e})
			fmt.Fprintf(&p.out, "propose %s\n", showCommand(e.Command))
		case Push:
			fmt.Fprintf(&p.out, "push on %d: version %d, epoch %d, has%s\n", e.Ticket, e.Version, e.Epoch, show(e.Partitions))
		case End:
			fmt.Fprintf(&p.out, "end %d: %v", e.Ticket, e.Code)
			if e.Err != nil {
				fmt.Fprintf(&p.out, " (%v)", e.Err)
			}
			if e.Confirm {
				p.out.WriteString(", once it is confirmed")
			}
			p.out.WriteString("\n")
		case Compute:
			p.out.WriteString("compute targets\n")
		}
	}
}

func showCommand(c *statev1.GroupCommand) string {
	switch cmd := c.Command.(type) {
	case *statev1.GroupCommand_Heartbeat:
		hb := cmd.Heartbeat
		out := fmt.Sprintf("%s at %d", hb.MemberId, hb.MemberEpoch)
		if hb.Subscription != nil {
			out += " reads " + strings.Join(hb.Subscription.Topics, ",")
		}
		if hb.Owned != nil {
			out += " owns"
			for _, t := range hb.Owned.Topics {
				out += fmt.Sprint(t.Partitions)
			}
		}
		return out
	case *statev1.GroupCommand_Fence:
		out := "fence"
		for _, m := range cmd.Fence.Members {
			out += " " + m.MemberId
		}
		return out
	default:
		return "targets"
	}
}
