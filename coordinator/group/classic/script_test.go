package classic

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

var testConfig = Config{MinSessionMS: 100, MaxSessionMS: 10_000, InitialDelayMS: 300, NewMemberMS: 5_000, MaxMembers: 3, RetryMS: 50}

// The scripts in testdata, named by rule. Sessions last 100 to 10,000 ms, an empty group waits 300 ms for others, new members may wait
// 5,000 ms, a group has up to 3 members. Proposals are applied at once, until "manual".
//
//	join TICKET [MEMBER][/INSTANCE] [speaks=range:META,sticky:META,...] [type=T] [session=MS] [rebalance=MS] [known] [skip] [by=CLIENT]
//	sync TICKET MEMBER[/INSTANCE]@GENERATION [gives=MEMBER:TEXT,...] [type=T] [protocol=P]
//	beat MEMBER[/INSTANCE]@GENERATION
//	leave TICKET [MEMBER][/INSTANCE] ...
//	commit [MEMBER][/INSTANCE]@GENERATION [txn]
//	applied, lost         the proposal in flight is applied, or fails
//	done                  it has been applied, but the leader does not hear of it
//	at MS                 the clock; what is due happens
//	leader                another leader takes over
//	delete, expire        somebody deletes the group; expiry finds it empty
//	consumer MEMBER       a member of KIP-848 joins; "consumer MEMBER leaves"
//	show, next, manual, auto
//
// A new member is called "m" with the number of its ticket. "known": it has to join with the id that it is given (KIP-394).
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		p := newPlayer(t, testConfig)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p.t = t
			p.out.Reset()
			for line := range strings.Lines(d.Cmd + " " + argsOf(d) + "\n" + d.Input) {
				if words := strings.Fields(line); words[0] != "do" {
					p.run(words)
				}
			}
			if p.out.Len() == 0 {
				return "nothing\n"
			}
			return p.out.String()
		})
	})
}

func argsOf(d *datadriven.TestData) string {
	var words []string
	for _, arg := range d.CmdArgs {
		words = append(words, arg.String())
	}
	return strings.Join(words, " ")
}

// player is a leader with its shard.
type player struct {
	t       testing.TB
	config  Config
	state   *group.State
	conv    *Conversation
	now     int64
	index   uint64
	manual  bool
	pending *statev1.GroupCommand
	out     strings.Builder
}

func newPlayer(t testing.TB, c Config) *player {
	p := &player{t: t, config: c, state: group.New()}
	p.conv = New(c, "g", p, 0)
	return p
}

func (p *player) Describe() (group.Description, bool) { return p.state.Describe("g") }

func (p *player) Summarize() (group.Description, bool) { return p.state.Summarize("g") }

func (p *player) run(words []string) {
	args := words[1:]
	switch words[0] {
	case "join":
		p.conv.Join(p.now, p.ticket(args[0]), p.joinOf(args))
	case "sync":
		p.conv.Sync(p.now, p.ticket(args[0]), p.syncOf(args))
	case "leave":
		var list []Leaving
		for _, w := range args[1:] {
			id, instance, _ := strings.Cut(w, "/")
			list = append(list, Leaving{id, instance})
		}
		p.conv.Leave(p.now, p.ticket(args[0]), list)
	case "beat":
		id, instance, generation := p.who(args[0])
		fmt.Fprintf(&p.out, "%v\n", p.conv.Heartbeat(p.now, id, instance, generation))
	case "commit":
		id, instance, generation := p.who(args[0])
		fmt.Fprintf(&p.out, "%v\n", p.conv.MayCommit(p.now, group.Committer{MemberID: id, InstanceID: instance, Epoch: generation}, slices.Contains(args, "txn")))
	case "manual", "auto":
		p.manual = words[0] == "manual"
	case "applied":
		p.decide(nil)
	case "lost":
		p.decide(errors.New("lost"))
	case "done":
		p.apply(p.pending)
	case "at":
		p.now, _ = strconv.ParseInt(args[0], 10, 64)
		p.conv.Tick(p.now)
	case "leader":
		p.pending = nil
		p.conv = New(p.config, "g", p, p.now)
	case "delete":
		fmt.Fprintf(&p.out, "%v, live: %t\n", p.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_DeleteGroup{DeleteGroup: &statev1.DeleteGroup{}}}).Code, p.conv.Live())
	case "expire":
		p.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_ExpireOffsets{ExpireOffsets: &statev1.ExpireOffsets{CutoffMs: p.now}}})
	case "consumer":
		hb := &statev1.ConsumerHeartbeat{MemberId: args[0], Subscription: &statev1.ConsumerSubscription{Topics: []string{"t"}, RebalanceTimeoutMs: 1}, Owned: &statev1.OwnedPartitions{}}
		if len(args) > 1 {
			hb = &statev1.ConsumerHeartbeat{MemberId: args[0], MemberEpoch: group.LeaveEpoch}
		}
		fmt.Fprintf(&p.out, "%v\n", p.apply(&statev1.GroupCommand{Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}}).Code)
	case "show":
		p.show()
	case "next":
		if next := p.conv.Next(); next != Never {
			fmt.Fprintf(&p.out, "at %d\n", next)
		} else {
			p.out.WriteString("never\n")
		}
	default:
		p.t.Fatalf("unknown command %q", words[0])
	}
	p.effects()
}

func (p *player) effects() {
	for list := p.conv.Effects(); len(list) > 0; list = p.conv.Effects() {
		for _, e := range list {
			p.effect(e)
		}
		if !p.manual && p.pending != nil {
			p.decide(nil)
		}
	}
}

func (p *player) effect(e Effect) {
	switch e := e.(type) {
	case Propose:
		if p.pending != nil {
			p.t.Fatalf("two proposals at once: %v, %v", p.pending, e.Command)
		}
		p.pending = e.Command
		if p.manual {
			fmt.Fprintf(&p.out, "propose %s\n", showCommand(e.Command))
		}
	default:
		p.out.WriteString(showAnswer(e) + "\n")
	}
}

// decide applies the proposal in flight, or lets it fail, and says so.
func (p *player) decide(err error) {
	cmd := p.pending
	if p.pending = nil; cmd == nil {
		p.out.WriteString("there is no proposal\n")
		return
	}
	var r group.Result
	if err == nil {
		r = p.apply(cmd)
	}
	if r.Code != group.OK {
		fmt.Fprintf(&p.out, "refused: %v\n", r.Code)
	}
	p.conv.Proposed(p.now, r, err)
}

func (p *player) apply(cmd *statev1.GroupCommand) group.Result {
	cmd.GroupId = "g"
	data, err := group.EncodeCommand(cmd)
	if err != nil {
		p.t.Fatal(err)
	}
	p.index++
	r, err := p.state.Apply(p.index, p.now, data)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *player) ticket(s string) Ticket {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return Ticket(n)
}

func (p *player) who(s string) (id, instance string, generation int32) {
	who, number, _ := strings.Cut(s, "@")
	id, instance, _ = strings.Cut(who, "/")
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		p.t.Fatal(err)
	}
	return id, instance, int32(n)
}

func (p *player) joinOf(args []string) Join {
	j := Join{NewID: "m" + args[0], ProtocolType: key(args, "type", "consumer"), MustKnowID: slices.Contains(args, "known"), MaySkip: slices.Contains(args, "skip"),
		Client: group.Client{ID: key(args, "by", "")}, SessionTimeoutMS: p.ms(key(args, "session", "1000")), RebalanceTimeoutMS: p.ms(key(args, "rebalance", "300"))}
	if len(args) > 1 && !strings.Contains(args[1], "=") && args[1] != "known" && args[1] != "skip" {
		j.MemberID, j.InstanceID, _ = strings.Cut(args[1], "/")
	}
	if speaks := key(args, "speaks", "range"); speaks != "nothing" {
		for one := range strings.SplitSeq(speaks, ",") {
			name, metadata, _ := strings.Cut(one, ":")
			j.Protocols = append(j.Protocols, Protocol{name, []byte(metadata)})
		}
	}
	return j
}

func (p *player) syncOf(args []string) Sync {
	s := Sync{ProtocolType: key(args, "type", ""), Protocol: key(args, "protocol", "")}
	s.MemberID, s.InstanceID, s.Generation = p.who(args[1])
	for one := range strings.SplitSeq(key(args, "gives", ""), ",") {
		if id, text, ok := strings.Cut(one, ":"); ok {
			s.Assignments = append(s.Assignments, Assignment{id, []byte(text)})
		}
	}
	return s
}

func (p *player) ms(s string) int32 {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		p.t.Fatal(err)
	}
	return int32(n)
}

func key(words []string, name, otherwise string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			return v
		}
	}
	return otherwise
}

func (p *player) show() {
	d, ok := p.conv.Describe()
	if !ok {
		p.out.WriteString("no such group\n")
	} else {
		fmt.Fprintf(&p.out, "%s %s generation %d of %q, protocol %q, leader %q\n", d.Kind, d.Phase, d.Epoch, d.ProtocolType, d.Protocol, d.Leader)
	}
	for _, m := range d.Classic {
		fmt.Fprintf(&p.out, "  %s", m.ID)
		if m.InstanceID != "" {
			fmt.Fprintf(&p.out, "/%s", m.InstanceID)
		}
		if m.Client.ID != "" {
			fmt.Fprintf(&p.out, " of %s", m.Client.ID)
		}
		fmt.Fprintf(&p.out, " says %q has %q", m.Metadata, m.Assignment)
		if known := p.conv.members[m.ID]; known != nil && known.waits() {
			p.out.WriteString(" waits")
		}
		p.out.WriteString("\n")
	}
	if n := len(p.conv.pending); n > 0 {
		fmt.Fprintf(&p.out, "  pending %v\n", slices.Sorted(maps.Keys(p.conv.pending)))
	}
	fmt.Fprintf(&p.out, "  idle: %t, live: %t, %d wait\n", p.conv.Idle(), p.conv.Live(), p.conv.Waiting())
}

func showCommand(c *statev1.GroupCommand) string {
	switch cmd := c.Command.(type) {
	case *statev1.GroupCommand_BeginGeneration:
		b := cmd.BeginGeneration
		var ids []string
		for _, m := range b.Members {
			ids = append(ids, m.MemberId)
		}
		return fmt.Sprintf("after %d: %q/%q led by %q: %v", b.Previous, b.ProtocolType, b.Protocol, b.Leader, ids)
	case *statev1.GroupCommand_AssignGeneration:
		out := fmt.Sprintf("for %d:", cmd.AssignGeneration.Generation)
		for _, a := range cmd.AssignGeneration.Assignments {
			out += fmt.Sprintf(" %s=%s", a.MemberId, a.Assignment)
		}
		return out
	case *statev1.GroupCommand_LeaveGeneration:
		return fmt.Sprintf("in %d: %v leave", cmd.LeaveGeneration.Generation, cmd.LeaveGeneration.MemberIds)
	case *statev1.GroupCommand_ReplaceMember:
		return fmt.Sprintf("in %d: %s for %s", cmd.ReplaceMember.Generation, cmd.ReplaceMember.Member.MemberId, cmd.ReplaceMember.OldId)
	}
	return fmt.Sprint(c)
}

func showAnswer(e Effect) string {
	switch e := e.(type) {
	case Joined:
		out := fmt.Sprintf("%d joined%s", e.Ticket, showWhy(e.Answer))
		if e.MemberID != "" {
			out += " as " + e.MemberID
		}
		if e.Code == group.OK && e.Err == nil {
			out += fmt.Sprintf(": generation %d, %s/%s, led by %s", e.Generation, e.ProtocolType, e.Protocol, e.Leader)
			if e.SkipAssignment {
				out += ", assigns nothing"
			}
			for _, m := range e.Members {
				out += fmt.Sprintf("\n     %s", m.ID)
				if m.InstanceID != "" {
					out += "/" + m.InstanceID
				}
				if len(m.Metadata) > 0 {
					out += fmt.Sprintf(" says %s", m.Metadata)
				}
			}
		}
		return out
	case Synced:
		out := fmt.Sprintf("%d synced%s", e.Ticket, showWhy(e.Answer))
		if e.Code == group.OK && e.Err == nil {
			out += fmt.Sprintf(": %s/%s %q", e.ProtocolType, e.Protocol, e.Assignment)
		}
		return out
	case Left:
		if e.Err != nil {
			return fmt.Sprintf("%d left (%v)", e.Ticket, e.Err)
		}
		return fmt.Sprintf("%d left: %v", e.Ticket, e.Codes)
	}
	return fmt.Sprintf("%T", e)
}

func showWhy(a Answer) string {
	out := ""
	if a.Code != group.OK {
		out += " " + a.Code.String()
	}
	if a.Err != nil {
		out += fmt.Sprintf(" (%v)", a.Err)
	}
	if a.Confirm {
		out += ", to be confirmed"
	}
	return out
}

// A member of a generation that comes again with more than there is room for is turned away, and the others share what it had.
func TestWhoHasTooMuchToSayLeavesNothingBehind(t *testing.T) {
	p := newPlayer(t, testConfig)
	much := strings.Repeat("x", group.MaxOpaque) // three of them are too much, with the ids
	for _, line := range []string{"join 10 speaks=s:" + much, "join 11 speaks=s:" + much, "join 12 speaks=s:y", "at 300", "sync 13 m10@1 gives=m10:a,m11:b,m12:c"} {
		p.run(strings.Fields(line))
	}
	p.out.Reset()
	p.run(strings.Fields("join 14 m12 speaks=s:" + much))
	p.run(strings.Fields("beat m10@1"))
	if got := p.out.String(); !strings.Contains(got, "GROUP_MAX_SIZE_REACHED") || !strings.Contains(got, "REBALANCE_IN_PROGRESS") {
		t.Errorf("%.300s", got)
	}
}
