package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/record"
)

func claims(session, version, base uint64, leading ...*peerv1.Leading) *peerv1.ReportStatusRequest {
	return &peerv1.ReportStatusRequest{Session: session, Version: version, Base: base, Leading: leading}
}

func leading(g, term uint64) *peerv1.Leading {
	return &peerv1.Leading{GroupId: g, Term: term, Ready: true}
}

var t0 = time.UnixMilli(1_000_000)

func all(int32) bool { return true }

// TestHigherTermCounts: of those who claim a group the one with the higher term is believed, in
// whatever order they are heard, and the other one when it is gone.
func TestHigherTermCounts(t *testing.T) {
	l := newLeaders(1, time.Second)
	is := func(broker int32, term record.Term) {
		t.Helper()
		got, ok := l.find(7)
		if ok != (broker != 0) || ok && (got.Broker != broker || got.Term != term) {
			t.Fatalf("leader %v, %v; want broker %d in term %d", got, ok, broker, term)
		}
	}
	is(0, 0)
	l.receive(2, claims(22, 1, 0, leading(7, 5)), t0)
	is(2, 5)
	l.receive(3, claims(33, 1, 0, leading(7, 4)), t0)
	is(2, 5)
	l.lead(7, 6, true)
	is(1, 6)
	l.lead(7, 5, true) // an event of an earlier term comes late
	is(1, 6)
	l.resign(7, 5) // so does its end
	is(1, 6)
	l.receive(3, claims(33, 2, 1, leading(7, 8)), t0)
	is(3, 8)
	l.receive(3, &peerv1.ReportStatusRequest{Session: 33, Version: 3, Base: 2, NotLeading: []uint64{7}}, t0)
	is(1, 6)
	l.resign(7, 6)
	is(2, 5)
	l.receive(2, claims(22, 9, 0), t0)
	is(0, 0)
}

// TestSilentBrokersAge: what a broker told is forgotten when it has not been heard for longer than the
// limit, not before; when it is back its whole table is asked for; one that is not registered goes.
func TestSilentBrokersAge(t *testing.T) {
	l := newLeaders(1, 3*time.Second)
	l.receive(2, claims(22, 5, 0, leading(7, 5)), t0)
	l.receive(3, claims(33, 1, 0), t0)
	if n := l.expire(t0.Add(3*time.Second), all); n != 3 {
		t.Fatalf("%d alive at the limit", n)
	}
	l.heard(3, t0.Add(2*time.Second))
	changed := l.changed.wait()
	if n := l.expire(t0.Add(3*time.Second+1), all); n != 2 {
		t.Fatalf("%d alive past the limit", n)
	}
	select {
	case <-changed:
	default:
		t.Fatal("nobody was woken")
	}
	if _, ok := l.find(7); ok {
		t.Fatal("the claim of a silent broker is still there")
	}
	if at, alive := l.lastHeard(2); alive || at != t0 {
		t.Fatalf("alive %v, heard at %v", alive, at)
	}
	if !l.receive(2, claims(22, 6, 5, leading(8, 1)), t0.Add(4*time.Second)) {
		t.Fatal("changes to a table that has been forgotten were taken")
	}
	if _, alive := l.lastHeard(2); !alive {
		t.Fatal("it speaks and is not alive")
	}
	if l.receive(2, claims(22, 6, 0, leading(7, 5), leading(8, 1)), t0.Add(4*time.Second)) {
		t.Fatal("a whole table was not taken")
	}
	if got, ok := l.find(7); !ok || got.Broker != 2 {
		t.Fatal("not known again")
	}
	l.expire(t0.Add(4*time.Second), func(id int32) bool { return id != 2 })
	if _, ok := l.find(7); ok || l.peers[2] != nil {
		t.Fatal("an unregistered broker is remembered")
	}
}

// TestReportsOvertakeEachOther: an older report changes nothing, a restarted process begins anew.
func TestReportsOvertakeEachOther(t *testing.T) {
	l := newLeaders(1, time.Second)
	l.receive(2, claims(22, 3, 0, leading(7, 5)), t0)
	l.receive(2, claims(22, 2, 0, leading(7, 4), leading(8, 4)), t0)
	if _, ok := l.find(8); ok {
		t.Fatal("an overtaken report was taken")
	}
	if !l.receive(2, claims(99, 9, 3, leading(9, 9)), t0) {
		t.Fatal("changes from another process were taken")
	}
	if l.receive(2, claims(99, 1, 0, leading(9, 9)), t0) {
		t.Fatal("the table of the new process was not taken")
	}
	if _, ok := l.find(7); ok {
		t.Fatal("claims of the old process are still there")
	}
}

// TestClaimsOfAPeerAreBounded: a peer can make us remember so much and no more.
func TestClaimsOfAPeerAreBounded(t *testing.T) {
	l := newLeaders(1, time.Second)
	flood := make([]*peerv1.Leading, maxClaims+1)
	for i := range flood {
		flood[i] = leading(uint64(i), 1)
	}
	l.receive(2, claims(22, 1, 0, flood...), t0)
	if n := len(l.best); n != 0 {
		t.Fatalf("%d claims", n)
	}
	l.receive(2, claims(22, 1, 0, flood[:maxClaims]...), t0)
	l.receive(2, claims(22, 2, 1, leading(1<<40, 1)), t0)
	if n := len(l.best); n != maxClaims {
		t.Fatalf("%d claims", n)
	}
}

// TestGoneIsBounded: who has not been told for long gets the whole table.
func TestGoneIsBounded(t *testing.T) {
	l := newLeaders(1, time.Second)
	l.lead(1, 1, true)
	old, _, _, _ := l.report(0)
	for i := range metadata.GroupID(maxGone + 10) {
		l.lead(100+i, 1, true)
		l.resign(100+i, 1)
	}
	if len(l.gone) > maxGone {
		t.Fatalf("%d groups gone are remembered", len(l.gone))
	}
	if _, base, lead, _ := l.report(old); base != 0 || len(lead) != 1 {
		t.Fatalf("base %d, %d claims", base, len(lead))
	}
}

// TestReportsUnderFaults: two tables over a link that loses, repeats and reorders, and two processes
// that restart. Once a report and its answer get through, the other side knows exactly what is led.
func TestReportsUnderFaults(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		sender, receiver := newLeaders(2, time.Second), newLeaders(1, time.Second)
		session, has := rng.Uint64(), uint64(0)
		var late []*peerv1.ReportStatusRequest
		for step := range 400 {
			g := metadata.GroupID(rng.IntN(8))
			switch rng.IntN(10) {
			case 0, 1, 2:
				sender.lead(g, record.Term(rng.IntN(9)), rng.IntN(2) == 0)
			case 3, 4:
				sender.resign(g, record.Term(rng.IntN(9)))
			case 5:
				sender.prune(min(has, uint64(rng.IntN(400))))
			case 6:
				if rng.IntN(8) == 0 {
					sender, session, has = newLeaders(2, time.Second), rng.Uint64(), 0
				} else if rng.IntN(8) == 0 {
					receiver.expire(t0.Add(time.Hour), all)
				}
			case 7:
				if len(late) > 0 { // a report that was on the way for long
					receiver.receive(2, late[rng.IntN(len(late))], t0)
				}
			default:
				version, base, lead, gone := sender.report(has)
				req := &peerv1.ReportStatusRequest{Session: session, Version: version, Base: base, Leading: lead, NotLeading: gone}
				if rng.IntN(3) == 0 {
					late = append(late, req)
					continue // lost, or late
				}
				resend := receiver.receive(2, req, t0)
				if rng.IntN(4) == 0 {
					continue // the answer is lost
				}
				if resend {
					has = 0
					continue
				}
				has = version
				if want, got := table(sender, 2), table(receiver, 2); got != want {
					t.Fatalf("seed %d step %d: the receiver knows %s, the sender leads %s", seed, step, got, want)
				}
			}
		}
	}
}

func table(l *leaders, broker int32) string {
	s := ""
	for g := range metadata.GroupID(8) {
		if lead, ok := l.find(g); ok && lead.Broker == broker {
			s += fmt.Sprintf(" %d:%d:%v", g, lead.Term, lead.Ready)
		}
	}
	return s
}

// TestLeadershipsAreTold: what a broker leads is known to all, and forgotten when it dies.
func TestLeadershipsAreTold(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		b.cluster.SetLeading(5000, 7, true)
		for _, n := range []*node{a, b, c} {
			r.within(time.Second, "the leader to be known", func() bool {
				lead, ok := n.cluster.Leader(5000)
				return ok && lead == Leadership{Broker: 2, Term: 7, Ready: true}
			})
		}
		start := time.Now()
		b.crash()
		for _, n := range []*node{a, c} {
			r.within(10*time.Second, "the leader to be forgotten", func() bool {
				_, ok := n.cluster.Leader(5000)
				return !ok && !n.cluster.Alive(2)
			})
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Fatalf("forgotten after %v", took)
		}
		b = r.start(2)
		r.ready(b)
		a.cluster.SetLeading(5001, 3, true)
		r.within(5*time.Second, "a restarted broker to know who leads", func() bool {
			lead, ok := b.cluster.Leader(5001)
			return ok && lead.Broker == 1 && a.cluster.Alive(2)
		})
		a.cluster.ClearLeading(5001, 3)
		r.within(time.Second, "the end to be told", func() bool {
			_, ok := b.cluster.Leader(5001)
			return !ok
		})
	})
}

// First leaders are waited for, those that are not ready and other groups' do not count; a group that has had one, or was waited for in
// vain, is not waited for.
func TestFirstLeadersAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeaders(1, time.Hour)
		waits := func(most time.Duration, groups ...metadata.GroupID) time.Duration {
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			start := time.Now()
			l.awaitFirst(ctx, groups)
			return time.Since(start)
		}
		go func() {
			time.Sleep(time.Second)
			l.receive(2, claims(22, 1, 0, leading(7, 5), leading(9, 5)), time.Now())
			time.Sleep(time.Second)
			l.receive(2, claims(22, 2, 1, &peerv1.Leading{GroupId: 8, Term: 5}), time.Now())
			time.Sleep(time.Second)
			l.receive(2, claims(22, 3, 2, leading(8, 5)), time.Now())
		}()
		if d := waits(time.Minute, 7, 8); d != 3*time.Second {
			t.Errorf("waited %v; the last of two groups has a ready leader after 3s", d)
		}
		l.receive(2, claims(22, 4, 0), time.Now())
		if _, ok := l.find(7); ok {
			t.Fatal("group 7 has a leader still")
		}
		if d := waits(time.Minute, 7, 8, 9); d != 0 {
			t.Errorf("waited %v for groups that have had a leader", d)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		l.awaitFirst(gone, []metadata.GroupID{10}) // who does not wait takes the wait from nobody
		if d := waits(5*time.Second, 8, 10); d != 5*time.Second {
			t.Errorf("waited %v in vain; the context gives 5s", d)
		}
		if d := waits(5*time.Second, 10); d != 0 {
			t.Errorf("waited %v for a group that was waited for in vain", d)
		}
	})
}

// What is remembered of groups has a bound.
func TestGroupsThatWereLedAreBounded(t *testing.T) {
	l := newLeaders(1, time.Hour)
	for g := range metadata.GroupID(maxClaims + 10) {
		l.enterLed(g)
	}
	if n := len(l.led); n > maxClaims || n == 0 {
		t.Errorf("%d groups", n)
	}
}
