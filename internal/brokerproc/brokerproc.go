// Package brokerproc runs a cluster of real brokerd processes on loopback, to be killed, paused and
// started again by tests and benchmarks.
package brokerproc

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/internal/netproxy"
)

// Options says what to run.
type Options struct {
	// Binary is the brokerd executable.
	Binary string
	// Dir holds one data directory and one log file for each broker; it must exist.
	Dir string
	// Brokers is how many, at least 1.
	Brokers int
	// Founders are how many of them found the cluster, the first ones; the others join when they are started. 0: all.
	Founders int
	// Set are configuration keys for all brokers, as KEY=VALUE.
	Set []string
	// Env is added to the environment.
	Env []string
	// Proxied makes all traffic between the brokers go through Cluster.Network, where it can be cut, delayed and slowed.
	Proxied bool
}

// Cluster is a set of broker processes. Its methods may be called from many goroutines, but for
// one broker from one at a time.
type Cluster struct {
	options Options
	brokers []*Process
	// Network is between the brokers; nil if they are not Proxied.
	Network *netproxy.Network
}

// Process is one broker, running or not.
type Process struct {
	// ID is the broker id, from 1 on.
	ID int32
	// GRPC, Kafka, Peer and HTTP are its addresses. Peer is the one that other brokers are told.
	GRPC, Kafka, Peer, HTTP string
	peerListen              string

	cluster *Cluster
	dir     string
	seeds   string
	binary  string // of the next start; empty: that of the options

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	paused bool
}

// New reserves addresses; no process runs yet.
func New(o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	var seeds []string
	ports, err := FreePorts(portsEach * o.Brokers)
	if err != nil {
		return nil, err
	}
	if o.Proxied {
		c.Network = netproxy.New(c.whose, rand.Float64)
	}
	for i := range o.Brokers {
		p := &Process{ID: int32(i + 1), cluster: c, dir: filepath.Join(o.Dir, fmt.Sprintf("broker-%d", i+1)),
			Peer: ports[portsEach*i], GRPC: ports[portsEach*i+1], HTTP: ports[portsEach*i+2], Kafka: ports[portsEach*i+3], peerListen: ports[portsEach*i]}
		if o.Proxied {
			p.Peer = ports[portsEach*i+4]
			c.Network.Add(p.ID, p.Peer, p.peerListen)
		}
		if o.Founders == 0 || i < o.Founders {
			seeds = append(seeds, p.Peer)
		}
		c.brokers = append(c.brokers, p)
	}
	for _, p := range c.brokers {
		p.seeds = strings.Join(seeds, ",")
	}
	return c, nil
}

// portsEach is how many ports a broker has, that of its proxy included.
const portsEach = 5

// whose tells which broker has made a connection.
func (c *Cluster) whose(conn *net.TCPConn) (int32, bool) {
	pids := make(map[int32]int)
	for _, p := range c.brokers {
		if pid := p.PID(); pid != 0 {
			pids[p.ID] = pid
		}
	}
	return netproxy.Owner(conn, pids)
}

// The ports of brokers lie below those that systems give to connections: one of those could take the port of a broker that is
// down.
const firstPort, lastPort = 12_000, 31_999

// FreePorts finds free loopback addresses. Another process could take one before the broker does;
// the broker then says so and exits.
func FreePorts(n int) ([]string, error) {
	var list []string
	for tries := 0; len(list) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort+1)))
		switch {
		case err == nil:
			defer l.Close()
			list = append(list, l.Addr().String())
		case tries > 100*n:
			return nil, err
		}
	}
	return list, nil
}

// Brokers are all processes, by id.
func (c *Cluster) Brokers() []*Process { return c.brokers }

// Broker is one process.
func (c *Cluster) Broker(id int32) *Process { return c.brokers[id-1] }

// GRPCAddrs are the addresses that clients begin with.
func (c *Cluster) GRPCAddrs() []string {
	var list []string
	for _, p := range c.brokers {
		list = append(list, p.GRPC)
	}
	return list
}

// KafkaAddrs are the addresses that Kafka clients begin with.
func (c *Cluster) KafkaAddrs() []string {
	var list []string
	for _, p := range c.brokers {
		list = append(list, p.Kafka)
	}
	return list
}

// Start starts every broker that does not run and waits until all are ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, p := range c.brokers {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range c.brokers {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close kills what runs and waits.
func (c *Cluster) Close() {
	for _, p := range c.brokers {
		_ = p.Kill() // A process that has gone already is what we want.
	}
	if c.Network != nil {
		c.Network.Close()
	}
}

// LogFile is where the broker's output goes, appended over restarts.
func (p *Process) LogFile() string { return p.dir + ".log" }

// Network is what lies between this broker and the others; nil if they are not Proxied.
func (p *Process) Network() *netproxy.Network { return p.cluster.Network }

// DataDir is the broker's data directory.
func (p *Process) DataDir() string { return p.dir }

// PID is the process id; 0 when it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running says whether the process runs, paused or not.
func (p *Process) Running() bool { return p.PID() != 0 }

func (p *Process) runningLocked() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Start starts the process; it does not wait for it to be ready. Nothing happens if it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runningLocked() {
		return nil
	}
	out, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	o := p.cluster.options
	args := []string{"serve",
		"--set", fmt.Sprintf("broker_id=%d", p.ID),
		"--set", "data_dir=" + p.dir,
		"--set", "peer.listen=" + p.peerListen,
		"--set", "grpc.default.listen=" + p.GRPC,
		"--set", "kafka.default.listen=" + p.Kafka,
		"--set", "http.listen=" + p.HTTP,
		"--seeds", p.seeds,
	}
	if o.Proxied {
		args = append(args, "--set", "peer.advertise="+p.Peer)
	}
	for _, s := range o.Set {
		args = append(args, "--set", s)
	}
	network := p.cluster.Network
	if network != nil {
		if err := network.Up(p.ID); err != nil {
			return err
		}
	}
	cmd := exec.Command(cmp.Or(p.binary, o.Binary), args...)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	// A broker must not outlive the test that started it, whatever kills that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start broker %d: %w", p.ID, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.paused = cmd, exited, false
	go func() {
		_ = cmd.Wait() // How it ended is in its log.
		if network != nil {
			network.Down(p.ID)
		}
		close(exited)
	}()
	return nil
}

// Use makes the next start run another executable.
func (p *Process) Use(binary string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.binary = binary
}

// Signal sends a signal to the process.
func (p *Process) Signal(s os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return fmt.Errorf("broker %d does not run", p.ID)
	}
	return p.cmd.Process.Signal(s)
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Terminate ends the process with SIGTERM and waits until it is gone.
func (p *Process) Terminate() error { return p.end(syscall.SIGTERM) }

// Quit ends the process with SIGQUIT and waits until it is gone: the stacks of its goroutines are in LogFile then.
func (p *Process) Quit() error { return p.end(syscall.SIGQUIT) }

func (p *Process) end(s os.Signal) error {
	if err := p.Signal(s); err != nil {
		return err
	}
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	<-exited
	return nil
}

// Pause stops the process with SIGSTOP; Resume lets it go on.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// WaitReady waits until /readyz says so; it fails early when the process has exited.
func (p *Process) WaitReady(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if !p.Running() {
			return fmt.Errorf("broker %d has exited; see %s", p.ID, p.LogFile())
		}
		last := p.readyz(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("broker %d is not ready (%w): %w; see %s", p.ID, last, ctx.Err(), p.LogFile())
		}
	}
}

func (p *Process) readyz(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+"/readyz", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz answers %s", resp.Status)
	}
	return nil
}
