package cluster

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// How a cluster begins, and why there is never a second one (DESIGN.md, "Beginning"):
//
//	1. A broker without a cluster asks all seeds who they are (Hello). If one is a member of a
//	   cluster, it joins that.
//	2. Only when all seeds have answered, and none belongs to a cluster, the seed with the lowest
//	   broker id goes on; the others wait. It writes down the cluster's id: it belongs to this one.
//	3. It asks each of the others to promise itself to that id (Form). A promise is on the promiser's
//	   disk before it is given, and nobody promises itself to two.
//	4. When all have promised, it writes down the founders and bootstraps the metadata group with them.
//	   It is the only one to bootstrap; the others wait to be contacted.
//
// Each step can be repeated after a crash. A cluster exists only if all seeds have promised, and a
// seed promises once, so two clusters with a common seed cannot both come to exist.

const (
	helloTimeout = 2 * time.Second
	// The pause between two rounds of Hello.
	firstPause = 50 * time.Millisecond
	mostPause  = time.Second
)

// answer is what came of asking one seed.
type answer struct {
	seed string
	node *peerv1.Node
	err  error
}

type verdict int

const (
	// wait and ask again; the reason says what for.
	wait verdict = iota
	// join the cluster that exists.
	join
	// form a cluster with the founders.
	form
	// failed: the configuration contradicts itself.
	failed
)

// decision is what to do after a round of Hello.
type decision struct {
	verdict verdict
	reason  string
	// cluster to join.
	cluster string
	// founders by broker id, and the feature level they start with.
	founders []founder
	level    uint16
	err      error
}

type founder struct {
	id          int32
	incarnation uint64
	address     string
}

func waitFor(format string, args ...any) decision {
	return decision{verdict: wait, reason: fmt.Sprintf(format, args...)}
}

func failedBecause(format string, args ...any) decision {
	return decision{verdict: failed, err: fmt.Errorf(format, args...)}
}

// decide judges a round of Hello. It is pure. answers has one entry for each seed; self is this broker,
// which is not yet a member.
func decide(self *peerv1.Node, answers []answer) decision {
	nodes, silent, d := distinct(self, answers)
	if d.verdict == failed {
		return d
	}
	var exists string
	for _, n := range nodes {
		if n.node.GetMembership() != peerv1.Membership_MEMBERSHIP_MEMBER {
			continue
		}
		id := n.node.GetClusterId()
		if exists != "" && exists != id {
			return failedBecause("the seeds belong to two clusters, %s and %s (broker %d at %s)", exists, id, n.node.GetBrokerId(), n.seed)
		}
		exists = id
	}
	mine := self.GetClusterId()
	switch {
	case exists != "" && mine != "" && exists != mine:
		return failedBecause("%w: it is promised to cluster %s, and the seeds belong to cluster %s", ErrForeignData, mine, exists)
	case exists != "":
		return decision{verdict: join, cluster: exists}
	case !slices.ContainsFunc(nodes, func(n answer) bool { return n.node.GetNodeIncarnation() == self.GetNodeIncarnation() }) && len(silent) == 0:
		return waitFor("the seeds %s to form a cluster; this broker is not among them", seedsOf(nodes))
	case len(silent) > 0:
		return waitFor("all seeds to answer; not yet: %s", strings.Join(silent, "; "))
	}
	for _, n := range nodes {
		if id := n.node.GetClusterId(); id != "" && id != mine {
			return waitFor("cluster %s to be formed, to which broker %d is promised", id, n.node.GetBrokerId())
		}
	}
	if lowest := nodes[0].node; lowest.GetBrokerId() != self.GetBrokerId() {
		return waitFor("broker %d to form the cluster", lowest.GetBrokerId())
	}
	return formWith(nodes)
}

// distinct gives the answers of different brokers, by broker id, and what the silent ones said.
func distinct(self *peerv1.Node, answers []answer) (nodes []answer, silent []string, d decision) {
	known := []answer{{seed: self.GetPeerAddress(), node: self}}
	for _, a := range answers {
		if a.err != nil {
			silent = append(silent, fmt.Sprintf("%s (%v)", a.seed, a.err))
			continue
		}
		for _, k := range known {
			if k.node.GetBrokerId() == a.node.GetBrokerId() && k.node.GetNodeIncarnation() != a.node.GetNodeIncarnation() {
				return nil, nil, failedBecause("two brokers have the id %d: at %s and at %s", a.node.GetBrokerId(), k.seed, a.seed)
			}
		}
		same := func(k answer) bool { return k.node.GetNodeIncarnation() == a.node.GetNodeIncarnation() }
		if !slices.ContainsFunc(nodes, same) {
			nodes = append(nodes, a)
		}
		known = append(known, a)
	}
	slices.SortFunc(nodes, func(x, y answer) int { return cmp.Compare(x.node.GetBrokerId(), y.node.GetBrokerId()) })
	return nodes, silent, decision{}
}

func seedsOf(nodes []answer) string {
	var s []string
	for _, n := range nodes {
		s = append(s, n.seed)
	}
	return strings.Join(s, ", ")
}

func formWith(nodes []answer) decision {
	lo, hi := uint32(0), uint32(1<<16-1)
	d := decision{verdict: form}
	for _, n := range nodes {
		lo, hi = max(lo, n.node.GetMinFeatureLevel()), min(hi, n.node.GetMaxFeatureLevel())
		d.founders = append(d.founders, founder{id: n.node.GetBrokerId(), incarnation: n.node.GetNodeIncarnation(), address: n.node.GetPeerAddress()})
	}
	if hi < lo || hi == 0 {
		return failedBecause("the seeds run versions that do not work together: one needs feature level %d, another knows levels up to %d", lo, hi)
	}
	d.level = uint16(hi)
	return d
}

// findCluster returns when this node belongs to a cluster, which may be one that is being formed. The
// servers are those to bootstrap the metadata group with, if it falls to this node.
func (c *Cluster) findCluster(ctx context.Context) ([]raftgroup.ServerID, error) {
	pause, said := firstPause, ""
	for {
		formed := c.formed.wait()
		n := c.node.Load()
		switch {
		case n.membership == member:
			return nil, nil
		case n.membership == forming && (len(n.founders) > 0 || n.former != n.broker):
			return n.founders, nil
		}
		d := c.round(ctx)
		switch d.verdict {
		case failed:
			return nil, d.err
		case join:
			done, err := c.join(ctx, d.cluster)
			if done || err != nil {
				return nil, err
			}
			d.reason = "cluster " + d.cluster + " to take this broker in"
		case form:
			reason, err := c.form(ctx, d)
			if err != nil {
				return nil, err
			}
			if reason == "" {
				continue // it is in the identity now
			}
			d.reason = reason
		}
		if d.reason != said {
			c.logger.Info("waiting for " + d.reason)
			said = d.reason
			c.waits.Store(&said)
		}
		if !sleep(ctx, formed, pause) {
			return nil, ctx.Err()
		}
		pause = min(pause*2, mostPause)
	}
}

// Waiting says what this broker waits for before it is ready; empty: for nothing that takes time.
func (c *Cluster) Waiting() string {
	s, open := c.MetadataStatus()
	leader, _, led := c.Controller()
	switch {
	case !open:
		if text := c.waits.Load(); text != nil {
			return *text
		}
		return ""
	case c.registered.Load() > 0:
		return "the metadata that others have agreed on meanwhile"
	case led:
		return fmt.Sprintf("broker %d, which leads the metadata, to register this one", leader)
	}
	var voters []string
	for _, id := range s.Voters {
		if broker, _, err := raftgroup.ParseServerID(id); err == nil {
			voters = append(voters, fmt.Sprint(broker))
		}
	}
	if len(voters) == 0 {
		return "the brokers that vote for the metadata to be heard from"
	}
	return fmt.Sprintf("the metadata to have a leader: of its voters, broker %s, a majority has to be up", strings.Join(voters, ", "))
}

// sleep waits for a time, or until woken; false: the context has ended.
func sleep(ctx context.Context, woken <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-woken:
	case <-ctx.Done():
		return false
	}
	return true
}

// round asks all seeds once. Without seeds the answer is our own.
func (c *Cluster) round(ctx context.Context) decision {
	self := c.self()
	if len(c.config.Seeds) == 0 {
		return decide(self, []answer{{seed: self.GetPeerAddress(), node: self}})
	}
	return decide(self, c.hello(ctx, c.config.Seeds))
}

// hello asks who is at some addresses, all at once.
func (c *Cluster) hello(ctx context.Context, addresses []string) []answer {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	self := c.self()
	answers := make([]answer, len(addresses))
	var wg sync.WaitGroup
	for i, address := range addresses {
		answers[i].seed = address
		if address == self.GetPeerAddress() {
			answers[i].node = self
			continue
		}
		wg.Go(func() {
			resp, err := c.client.Hello(ctx, peer.At(address), &peerv1.HelloRequest{Node: self})
			switch {
			case err != nil:
				answers[i].err = err
			case resp.GetNode().GetNodeIncarnation() == 0 || resp.GetNode().GetPeerAddress() == "":
				answers[i].err = fmt.Errorf("%s does not say who it is", address)
			default:
				answers[i].node = resp.GetNode()
				c.learnFrom(resp)
			}
		})
	}
	wg.Wait()
	return answers
}

// learnFrom notes addresses from an answer to Hello, if it comes from our cluster or there is none yet.
func (c *Cluster) learnFrom(resp *peerv1.HelloResponse) {
	c.meet(resp.GetNode())
	if id := c.ClusterID(); id == "" || resp.GetNode().GetClusterId() != id {
		return
	}
	for _, n := range resp.GetBrokers() {
		// What others say of a broker counts less than what it says itself.
		if _, known := c.book.find(n.GetBrokerId()); !known && n.GetBrokerId() != c.config.Broker {
			c.book.learn(n)
		}
	}
}

// join registers with a cluster that exists, and then writes down that we belong to it. A crash in
// between is repaired by doing it again: the registration is the same. false: not yet.
func (c *Cluster) join(ctx context.Context, cluster string) (bool, error) {
	c.joining.Store(&cluster)
	if err := c.register(ctx, 5*time.Second); err != nil {
		if isFinal(err) && !c.mayBeFree(err) {
			return false, err
		}
		c.logger.Info("not registered yet", "cluster", cluster, "err", err)
		return false, nil
	}
	// A member has a directory for the metadata; one that was made before it is a member says nothing.
	if _, err := c.makeMetadataDir(); err != nil {
		return false, err
	}
	err := c.changeIdentity(func(n *identity) { n.membership, n.clusterID = member, cluster })
	return err == nil, err
}

// form asks all founders to promise themselves. An empty reason: all have, and the founders are in the
// identity.
func (c *Cluster) form(ctx context.Context, d decision) (reason string, err error) {
	if n := c.node.Load(); n.membership == none {
		id, err := newClusterID(c.config.Rand)
		if err != nil {
			return "", err
		}
		taken := false
		err = c.changeIdentity(func(n *identity) {
			if taken = n.membership != none; !taken { // somebody may have asked for our promise meanwhile
				n.membership, n.clusterID, n.former, n.level = forming, id, n.broker, d.level
			}
		})
		if err != nil || taken {
			return "another broker that forms a cluster", err
		}
	}
	n := c.node.Load()
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	reasons := make([]string, len(d.founders))
	var wg sync.WaitGroup
	for i, f := range d.founders {
		if f.id == n.broker {
			continue
		}
		wg.Go(func() { reasons[i] = c.askPromise(ctx, n, f, d.level) })
	}
	wg.Wait()
	reasons = slices.DeleteFunc(reasons, func(r string) bool { return r == "" })
	if len(reasons) > 0 {
		return strings.Join(reasons, "; "), nil
	}
	return "", c.changeIdentity(func(n *identity) {
		n.level, n.founders = d.level, nil
		for _, f := range d.founders {
			n.founders = append(n.founders, raftgroup.MakeServerID(f.id, f.incarnation))
		}
	})
}

func (c *Cluster) askPromise(ctx context.Context, n *identity, f founder, level uint16) (reason string) {
	resp, err := c.client.Form(ctx, peer.Target{Broker: f.id, Address: f.address}, &peerv1.FormRequest{
		ClusterId: n.clusterID, BrokerId: n.broker, ToBrokerId: f.id, ToNodeIncarnation: f.incarnation, FeatureLevel: uint32(level),
	})
	switch {
	case err != nil:
		return fmt.Sprintf("broker %d to promise itself to cluster %s: %v", f.id, n.clusterID, err)
	case !resp.GetAccepted():
		return fmt.Sprintf("broker %d to promise itself to cluster %s: %s", f.id, n.clusterID, resp.GetReason())
	}
	c.book.learn(resp.GetNode())
	return ""
}

// Form promises this node to a cluster that is being formed, if it belongs to no other (peer.Handler).
func (c *Cluster) Form(_ context.Context, caller peer.Identity, req *peerv1.FormRequest) (*peerv1.FormResponse, error) {
	reason := ""
	err := c.changeIdentity(func(n *identity) {
		switch {
		case req.GetToBrokerId() != n.broker || req.GetToNodeIncarnation() != n.incarnation:
			reason = fmt.Sprintf("it has node incarnation %x now", n.incarnation)
		case req.GetClusterId() == "" || len(req.GetClusterId()) > 64 || req.GetBrokerId() != caller.Broker:
			reason = "the request makes no sense"
		case req.GetFeatureLevel() < uint32(c.config.MinLevel) || req.GetFeatureLevel() > uint32(c.config.MaxLevel):
			reason = fmt.Sprintf("it knows feature levels %d to %d, not %d", c.config.MinLevel, c.config.MaxLevel, req.GetFeatureLevel())
		case n.membership == none:
			n.membership, n.clusterID = forming, req.GetClusterId()
			n.former, n.level = req.GetBrokerId(), uint16(req.GetFeatureLevel())
		case n.clusterID != req.GetClusterId():
			reason = "it belongs to cluster " + n.clusterID
		case n.membership == forming && n.former != n.broker:
			n.former, n.level = req.GetBrokerId(), uint16(req.GetFeatureLevel())
		}
	})
	if err != nil {
		return nil, err
	}
	if reason == "" {
		c.formed.wake()
	}
	return &peerv1.FormResponse{Accepted: reason == "", Node: c.self(), Reason: reason}, nil
}

// changeIdentity changes the node's identity on disk and then in memory. A change that leaves it as it
// is writes nothing.
func (c *Cluster) changeIdentity(change func(*identity)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.node.Load()
	n := *old
	change(&n)
	if string(n.encode()) == string(old.encode()) {
		return nil
	}
	if err := n.save(c.config.FS, c.config.Dir); err != nil {
		return err
	}
	c.node.Store(&n)
	if n.clusterID != old.clusterID || n.membership != old.membership {
		c.logger.Info("node identity", "cluster", n.clusterID, "membership", n.membership.String())
	}
	return nil
}

// newClusterID gives 128 random bits in 22 characters, as Kafka does.
func newClusterID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make a cluster id: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}
