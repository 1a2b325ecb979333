package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

const topic = "scale"

type measurement struct {
	options options
	cluster *brokerproc.Cluster
	client  *client.Client
	dir     string
	rows    []row
}

func (m *measurement) note(what string, value float64, unit string) {
	fmt.Fprintf(os.Stderr, "scale: %s: %.2f %s\n", what, value, unit)
	m.rows = append(m.rows, row{what, value, unit})
}

func (m *measurement) took(what string, since time.Time) {
	m.note(what, time.Since(since).Seconds(), "s")
}

func (m *measurement) all(ctx context.Context) error {
	empty := m.cluster.Usage()
	begin := time.Now()
	_, err := m.client.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: int32(m.options.partitions), ReplicationFactor: 3})
	if err != nil {
		return fmt.Errorf("create the topic: %w", err)
	}
	m.took("the topic's creation is acknowledged", begin)
	if err := m.client.WaitReady(ctx, topic); err != nil {
		return err
	}
	m.took("from then until every partition is led", begin)
	if err := m.write(ctx, "first acknowledgement"); err != nil {
		return err
	}
	if err := m.watch(ctx, empty); err != nil {
		return err
	}
	if m.options.idleOnly {
		return nil
	}
	if err := m.kill(ctx); err != nil {
		return err
	}
	return m.restart(ctx)
}

// write sends one record to every partition at once.
func (m *measurement) write(ctx context.Context, what string) error {
	p, err := m.client.NewProducer(client.ProducerConfig{DeliveryTimeout: 5 * time.Minute})
	if err != nil {
		return err
	}
	begin := time.Now()
	waits := make([]float64, 0, m.options.partitions)
	futures := make([]*client.Future, m.options.partitions)
	for i := range futures {
		if futures[i], err = p.SendFuture(ctx, client.Record{Topic: topic, Partition: client.ToPartition(int32(i)), Value: make([]byte, 100)}); err != nil {
			return err
		}
	}
	// In the order of the partitions: a later wait is at least as long as an earlier one, which flatters nobody.
	for i, f := range futures {
		if res := f.Result(ctx); res.Outcome != client.Written {
			return fmt.Errorf("partition %d: %v", i, res)
		}
		waits = append(waits, time.Since(begin).Seconds())
	}
	slices.Sort(waits)
	m.note(what+", half of the partitions", waits[len(waits)/2], "s")
	m.note(what+", all of them", waits[len(waits)-1], "s")
	return p.Close(ctx)
}

// watch looks at what idle brokers take.
func (m *measurement) watch(ctx context.Context, empty brokerproc.Usage) error {
	epochs, err := m.settle(ctx)
	if err != nil {
		return err
	}
	timeouts, err := m.timeouts(ctx)
	if err != nil {
		return err
	}
	before, begin := m.cluster.Usage(), time.Now()
	profiled := m.profile(ctx, "idle", m.options.idle)
	if err := pause(ctx, m.options.idle); err != nil {
		return err
	}
	after := m.cluster.Usage()
	profiled()
	m.note("idle, processor of all three brokers", 100*(after.CPUSeconds-before.CPUSeconds)/time.Since(begin).Seconds(), "% of one core")
	elections := 0
	now, err := m.epochs(ctx)
	if err != nil {
		return err
	}
	for i := range now {
		if now[i] != epochs[i] {
			elections++
		}
	}
	m.note("idle, partitions that changed their leader", float64(elections), "")
	late, err := m.timeouts(ctx)
	if err != nil {
		return err
	}
	m.note("idle, timeouts of leaders and followers", late-timeouts, "")
	replicas := float64(3 * m.options.partitions)
	m.note("memory of all three brokers", float64(after.ResidentBytes)/1e6, "MB")
	m.note("memory for each replica", float64(after.ResidentBytes-empty.ResidentBytes)/replicas/1024, "KiB")
	m.note("open files and sockets of all three brokers", float64(after.OpenFiles), "")
	m.note("threads of all three brokers", float64(after.Threads), "")
	goroutines := 0.0
	for _, p := range m.cluster.Brokers() {
		n, err := metric(ctx, p, "go_goroutines")
		if err != nil {
			return err
		}
		goroutines += n
	}
	m.note("goroutines for each replica", goroutines/replicas, "")
	m.note("disk for each replica", float64(blocks(m.dir))/replicas/1024, "KiB")
	return nil
}

// settle waits until no partition has changed its leader for calm: what the writes began has ended, and leaders are where they belong.
func (m *measurement) settle(ctx context.Context) ([]int32, error) {
	const calm, most = 25 * time.Second, 5 * time.Minute // calm outlasts two looks of leader_balance
	begin, changed := time.Now(), time.Now()
	last, err := m.epochs(ctx)
	for err == nil && time.Since(changed) < calm && time.Since(begin) < most {
		if err = pause(ctx, time.Second); err != nil {
			break
		}
		var now []int32
		if now, err = m.epochs(ctx); err == nil && !slices.Equal(now, last) {
			last, changed = now, time.Now()
		}
	}
	m.note("until leaders are where they belong", changed.Sub(begin).Seconds(), "s")
	return last, err
}

// timeouts is how often leaders gave up and followers stood for election because they heard nothing, over all brokers.
func (m *measurement) timeouts(ctx context.Context) (sum float64, err error) {
	for _, p := range m.cluster.Brokers() {
		for _, name := range []string{"brokerd_raft_lease_losses_total", "brokerd_raft_heartbeat_timeouts_total"} {
			n, err := metric(ctx, p, name)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

func (m *measurement) kill(ctx context.Context) error {
	victim := m.cluster.Brokers()[1]
	if err := victim.Kill(); err != nil {
		return err
	}
	begin := time.Now()
	if err := m.write(ctx, "a broker is killed: next acknowledgement"); err != nil {
		return err
	}
	m.took("a broker is killed: until that was so", begin)
	begin = time.Now()
	if err := victim.Start(); err != nil {
		return err
	}
	if err := victim.WaitReady(ctx); err != nil {
		return err
	}
	m.took("it is started again: until it is ready", begin)
	return nil
}

// restart ends all brokers at once and starts them.
func (m *measurement) restart(ctx context.Context) error {
	for _, p := range m.cluster.Brokers() {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, p := range m.cluster.Brokers() {
		for p.Running() {
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
	begin := time.Now()
	if err := m.cluster.Start(ctx); err != nil {
		return err
	}
	m.took("all are killed and started again: until all are ready", begin)
	return m.write(ctx, "then: next acknowledgement")
}

func (m *measurement) epochs(ctx context.Context) ([]int32, error) {
	md, err := m.client.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	epochs := make([]int32, m.options.partitions)
	for _, t := range md.Topics {
		for _, p := range t.Partitions {
			epochs[p.Partition] = p.LeaderEpoch
		}
	}
	return epochs, nil
}

// metric is one figure of /metrics.
func metric(ctx context.Context, p *brokerproc.Process, name string) (float64, error) {
	all, err := p.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	v, ok := all[name]
	if !ok {
		return 0, fmt.Errorf("broker %d has no metric %s", p.ID, name)
	}
	return v, nil
}

// blocks is what a directory takes of the disk, in bytes.
func blocks(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
