package session

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/machinetest"
)

// TestStreams lets clients talk to a conversation over streams on which everything can cross: what members say, what they are told,
// proposals that take their time between being applied and being known, streams that break, leaders that change, sessions that end
// without their clients knowing. What must hold:
//
//   - no two members read the same partition, by what they themselves know;
//   - a client that is fenced is told so, if it asks;
//   - once it is quiet, everyone has what it is to have, and everything is read.
func TestStreams(t *testing.T) {
	rnd := machinetest.Rand(t)
	wanted := []string{"pushed", "crossed", "revoked", "fenced", "resumed", "leader changed", "left", "away", "replaced", "displaced",
		"stale targets", "failed proposal", "settled", "subscribed anew"}
	machinetest.Runs(t, 3*time.Second, wanted, func(seen map[string]int) int {
		w := newWorld(t, rnd, seen)
		steps := 100 + rnd.IntN(400)
		for range steps {
			w.step()
			w.check()
		}
		w.settle()
		return steps
	})
}

const partitions = 6

var testConfig = Config{SessionMS: 1000, SettleMS: 10, RetryMS: 20}

// client is a member as it knows itself.
type client struct {
	id, instance string
	ticket       Ticket // 0: not connected
	epoch        int32  // 0: it has to join
	reads        map[group.Partition]bool
	// told is the last push that has arrived, done the version of the last one that is done.
	told    Assignment
	done    uint64
	pushed  *Assignment // on its way to it
	ended   *End        // likewise, behind it
	zombie  bool        // the group does not have it any more, and it does not know
	topics  []string
	leaving bool
}

type message struct {
	ticket Ticket
	said   Said
}

type proposal struct {
	Propose
	result group.Result
}

type world struct {
	t    *testing.T
	r    *rand.Rand
	seen map[string]int

	state   *group.State
	index   uint64
	now     int64
	conv    *Conversation
	clients []*client
	next    int
	ticket  Ticket

	messages  []message  // from clients, in order for each ticket
	proposals []proposal // not applied yet
	applied   []proposal // applied, and the conversation does not know
	computing bool
	targets   *statev1.AssignPartitions
	quiet     bool // nothing new comes any more
	trace     []string
}

// log remembers what happened, for the case that it ends badly.
func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace[max(0, len(w.trace)-200):] {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func newWorld(t *testing.T, r *rand.Rand, seen map[string]int) *world {
	w := &world{t: t, r: r, seen: seen, state: group.New(), now: 1_000_000}
	w.conv = New(testConfig, "g", w, nil, w.now)
	return w
}

func (w *world) Check(c *statev1.GroupCommand) group.Result { return w.state.Check(w.now, c) }

func (w *world) Member(id string) *group.Member {
	d, _ := w.state.Describe("g")
	for _, m := range d.Members {
		if m.ID == id {
			return m
		}
	}
	return nil
}

func (w *world) Epochs() (int32, int32) {
	d, _ := w.state.Describe("g")
	return d.Epoch, d.AssignmentEpoch
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

func (w *world) step() {
	w.now += int64(w.r.IntN(15))
	switch n := w.r.IntN(100); {
	case n < 4 && len(w.clients) < 5:
		w.start()
	case n < 20:
		w.deliver()
	case n < 40:
		w.apply()
	case n < 58:
		w.tell()
	case n < 64:
		w.compute()
	case n < 85 && len(w.clients) > 0:
		w.act(w.clients[w.r.IntN(len(w.clients))])
	case n < 86 && len(w.clients) > 0:
		w.breakStream(w.clients[w.r.IntN(len(w.clients))])
	case n < 87 && w.chance(20):
		w.changeLeader()
	case n < 88 && w.chance(30):
		w.now += 300
	case n < 89:
		w.conv.TopicsChanged(w.now)
	default:
		w.conv.Tick(w.now)
	}
	w.effects()
}

// effects carries out what the conversation wants.
func (w *world) effects() {
	for _, e := range w.conv.Effects() {
		switch e := e.(type) {
		case Propose:
			w.proposals = append(w.proposals, proposal{Propose: e})
			w.log("propose %q %v", e.Key, e.Command)
		case Push:
			if c := w.byTicket(e.Ticket); c != nil {
				c.pushed = &e.Assignment
				w.log("push to %s version %d epoch %d %s", c.id, e.Version, e.Epoch, show(e.Partitions))
			}
		case End:
			if c := w.byTicket(e.Ticket); c != nil {
				c.ended = &e
				w.log("end %s %v %v", c.id, e.Code, e.Err)
			}
		case Compute:
			w.computing = true
		}
	}
}

func (w *world) byTicket(t Ticket) *client {
	for _, c := range w.clients {
		if c.ticket == t {
			return c
		}
	}
	return nil
}

func (w *world) start() {
	w.next++
	c := &client{id: fmt.Sprint("m", w.next), reads: map[group.Partition]bool{}, topics: []string{"t"}}
	if w.chance(30) {
		c.instance = []string{"i", "j"}[w.r.IntN(2)]
	}
	w.clients = append(w.clients, c)
	w.open(c)
}

// open connects a client: it joins, or goes on.
func (w *world) open(c *client) {
	w.ticket++
	c.ticket, c.told, c.done, c.pushed, c.ended = w.ticket, Assignment{}, 0, nil, nil
	hb := &statev1.ConsumerHeartbeat{MemberId: c.id, InstanceId: c.instance, MemberEpoch: c.epoch, Subscription: w.subscription(c), Owned: owned(c)}
	if c.epoch > 0 && w.chance(50) {
		hb.Subscription = nil
	}
	w.log("%s opens %d: %v", c.id, c.ticket, hb)
	w.conv.Open(w.now, c.ticket, hb)
	w.effects()
}

func (w *world) subscription(c *client) *statev1.ConsumerSubscription {
	return &statev1.ConsumerSubscription{Topics: c.topics, RebalanceTimeoutMs: 400}
}

func owned(c *client) *statev1.OwnedPartitions {
	return &statev1.OwnedPartitions{Topics: group.PartitionsToProto(sorted(c.reads))}
}

func sorted(set map[group.Partition]bool) []group.Partition {
	return slices.SortedFunc(maps.Keys(set), func(a, b group.Partition) int { return int(a.Number - b.Number) })
}

// act lets a client do something of its own accord.
func (w *world) act(c *client) {
	if c.leaving { // it listens no more
		c.pushed = nil
	}
	switch {
	case c.pushed != nil && w.chance(60): // it hears what it is told
		if c.told.Version >= c.pushed.Version {
			w.t.Fatalf("%s is told version %d after %d", c.id, c.pushed.Version, c.told.Version)
		}
		if c.pushed.Epoch < c.epoch {
			w.t.Fatalf("%s: the epoch goes back from %d to %d", c.id, c.epoch, c.pushed.Epoch)
		}
		c.told, c.pushed = *c.pushed, nil
		c.epoch = c.told.Epoch
		for _, h := range c.told.Partitions {
			c.reads[h.Partition] = true
		}
		w.log("%s hears version %d", c.id, c.told.Version)
		w.seen["pushed"]++
	case c.ended != nil && c.pushed == nil && w.chance(60):
		w.hearEnd(c)
	case c.ticket == 0 && c.leaving:
		w.remove(c)
	case c.ticket == 0:
		if w.chance(30) {
			if c.epoch > 0 {
				w.seen["resumed"]++
			}
			w.open(c)
		}
	case c.done < c.told.Version && w.chance(50): // it does what it was told
		if w.giveBack(c) {
			w.seen["revoked"]++
		}
		c.done = c.told.Version
		w.send(c, Said{Ack: c.done, Owned: owned(c)})
	default:
		w.say(c)
	}
}

// giveBack stops reading what the last push does not have.
func (w *world) giveBack(c *client) bool {
	n := len(c.reads)
	maps.DeleteFunc(c.reads, func(p group.Partition, _ bool) bool {
		return !slices.ContainsFunc(c.told.Partitions, func(h group.Held) bool { return h.Partition == p })
	})
	return len(c.reads) < n
}

func (w *world) say(c *client) {
	s := Said{Ack: c.done}
	switch n := w.r.IntN(20); {
	case n < 12:
		if w.chance(50) {
			s.Owned = owned(c)
		}
	case n < 14:
		c.topics = [][]string{{"t"}, {"t", "u"}}[w.r.IntN(2)]
		s.Subscription = w.subscription(c)
		w.seen["subscribed anew"]++
	case n < 15:
		s.Leave, s.Away = true, w.chance(50)
		c.reads = map[group.Partition]bool{} // a client gives all back before it leaves
		c.leaving = true
	}
	if c.pushed != nil {
		w.seen["crossed"]++
	}
	w.send(c, s)
}

func (w *world) send(c *client, s Said) {
	w.log("%s says on %d %+v", c.id, c.ticket, s)
	w.messages = append(w.messages, message{c.ticket, s})
}

func show(list []group.Held) string {
	out := ""
	for _, h := range list {
		out += fmt.Sprintf(" %d@%d", h.Number, h.Epoch)
	}
	return out
}

func (w *world) hearEnd(c *client) {
	e := *c.ended
	c.ticket, c.ended = 0, nil
	switch {
	case e.Err != nil:
		return // it comes again with what it has
	case e.Code == group.OK:
		w.seen["left"]++
		w.remove(c)
	case e.Code == group.FencedInstanceID || e.Code == group.UnreleasedInstanceID && (c.leaving || w.quiet):
		w.remove(c)
	default:
		if e.Code == group.UnknownMemberID || e.Code == group.FencedMemberEpoch {
			w.seen["fenced"]++
		}
		c.epoch, c.zombie = 0, false // it gives up what it has, and joins again
		clear(c.reads)
	}
	if c.leaving {
		w.remove(c)
	}
}

func (w *world) remove(c *client) {
	w.clients = slices.DeleteFunc(w.clients, func(o *client) bool { return o == c })
	clear(c.reads)
}

// deliver brings a message to the conversation: the oldest of some stream.
func (w *world) deliver() {
	if len(w.messages) == 0 {
		return
	}
	t := w.messages[w.r.IntN(len(w.messages))].ticket
	i := slices.IndexFunc(w.messages, func(m message) bool { return m.ticket == t })
	m := w.messages[i]
	w.messages = slices.Delete(w.messages, i, i+1)
	w.log("deliver on %d %+v", m.ticket, m.said)
	w.conv.Say(w.now, m.ticket, m.said)
}

// apply has the oldest proposal applied.
func (w *world) apply() {
	if len(w.proposals) == 0 {
		return
	}
	p := w.proposals[0]
	w.proposals = w.proposals[1:]
	data, err := group.EncodeCommand(p.Command)
	if err != nil {
		w.fail("%v", err)
	}
	w.index++
	if p.result, err = w.state.Apply(w.index, w.now, data); err != nil {
		w.t.Fatal(err)
	}
	if p.Key == KeyTargets && p.result.Code == group.Stale {
		w.seen["stale targets"]++
	}
	w.applied = append(w.applied, p)
	w.log("applied %q: %v", p.Key, p.result.Code)
	if m := p.result.Member; m != nil {
		w.log("   %s %v at %d has%s revoking%s", m.ID, m.Status, m.Epoch, show(m.Assigned), show(m.Revoking))
	}
	w.mark(p)
}

// findZombies finds those who are members no more.
func (w *world) findZombies() {
	for _, c := range w.clients {
		if c.epoch > 0 && w.Member(c.id) == nil {
			c.zombie = true
		}
	}
}

func (w *world) mark(p proposal) {
	w.findZombies()
	if p.result.Changed && p.Key == KeyFence {
		w.seen["fenced"]++
	}
}

// tell lets the conversation know of the oldest proposal that was applied; or it has failed, as far as it knows.
func (w *world) tell() {
	if len(w.applied) == 0 {
		return
	}
	p := w.applied[0]
	w.applied = w.applied[1:]
	if w.chance(3) {
		w.seen["failed proposal"]++
		w.conv.Proposed(w.now, p.Key, group.Result{}, errors.New("lost"))
		return
	}
	w.log("tell of %q", p.Key)
	w.conv.Proposed(w.now, p.Key, p.result, nil)
}

// compute gives targets for the group as it is, or hands over those that were computed a while ago.
func (w *world) compute() {
	switch {
	case !w.computing:
	case w.targets == nil:
		w.targets = w.someTargets(w.chance(80))
		if w.targets == nil {
			w.computing = false
			w.conv.Computed(w.now, nil)
		}
	default:
		cmd := w.targets
		w.computing, w.targets = false, nil
		w.conv.Computed(w.now, cmd)
	}
}

func (w *world) someTargets(all bool) *statev1.AssignPartitions {
	d, ok := w.state.Describe("g")
	if !ok || len(d.Members) == 0 {
		return nil
	}
	id := group.TopicID{'t'}
	c := &statev1.AssignPartitions{GroupEpoch: d.Epoch, Topics: []*statev1.AssignedTopic{{TopicId: id[:], Topic: "t"}}}
	given := make([][]int32, len(d.Members))
	for n := range int32(partitions) {
		if all || w.chance(80) {
			i := w.r.IntN(len(d.Members))
			given[i] = append(given[i], n)
		}
	}
	for i, m := range d.Members {
		target := &statev1.MemberTarget{MemberId: m.ID}
		if len(given[i]) > 0 {
			target.Topics = []*statev1.TargetPartitions{{Partitions: given[i]}}
		}
		c.Members = append(c.Members, target)
	}
	return c
}

func (w *world) breakStream(c *client) {
	if c.ticket == 0 {
		return
	}
	old := c.ticket
	c.ticket, c.pushed, c.ended = 0, nil, nil
	if c.leaving {
		w.remove(c)
		return
	}
	if w.chance(50) {
		w.log("%s breaks %d", c.id, old)
		w.conv.Gone(old) // else the server does not notice
	} else if w.chance(50) && c.epoch > 0 {
		w.seen["displaced"]++
		w.open(c)
	}
}

// changeLeader begins a new conversation from what is applied. What was proposed is gone, or was applied just before.
func (w *world) changeLeader() {
	for len(w.proposals) > 0 && w.chance(50) {
		w.apply()
	}
	w.proposals, w.applied, w.messages, w.computing, w.targets = nil, nil, nil, false, nil
	for _, c := range w.clients {
		c.ticket, c.pushed, c.ended = 0, nil, nil
	}
	d, _ := w.state.Describe("g")
	w.conv = New(testConfig, "g", w, d.Members, w.now)
	w.log("leader changed")
	w.seen["leader changed"]++
}

func (w *world) check() {
	w.t.Helper()
	w.findZombies()
	readers := map[group.Partition]string{}
	for _, c := range w.clients {
		if c.zombie {
			continue
		}
		for p := range c.reads {
			if other, ok := readers[p]; ok {
				d, _ := w.state.Describe("g")
				for _, m := range d.Members {
					w.t.Logf("%+v", *m)
				}
				w.fail("%v is read by %s and %s", p, other, c.id)
			}
			readers[p] = c.id
		}
	}
	d, _ := w.state.Describe("g")
	for _, m := range d.Members {
		if m.Epoch == group.LeaveStaticEpoch {
			w.seen["away"]++
		}
	}
}

// settle lets everything that is on its way arrive, until nothing happens any more.
func (w *world) settle() {
	w.quiet = true
	w.conv.TopicsChanged(w.now) // so far targets left something out
	for round := range 400 {
		w.now += 5
		for len(w.messages) > 0 {
			w.deliver()
			w.effects()
		}
		for len(w.proposals) > 0 {
			w.apply()
		}
		for len(w.applied) > 0 {
			p := w.applied[0]
			w.applied = w.applied[1:]
			w.conv.Proposed(w.now, p.Key, p.result, nil)
			w.effects()
		}
		if w.computing {
			w.targets = nil
			w.computing = false
			w.conv.Computed(w.now, w.quietTargets())
		}
		w.conv.Tick(w.now)
		w.effects()
		for _, c := range slices.Clone(w.clients) {
			w.behave(c)
			w.check()
		}
		if round%40 == 0 { // sessions of those who are gone end
			for _, c := range w.clients {
				if c.ticket != 0 {
					w.send(c, Said{Ack: c.done, Owned: owned(c)})
				}
			}
		}
	}
	d, _ := w.state.Describe("g")
	if len(w.clients) == 0 {
		return
	}
	read := 0
	for _, c := range w.clients {
		read += len(c.reads)
		if m := w.Member(c.id); m == nil || m.Status != group.Stable || len(m.Assigned) != len(c.reads) || c.zombie {
			w.fail("%s reads %v and is %+v\n%+v", c.id, sorted(c.reads), m, *c)
		}
	}
	if read != partitions || d.Phase != group.PhaseStable || len(d.Members) != len(w.clients) {
		for _, c := range w.clients {
			w.t.Logf("%+v", *c)
		}
		w.fail("%d partitions are read, by %d clients; the group is %v with %d members, epochs %d, %d", read, len(w.clients), d.Phase, len(d.Members), d.Epoch, d.AssignmentEpoch)
	}
	if !slices.ContainsFunc(w.clients, func(c *client) bool { return c.instance != "" }) || len(w.clients) > 1 {
		w.seen["replaced"]++
	}
	w.seen["settled"]++
}

// quietTargets gives everything, and changes as little as possible.
func (w *world) quietTargets() *statev1.AssignPartitions {
	d, ok := w.state.Describe("g")
	if !ok || len(d.Members) == 0 {
		return nil
	}
	if d.AssignmentEpoch == d.Epoch {
		n := 0
		for _, m := range d.Members {
			n += len(m.Target)
		}
		if n == partitions {
			return nil
		}
	}
	return w.someTargets(true)
}

// behave lets a client do all that it has to.
func (w *world) behave(c *client) {
	if c.leaving {
		c.pushed = nil
		if c.ticket == 0 {
			w.remove(c)
			return
		}
	}
	if c.pushed != nil {
		c.told, c.pushed = *c.pushed, nil
		c.epoch = c.told.Epoch
		for _, h := range c.told.Partitions {
			c.reads[h.Partition] = true
		}
	}
	if c.ended != nil {
		w.hearEnd(c)
		return
	}
	if c.ticket == 0 {
		w.open(c)
		return
	}
	if c.done < c.told.Version {
		w.giveBack(c)
		c.done = c.told.Version
		w.send(c, Said{Ack: c.done, Owned: owned(c)})
	}
}
