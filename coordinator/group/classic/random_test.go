package classic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/machinetest"
)

// TestAgreesWithModel plays random requests to a conversation whose proposals are applied at once, and to the dumb model, and compares
// every answer, every state and when something is due next.
func TestAgreesWithModel(t *testing.T) {
	rnd := machinetest.Rand(t)
	machinetest.Runs(t, 3*time.Second, wantedAnswers, func(seen map[string]int) int { return randomRun(t, rnd, seen) })
}

// wantedAnswers must have been met.
var wantedAnswers = []string{
	"joined generation", "joined and leads", "joined assigns nothing", "joined MEMBER_ID_REQUIRED", "joined UNKNOWN_MEMBER_ID", "joined FENCED_INSTANCE_ID",
	"joined INCONSISTENT_GROUP_PROTOCOL", "joined GROUP_MAX_SIZE_REACHED", "joined INVALID_SESSION_TIMEOUT", "joined REBALANCE_IN_PROGRESS",
	"synced assignment", "synced UNKNOWN_MEMBER_ID", "synced FENCED_INSTANCE_ID", "synced ILLEGAL_GENERATION", "synced INCONSISTENT_GROUP_PROTOCOL", "synced REBALANCE_IN_PROGRESS",
	"beat NONE", "beat UNKNOWN_MEMBER_ID", "beat FENCED_INSTANCE_ID", "beat ILLEGAL_GENERATION", "beat REBALANCE_IN_PROGRESS",
	"left", "Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "extended", "nobody to assign",
}

func randomRun(t *testing.T, rnd *rand.Rand, seen map[string]int) int {
	t.Helper()
	p, m := newPlayer(t, testConfig), newModel(testConfig)
	g := &generator{r: rnd, m: m}
	n := 50 + rnd.IntN(300)
	var trace []string
	for range n {
		p.out.Reset()
		m.said = nil
		left, joinBy := m.left, m.joinBy
		what := g.act(p, m)
		trace = append(trace, fmt.Sprintf("%d: %s", p.now, what))
		got := slices.Sorted(answersIn(p.out.String()))
		slices.Sort(m.said)
		if !slices.Equal(got, m.said) {
			t.Fatalf("%s\nmachine:\n%s\nmodel:\n%s", strings.Join(trace, "\n"), strings.Join(got, "\n"), strings.Join(m.said, "\n"))
		}
		if a, b := showConversation(p.conv), m.show(); a != b {
			t.Fatalf("%s\nmachine: %s\nmodel: %s", strings.Join(trace, "\n"), a, b)
		}
		if p.conv.Idle() && rnd.IntN(2) == 0 { // its owner may forget it
			p.conv = New(testConfig, "g", p, p.now)
		}
		for _, a := range m.said {
			seen[kindOf(a)]++
		}
		seen[m.phase]++
		if m.initial && m.left < left {
			seen["extended"]++
		}
		if m.phase == mPreparing && !m.initial && m.joinBy > joinBy && joinBy <= m.now {
			seen["nobody to assign"]++
		}
	}
	return n
}

// answersIn splits what a player has said, without what only the machine knows of.
func answersIn(text string) func(yield func(string) bool) {
	text = strings.ReplaceAll(text, ", to be confirmed", "")
	var list []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "     ") {
			list[len(list)-1] += "\n" + line
		} else {
			list = append(list, line)
		}
	}
	return slices.Values(list)
}

func kindOf(answer string) string {
	words := strings.Fields(answer)
	switch {
	case len(words) == 1:
		return "beat " + answer
	case words[1] == "left:":
		return "left"
	case words[1] == "synced:":
		return "synced assignment"
	case words[1] == "joined" && words[2] == "as" && strings.Contains(answer, "assigns nothing"):
		return "joined assigns nothing"
	case words[1] == "joined" && words[2] == "as" && strings.Contains(answer, "\n"):
		return "joined and leads"
	case words[1] == "joined" && words[2] == "as":
		return "joined generation"
	}
	return words[1] + " " + words[2]
}

func showConversation(c *Conversation) string {
	out := fmt.Sprintf("%s %d", c.phase, c.generation)
	if len(c.members) > 0 {
		out += fmt.Sprintf(" %s led by %s", c.protocolType, c.leader)
	}
	c.each(func(m *member) {
		out += fmt.Sprintf("\n  %s/%s join %d sync %d fresh %t expires %d", m.ID, m.InstanceID, m.join, m.sync, m.fresh, m.expires)
		if c.phase == mStable {
			out += fmt.Sprintf(" %q", m.Assignment)
		}
	})
	return out + fmt.Sprintf("\n  pending %v next %d", c.pending, c.Next())
}

// generator makes requests that have a fair chance to make sense.
type generator struct {
	r       *rand.Rand
	m       *model
	tickets int
}

func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (g *generator) ticket() Ticket {
	g.tickets++
	return Ticket(g.tickets)
}

// act does one thing to both.
func (g *generator) act(p *player, m *model) string {
	switch n := g.r.IntN(100); {
	case n < 35:
		t := g.ticket()
		j := g.join(t)
		m.join(t, j)
		p.conv.Join(p.now, t, j)
		p.effects()
		return fmt.Sprintf("join %d %+v", t, j)
	case n < 60:
		t := g.ticket()
		s := g.sync()
		m.sync(t, s)
		p.conv.Sync(p.now, t, s)
		p.effects()
		return fmt.Sprintf("sync %d %+v", t, s)
	case n < 72:
		id, instance := g.who()
		generation := g.generation()
		m.said = append(m.said, m.heartbeat(id, instance, generation))
		fmt.Fprintf(&p.out, "%v\n", p.conv.Heartbeat(p.now, id, instance, generation))
		return fmt.Sprintf("beat %s/%s@%d", id, instance, generation)
	case n < 78:
		t := g.ticket()
		var list []Leaving
		for range 1 + g.r.IntN(2) {
			id, instance := g.who()
			if instance != "" && g.chance(50) {
				id = ""
			}
			list = append(list, Leaving{id, instance})
		}
		m.leave(t, list)
		p.conv.Leave(p.now, t, list)
		p.effects()
		return fmt.Sprintf("leave %d %+v", t, list)
	}
	p.now += int64(g.r.IntN(200))
	if due := m.due(); g.chance(50) && due != Never {
		p.now = max(p.now, due)
	}
	m.now = p.now
	m.tick()
	p.conv.Tick(p.now)
	p.effects()
	return "time"
}

// who names a member, or what might have been one.
func (g *generator) who() (id, instance string) {
	known := slices.Concat(g.m.list)
	switch n := g.r.IntN(20); {
	case n < 1:
		return "x", ""
	case n < 2:
		return "x", pick(g.r, []string{"i", "j"})
	case n < 4 && len(g.m.pending) > 0:
		return pick(g.r, slices.Sorted(maps.Keys(g.m.pending))), ""
	case len(known) == 0:
		return "x", ""
	}
	m := pick(g.r, known)
	if g.chance(10) {
		return m.id, pick(g.r, []string{"", "i", "j"})
	}
	return m.id, m.instance
}

func (g *generator) generation() int32 {
	if g.chance(10) {
		return g.m.generation - 1
	}
	return g.m.generation
}

var speaks = [][]Protocol{
	{{"range", []byte("r")}, {"sticky", []byte("s")}},
	{{"sticky", []byte("s")}, {"range", []byte("r")}},
	{{"range", []byte("r")}},
	{{"sticky", []byte("t")}},
	{{"robin", nil}, {"range", []byte("r2")}},
}

func (g *generator) join(t Ticket) Join {
	j := Join{NewID: fmt.Sprint("m", t), ProtocolType: "consumer", SessionTimeoutMS: 200 + int32(g.r.IntN(1000)), RebalanceTimeoutMS: 100 + int32(g.r.IntN(900)),
		MustKnowID: g.chance(40), MaySkip: g.chance(50), Protocols: speaks[0]}
	if g.chance(40) {
		j.Protocols = pick(g.r, speaks)
	}
	switch n := g.r.IntN(100); {
	case n < 1:
		j.ProtocolType = pick(g.r, []string{"connect", ""})
	case n < 2:
		j.Protocols = nil
	case n < 4:
		j.SessionTimeoutMS = pick(g.r, []int32{0, testConfig.MinSessionMS - 1, testConfig.MaxSessionMS + 1})
	}
	if g.chance(65) {
		j.MemberID, j.InstanceID = g.who()
		if m := g.m.by(j.MemberID); m != nil && g.chance(70) {
			j.Protocols = m.speaks // as before
		}
	} else if g.chance(40) {
		j.InstanceID = pick(g.r, []string{"i", "j"})
	}
	return j
}

func (g *generator) sync() Sync {
	var s Sync
	s.MemberID, s.InstanceID = g.who()
	s.Generation = g.generation()
	if g.chance(20) {
		s.ProtocolType, s.Protocol = pick(g.r, []string{"", "consumer", "connect"}), pick(g.r, []string{"", "range", "sticky"})
	}
	if g.chance(10) {
		s.Protocol = g.m.protocol
	}
	for _, m := range g.m.list {
		if g.chance(80) {
			s.Assignments = append(s.Assignments, Assignment{m.id, fmt.Appendf(nil, "for %s in %d", m.id, g.m.generation)})
		}
	}
	return s
}
