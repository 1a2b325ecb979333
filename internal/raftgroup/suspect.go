package raftgroup

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A broker whose connection breaks and whose port then refuses to be dialed is dead: its process is
// gone. The groups it led need not wait for HeartbeatTimeout. A broker that hangs, or that the
// network cuts off, refuses nothing and gets its time. Being wrong costs an election, no more:
// nothing is concluded from it but that this is a good moment for one.

// suspectStagger is how long a follower lets the one before it go first, as a part of
// HeartbeatTimeout. Two at once would split the votes.
const suspectStagger = 4

// suspectPause is how long after a look at a broker that may be dying the next one is.
const suspectPause = 10 * time.Millisecond

// suspect looks at a broker whose connection to this one has broken.
func (h *Host) suspect(broker int32) {
	if len(h.ledBy(broker)) == 0 {
		return
	}
	p := h.peer(broker)
	if !p.suspected.CompareAndSwap(false, true) {
		return
	}
	defer p.suspected.Store(false)
	if died := p.died.Load(); died != 0 && time.Since(time.Unix(0, died)) < h.config.HeartbeatTimeout {
		return // Its other connections break, too.
	}
	for end := time.Now().Add(h.config.HeartbeatTimeout); time.Now().Before(end); {
		led := h.ledBy(broker)
		if len(led) == 0 {
			return
		}
		for id := range led {
			l, err := p.control.get(id, h.ctx.Done())
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				p.died.Store(time.Now().UnixNano())
				h.brokerDied(broker)
				return
			case err == nil && h.ping(l), hangs(err):
				return
			}
			break // The link was broken, too, or the port is about to close: look again.
		}
		if !h.sleep(suspectPause) {
			return
		}
	}
}

// hangs says whether a dial was given up because nothing came. A process that is being killed is another
// thing: the kernel closes what it has open one by one, and its port may still take connections, and lose them, when others are lost.
func hangs(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// ping says whether the other end of a link answers before the link breaks.
func (h *Host) ping(l *link) bool {
	got := make(chan bool, 1)
	l.ask(&frame{kind: framePing}, &call{kind: framePong, done: func(_ *frame, err error) { got <- err == nil }})
	select {
	case ok := <-got:
		return ok
	case <-h.ctx.Done():
		return true
	}
}

// ledBy gives the groups here that replicas of a broker lead.
func (h *Host) ledBy(broker int32) map[ServerID][]*Group {
	led := make(map[ServerID][]*Group)
	for _, g := range h.Groups() {
		id, _ := g.Leader()
		if b, _, err := ParseServerID(id); err == nil && b == broker {
			led[id] = append(led[id], g)
		}
	}
	return led
}

// brokerDied has the groups that a dead broker led elect somebody else now.
func (h *Host) brokerDied(broker int32) {
	led := h.ledBy(broker)
	h.metrics.deadBrokers.Inc()
	n := 0
	for id, groups := range led {
		n += len(groups)
		for _, g := range groups {
			g.goroutine(func() { g.replaceLeader(id) })
		}
	}
	h.logger.Warn("broker is gone: its port refuses connections", "peer", broker, "groups_it_led", n)
}

// replaceLeader stands for election in the place of a dead leader. The voters go one after the
// other, in an order that differs from group to group; the first is usually elected before the
// second would begin.
func (g *Group) replaceLeader(dead ServerID) {
	e := g.engine.Load()
	if e == nil {
		return
	}
	if term := e.raft.CurrentTerm(); g.replacing.Swap(term) == term {
		return // Once for each leader.
	}
	var others []ServerID
	for _, v := range g.voters(e) {
		if v != dead {
			others = append(others, v)
		}
	}
	for i, v := range others {
		if v != g.config.Self {
			continue
		}
		rank := (uint64(i) + uint64(g.config.ID)) % uint64(len(others))
		if rank > 0 {
			timer := time.NewTimer(time.Duration(rank) * g.host.config.HeartbeatTimeout / suspectStagger)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-e.stopping:
				return
			}
		}
		_, leader := e.raft.LeaderWithID()
		if e.raft.State() == raft.Follower && (ServerID(leader) == dead || leader == "") {
			e.inbox.put(timeoutNow(g), nil, 0, func(any, uint16, error) {})
		}
		return
	}
}
