package brokertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/internal/vfs"
)

// node is one broker over its lives.
type node struct {
	id   int32
	host string
	disk *vfs.Mem

	broker   *broker.Broker // nil while it is down
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

// gate is what a paused broker's disk waits at, and what makes a disk slow.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
	slow   time.Duration
	// flush is how long the device takes for one flush, next when the flush ends that takes in what is synced now; merged says
	// whether it takes in more than one sync.
	flush  time.Duration
	merged bool
	next   time.Time
}

func (c *Cluster) startNode(n *node) {
	c.t.Helper()
	n.registry = prometheus.NewRegistry()
	if c.options.LyingDisks {
		n.disk.LieAboutSync()
	}
	n.disk.SetDelay(n.gate.delay)
	n.disk.OnBefore(n.gate.wait)
	b, err := broker.New(c.config(n), broker.Options{
		Logger:   c.logger(n),
		Registry: n.registry,
		FS:       n.disk,
		NoSync:   true,

		BoltFlush: n.gate.boltFlush,
		Wall:      func() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) },
		Sabotage:  c.options.Sabotage,
		Listen:    func(_, addr string) (net.Listener, error) { return c.Network.Listen(addr) },
		Dial:      func(ctx context.Context, _, addr string) (net.Conn, error) { return c.Network.Dial(ctx, n.host, addr) },
	})
	if err != nil {
		c.t.Fatalf("start broker %d: %v", n.id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.broker, n.cancel, n.done = b, cancel, make(chan error, 1)
	go func() { n.done <- b.Run(ctx) }()
}

// Recover makes a broker that is down the only voter of all its groups (broker.Recover).
func (c *Cluster) Recover(id int32, dry bool) []broker.RecoveredGroup {
	c.t.Helper()
	n := c.node(id)
	groups, err := broker.Recover(c.config(n), broker.Options{FS: n.disk, NoSync: true}, dry)
	if err != nil {
		c.t.Fatalf("recover broker %d: %v", id, err)
	}
	return groups
}

func (c *Cluster) waitReady(n *node) {
	c.t.Helper()
	if err := n.awaitReady(); err != nil {
		c.t.Fatal(err)
	}
}

func (n *node) awaitReady() error {
	select {
	case <-n.broker.Ready():
		return nil
	case err := <-n.done:
		n.done <- err
		return fmt.Errorf("broker %d ended before it was ready: %w", n.id, err)
	case <-time.After(time.Minute):
		return fmt.Errorf("broker %d is not ready after a minute: %v", n.id, n.broker.NotReady())
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

// errDead is what a crashed broker's disk answers.
var errDead = errors.New("the machine has lost its power")

func isExpected(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, errDead)
}

// Crash cuts a broker's power: its connections break, and what it had not synced is lost, kept or
// torn as the seed decides.
func (c *Cluster) Crash(id int32) {
	c.t.Helper()
	c.mu.Lock()
	r := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
	c.mu.Unlock()
	c.die(c.node(id), func(d *vfs.Mem) *vfs.Mem { return d.CrashClone(r) })
}

// Kill ends a broker as SIGKILL does: what it wrote, synced or not, the system still has.
func (c *Cluster) Kill(id int32) {
	c.t.Helper()
	c.die(c.node(id), (*vfs.Mem).KillClone)
}

// die ends a broker at once; left gives what is on its disk afterwards. Nothing gets out of the
// broker from before that moment, so that it cannot have told of anything the disk then lacks.
func (c *Cluster) die(n *node, left func(*vfs.Mem) *vfs.Mem) {
	c.t.Helper()
	c.Network.Freeze(n.host)
	old := n.disk
	old.OnBefore(func(op vfs.Op) error {
		if op.Kind.Changes() {
			return errDead
		}
		return nil
	})
	n.disk = left(old)
	n.gate.open()
	c.Network.Drop(n.host)
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
	c.Network.Isolate(c.Host(id), c.others(id, clientsToo)...)
}

// others are the hosts that a broker talks to.
func (c *Cluster) others(id int32, clientsToo bool) []string {
	var hosts []string
	for _, n := range c.nodes {
		if n.id != id {
			hosts = append(hosts, n.host)
		}
	}
	if clientsToo {
		hosts = append(hosts, c.ClientHosts()...)
	}
	return hosts
}

// SlowDisk makes every sync of a broker's disk take d longer; 0: as fast as before again.
func (c *Cluster) SlowDisk(id int32, d time.Duration) {
	g := c.node(id).gate
	g.mu.Lock()
	g.slow = c.options.SyncTime + d
	g.mu.Unlock()
}

// OneDevice makes a broker's disk one device for all its files, those of terms and votes included, that flushes for d at each sync; 0: each file
// syncs for itself again. merged: what is synced while a flush is under way is taken in by the next one together, as Linux does; else one
// after the other, the worst case.
func (c *Cluster) OneDevice(id int32, d time.Duration, merged bool) {
	g := c.node(id).gate
	g.mu.Lock()
	g.flush, g.merged = d, merged
	g.mu.Unlock()
}

func (g *gate) delay(op vfs.Op) time.Duration {
	if op.Kind != vfs.OpSync {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flush == 0 {
		return g.slow
	}
	now := time.Now()
	switch {
	case g.next.Before(now):
		g.next = now.Add(g.flush)
	case !g.merged || !g.next.After(now.Add(g.flush)):
		g.next = g.next.Add(g.flush) // the one that ends then has begun
	}
	return g.slow + g.next.Sub(now)
}

// boltFlush takes the time of a commit of Bolt, which flushes twice, on a device of OneDevice.
func (g *gate) boltFlush() {
	g.mu.Lock()
	queued := g.flush > 0
	g.mu.Unlock()
	if !queued {
		return
	}
	sync := vfs.Op{Kind: vfs.OpSync}
	time.Sleep(g.delay(sync))
	time.Sleep(g.delay(sync))
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

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed != nil
}
