package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
)

// statusTimeout bounds one report. A peer that takes longer is as good as gone for a while.
const statusTimeout = time.Second

// reporters runs one reporter for each registered broker but us, until the context ends, and forgets
// what the dead told.
func (c *Cluster) reporters(ctx context.Context) error {
	var seed [8]byte
	if _, err := io.ReadFull(c.config.Rand, seed[:]); err != nil {
		return fmt.Errorf("make a session id: %w", err)
	}
	session := binary.BigEndian.Uint64(seed[:]) | 1
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[int32]*reporter)
	tick := time.NewTicker(c.config.StatusInterval)
	defer tick.Stop()
	for {
		img := c.Image()
		for _, b := range img.Brokers() {
			if b.ID == c.config.Broker || running[b.ID] != nil {
				continue
			}
			r := &reporter{c: c, broker: b.ID, session: session}
			r.ctx, r.cancel = context.WithCancel(ctx)
			running[b.ID] = r
			wg.Go(r.run)
		}
		told := uint64(1 << 63)
		for id, r := range running {
			if _, ok := img.Broker(id); !ok {
				r.cancel()
				delete(running, id)
				continue
			}
			told = min(told, r.told())
		}
		if len(running) > 0 {
			c.leaders.prune(told)
		}
		alive := c.leaders.expire(time.Now(), func(id int32) bool { _, ok := img.Broker(id); return ok })
		c.metrics.aliveBrokers.Set(float64(alive))
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, id := range slices.Sorted(maps.Keys(running)) {
				running[id].cancel()
			}
			return nil
		}
	}
}

// reporter tells one peer what we lead: at once when it changes, and else every StatusInterval, which
// is also how the peer knows that we live.
type reporter struct {
	c       *Cluster
	broker  int32
	session uint64
	ctx     context.Context
	cancel  context.CancelFunc

	mu sync.Mutex
	// has is the version of our table that the peer has; 0: none.
	has uint64
}

func (r *reporter) told() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has
}

func (r *reporter) setTold(v uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.has = v
}

func (r *reporter) run() {
	defer r.cancel()
	tick := time.NewTicker(r.c.config.StatusInterval)
	defer tick.Stop()
	for r.ctx.Err() == nil {
		changed := r.c.leaders.told.wait()
		again := r.report()
		if again {
			continue
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-r.ctx.Done():
		}
	}
}

// report sends one report; again: the peer wants the whole table, now.
func (r *reporter) report() (again bool) {
	to, ok := r.c.PeerTarget(r.broker)
	if !ok {
		return false
	}
	has := r.told()
	version, base, leading, notLeading := r.c.leaders.report(has)
	ctx, cancel := context.WithTimeout(r.ctx, statusTimeout)
	defer cancel()
	resp, err := r.c.client.ReportStatus(ctx, to, &peerv1.ReportStatusRequest{
		Node: r.c.self(), Session: r.session, Version: version, Base: base, Leading: leading, NotLeading: notLeading,
	})
	if err != nil {
		if r.ctx.Err() == nil {
			r.c.metrics.statusFailures.Inc()
		}
		return false
	}
	r.c.meet(resp.GetNode())
	if resp.GetReplaced() {
		r.c.Doubt()
	}
	if resp.GetResend() {
		r.c.metrics.statusResends.Inc()
		r.setTold(0)
		return has != 0
	}
	r.setTold(version)
	return false
}

// ReportStatus takes what a peer tells (peer.Handler).
func (c *Cluster) ReportStatus(_ context.Context, caller peer.Identity, req *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error) {
	b, ok := c.Image().Broker(caller.Broker)
	resp := &peerv1.ReportStatusResponse{Node: c.self(), Resend: true}
	if resp.Replaced = ok && b.Incarnation != caller.Incarnation; ok && !resp.Replaced {
		c.book.learn(nodeOf(caller, req.GetNode()))
		resp.Resend = c.leaders.receive(caller.Broker, req, time.Now())
	}
	return resp, nil
}

// nodeOf is what a caller says of itself, as far as it agrees with who it is.
func nodeOf(caller peer.Identity, n *peerv1.Node) *peerv1.Node {
	if n.GetBrokerId() != caller.Broker || n.GetNodeIncarnation() != caller.Incarnation {
		return nil
	}
	return n
}

// meet takes note of a broker of our cluster that has just answered.
func (c *Cluster) meet(n *peerv1.Node) {
	if n == nil || n.GetClusterId() != c.ClusterID() || n.GetBrokerId() == c.config.Broker {
		return
	}
	if b, ok := c.Image().Broker(n.GetBrokerId()); ok && b.Incarnation != n.GetNodeIncarnation() {
		return
	}
	c.book.learn(n)
	c.leaders.heard(n.GetBrokerId(), time.Now())
}
