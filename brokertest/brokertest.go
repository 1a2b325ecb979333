// Package brokertest runs a whole cluster inside a Go test, with a network, disks and a clock whose
// faults a seed decides.
//
//	c := brokertest.Start(t, brokertest.Options{})
//	cl := c.Client()
//	c.Crash(1)   // a power cut: unsynced writes are lost
//	c.Restart(1)
//
// The brokers are the real ones, with real Raft and a real record log; what is replaced is the
// network (memnet), the disk below the record log (vfs.Mem), and, in a simulation, the clock.
//
// # Simulations
//
// Simulate runs the same on virtual time: nothing waits, a minute takes as long as the brokers
// compute, and time stands still while they do. A test may sleep:
//
//	func TestOrdersSurvive(t *testing.T) {
//		o := brokertest.Options{Seed: 7, Latency: time.Millisecond, Jitter: 2 * time.Millisecond}
//		brokertest.Simulate(t, o, func(t *testing.T, c *brokertest.Cluster) {
//			p, err := c.Client().NewProducer(client.ProducerConfig{})
//			...
//			stop := c.Go(func(ctx context.Context) { load(ctx, p) })  // the program under test
//			err = c.Torment(time.Minute, brokertest.Nemesis{})        // faults that the seed chooses
//			...
//			err = c.Mend()                                            // all undone, every broker ready
//			...
//			stop()
//			...                                                       // now look what is stored
//		})
//	}
//
// All goroutines of the test belong to the simulation and must have ended when it does; Go sees to
// that, also when the test fails. What waits must wait for a channel, a timer, a sync.Cond or a sync.WaitGroup of its own: as long as one
// goroutine waits for a sync.Mutex whose holder waits for time, or for a socket, virtual time stands
// still, and Options.Watchdog ends the program with all stacks.
//
// The seed decides the faults, their times and what crashes lose. It does not decide which of two
// goroutines runs first, so that a seed that failed may pass the next time; run it again some times.
//
// Terms, votes and the metadata group are in real files under the test's own directory: a crash
// keeps what their last commit wrote.
package brokertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	// Latency and Jitter make what is sent arrive later: by Latency, and up to Jitter more. Default 0.
	Latency, Jitter time.Duration
	// SyncTime is how long every sync of a disk takes. Default 0.
	SyncTime time.Duration
	// Configure changes a broker's configuration before each start.
	Configure func(*broker.Config)
	// Sabotage plants bugs in the brokers, to prove that a test would notice them.
	Sabotage broker.Sabotage
	// LyingDisks say that they have synced, and have not.
	LyingDisks bool
	// LogLevel is the least severe level that is logged. Default: errors only.
	LogLevel slog.Leveler
	// Log takes the brokers' logs. Default: the test's log.
	Log io.Writer
	// Watchdog is how much real time a simulation may take. Default 2 minutes.
	Watchdog time.Duration
}

// Cluster is a running cluster. Its methods may be called from many goroutines, but for one broker
// from one at a time. Those that can fail end the test.
type Cluster struct {
	t       testing.TB
	options Options
	dir     string
	// Network connects brokers and clients; its hosts are "b1", "b2" ... and those of the clients.
	Network *memnet.Network

	// mu guards what follows.
	mu      sync.Mutex
	rng     *rand.Rand
	nodes   []*node
	clients []*client.Client
	owned   []func() // ends what Go has started
	hosts   []string // of the clients
}

func (o *Options) setDefaults(t testing.TB) {
	if o.Brokers == 0 {
		o.Brokers = 3
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.LogLevel == nil {
		o.LogLevel = slog.LevelError
	}
	if o.Log == nil {
		o.Log = logWriter{t}
	}
}

// Start starts a cluster and waits until every broker is ready. The cluster ends with the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.setDefaults(t)
	c := &Cluster{t: t, options: o, dir: t.TempDir(), Network: memnet.New(), rng: rand.New(rand.NewPCG(o.Seed, 0)), hosts: []string{DefaultClientHost}}
	if o.Latency+o.Jitter > 0 {
		c.Network.SetLatency(o.Latency, o.Latency+o.Jitter, o.Seed)
	}
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
	n := &node{id: int32(i + 1), host: fmt.Sprintf("b%d", i+1), gate: &gate{slow: c.options.SyncTime}}
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
	clients, owned := c.clients, c.owned
	c.mu.Unlock()
	for _, stop := range owned {
		stop()
	}
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
	cfg.Kafka = map[string]broker.ListenerConfig{broker.DefaultListener: {Listen: n.host + ":9092"}}
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

// KafkaAddrs are the addresses a Kafka client begins with.
func (c *Cluster) KafkaAddrs() []string {
	var list []string
	for _, n := range c.nodes {
		list = append(list, n.host+":9092")
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
	return c.ClientOn(DefaultClientHost, cfg)
}

// DefaultClientHost is where clients are that are not put elsewhere.
const DefaultClientHost = "client"

// ClientHosts lists the hosts of clients, in the order in which they came.
func (c *Cluster) ClientHosts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hosts)
}

// ClientOn is ClientWith on a host of its own in the Network, whose links can be cut apart from
// those of other clients.
func (c *Cluster) ClientOn(host string, cfg client.Config) *client.Client {
	c.t.Helper()
	cfg.Bootstrap = c.GRPCAddrs()
	cfg.Dialer = func(ctx context.Context, addr string) (net.Conn, error) { return c.Network.Dial(ctx, host, addr) }
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.clients = append(c.clients, cl)
	if !slices.Contains(c.hosts, host) {
		c.hosts = append(c.hosts, host)
	}
	c.mu.Unlock()
	return cl
}

// Go runs f in a goroutine. Its context ends with stop, which waits until f has returned, or with the
// test. stop may be called more than once.
func (c *Cluster) Go(f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	c.mu.Lock()
	c.owned = append(c.owned, stop)
	c.mu.Unlock()
	return stop
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

// MetricsText is all that a broker shows in metrics, with names, labels and helps.
func (c *Cluster) MetricsText(id int32) string {
	families, err := c.node(id).registry.Gather()
	if err != nil {
		c.t.Errorf("gather metrics of broker %d: %v", id, err)
	}
	var text strings.Builder
	for _, f := range families {
		text.WriteString(f.String() + "\n")
	}
	return text.String()
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
