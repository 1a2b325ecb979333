// Package apachekafka runs a cluster of Apache Kafka itself, from its published jars, on loopback: what our brokers are compared with.
// Maven fetches the jars the first time; java and mvn must be on the path.
package apachekafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// DefaultVersion is the release that is compared with: the last one whose tools are published as a jar.
const DefaultVersion = "4.3.1"

// Options says what to run.
type Options struct {
	// Dir holds one directory and one log file for each broker; it must exist.
	Dir string
	// Version of Kafka; empty: DefaultVersion.
	Version string
	// Brokers is how many; 0: three. Each is a controller, too.
	Brokers int
	// Heap is each broker's -Xmx and -Xms, as "1g"; empty: 512m. Kafka's own scripts give 1g.
	Heap string
	// Set are lines of server.properties for all brokers, as KEY=VALUE; they override what stands there else.
	Set []string
}

// Cluster is a set of broker processes. Its methods may be called from many goroutines, but for one broker from one at a time.
type Cluster struct {
	options   Options
	classpath string
	brokers   []*Broker
}

// Broker is one process, running or not.
type Broker struct {
	// ID is the broker id, from 1 on.
	ID int32
	// Kafka is its address for clients.
	Kafka string

	cluster    *Cluster
	controller string
	dir        string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// New fetches the jars, reserves addresses and formats the brokers' directories; no broker runs yet.
func New(ctx context.Context, o Options) (*Cluster, error) {
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if o.Brokers == 0 {
		o.Brokers = 3
	}
	if o.Heap == "" {
		o.Heap = "512m"
	}
	classpath, err := Classpath(o.Version)
	if err != nil {
		return nil, err
	}
	ports, err := brokerproc.FreePorts(2 * o.Brokers)
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o, classpath: classpath}
	var voters []string
	for i := range o.Brokers {
		b := &Broker{ID: int32(i + 1), cluster: c, Kafka: ports[2*i], controller: ports[2*i+1], dir: filepath.Join(o.Dir, fmt.Sprintf("kafka-%d", i+1))}
		voters = append(voters, fmt.Sprintf("%d@%s", b.ID, b.controller))
		c.brokers = append(c.brokers, b)
	}
	var formats []func() error
	for _, b := range c.brokers {
		if err := b.configure(strings.Join(voters, ",")); err != nil {
			return nil, err
		}
		formats = append(formats, func() error { return b.format(ctx) })
	}
	return c, together(formats)
}

// together runs functions at once and joins their errors.
func together(list []func() error) error {
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i, f := range list {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (b *Broker) properties() string { return filepath.Join(b.dir, "server.properties") }

// configure writes what the broker is started with. Internal topics have as many replicas as there are brokers, up to Kafka's default of
// three; groups do not wait for more members before their first assignment.
func (b *Broker) configure(voters string) error {
	n := len(strings.Split(voters, ","))
	replicas := min(3, n)
	lines := []string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", b.ID),
		"controller.quorum.voters=" + voters,
		"controller.listener.names=CONTROLLER",
		"listeners=PLAINTEXT://" + b.Kafka + ",CONTROLLER://" + b.controller,
		"advertised.listeners=PLAINTEXT://" + b.Kafka,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		fmt.Sprintf("default.replication.factor=%d", replicas),
		fmt.Sprintf("min.insync.replicas=%d", min(2, n)),
		fmt.Sprintf("offsets.topic.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.min.isr=%d", min(2, n)),
		"group.initial.rebalance.delay.ms=0",
	}
	lines = append(lines, b.cluster.options.Set...) // of two lines for one key the last counts
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(b.properties(), []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// clusterID is any UUID in Kafka's spelling.
const clusterID = "b25jZWxvZy1jb21wYXRpYg"

func (b *Broker) format(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "java", "-Xmx128m", "-cp", b.cluster.classpath, "kafka.tools.StorageTool",
		"format", "-t", clusterID, "-c", b.properties()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format the storage of Kafka broker %d: %w: %s", b.ID, err, out)
	}
	return nil
}

// Brokers are all processes, by id.
func (c *Cluster) Brokers() []*Broker { return c.brokers }

// Broker is one process.
func (c *Cluster) Broker(id int32) *Broker { return c.brokers[id-1] }

// Classpath is where the jars are, for tools that shall be run.
func (c *Cluster) Classpath() string { return c.classpath }

// KafkaAddrs are the addresses that clients begin with.
func (c *Cluster) KafkaAddrs() []string {
	var list []string
	for _, b := range c.brokers {
		list = append(list, b.Kafka)
	}
	return list
}

// Start starts every broker that does not run and waits until all are known to each other.
func (c *Cluster) Start(ctx context.Context) error {
	for _, b := range c.brokers {
		if err := b.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// WaitReady waits until every broker lists all of them to clients; it fails early when one has exited.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, b := range c.brokers {
		if err := b.waitReady(ctx, len(c.brokers)); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) waitReady(ctx context.Context, brokers int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if b.PID() == 0 {
			return fmt.Errorf("Kafka broker %d has exited; see %s", b.ID, b.LogFile())
		}
		asking, end := context.WithTimeout(ctx, 2*time.Second)
		resp, err := kmsg.NewPtrMetadataRequest().RequestWith(asking, cl.SeedBrokers()[0])
		end()
		if err == nil && len(resp.Brokers) == brokers {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("Kafka broker %d is not ready: %w; see %s", b.ID, ctx.Err(), b.LogFile())
		}
	}
}

// Close kills what runs and waits.
func (c *Cluster) Close() {
	for _, b := range c.brokers {
		_ = b.Kill() // one that does not run needs it not
	}
}

// LogFile is where the broker's output goes, appended over restarts: warnings and worse.
func (b *Broker) LogFile() string { return b.dir + ".log" }

// DataDir is where the broker keeps its logs.
func (b *Broker) DataDir() string { return filepath.Join(b.dir, "data") }

// PID is the process id; 0 when it does not run.
func (b *Broker) PID() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return 0
	}
	select {
	case <-b.exited:
		return 0
	default:
		return b.cmd.Process.Pid
	}
}

// Start starts the process, with the garbage collector of Kafka's own scripts; it does not wait for it to be ready. Nothing happens if
// it runs.
func (b *Broker) Start() error {
	if b.PID() != 0 {
		return nil
	}
	out, err := os.OpenFile(b.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	heap := b.cluster.options.Heap
	cmd := exec.Command("java", "-Xmx"+heap, "-Xms"+heap, "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", b.cluster.classpath, "kafka.Kafka", b.properties())
	cmd.Dir = b.dir // a heap dump is left there
	cmd.Stdout, cmd.Stderr = out, out
	// A broker must not outlive the program that started it, whatever kills that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start Kafka broker %d: %w", b.ID, err)
	}
	exited := make(chan struct{})
	b.mu.Lock()
	b.cmd, b.exited = cmd, exited
	b.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	return nil
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (b *Broker) Kill() error { return b.end(syscall.SIGKILL) }

// Terminate ends the process with SIGTERM and waits until it is gone.
func (b *Broker) Terminate() error { return b.end(syscall.SIGTERM) }

func (b *Broker) end(s os.Signal) error {
	if b.PID() == 0 {
		return fmt.Errorf("Kafka broker %d does not run", b.ID)
	}
	b.mu.Lock()
	cmd, exited := b.cmd, b.exited
	b.mu.Unlock()
	if err := cmd.Process.Signal(s); err != nil {
		return err
	}
	<-exited
	return nil
}
