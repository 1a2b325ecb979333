package classic

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/machinetest"
)

// TestMembers lets members live with a group as clients do: answers are lost, processes are replaced, zombies know nothing of it,
// proposals take their time and fail, though they may have been applied, and leaders change. It holds the group to what
// generations are for (G7, G11, G12, G19):
//
//   - nobody gets an assignment that the leader of its generation has not given, nor before it is committed;
//   - once somebody has an assignment, nobody's commit counts who had its partitions before;
//   - each request is answered once;
//   - once nothing new comes, everyone is in one generation, and everything is assigned.
func TestMembers(t *testing.T) {
	rnd := machinetest.Rand(t)
	wanted := []string{"assigned", "answer lost", "fenced instance", "replaced", "left", "expired", "leader changed", "proposal failed", "failed and applied", "zombie refused", "old generation refused",
		"committed", "committed in a transaction", "settled"}
	machinetest.Runs(t, 3*time.Second, wanted, func(seen map[string]int) int {
		w := &world{t: t, r: rnd, seen: seen, state: group.New(), owners: map[int]holder{}, given: map[string]string{}, waiting: map[Ticket]*process{}}
		w.lead()
		steps := 100 + rnd.IntN(400)
		for range steps {
			w.step()
		}
		w.settle()
		return steps
	})
}

// process is a member as it knows itself.
type process struct {
	id, instance string
	generation   int32
	// reads is what it was assigned in its generation.
	reads []int
	// ticket is the request that it waits for, syncing: a Sync.
	ticket  Ticket
	syncing bool
	// members are those that it has to assign to, if it leads.
	members []JoinedMember
	speaks  []Protocol
	zombie  bool
	// before is what a thread of it still believes, who has not heard that it joins again.
	before *process
}

// rejoin has it join again.
func (p *process) rejoin() {
	if len(p.reads) > 0 {
		p.before = &process{id: p.id, instance: p.instance, generation: p.generation, reads: p.reads, zombie: true}
	}
	p.generation, p.reads, p.members = 0, nil, nil
}

// holder is who was given a partition last.
type holder struct {
	generation int32
	id         string
}

const partitions = 5

type world struct {
	t         *testing.T
	r         *rand.Rand
	seen      map[string]int
	state     *group.State
	conv      *Conversation
	now       int64
	index     uint64
	tickets   Ticket
	processes []*process
	// waiting are the requests that this leader has to answer.
	waiting map[Ticket]*process
	// proposal is in flight; applied: its result is known, but not to the leader.
	proposal *statev1.GroupCommand
	applied  bool
	result   group.Result
	owners   map[int]holder
	// given is what leaders have assigned, by generation and member.
	given map[string]string
	quiet bool
	trace []string
}

func (w *world) Describe() (group.Description, bool) { return w.state.Describe("g") }

func (w *world) Summarize() (group.Description, bool) { return w.state.Summarize("g") }

func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%d: ", w.now)+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", strings.Join(w.trace[max(0, len(w.trace)-120):], "\n"), fmt.Sprintf(format, args...))
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

// lead begins with another leader. Who waited for the last one hears nothing.
func (w *world) lead() {
	for _, p := range w.waiting {
		p.ticket = noTicket
	}
	clear(w.waiting)
	if w.proposal != nil && !w.applied && w.chance(50) {
		w.apply(w.proposal) // it was committed all the same
	}
	w.proposal, w.applied = nil, false
	w.conv = New(testConfig, "g", w, w.now)
	w.log("another leader")
}

func (w *world) apply(cmd *statev1.GroupCommand) group.Result {
	cmd.GroupId = "g"
	data, err := group.EncodeCommand(cmd)
	if err != nil {
		w.fail("%v", err)
	}
	w.index++
	r, err := w.state.Apply(w.index, w.now, data)
	if err != nil {
		w.fail("%v", err)
	}
	return r
}

func (w *world) step() {
	w.now += int64(w.r.IntN(20))
	switch n := w.r.IntN(100); {
	case n < 6 && len(w.processes) < 5:
		w.processes = append(w.processes, &process{instance: pick(w.r, []string{"", "", "i", "j"}), speaks: speaks[0]})
	case n < 45 && len(w.processes) > 0:
		w.act(pick(w.r, w.processes))
	case n < 70:
		w.decide()
	case n < 80 && len(w.processes) > 0:
		w.commit(pick(w.r, w.processes))
	case n < 82 && w.chance(20):
		w.seen["leader changed"]++
		w.lead()
	case n < 84 && w.chance(30):
		w.now += 400
	case n < 86 && len(w.processes) > 0:
		w.change(pick(w.r, w.processes))
	default:
		w.conv.Tick(w.now)
	}
	w.effects()
}

// act lets a process do what comes next: join, ask for its assignment, be heard.
func (w *world) act(p *process) {
	switch {
	case p.ticket != noTicket:
		if !w.quiet && w.chance(5) {
			w.log("%s gives up %d", p.id, p.ticket)
			p.ticket = noTicket // the answer will find nobody
			w.seen["answer lost"]++
		}
	case p.generation == 0:
		w.join(p)
	case p.reads == nil:
		w.sync(p)
	default:
		code := w.conv.Heartbeat(w.now, p.id, p.instance, p.generation)
		w.log("%s@%d beats: %v", p.id, p.generation, code)
		w.hear(p, code)
	}
}

func (w *world) ask(p *process) Ticket {
	w.tickets++
	p.ticket = w.tickets
	w.waiting[p.ticket] = p
	return p.ticket
}

func (w *world) join(p *process) {
	t := w.ask(p)
	p.syncing = false
	j := Join{MemberID: p.id, InstanceID: p.instance, NewID: fmt.Sprint("m", t), ProtocolType: "consumer", Protocols: p.speaks, SessionTimeoutMS: 300, RebalanceTimeoutMS: 250,
		MustKnowID: true, MaySkip: true}
	w.log("%s/%s joins with %d", p.id, p.instance, t)
	w.conv.Join(w.now, t, j)
}

func (w *world) sync(p *process) {
	t := w.ask(p)
	p.syncing = true
	s := Sync{MemberID: p.id, InstanceID: p.instance, Generation: p.generation}
	for n := range partitions {
		if len(p.members) > 0 {
			to := p.members[n%len(p.members)].ID
			at := slices.IndexFunc(s.Assignments, func(a Assignment) bool { return a.MemberID == to })
			if at < 0 {
				at = len(s.Assignments)
				s.Assignments = append(s.Assignments, Assignment{to, fmt.Appendf(nil, "%d:", p.generation)})
			}
			s.Assignments[at].Assignment = fmt.Appendf(s.Assignments[at].Assignment, "%d,", n)
		}
	}
	for _, a := range s.Assignments {
		w.given[fmt.Sprint(p.generation, a.MemberID)] = string(a.Assignment)
	}
	w.log("%s@%d syncs with %d: %s", p.id, p.generation, t, s.Assignments)
	w.conv.Sync(w.now, t, s)
}

// hear takes a code as clients do.
func (w *world) hear(p *process, code group.Code) {
	switch code {
	case group.OK:
		return
	case group.FencedInstanceID:
		w.seen["fenced instance"]++
		w.gone(p)
		return
	case group.UnknownMemberID:
		w.seen["expired"]++
		p.id = ""
	case group.GroupMaxSizeReached:
		w.gone(p)
		return
	}
	p.rejoin()
}

// gone makes a zombie of a process, which believes what it last knew.
func (w *world) gone(p *process) {
	w.processes = slices.DeleteFunc(w.processes, func(q *process) bool { return p == q })
	if len(p.reads) > 0 && !w.quiet {
		z := *p
		z.ticket, z.zombie = noTicket, true
		w.processes = append(w.processes, &z)
	}
}

// change lets something happen to a process.
func (w *world) change(p *process) {
	switch n := w.r.IntN(10); {
	case n < 3 && p.id != "" && !p.zombie:
		w.tickets++
		t := w.tickets
		w.waiting[t] = &process{}
		w.log("%s leaves with %d", p.id, t)
		w.conv.Leave(w.now, t, []Leaving{{p.id, p.instance}})
		w.seen["left"]++
		w.gone(p)
	case n < 6 && !p.zombie: // it is killed, and another one is started
		w.log("%s is killed", p.id)
		w.gone(p)
		if p.instance != "" {
			w.seen["replaced"]++
		}
		w.processes = append(w.processes, &process{instance: p.instance, speaks: p.speaks})
	case n < 8:
		p.speaks = pick(w.r, speaks[:2])
		p.rejoin()
	case p.zombie:
		w.processes = slices.DeleteFunc(w.processes, func(q *process) bool { return p == q })
	}
}

func (w *world) commit(p *process) {
	if p.before != nil && w.chance(30) {
		p = p.before
	}
	if p.generation == 0 || len(p.reads) == 0 {
		return
	}
	n := pick(w.r, p.reads)
	by := group.Committer{MemberID: p.id, InstanceID: p.instance, Epoch: p.generation}
	transactional := w.chance(30)
	code := group.OK
	if !w.chance(30) { // else it was sent long ago, and is committed only now
		code = w.conv.MayCommit(w.now, by, transactional)
	}
	if code == group.OK {
		committer := &statev1.Committer{MemberId: p.id, InstanceId: p.instance, Epoch: p.generation}
		topics := []*statev1.TopicOffsets{{Topic: "t", TopicId: make([]byte, 16), Partitions: []*statev1.PartitionOffset{{Partition: int32(n), Offset: 1, LeaderEpoch: -1}}}}
		cmd := &statev1.GroupCommand{Command: &statev1.GroupCommand_Commit{Commit: &statev1.CommitOffsets{Committer: committer, Topics: topics, ExpireMs: group.NoExpiry}}}
		if transactional {
			cmd.Command = &statev1.GroupCommand_CommitInTransaction{CommitInTransaction: &statev1.CommitOffsetsInTransaction{Committer: committer, Topics: topics, ProducerId: 7, Verified: true}}
		}
		code = w.apply(cmd).Code
	}
	w.log("%s/%s@%d commits %d: %v", p.id, p.instance, p.generation, n, code)
	owner := w.owners[n]
	switch {
	case code == group.OK && owner != (holder{p.generation, p.id}):
		w.fail("%s@%d commits %d, which is %v's", p.id, p.generation, n, owner)
	case code == group.OK && transactional:
		w.seen["committed in a transaction"]++
	case code == group.OK:
		w.seen["committed"]++
	case code == group.IllegalGeneration:
		w.seen["old generation refused"]++
	case p.zombie:
		w.seen["zombie refused"]++
	}
	if code != group.OK && code != group.RebalanceInProgress && !p.zombie && p.ticket == noTicket {
		w.hear(p, code)
	}
}

// decide moves the proposal in flight on.
func (w *world) decide() {
	if w.proposal == nil {
		return
	}
	if !w.applied {
		if w.r.IntN(12) == 0 && !w.quiet {
			w.seen["proposal failed"]++
			w.told(group.Result{}, errors.New("lost"))
			return
		}
		w.result, w.applied = w.apply(w.proposal), true
		w.log("applied: %v", w.result.Code)
		return
	}
	if w.r.IntN(12) == 0 && !w.quiet {
		w.seen["failed and applied"]++
		w.told(group.Result{}, errors.New("lost"))
		return
	}
	w.told(w.result, nil)
}

func (w *world) told(r group.Result, err error) {
	w.proposal, w.applied = nil, false
	w.log("the leader is told: %v %v", r.Code, err)
	w.conv.Proposed(w.now, r, err)
}

func (w *world) effects() {
	for _, e := range w.conv.Effects() {
		switch e := e.(type) {
		case Propose:
			if w.proposal != nil {
				w.fail("two proposals at once")
			}
			w.proposal = e.Command
			w.log("propose %s", showCommand(e.Command))
		case Joined:
			w.joined(e, w.answered(e.Ticket, e))
		case Synced:
			w.synced(e, w.answered(e.Ticket, e))
		case Left:
			w.answered(e.Ticket, e)
		}
	}
}

// answered finds who waits for an answer; nobody, if it is lost.
func (w *world) answered(t Ticket, e Effect) *process {
	w.log("%s", showAnswer(e))
	p, ok := w.waiting[t]
	if delete(w.waiting, t); !ok {
		w.fail("an answer that nobody waits for: %s", showAnswer(e))
	}
	if p.ticket != t {
		return nil
	}
	p.ticket = noTicket
	if !w.quiet && w.chance(5) {
		w.seen["answer lost"]++
		return nil
	}
	return p
}

func (w *world) joined(e Joined, p *process) {
	switch {
	case p == nil || e.Err != nil:
	case e.Code == group.MemberIDRequired:
		p.id = e.MemberID
	case e.Code != group.OK:
		w.hear(p, e.Code)
	default:
		p.id, p.generation, p.members, p.reads = e.MemberID, e.Generation, e.Members, nil
		if e.SkipAssignment {
			p.members = nil
		}
	}
}

func (w *world) synced(e Synced, p *process) {
	if e.Err == nil && e.Code == group.OK && len(e.Assignment) > 0 {
		w.assigned(string(e.Assignment), p)
	}
	switch {
	case p == nil:
	case e.Err != nil || e.Code != group.OK:
		w.hear(p, e.Code)
		p.rejoin()
	default:
		p.reads = partitionsIn(string(e.Assignment))
	}
}

func partitionsIn(assignment string) []int {
	list := []int{}
	_, text, _ := strings.Cut(assignment, ":")
	for one := range strings.SplitSeq(text, ",") {
		if n, err := strconv.Atoi(one); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// assigned: somebody has got partitions, or the answer to it is lost. What was answered is committed, and what its leader gave.
func (w *world) assigned(assignment string, p *process) {
	w.seen["assigned"]++
	d, _ := w.state.Describe("g")
	at := slices.IndexFunc(d.Classic, func(m *group.ClassicMember) bool { return string(m.Assignment) == assignment })
	generation, _, _ := strings.Cut(assignment, ":")
	if at < 0 || d.Phase != group.PhaseStable || generation != fmt.Sprint(d.Epoch) {
		w.fail("%q is assigned, and not committed: %+v", assignment, d)
	}
	id := d.Classic[at].ID
	if p != nil && p.id != id {
		w.fail("%s gets what is %s's", p.id, id)
	}
	if given, ok := w.given[fmt.Sprint(d.Epoch, id)]; ok && given != assignment {
		w.fail("%s gets %q and was given %q", id, assignment, given)
	}
	for _, n := range partitionsIn(assignment) {
		if o := w.owners[n]; o.generation > d.Epoch {
			w.fail("%d is given to %s in %d after it was given to %v", n, id, d.Epoch, o)
		}
		w.owners[n] = holder{d.Epoch, id}
	}
}

// settle lets everything happen that has to, until nothing changes any more.
func (w *world) settle() {
	w.quiet = true
	w.processes = slices.DeleteFunc(w.processes, func(p *process) bool { return p.zombie })
	for _, instance := range []string{"i", "j"} { // of two with one instance id only one can stay
		first := true
		w.processes = slices.DeleteFunc(w.processes, func(p *process) bool {
			gone := p.instance == instance && !first
			first = first && p.instance != instance
			return gone
		})
	}
	w.processes = w.processes[:min(len(w.processes), testConfig.MaxMembers)]
	for range 600 {
		w.now += 20
		for range 3 {
			w.decide()
			w.effects()
		}
		w.conv.Tick(w.now)
		w.effects()
		for _, p := range slices.Clone(w.processes) {
			w.act(p)
			w.effects()
		}
	}
	if len(w.waiting) > 0 && w.proposal == nil {
		w.fail("%d requests were never answered", len(w.waiting))
	}
	d, _ := w.conv.Describe()
	if len(w.processes) == 0 {
		return
	}
	read := 0
	for _, p := range w.processes {
		if read += len(p.reads); p.generation != d.Epoch {
			w.fail("%s/%s is in generation %d of %d", p.id, p.instance, p.generation, d.Epoch)
		}
	}
	if read != partitions || d.Phase != group.PhaseStable || len(d.Classic) != len(w.processes) {
		w.fail("%d partitions are read by %d; %v with %d members", read, len(w.processes), d.Phase, len(d.Classic))
	}
	w.seen["settled"]++
}
