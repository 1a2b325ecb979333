package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/memnet"
	"github.com/oncelog/oncelog/internal/mux"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// rig is a cluster of real brokers' ends (raftgroup on Bolt files, gRPC) over a network in memory, on
// virtual time.
type rig struct {
	t     *testing.T
	net   *memnet.Network
	dir   string
	seeds []string
	nodes map[int32]*node
}

// node is one broker, running or not.
type node struct {
	r       *rig
	id      int32
	address string
	seeds   []string
	change  func(*Config)

	cluster *Cluster
	mux     *mux.Mux
	server  *peer.Server
	raft    *raftgroup.Host
	served  chan error
}

// onVirtualTime runs a test in a bubble with a rig.
func onVirtualTime(t *testing.T, f func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: memnet.New(), dir: dir, nodes: make(map[int32]*node)}
		defer r.stopAll()
		f(r)
	})
}

func addressOf(id int32) string { return fmt.Sprintf("b%d:9093", id) }

// found makes brokers 1 to n the seeds.
func (r *rig) found(n int32) {
	for id := int32(1); id <= n; id++ {
		r.seeds = append(r.seeds, addressOf(id))
	}
}

// start runs a broker on its data directory, which is made if it is the first time.
func (r *rig) start(id int32, change ...func(*node)) *node {
	r.t.Helper()
	n := r.nodes[id]
	if n == nil {
		n = &node{r: r, id: id, address: addressOf(id), seeds: r.seeds}
		r.nodes[id] = n
	}
	for _, c := range change {
		c(n)
	}
	if err := n.start(); err != nil {
		r.t.Fatalf("start broker %d: %v", id, err)
	}
	return n
}

func (n *node) dir() string { return filepath.Join(n.r.dir, fmt.Sprint(n.id)) }

type handler struct{ *Cluster }

func (handler) PullEntries(context.Context, peer.Identity, peer.PullRequest, func([]peer.Entry) error) error {
	return errors.New("no entries here")
}

func (n *node) start() error {
	if err := os.MkdirAll(filepath.Join(n.dir(), "raft"), 0o755); err != nil {
		return err
	}
	host := fmt.Sprintf("b%d", n.id)
	dialer := mux.Dialer{Dial: func(ctx context.Context, a string) (net.Conn, error) { return n.r.net.Dial(ctx, host, a) }}
	c := Config{
		Broker: n.id, Dir: filepath.Join(n.dir(), "cluster"),
		Listeners: []metadata.Listener{{Name: metadata.PeerListener, Address: n.address}},
		Seeds:     n.seeds, Dial: dialer.Peer, Version: "test", Logger: testLogger(n.r.t, n.id),
	}
	if n.change != nil {
		n.change(&c)
	}
	var err error
	if n.cluster, err = New(c); err != nil {
		return err
	}
	l, err := n.r.net.Listen(n.address)
	if err != nil {
		return err
	}
	n.mux = mux.New(l, mux.Config{})
	n.server = peer.NewServer(peer.ServerConfig{Self: n.cluster.Self, Handler: handler{n.cluster}, Logger: c.Logger})
	n.served = make(chan error, 1)
	server, listener := n.server, n.mux.Peer()
	go func() { n.served <- server.Serve(listener) }()
	n.raft, err = raftgroup.NewHost(raftgroup.Config{
		Broker: n.id, Dir: filepath.Join(n.dir(), "raft"), Listener: n.mux.Raft(), Dial: dialer.Raft,
		Resolve: n.cluster.Resolve, ClusterID: n.cluster.ClusterID, FeatureLevel: n.cluster.FeatureLevel, Logger: c.Logger,
	})
	if err != nil {
		return err
	}
	n.cluster.Start(n.raft)
	return nil
}

// stop ends a broker in good order.
func (n *node) stop() {
	if n.cluster == nil {
		return
	}
	if err := n.cluster.Close(); err != nil {
		n.r.t.Errorf("close broker %d: %v", n.id, err)
	}
	if err := n.raft.Close(); err != nil {
		n.r.t.Errorf("close raft of broker %d: %v", n.id, err)
	}
	n.server.Close()
	if err := n.mux.Close(); err != nil {
		n.r.t.Errorf("close port of broker %d: %v", n.id, err)
	}
	if err := <-n.served; err != nil {
		n.r.t.Errorf("peer server of broker %d: %v", n.id, err)
	}
	n.cluster = nil
}

func (r *rig) stopAll() {
	for _, n := range r.nodes {
		n.stop()
	}
}

// ready waits until brokers are ready.
func (r *rig) ready(nodes ...*node) {
	r.t.Helper()
	for _, n := range nodes {
		select {
		case <-n.cluster.Ready():
		case <-n.cluster.Failed():
			r.t.Fatalf("broker %d failed: %v", n.id, n.cluster.Err())
		case <-time.After(time.Minute):
			r.t.Fatalf("broker %d is not ready after a minute", n.id)
		}
	}
}

// three starts and forms a cluster of brokers 1 to 3.
func (r *rig) three() (a, b, c *node) {
	r.t.Helper()
	r.found(3)
	a, b, c = r.start(1), r.start(2), r.start(3)
	r.ready(a, b, c)
	return a, b, c
}

// within waits for a condition that has no channel of its own.
func (r *rig) within(d time.Duration, what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// controller waits for the broker that all running ones believe to lead the metadata group.
func (r *rig) controller() *node {
	r.t.Helper()
	var lead *node
	r.within(time.Minute, "one controller", func() bool {
		lead = nil
		for _, n := range r.nodes {
			if n.cluster == nil {
				continue
			}
			if g := n.cluster.group.Load(); g != nil {
				if _, ready := (*g).IsReady(); ready {
					if lead != nil {
						return false
					}
					lead = n
				}
			}
		}
		return lead != nil
	})
	return lead
}

// testLogger shows what a broker logs when the test fails, or with -v.
func testLogger(t *testing.T, id int32) *slog.Logger {
	return slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", id)
}

type testLog struct {
	t  *testing.T
	mu sync.Mutex
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("%s", b[:len(b)-1])
	return len(b), nil
}
