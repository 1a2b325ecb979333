package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

func TestLeaderDies(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			c.openAll(7)
			n, r := c.leader(7)
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprintf("before %d", i))
				r.propose(t, want[len(want)-1])
			}
			term, _ := r.group.IsReady()
			c.stop(n)
			died := time.Now()
			_, r = c.leader(7, c.others(n)...)
			// Nobody waits for a timeout: its port refuses connections.
			if took := time.Since(died); took > 600*time.Millisecond {
				t.Errorf("new leader after %v", took)
			}
			if again, _ := r.group.IsReady(); again <= term {
				t.Errorf("new leader is of term %d, the old one was of %d", again, term)
			}
			for i := range 20 {
				want = append(want, fmt.Sprintf("after %d", i))
				r.propose(t, want[len(want)-1])
			}
			c.restart(n, 7)
			c.agree(7, want)
		})
	})
}

// A leader that is cut off is deposed by the others. What it admits then does not count, and it
// knows no more than that it may have happened; it cannot confirm that it leads.
func TestLeaderCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		old, r := c.leader(7)
		r.propose(t, "one")
		if err := r.group.Confirm(t.Context()); err != nil {
			t.Fatalf("Confirm of a leader: %v", err)
		}
		c.net.isolate(true, old.name, names(c.nodes)...)
		cut := time.Now()
		lost := make(chan error, 1)
		r.group.ProposeAsync(Command{Data: []byte("lost")}, func(_ any, err error) { lost <- err })
		if err := r.group.Confirm(t.Context()); err == nil {
			t.Error("a leader that reaches nobody was confirmed")
		}
		if err := <-lost; OutcomeOf(err) != MayHaveHappened {
			t.Errorf("proposal of a leader that reaches nobody ended with %v, which says %v", err, OutcomeOf(err))
		}
		t.Logf("the old leader gave up after %v", time.Since(cut))
		_, now := c.leader(7, c.others(old)...)
		now.propose(t, "two")
		wantNotLeader(t, r.group.Confirm(t.Context()))
		_, err := r.group.Propose(t.Context(), Command{Data: []byte("refused")})
		wantNotLeader(t, err)
		c.net.isolate(false, old.name, names(c.nodes)...)
		c.agree(7, []string{"one", "two"})
		for _, s := range r.machine.seen() {
			if s == "refused" {
				t.Error("a refused command was applied")
			}
		}
	})
}

// The voters have gone on to a later term, and the old leader has heard nothing of it: by its own
// lights, and by Raft's lease, it still leads. It must not be confirmed.
func TestConfirmSeesLaterTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "one")
		if err := r.group.Confirm(t.Context()); err != nil {
			t.Fatalf("Confirm of a leader: %v", err)
		}
		// What the leader has under way would be answered with the later term.
		synctest.Wait()
		for _, o := range c.others(n) {
			e := o.replicas[7].group.engine.Load()
			e.inbox.put(&raft.RequestVoteRequest{RPCHeader: e.headerOf(n.id, 1), Term: 99, LeadershipTransfer: true}, nil, 0, func(any, uint16, error) {})
		}
		synctest.Wait()
		if _, ok := r.group.IsReady(); !ok {
			t.Fatal("the old leader knows already; this test shows nothing")
		}
		wantNotLeader(t, r.group.Confirm(t.Context()))
	})
}

// A leader that was deposed and leads again is confirmed in its new term, and not in the one before: what it read in that may be
// older than what others wrote between.
func TestConfirmTermOfALeaderThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		before, ok := r.group.IsReady()
		if err := r.group.ConfirmTerm(t.Context(), before); err != nil || !ok {
			t.Fatalf("ConfirmTerm of a leader: %v", err)
		}
		if err := r.group.TransferLeadership(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		_, other := c.leader(7, c.others(n)...)
		other.propose(t, "between")
		if err := other.group.TransferLeadership(t.Context(), r.group.config.Self); err != nil {
			t.Fatal(err)
		}
		if back, _ := c.leader(7, n); back != n {
			t.Fatal("it does not lead again")
		}
		now, _ := r.group.IsReady()
		if err := r.group.ConfirmTerm(t.Context(), now); err != nil || now <= before {
			t.Errorf("term %d after %d: %v", now, before, err)
		}
		wantNotLeader(t, r.group.ConfirmTerm(t.Context(), before))
	})
}

// A replica whose group is closed or not open yet confirms nobody.
func TestConfirmNeedsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		others := c.others(n)
		if err := others[0].replicas[7].group.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.group.Confirm(t.Context()); err != nil {
			t.Errorf("two of three: %v", err)
		}
		if err := others[1].replicas[7].group.Close(); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.group.IsReady(); !ok {
			t.Fatal("the leader has given up already; this test shows nothing")
		}
		if err := r.group.Confirm(t.Context()); !errors.Is(err, ErrNotConfirmed) {
			t.Errorf("one of three: %v", err)
		}
	})
}

// Confirms share rounds, and a round that is under way proves nothing for those that come later.
func TestConfirmsShareRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		for _, o := range c.others(n) {
			c.net.setDelay(n.name, o.name, 10*time.Millisecond)
		}
		before := value(n.host.metrics.confirms.WithLabelValues("confirmed"))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := r.group.Confirm(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if rounds := value(n.host.metrics.confirms.WithLabelValues("confirmed")) - before; rounds < 1 || rounds > 3 {
			t.Errorf("50 checks at once took %v rounds, want 1 to 3", rounds)
		}
	})
}

// TestNothingAcknowledgedIsLost kills and cuts off leaders while several callers propose, and
// compares what they were told with what was applied.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano()) ^ rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			c := newCluster(t, 3, options...)
			c.openAll(7)
			h := newHistory()
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for caller := range 4 {
				wg.Go(func() { h.run(c, caller, stop) })
			}
			for round := range 6 { // each kind twice
				time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
				n, _ := c.leader(7)
				switch round % 3 {
				case 0:
					h.exclusive(func() { c.stop(n) })
					time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
					h.exclusive(func() { c.restart(n, 7) })
				case 1:
					c.net.isolate(true, n.name, names(c.nodes)...)
					time.Sleep(time.Duration(2000+rng.IntN(2000)) * time.Millisecond) // it is deposed
					c.net.isolate(false, n.name, names(c.nodes)...)
				case 2:
					c.net.reset(n.name)
				}
			}
			time.Sleep(3 * time.Second)
			close(stop)
			wg.Wait()
			_, r := c.leader(7)
			r.propose(t, "end")
			c.agree(7, []string{"end"})
			h.check(t, r.machine.seen())
		})
	})
}

// history is what callers were told.
type history struct {
	// replicas guards the cluster's replicas, which come and go.
	replicas sync.RWMutex
	mu       sync.Mutex
	told     map[string]Outcome // of failures; acknowledged ones are in acked
	acked    map[string]bool
	sent     map[string]bool
}

func newHistory() *history {
	return &history{told: map[string]Outcome{}, acked: map[string]bool{}, sent: map[string]bool{}}
}

func (h *history) exclusive(f func()) {
	h.replicas.Lock()
	defer h.replicas.Unlock()
	f()
}

// run proposes, several at once, from one goroutine, so that their order must be kept.
func (h *history) run(c *cluster, caller int, stop <-chan struct{}) {
	slots := make(chan struct{}, 8)
	for i := 0; ; i++ {
		// Virtual time only passes while everyone waits.
		time.Sleep(25 * time.Millisecond)
		select {
		case <-stop:
			for range cap(slots) {
				slots <- struct{}{}
			}
			return
		case slots <- struct{}{}:
		}
		what := fmt.Sprintf("%d %d", caller, i)
		h.mu.Lock()
		h.sent[what] = true
		h.mu.Unlock()
		done := func(_ any, err error) {
			h.mu.Lock()
			if err == nil {
				h.acked[what] = true
			} else {
				h.told[what] = OutcomeOf(err)
			}
			h.mu.Unlock()
			<-slots
		}
		if !h.propose(c, what, done) {
			done(nil, ErrStopped)
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (h *history) propose(c *cluster, what string, done func(any, error)) bool {
	h.replicas.RLock()
	defer h.replicas.RUnlock()
	for _, n := range c.nodes {
		if n.host == nil || n.replicas[7] == nil {
			continue
		}
		if _, ok := n.replicas[7].group.IsReady(); ok {
			n.replicas[7].group.ProposeAsync(Command{Data: []byte(what)}, done)
			return true
		}
	}
	return false
}

// check compares what was applied with what was told.
func (h *history) check(t *testing.T, applied []string) {
	t.Helper()
	at := map[string]int{}
	last := map[int]int{}
	for i, s := range applied {
		if s == "end" {
			continue
		}
		if _, twice := at[s]; twice {
			t.Errorf("%q was applied twice", s)
		}
		at[s] = i
		var caller, number int
		if _, err := fmt.Sscan(s, &caller, &number); err != nil || !h.sent[s] {
			t.Errorf("%q was applied and never proposed", s)
		}
		if before, ok := last[caller]; ok && number <= before {
			t.Errorf("caller %d: %d was applied after %d", caller, number, before)
		}
		last[caller] = number
	}
	uncertain, refused := 0, 0
	for s := range h.acked {
		if _, ok := at[s]; !ok {
			t.Errorf("%q was acknowledged and is lost", s)
		}
	}
	for s, o := range h.told {
		if o == MayHaveHappened {
			uncertain++
			continue
		}
		refused++
		if _, ok := at[s]; ok {
			t.Errorf("%q did not happen, its caller was told, and it was applied", s)
		}
	}
	t.Logf("%d acknowledged, %d uncertain, %d refused, %d applied", len(h.acked), uncertain, refused, len(applied))
	if len(h.acked) == 0 || refused+uncertain == 0 {
		t.Error("the run did not show both commands that were acknowledged and commands that were not")
	}
}

// Commands proposed from one goroutine are applied in that order, and told in that order.
func TestOrder(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			c.openAll(7)
			_, r := c.leader(7)
			const n = 3000
			var told []int
			done := make(chan struct{})
			for i := range n {
				r.group.ProposeAsync(Command{Data: []byte(strconv.Itoa(i))}, func(v any, err error) {
					if err != nil || v != i+1 {
						t.Errorf("command %d: %v, %v", i, v, err)
					}
					if told = append(told, i); len(told) == n {
						close(done)
					}
				})
			}
			<-done
			if !slices.IsSorted(told) {
				t.Error("results came out of order")
			}
			seen := r.machine.seen()
			for i := range n {
				if seen[i] != strconv.Itoa(i) {
					t.Fatalf("command %d applied is %q", i, seen[i])
				}
			}
		})
	})
}

// A leader is ready once its own leader-start is applied, and not before.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		c := newCluster(t, 3, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.Machine.(*journal).before = func(e *Entry) {
					if e.Kind == KindLeaderStart {
						<-hold
					}
				}
			}
		})
		c.openAll(7)
		var r *replica
		until(t, "an election", func() bool {
			for _, n := range c.nodes {
				if n.replicas[7].group.lead.Load() != nil {
					r = n.replicas[7]
				}
			}
			return r != nil
		})
		time.Sleep(50 * time.Millisecond)
		if _, ok := r.group.IsReady(); ok {
			t.Error("leader is ready before its leader-start is applied")
		}
		_, err := r.group.Propose(t.Context(), Command{Data: []byte("early")})
		wantNotLeader(t, err)
		wantNotLeader(t, r.group.Confirm(t.Context()))
		select {
		case e := <-r.events:
			t.Errorf("event %+v before the leader is ready", e)
		default:
		}
		close(hold)
		c.leader(7)
		e := <-r.events
		term, _ := r.group.IsReady()
		if !e.Ready || e.Term != term || e.Index == 0 || e.Context.Err() != nil {
			t.Errorf("event %+v, want ready in term %d", e, term)
		}
		ctx, cancel := r.group.TermContext(t.Context(), term)
		defer cancel()
		if other, cancel := r.group.TermContext(t.Context(), term+1); other.Err() == nil {
			t.Error("the context of another term is open")
			cancel()
		}
		for _, n := range c.nodes {
			if n.replicas[7] == r {
				c.net.isolate(true, n.name, names(c.nodes)...)
			}
		}
		lost := <-r.events
		if lost.Ready || lost.Term != term {
			t.Errorf("event %+v, want the end of term %d", lost, term)
		}
		<-ctx.Done()
		if e.Context.Err() == nil {
			t.Error("the leadership's context outlived it")
		}
		r.machine.mu.Lock()
		defer r.machine.mu.Unlock()
		if !slices.Equal(r.machine.starts, []record.Term{term}) {
			t.Errorf("leader-starts applied: %v, want one of term %d", r.machine.starts, term)
		}
	})
}

// A command that is computed in one leadership and ordered by another does not happen.
func TestAdmissionTerm(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			c.openAll(7)
			n, r := c.leader(7)
			term, _ := r.group.IsReady()
			_, err := r.group.Propose(t.Context(), Command{Data: []byte("old"), Term: term - 1})
			wantNotLeader(t, err)
			// The same, too late to be noticed before Raft has it.
			l := r.group.lead.Load()
			stale := &leadership{term: term - 1, engine: l.engine}
			stale.ctx, stale.cancel = context.WithCancel(t.Context())
			stale.ready.Store(true)
			r.group.lead.Store(stale)
			_, err = r.group.Propose(t.Context(), Command{Data: []byte("stale"), Term: term - 1})
			wantNotLeader(t, err)
			r.group.lead.Store(l)
			r.propose(t, "current")
			c.agree(7, []string{"current"})
			for _, n := range c.nodes {
				if got := n.replicas[7].machine.seen(); len(got) != 1 {
					t.Errorf("broker %d applied %q", n.id, got)
				}
			}
			if value(n.host.metrics.staleTerm) != 1 {
				t.Error("the entry that landed in another term is not counted")
			}
		})
	})
}

// The death of a broker that led many groups is over soon for all of them.
func TestManyGroupsFailOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 30
		c := newCluster(t, 3)
		for g := range GroupID(groups) {
			c.openAll(g + 10)
		}
		for g := range GroupID(groups) {
			c.leader(g + 10)
		}
		dead := c.nodes[0]
		time.Sleep(time.Second)
		c.stop(dead)
		died := time.Now()
		for g := range GroupID(groups) {
			_, r := c.leader(g+10, c.others(dead)...)
			r.propose(t, "on")
		}
		if took := time.Since(died); took > 600*time.Millisecond {
			t.Errorf("all groups had leaders after %v", took)
		}
		for _, n := range c.others(dead) {
			// While it stops it may connect once more.
			if got := value(n.host.metrics.deadBrokers); got < 1 || got > 2 {
				t.Errorf("broker %d found %v dead", n.id, got)
			}
		}
	})
}

// A broken connection alone changes nothing: the broker can be dialed.
func TestResetIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		term, _ := r.group.IsReady()
		for range 20 {
			c.net.reset(n.name)
			time.Sleep(300 * time.Millisecond)
		}
		if now, ok := r.group.IsReady(); !ok || now != term {
			t.Errorf("leadership of term %d was lost over broken connections: %+v", term, r.group.Status())
		}
		for _, n := range c.nodes {
			if got := value(n.host.metrics.deadBrokers); got != 0 {
				t.Errorf("broker %d found %v dead", n.id, got)
			}
		}
	})
}

// A follower that was away for long is sent what it missed as soon as it is back: the library would
// pause for up to 10 s, while the group has one replica less than it seems.
func TestReturnedFollowerIsFedAtOnce(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			c.openAll(7)
			n, r := c.leader(7)
			away := c.others(n)[0]
			c.stop(away)
			const missed = 60
			for i := range missed { // Each is an attempt to send to it.
				r.propose(t, fmt.Sprintf("while away %d", i))
				time.Sleep(time.Second)
			}
			c.start(away)
			time.Sleep(3 * time.Second) // It answers, and is still opening its groups.
			back := c.mustOpen(away, 7, MakeServerID(away.id, 1), members(3))
			opened := time.Now()
			until(t, "what it missed to be there", func() bool { return back.group.Status().LastIndex > missed })
			if took := time.Since(opened); took > 1200*time.Millisecond {
				t.Errorf("a follower that is back has what it missed after %v", took)
			}
		})
	})
}

// Nothing waits for a follower that is gone for good when leadership ends or it is removed.
func TestGoneFollowerHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		gone, other := c.others(n)[0], c.others(n)[1]
		c.stop(gone)
		for i := range 5 {
			r.propose(t, fmt.Sprintf("while away %d", i))
			time.Sleep(time.Second)
		}
		terms := func(n int, at, to *node) int {
			for range n {
				_, r := c.leader(7, at)
				r.propose(t, "again")
				if err := r.group.TransferLeadership(t.Context(), MakeServerID(to.id, 1)); err != nil {
					t.Fatal(err)
				}
				at, to = to, at
			}
			c.leader(7, at)
			time.Sleep(5 * time.Second)
			return runtime.NumGoroutine()
		}
		before := terms(4, n, other)
		if after := terms(40, n, other); after > before+3 {
			t.Errorf("%d goroutines after 44 terms, %d after 4", after, before)
		}
		_, r = c.leader(7, n)
		if err := r.group.Remove(t.Context(), MakeServerID(gone.id, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if after := runtime.NumGoroutine(); after >= before {
			t.Errorf("%d goroutines after the follower was removed, %d before", after, before)
		}
	})
}

func TestTransferLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		to := c.others(n)[1]
		if err := r.group.TransferLeadership(t.Context(), MakeServerID(to.id, 1)); err != nil {
			t.Fatal(err)
		}
		if at, _ := c.leader(7); at != to {
			t.Errorf("broker %d leads, want %d", at.id, to.id)
		}
		wantNotLeader(t, r.group.TransferLeadership(t.Context(), ""))
		err := to.replicas[7].group.TransferLeadership(t.Context(), "9/9")
		if err == nil || OutcomeOf(err) != DidNotHappen {
			t.Errorf("transfer to a stranger: %v", err)
		}
	})
}

// A voter that lags is refused before anything stops: whoever writes meanwhile does not notice.
func TestTransferToOneThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		to := c.others(n)[1]
		r.propose(t, "before")
		c.net.isolate(true, to.name, names(c.nodes)...)
		r.propose(t, "it lacks this")
		got := make(chan error)
		go func() { got <- r.group.TransferLeadership(t.Context(), MakeServerID(to.id, 1)) }()
		time.Sleep(closeTo / 2)
		began := time.Now()
		r.propose(t, "meanwhile")
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("a write needed %v while leadership was to be handed over", took)
		}
		if err := <-got; err == nil || OutcomeOf(err) != DidNotHappen {
			t.Errorf("transfer to one that lags: %v", err)
		}
		if at, _ := c.leader(7); at != n {
			t.Errorf("broker %d leads, want %d", at.id, n.id)
		}
	})
}

func TestMembership(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			one := members(1)
			r := c.mustOpen(c.nodes[0], 7, one[0].ID, one)
			started := time.Now()
			c.leader(7)
			if took := time.Since(started); took > 100*time.Millisecond {
				t.Errorf("a group of one needed %v to elect itself", took)
			}
			r.propose(t, "alone")
			for _, n := range c.nodes[1:] {
				id := MakeServerID(n.id, 1)
				c.mustOpen(n, 7, id, nil)
				if err := r.group.AddLearner(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				if s := r.group.Status(); !slices.Contains(s.Learners, id) {
					t.Errorf("status shows learners %v", s.Learners)
				}
				until(t, "the learner to follow", func() bool { return len(n.replicas[7].machine.seen()) > 0 })
				if role := n.replicas[7].group.Status().Role; role != RoleLearner {
					t.Errorf("role is %q", role)
				}
				if err := r.group.AddVoter(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			if s := r.group.Status(); len(s.Voters) != 3 || len(s.Learners) != 0 || s.Role != RoleLeader || !s.Ready || s.Leader != s.Self {
				t.Errorf("status %+v", s)
			}
			r.propose(t, "three")
			c.agree(7, []string{"alone", "three"})
			if err := r.group.Remove(t.Context(), r.group.Self()); err != nil {
				t.Fatal(err)
			}
			n, r2 := c.leader(7, c.nodes[1:]...)
			r2.propose(t, "two")
			if s := r2.group.Status(); len(s.Voters) != 2 {
				t.Errorf("voters %v after one was removed", s.Voters)
			}
			_ = n
			err := r2.group.AddVoter(t.Context(), "nonsense")
			if err == nil || OutcomeOf(err) != DidNotHappen {
				t.Errorf("AddVoter of nonsense: %v", err)
			}
			wantNotLeader(t, r.group.AddVoter(t.Context(), "1/1"))
		})
	})
}

func TestProposeOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := newCluster(t, 3, func(c *cluster) {
			c.config = func(conf *Config) {
				conf.MaxQueuedEntries, conf.MaxQueuedBytes, conf.MaxOutstandingBytes, conf.MaxEntryBytes = 10, 1<<20, 100, 4096
			}
			c.group = func(_ *node, gc *GroupConfig) {
				gc.Machine.(*journal).before = func(e *Entry) {
					if string(e.Data) == "wait" {
						<-release
					}
				}
			}
		})
		c.openAll(7)
		n, r := c.leader(7)
		follower := c.others(n)[0].replicas[7]
		_, err := follower.group.Propose(t.Context(), Command{Data: []byte("x")})
		wantNotLeader(t, err)
		var notLeader *NotLeaderError
		if errors.As(err, &notLeader) && notLeader.Leader != r.group.Self() {
			t.Errorf("follower says %q leads, want %q", notLeader.Leader, r.group.Self())
		}
		if _, err := r.group.Propose(t.Context(), Command{Data: make([]byte, 5000)}); !errors.Is(err, ErrTooLarge) || OutcomeOf(err) != DidNotHappen {
			t.Errorf("a large command: %v", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.group.Propose(ended, Command{Data: []byte("x")}); !errors.Is(err, context.Canceled) || OutcomeOf(err) != DidNotHappen {
			t.Errorf("a context that has ended: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := r.group.Propose(short, Command{Data: []byte("wait")}); !errors.Is(err, context.DeadlineExceeded) || OutcomeOf(err) != MayHaveHappened {
			t.Errorf("a context that ends meanwhile: %v", err)
		}
		// The queue fills behind it.
		results := make(chan error, 40)
		for i := range 40 {
			r.group.ProposeAsync(Command{Data: []byte(fmt.Sprintf("%0100d", i))}, func(_ any, err error) { results <- err })
		}
		synctest.Wait()
		busy := 0
		for range len(results) {
			if err := <-results; errors.Is(err, ErrBusy) && OutcomeOf(err) == DidNotHappen {
				busy++
			} else {
				t.Errorf("while the queue is full: %v", err)
			}
		}
		if busy < 25 || busy > 30 {
			t.Errorf("%d of 40 refused, want about 29", busy)
		}
		close(release)
		for range 40 - busy {
			if err := <-results; err != nil {
				t.Errorf("queued command: %v", err)
			}
		}
		// Leadership is lost over those that are under way.
		c.net.isolate(true, n.name, names(c.nodes)...)
		for range 5 {
			r.group.ProposeAsync(Command{Data: []byte("lost")}, func(_ any, err error) { results <- err })
		}
		uncertain := 0
		for range 5 {
			if err := <-results; OutcomeOf(err) == MayHaveHappened {
				uncertain++
			}
		}
		if uncertain == 0 {
			t.Error("no command under way when leadership was lost is uncertain")
		}
		if err := r.group.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.group.Propose(t.Context(), Command{Data: []byte("x")}); !errors.Is(err, ErrStopped) || OutcomeOf(err) != DidNotHappen {
			t.Errorf("a closed group: %v", err)
		}
		if OutcomeOf(errors.New("anything else")) != MayHaveHappened || OutcomeOf(nil) != DidNotHappen {
			t.Error("what is not known is not taken for uncertain")
		}
	})
}

// Commands under way when the group is closed are told, each once: also those that wait in one of
// Raft's channels, which Raft forgets.
func TestCloseTellsAll(t *testing.T) {
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			delay := new(atomic.Int64)
			c := newCluster(t, 3, func(c *cluster) {
				c.group = func(_ *node, gc *GroupConfig) {
					gc.wrapLog = func(l logStore) logStore { return slowStore{l, delay} }
				}
			})
			c.openAll(7)
			_, r := c.leader(7)
			time.Sleep(3 * time.Second)
			delay.Store(int64(50 * time.Millisecond))
			const n = 300
			results := make(chan error, n+1)
			propose := func(n int) {
				for range n {
					// Of a size at which Raft gets them though others are under way.
					r.group.ProposeAsync(Command{Data: make([]byte, gatherBytes/8)}, func(_ any, err error) { results <- err })
				}
				synctest.Wait()
			}
			propose(10)     // These hold Raft up in its log,
			propose(n - 10) // these wait in its channel meanwhile.
			if err := r.group.Close(); err != nil {
				t.Fatal(err)
			}
			var ok, refused, uncertain int
			for range n {
				switch err := <-results; {
				case err == nil:
					ok++
				case OutcomeOf(err) == DidNotHappen:
					refused++
				default:
					uncertain++
				}
			}
			t.Logf("%d applied, %d refused, %d uncertain", ok, refused, uncertain)
			synctest.Wait()
			if len(results) > 0 {
				t.Error("somebody was told twice")
			}
		})
	}
}

// When all brokers come back together nobody waits for a timeout.
func TestClusterComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		var ids []GroupID
		for g := range GroupID(10) {
			ids = append(ids, g+10)
			c.openAll(g + 10)
		}
		for _, id := range ids {
			_, r := c.leader(id)
			r.propose(t, "before")
		}
		for _, id := range ids {
			c.agree(id, []string{"before"})
		}
		for _, n := range c.nodes { // A power cut: nobody notices that the others die.
			c.net.isolate(true, n.name, names(c.nodes)...)
		}
		for _, n := range c.nodes {
			c.stop(n)
		}
		c.net.change(func() { clear(c.net.cut) })
		started := time.Now()
		for _, n := range c.nodes {
			c.restart(n, ids...)
		}
		for _, id := range ids {
			_, r := c.leader(id)
			r.propose(t, "after")
		}
		if took := time.Since(started); took > 700*time.Millisecond {
			t.Errorf("leaders after %v", took)
		}
		// One that comes back alone disturbs nobody.
		n, r := c.leader(ids[0])
		term, _ := r.group.IsReady()
		for _, o := range c.others(n) {
			c.stop(o)
			c.restart(o, ids...)
			time.Sleep(3 * time.Second)
		}
		if now, ok := r.group.IsReady(); !ok || now != term {
			t.Errorf("leadership of term %d was lost over followers that came back: %+v", term, r.group.Status())
		}
	})
}
