package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/record"
)

// Leadership is what a broker says of a group it leads.
type Leadership struct {
	Broker int32
	Term   record.Term
	// Ready: it has applied its leader-start (R1).
	Ready bool
}

const (
	// maxClaims bounds what one peer can claim.
	maxClaims = 2 * metadata.MaxPartitions
	// maxGone bounds the memory of groups no longer led; beyond it peers get the whole table.
	maxGone = 10_000
)

// leaders is the soft state: who leads which group, and who is alive. Nothing of it is agreed, each
// broker tells it to the others, and it may be wrong for a moment: whoever acts on it is told so by
// the broker it asks. Of two that claim a group the higher term counts.
type leaders struct {
	self      int32
	deadAfter time.Duration

	// told wakes when what we tell has changed; changed when anything has.
	told, changed signal

	// mu guards what follows. Nothing blocks under it.
	mu sync.Mutex
	// own are the groups we lead. version counts the changes; gone has those no longer led, with the
	// version at which they went; from floor on a difference can be told.
	own            map[metadata.GroupID]ownClaim
	gone           map[metadata.GroupID]uint64
	version, floor uint64
	// peers is what the others told.
	peers map[int32]*peerTable
	// best is the claim with the highest term, for each group that has any.
	best map[metadata.GroupID]Leadership
	// led are the groups that have had a ready leader since this broker started, or were waited for in vain.
	led map[metadata.GroupID]struct{}
}

type ownClaim struct {
	term    record.Term
	ready   bool
	version uint64
}

type peerTable struct {
	session, version uint64
	heard            time.Time
	alive            bool
	groups           map[metadata.GroupID]Leadership
}

func newLeaders(self int32, deadAfter time.Duration) *leaders {
	return &leaders{
		self: self, deadAfter: deadAfter, version: 1,
		own:   make(map[metadata.GroupID]ownClaim),
		gone:  make(map[metadata.GroupID]uint64),
		peers: make(map[int32]*peerTable),
		best:  make(map[metadata.GroupID]Leadership),
		led:   make(map[metadata.GroupID]struct{}),
	}
}

// find gives the best claim for a group.
func (l *leaders) find(g metadata.GroupID) (Leadership, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lead, ok := l.best[g]
	return lead, ok
}

// lead enters that we lead a group.
func (l *leaders) lead(g metadata.GroupID, term record.Term, ready bool) {
	l.mu.Lock()
	if c, ok := l.own[g]; ok && (c.term > term || c.term == term && c.ready == ready) {
		l.mu.Unlock()
		return
	}
	l.version++
	l.own[g] = ownClaim{term: term, ready: ready, version: l.version}
	delete(l.gone, g)
	l.choose(g)
	l.mu.Unlock()
	l.told.wake()
	l.changed.wake()
}

// resign enters that our leadership of a group in a term, or before, is over.
func (l *leaders) resign(g metadata.GroupID, term record.Term) {
	l.mu.Lock()
	c, ok := l.own[g]
	if !ok || c.term > term {
		l.mu.Unlock()
		return
	}
	delete(l.own, g)
	l.version++
	if len(l.gone) >= maxGone {
		clear(l.gone)
		l.floor = l.version
	}
	l.gone[g] = l.version
	l.choose(g)
	l.mu.Unlock()
	l.told.wake()
	l.changed.wake()
}

// report says what to tell a peer that has our table at a version; 0: it has none.
func (l *leaders) report(have uint64) (version, base uint64, leading []*peerv1.Leading, notLeading []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have < l.floor {
		have = 0
	}
	if have == l.version {
		return l.version, have, nil, nil
	}
	for g, c := range l.own {
		if c.version > have {
			leading = append(leading, &peerv1.Leading{GroupId: uint64(g), Term: uint64(c.term), Ready: c.ready})
		}
	}
	if have > 0 {
		for g, v := range l.gone {
			if v > have {
				notLeading = append(notLeading, uint64(g))
			}
		}
	}
	return l.version, have, leading, notLeading
}

// prune forgets the groups no longer led that all peers have been told of.
func (l *leaders) prune(told uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g, v := range l.gone {
		if v <= told {
			delete(l.gone, g)
		}
	}
	l.floor = max(l.floor, told)
}

// receive enters what a peer tells; resend: its whole table is needed.
func (l *leaders) receive(broker int32, r *peerv1.ReportStatusRequest, now time.Time) (resend bool) {
	if len(r.GetLeading()) > maxClaims {
		return false
	}
	l.mu.Lock()
	p := l.hear(broker, now)
	changed := false
	switch {
	case r.GetSession() == p.session && r.GetVersion() < p.version:
		// Overtaken by a later report.
	case r.GetBase() == 0:
		changed = l.replace(broker, p, r)
	case r.GetSession() == p.session && r.GetBase() <= p.version:
		// Changes that we know already do no harm.
		changed = l.change(broker, p, r)
	default:
		resend = true
	}
	l.mu.Unlock()
	if changed {
		l.changed.wake()
	}
	return resend
}

func (l *leaders) replace(broker int32, p *peerTable, r *peerv1.ReportStatusRequest) bool {
	old := p.groups
	p.groups = make(map[metadata.GroupID]Leadership, len(r.GetLeading()))
	p.session, p.version = r.GetSession(), r.GetVersion()
	changed := l.enter(broker, p, r.GetLeading())
	for g := range old {
		if _, ok := p.groups[g]; !ok {
			l.choose(g)
			changed = true
		}
	}
	return changed
}

func (l *leaders) change(broker int32, p *peerTable, r *peerv1.ReportStatusRequest) bool {
	if len(p.groups)+len(r.GetLeading()) > maxClaims {
		return false
	}
	p.version = r.GetVersion()
	changed := l.enter(broker, p, r.GetLeading())
	for _, g := range r.GetNotLeading() {
		if _, ok := p.groups[metadata.GroupID(g)]; ok {
			delete(p.groups, metadata.GroupID(g))
			l.choose(metadata.GroupID(g))
			changed = true
		}
	}
	return changed
}

func (l *leaders) enter(broker int32, p *peerTable, leading []*peerv1.Leading) bool {
	for _, c := range leading {
		g := metadata.GroupID(c.GetGroupId())
		p.groups[g] = Leadership{Broker: broker, Term: record.Term(c.GetTerm()), Ready: c.GetReady()}
		l.choose(g)
	}
	return len(leading) > 0
}

// choose finds the best claim for a group again.
func (l *leaders) choose(g metadata.GroupID) {
	var best Leadership
	found := false
	if c, ok := l.own[g]; ok {
		best, found = Leadership{Broker: l.self, Term: c.term, Ready: c.ready}, true
	}
	for _, p := range l.peers {
		if c, ok := p.groups[g]; ok && (!found || c.Term > best.Term) {
			best, found = c, true
		}
	}
	if found {
		l.best[g] = best
		if best.Ready {
			l.enterLed(g)
		}
	} else {
		delete(l.best, g)
	}
}

// enterLed remembers a group. Of those forgotten, as all are now and then, new leaders are waited for once more, which does no harm.
func (l *leaders) enterLed(g metadata.GroupID) {
	if len(l.led) >= maxClaims {
		clear(l.led)
	}
	l.led[g] = struct{}{}
}

// neverLed gives those of the groups that have not had a ready leader yet.
func (l *leaders) neverLed(groups []metadata.GroupID) (list []metadata.GroupID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range groups {
		if _, ok := l.led[g]; !ok {
			list = append(list, g)
		}
	}
	return list
}

// awaitFirst waits until each of the groups has had a ready leader. When the time of the context is over first, they count as if they had.
func (l *leaders) awaitFirst(ctx context.Context, groups []metadata.GroupID) {
	for {
		changed := l.changed.wait()
		if groups = l.neverLed(groups); len(groups) == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return // who asked has gone, and has not waited for long
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, g := range groups {
				l.enterLed(g)
			}
			return
		}
	}
}

// heard enters that a broker lives.
func (l *leaders) heard(broker int32, now time.Time) {
	if broker == l.self {
		return
	}
	l.mu.Lock()
	back := !l.peers[broker].lives()
	l.hear(broker, now)
	l.mu.Unlock()
	if back {
		l.changed.wake()
	}
}

func (p *peerTable) lives() bool { return p != nil && p.alive }

func (l *leaders) hear(broker int32, now time.Time) *peerTable {
	p := l.peers[broker]
	if p == nil {
		p = &peerTable{groups: make(map[metadata.GroupID]Leadership)}
		l.peers[broker] = p
	}
	p.heard, p.alive = now, true
	return p
}

// expire forgets what brokers told that have not been heard for too long, and all of brokers that are
// no longer registered.
func (l *leaders) expire(now time.Time, registered func(int32) bool) (alive int) {
	l.mu.Lock()
	changed := false
	alive = 1
	for id, p := range l.peers {
		gone := !registered(id)
		if p.alive && (gone || now.Sub(p.heard) > l.deadAfter) {
			old := p.groups
			// Without a session the next report is asked for whole.
			p.alive, p.session, p.version, p.groups = false, 0, 0, make(map[metadata.GroupID]Leadership)
			for g := range old {
				l.choose(g)
			}
			changed = true
		}
		if gone {
			delete(l.peers, id)
		} else if p.alive {
			alive++
		}
	}
	l.mu.Unlock()
	if changed {
		l.changed.wake()
	}
	return alive
}

// lastHeard is when a broker was heard last, and whether it counts as alive.
func (l *leaders) lastHeard(broker int32) (at time.Time, alive bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[broker]
	if p == nil {
		return time.Time{}, false
	}
	return p.heard, p.alive
}

// Leader says who leads a group, as far as this broker has been told. Partitions without a leader
// that is ready cannot be used.
func (c *Cluster) Leader(g metadata.GroupID) (Leadership, bool) {
	return c.leaders.find(g)
}

// LeadersChanged gives a channel that is closed at the next change of what Leader or Alive say. Ask
// for it before asking them.
func (c *Cluster) LeadersChanged() <-chan struct{} { return c.leaders.changed.wait() }

// AwaitFirstLeaders waits for the first ready leader of groups that this broker has not heard of any for: of topics that are new, or
// because the broker is. Such a group is waited for until the deadline of one caller, and never again: one without a leader for
// another reason is not waited for at all.
func (c *Cluster) AwaitFirstLeaders(ctx context.Context, groups []metadata.GroupID) {
	c.leaders.awaitFirst(ctx, groups)
}

// SetLeading tells the peers that this broker leads a group in a term, and whether it is ready.
func (c *Cluster) SetLeading(g metadata.GroupID, term record.Term, ready bool) {
	c.leaders.lead(g, term, ready)
}

// ClearLeading tells the peers that this broker's leadership of a group in a term is over.
func (c *Cluster) ClearLeading(g metadata.GroupID, term record.Term) { c.leaders.resign(g, term) }

// Alive says whether a broker has been heard lately. This broker is alive.
func (c *Cluster) Alive(broker int32) bool {
	if broker == c.config.Broker {
		return true
	}
	_, alive := c.leaders.lastHeard(broker)
	return alive
}

// LastHeard says when a broker has been heard last; zero: not since this broker started.
func (c *Cluster) LastHeard(broker int32) time.Time {
	if broker == c.config.Broker {
		return time.Now()
	}
	at, _ := c.leaders.lastHeard(broker)
	return at
}
