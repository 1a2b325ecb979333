// Package brokertest runs a whole cluster inside a Go test, with a network, disks and a clock whose
// faults a seed decides.
//
//	c := brokertest.Start(t, brokertest.Options{Brokers: 3})
//	cl := c.Client()
//	c.Crash(1)   // a power cut: unsynced writes are lost
//	c.Restart(1)
//
// The brokers are the real ones, with real Raft and a real record log; what is replaced is the
// network (memnet), the disk below the record log (vfs.Mem), and, inside testing/synctest, the
// clock. Terms, votes and the metadata group are in real files under the test's own directory:
// a crash keeps what their last commit made durable.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/memnet"
	"github.com/oncelog/oncelog/internal/vfs"
)

// Options say what cluster to start. The zero value gives three brokers and seed 1.
type Options struct {
	// Brokers is how many, 1 to 9. Default 3.
	Brokers int
	// Seed decides what a crash loses. Default 1. It is logged when a test fails.
	Seed uint64
	// Configure changes a broker's configuration before each start.
	Configure func(*broker.Config)
	// LogLevel is the least severe level that goes to the test's log. Default: errors only.
	LogLevel slog.Leveler
}

// Cluster is a running cluster. Its methods may be called from many goroutines, but for one broker
// from one at a time. Those that can fail end the test.
type Cluster struct {
	t       testing.TB
	options Options
	dir     string
	// Network connects brokers and clients; its hosts are "b1", "b2" ... and "client".
	Network *memnet.Network

	// mu guards what follows.
	mu      sync.Mutex
	rng     *rand.Rand
	nodes   []*node
	clients []*client.Client
}

// node is one broker over its lives.
type node struct {
	id   int32
	host string
	disk *vfs.Mem

	broker   *broker.Broker
	registry *prometheus.Registry
	cancel   context.CancelFunc
	done     chan error
	gate     *gate
	// wiped counts the disks it has lost.
	wiped int
	// said is what it has logged.
	said logBook
	// ahead is by how much the time of day is wrong, in ns.
	ahead atomic.Int64
}

// gate is what a paused broker's disk waits at.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
	slow   time.Duration
}

// Start starts a cluster and waits until every broker is ready. The cluster ends with the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Brokers == 0 {
		o.Brokers = 3
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.LogLevel == nil {
		o.LogLevel = slog.LevelError
	}
	c := &Cluster{t: t, options: o, dir: t.TempDir(), Network: memnet.New(), rng: rand.New(rand.NewPCG(o.Seed, 0))}
	t.Cleanup(c.close)
	for range o.Brokers {
		c.newNode()
	}
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		c.waitReady(n)
	}
	return c
}

func (c *Cluster) newNode() *node {
	i := len(c.nodes)
	n := &node{id: int32(i + 1), host: fmt.Sprintf("b%d", i+1), gate: &gate{}}
	c.nodes = append(c.nodes, n)
	c.format(n)
	return n
}

// Add starts one more broker, which finds the cluster by the seeds, and gives its id. It does not wait
// until the broker is ready.
func (c *Cluster) Add() int32 {
	c.t.Helper()
	n := c.newNode()
	c.startNode(n)
	return n.id
}

// Wipe takes a broker's disk away, if it runs by a power cut, and gives it an empty one.
func (c *Cluster) Wipe(id int32) {
	c.t.Helper()
	n := c.node(id)
	if n.broker != nil {
		c.Crash(id)
	}
	n.wiped++
	c.format(n)
}

func (c *Cluster) dataDir(n *node) string {
	return filepath.Join(c.dir, fmt.Sprintf("%s.%d", n.host, n.wiped))
}

// format makes the data directory on a new disk, durably: what a crash takes is what the broker does.
func (c *Cluster) format(n *node) {
	n.disk = vfs.NewMem(c.options.Seed + uint64(n.id) - 1 + uint64(n.wiped)<<32)
	dir := c.dataDir(n)
	if err := n.disk.MkdirAll(dir); err != nil {
		c.t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if err := n.disk.SyncDir(filepath.Dir(dir)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *Cluster) close() {
	c.Network.HealAll()
	c.mu.Lock()
	clients := c.clients
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Tests that care about what is still under way flush first.
	for _, cl := range clients {
		_ = cl.Close(ctx)
	}
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		n.gate.open()
		wg.Go(func() { c.stopNode(n) })
	}
	wg.Wait()
	if c.t.Failed() {
		c.t.Logf("seed %d", c.options.Seed)
	}
}

// config is a broker's configuration: small and quick.
func (c *Cluster) config(n *node) broker.Config {
	cfg := broker.DefaultConfig()
	cfg.BrokerID = n.id
	cfg.DataDir = c.dataDir(n)
	cfg.Peer.Listen = n.host + ":9093"
	cfg.GRPC = map[string]broker.ListenerConfig{broker.DefaultListener: {Listen: n.host + ":9095"}}
	cfg.HTTP.Listen = n.host + ":9644"
	for _, o := range c.nodes[:c.options.Brokers] {
		cfg.Seeds = append(cfg.Seeds, o.host+":9093")
	}
	cfg.ShutdownTimeout = 5 * time.Second
	if c.options.Configure != nil {
		c.options.Configure(&cfg)
	}
	return cfg
}

func (c *Cluster) startNode(n *node) {
	c.t.Helper()
	n.registry = prometheus.NewRegistry()
	disk := n.disk
	disk.SetDelay(n.gate.delay)
	disk.OnBefore(n.gate.wait)
	b, err := broker.New(c.config(n), broker.Options{
		Logger:   c.logger(n),
		Registry: n.registry,
		FS:       disk,
		Wall:     func() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) },
		Listen:   func(_, addr string) (net.Listener, error) { return c.Network.Listen(addr) },
		Dial:     func(ctx context.Context, _, addr string) (net.Conn, error) { return c.Network.Dial(ctx, n.host, addr) },
	})
	if err != nil {
		c.t.Fatalf("start broker %d: %v", n.id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.broker, n.cancel, n.done = b, cancel, make(chan error, 1)
	go func() { n.done <- b.Run(ctx) }()
}

func (c *Cluster) waitReady(n *node) {
	c.t.Helper()
	select {
	case <-n.broker.Ready():
	case err := <-n.done:
		c.t.Fatalf("broker %d ended before it was ready: %v", n.id, err)
	case <-time.After(time.Minute):
		c.t.Fatalf("broker %d is not ready after a minute", n.id)
	}
}

// stopNode ends a broker without draining, if it runs.
func (c *Cluster) stopNode(n *node) {
	if n.broker == nil {
		return
	}
	if err := n.broker.Close(); err != nil && !isExpected(err) {
		c.t.Errorf("close broker %d: %v", n.id, err)
	}
	n.cancel()
	<-n.done
	n.broker = nil
}

func isExpected(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, errDead)
}

func (c *Cluster) node(id int32) *node { return c.nodes[id-1] }

// Brokers lists the broker ids.
func (c *Cluster) Brokers() []int32 {
	var ids []int32
	for _, n := range c.nodes {
		ids = append(ids, n.id)
	}
	return ids
}

// Host is a broker's name in the Network.
func (c *Cluster) Host(id int32) string { return c.node(id).host }

// Disk is a broker's disk below the record logs.
func (c *Cluster) Disk(id int32) *vfs.Mem { return c.node(id).disk }

// SetClock makes a broker's time of day wrong from now on: ahead by so much, or behind if it is
// negative. What waits goes by another clock, which nobody can set.
func (c *Cluster) SetClock(id int32, ahead time.Duration) { c.node(id).ahead.Store(int64(ahead)) }

// Ready says whether a broker runs and has become ready.
func (c *Cluster) Ready(id int32) bool {
	n := c.node(id)
	if n.broker == nil {
		return false
	}
	select {
	case <-n.broker.Ready():
		return true
	default:
		return false
	}
}

// Running says whether a broker runs.
func (c *Cluster) Running(id int32) bool { return c.node(id).broker != nil }

// GRPCAddrs are the addresses a client begins with.
func (c *Cluster) GRPCAddrs() []string {
	var list []string
	for _, n := range c.nodes {
		list = append(list, n.host+":9095")
	}
	return list
}

// Client makes a client of the cluster; it is closed with the cluster. Its requests are given up
// after two seconds, so that it notices broken links soon.
func (c *Cluster) Client() *client.Client {
	c.t.Helper()
	return c.ClientWith(client.Config{RequestTimeout: 2 * time.Second})
}

// ClientWith is Client with a configuration; its Bootstrap and Dialer are set here.
func (c *Cluster) ClientWith(cfg client.Config) *client.Client {
	c.t.Helper()
	cfg.Bootstrap = c.GRPCAddrs()
	cfg.Dialer = func(ctx context.Context, addr string) (net.Conn, error) { return c.Network.Dial(ctx, "client", addr) }
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.clients = append(c.clients, cl)
	c.mu.Unlock()
	return cl
}

// errDead is what a crashed broker's disk answers.
var errDead = errors.New("the machine has lost its power")

// Crash cuts a broker's power: its connections break, and what it had not synced is lost, kept or
// torn as the seed decides.
func (c *Cluster) Crash(id int32) {
	c.t.Helper()
	n := c.node(id)
	c.mu.Lock()
	r := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
	c.mu.Unlock()
	old := n.disk
	n.disk = old.CrashClone(r)
	c.die(n, old)
}

// Kill ends a broker as SIGKILL does: what it wrote, synced or not, the system still has.
func (c *Cluster) Kill(id int32) {
	c.t.Helper()
	n := c.node(id)
	old := n.disk
	n.disk = old.KillClone()
	c.die(n, old)
}

// die takes the disk and the network from under a broker and ends it.
func (c *Cluster) die(n *node, old *vfs.Mem) {
	old.OnBefore(func(op vfs.Op) error {
		if op.Kind.Changes() {
			return errDead
		}
		return nil
	})
	n.gate.open()
	c.Network.Drop(n.host)
	c.Network.Freeze(n.host) // Nothing of what it still does gets out.
	c.stopNode(n)
	c.Network.Thaw(n.host)
}

// Stop ends a broker in order: it drains first.
func (c *Cluster) Stop(id int32) {
	c.t.Helper()
	n := c.node(id)
	n.cancel()
	err := <-n.done
	n.done <- nil
	if err != nil {
		c.t.Errorf("stop broker %d: %v", id, err)
	}
	c.stopNode(n)
}

// Restart starts a broker that was crashed, killed or stopped, and waits until it is ready.
func (c *Cluster) Restart(id int32) {
	c.t.Helper()
	c.StartAgain(id)
	c.waitReady(c.node(id))
}

// StartAgain is Restart without waiting.
func (c *Cluster) StartAgain(id int32) {
	c.t.Helper()
	c.startNode(c.node(id))
}

// WaitReady waits until a broker that was started is ready.
func (c *Cluster) WaitReady(id int32) {
	c.t.Helper()
	c.waitReady(c.node(id))
}

// PowerCut crashes every broker that runs, at once.
func (c *Cluster) PowerCut() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.broker != nil {
			c.Network.Freeze(n.host)
		}
	}
	for _, n := range c.nodes {
		if n.broker != nil {
			c.Crash(n.id)
		}
	}
}

// Pause stops a broker's traffic and disk, as SIGSTOP does; its clock goes on.
func (c *Cluster) Pause(id int32) {
	n := c.node(id)
	c.Network.Freeze(n.host)
	n.gate.shut()
}

// Resume undoes Pause.
func (c *Cluster) Resume(id int32) {
	n := c.node(id)
	n.gate.open()
	c.Network.Thaw(n.host)
}

// Isolate cuts a broker off from all other brokers, and from clients too if asked to.
func (c *Cluster) Isolate(id int32, clientsToo bool) {
	var others []string
	for _, n := range c.nodes {
		if n.id != id {
			others = append(others, n.host)
		}
	}
	if clientsToo {
		others = append(others, "client")
	}
	c.Network.Isolate(c.node(id).host, others...)
}

// SlowDisk makes every sync of a broker's disk take d longer; 0: as fast as memory again.
func (c *Cluster) SlowDisk(id int32, d time.Duration) {
	g := c.node(id).gate
	g.mu.Lock()
	g.slow = d
	g.mu.Unlock()
}

func (g *gate) delay(op vfs.Op) time.Duration {
	if op.Kind != vfs.OpSync {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slow
}

func (g *gate) wait(op vfs.Op) error {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed != nil && op.Kind.Changes() {
		<-closed
	}
	return nil
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

// MetricNames lists the metrics that a broker shows now.
func (c *Cluster) MetricNames(id int32) []string {
	families, err := c.node(id).registry.Gather()
	if err != nil {
		c.t.Errorf("gather metrics of broker %d: %v", id, err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	return names
}

// Metric sums a counter or gauge of a broker over its labels; 0 when it has none.
func (c *Cluster) Metric(id int32, name string) float64 {
	families, err := c.node(id).registry.Gather()
	if err != nil {
		c.t.Errorf("gather metrics of broker %d: %v", id, err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
