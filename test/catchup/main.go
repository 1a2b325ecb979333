// Command catchup measures and troubles a replica that comes back too late for Raft's window: three brokerd processes, a
// partition of --mib MiB that one of them lacks, and steady load all the time. While the replica pulls, the leader is killed,
// the network is cut one way, then both ways with the loss of every connection, the log start moves, and the leader is paused
// for so long that it loses its leadership. At the end all replicas hold the same. It prints how fast the replica got what it
// lacked, and what producers felt of it. A trouble that comes when the replica has all already, or that touches nothing, fails.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
	"github.com/oncelog/oncelog/internal/netproxy"
	"github.com/oncelog/oncelog/record"
)

var only = record.TopicPartition{Topic: "big"}

type options struct {
	binary  string
	size    int64
	rate    int64
	load    int64
	calm    bool
	timeout time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.binary, "brokerd", "bin/brokerd", "the broker")
	flag.Int64Var(&o.size, "mib", 1024, "how much the replica lacks, MiB")
	flag.Int64Var(&o.rate, "rate", 64, "catch_up.bytes_per_second, MiB")
	flag.Int64Var(&o.load, "load", 4, "steady load, MiB a second")
	flag.BoolVar(&o.calm, "calm", false, "only measure, break nothing")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Minute, "bounds the whole run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "catchup:", err)
		os.Exit(1)
	}
}

// rig is a cluster under test.
type rig struct {
	o    options
	c    *brokerproc.Cluster
	cl   *client.Client
	away *brokerproc.Process
	load *load
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "oncelog-catchup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := brokerproc.New(brokerproc.Options{Binary: o.binary, Dir: dir, Brokers: 3, Proxied: true, Set: []string{
		"raft.snapshot_bytes=16MiB", fmt.Sprintf("catch_up.bytes_per_second=%dMiB", o.rate), "leader_balance=0s",
	}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs()})
	if err != nil {
		return err
	}
	defer cl.Close(context.Background())
	r := &rig{o: o, c: c, cl: cl}
	if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: only.Topic, Partitions: 1, ReplicationFactor: 3, WaitReady: time.Minute,
		Configs: map[string]string{"segment.bytes": strconv.Itoa(16 << 20)}}); err != nil {
		return err
	}
	return r.tell(ctx)
}

func (r *rig) tell(ctx context.Context) error {
	leader, err := r.leader(ctx)
	if err != nil {
		return err
	}
	r.away = r.c.Broker(leader%3 + 1)
	if err := r.away.Terminate(); err != nil {
		return err
	}
	began := time.Now()
	if err := r.fill(ctx); err != nil {
		return err
	}
	fmt.Printf("filled      %d MiB in %.1f s\n", r.o.size, time.Since(began).Seconds())
	r.load = startLoad(ctx, r.cl, r.o.load)
	defer r.load.stop()
	if err := pass(ctx, 10*time.Second); err != nil {
		return err
	}
	fmt.Printf("before      %s\n", r.load.take())
	began = time.Now()
	if err := r.away.Start(); err != nil {
		return err
	}
	if err := r.trouble(ctx); err != nil {
		return err
	}
	if err := r.level(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("meanwhile   %s\n", r.load.take())
	fmt.Printf("caught up   %d MiB in %.1f s, %.0f MiB/s\n", r.o.size, took.Seconds(), float64(r.o.size)/took.Seconds())
	if err := pass(ctx, 5*time.Second); err != nil {
		return err
	}
	fmt.Printf("after       %s\n", r.load.take())
	if failed := r.load.stop(); failed > 0 {
		return fmt.Errorf("%d records of the load were not written", failed)
	}
	return r.agree(ctx)
}

// trouble breaks the cluster while the replica pulls.
func (r *rig) trouble(ctx context.Context) error {
	if r.o.calm {
		return nil
	}
	leader, err := r.midway(ctx, 0.15)
	if err != nil {
		return err
	}
	fmt.Printf("trouble     broker %d, which leads, is killed\n", leader)
	if err := errors.Join(r.c.Broker(leader).Kill(), r.c.Broker(leader).Start()); err != nil {
		return err
	}
	if err := r.cuts(ctx); err != nil {
		return err
	}
	if leader, err = r.midway(ctx, 0.6); err != nil {
		return err
	}
	before, err := r.cl.DeleteRecords(ctx, only, record.Offset(r.load.written.Load()/2))
	if err != nil {
		return err
	}
	fmt.Printf("trouble     the log start moves to %d\n", before)
	fmt.Printf("trouble     broker %d, which leads, is paused for 6 s\n", leader)
	p := r.c.Broker(leader)
	return errors.Join(p.Pause(), pass(ctx, 6*time.Second), p.Resume())
}

// cuts takes the network from between the replica and the others, twice.
func (r *rig) cuts(ctx context.Context) error {
	cut, network := netproxy.Rule{Cut: true}, r.c.Network
	leader, err := r.midway(ctx, 0.3)
	if err != nil {
		return err
	}
	fmt.Printf("trouble     the replica does not hear broker %d, which leads, for 3 s\n", leader)
	if err := r.whileCut(ctx, false, func() { network.Set(leader, r.away.ID, cut) }); err != nil {
		return err
	}
	if _, err := r.midway(ctx, 0.45); err != nil {
		return err
	}
	fmt.Println("trouble     the replica is cut off from all for 3 s, and its connections are lost")
	return r.whileCut(ctx, true, func() {
		network.SetFrom(r.away.ID, cut)
		network.SetTo(r.away.ID, cut)
		network.Reset(r.away.ID)
	})
}

// whileCut makes sure that a cut bites: it holds something back, or breaks connections, and if it is from all then nothing more
// comes to the replica than what was under way.
func (r *rig) whileCut(ctx context.Context, all bool, cut func()) error {
	before := r.c.Network.Stats()
	cut()
	if err := pass(ctx, time.Second); err != nil {
		return err
	}
	had := r.metric(ctx, pulledBytes)
	if err := pass(ctx, 2*time.Second); err != nil {
		return err
	}
	more := r.metric(ctx, pulledBytes) - had
	r.c.Network.HealAll()
	if after := r.c.Network.Stats(); after.Held == before.Held && after.Reset == before.Reset {
		return errors.New("the cut touched no connection")
	}
	if had == 0 || all && more != 0 {
		return fmt.Errorf("the replica had %.0f bytes, and pulled %.0f more while it was cut off", had, more)
	}
	return nil
}

const pulledBytes = "brokerd_catch_up_bytes_total"

// midway waits until the replica has pulled a part of what it lacks, and tells who leads then. It is an error if the replica
// has all of it.
func (r *rig) midway(ctx context.Context, part float64) (leader int32, err error) {
	done := 0.0
	err = until(ctx, func() bool {
		done = r.metric(ctx, `brokerd_catch_ups_total{end="done"}`)
		return r.metric(ctx, pulledBytes) >= part*float64(r.o.size<<20) || done > 0
	})
	if err == nil && done > 0 {
		err = fmt.Errorf("the replica was level before %.0f %% of what it lacks was pulled: it needs more --mib or a lower --rate", 100*part)
	}
	if err != nil {
		return 0, err
	}
	return r.leader(ctx)
}

// metric reads one of the replica's broker; 0: not there.
func (r *rig) metric(ctx context.Context, name string) float64 {
	all, _ := r.away.Metrics(ctx) // it may be starting
	return all[name]
}

// level waits until the replica has what the leader had when it was asked.
func (r *rig) level(ctx context.Context) error {
	return until(ctx, func() bool {
		groups, _, err := r.cl.RaftGroups(ctx, only.Topic)
		if err != nil {
			return false
		}
		here, most := record.Offset(-1), record.Offset(0)
		for _, g := range groups {
			if g.Broker == r.away.ID {
				here = g.HighWatermark
			}
			most = max(most, g.HighWatermark)
		}
		return here >= 0 && here+10_000 > most && most > 0
	})
}

// agree compares all replicas.
func (r *rig) agree(ctx context.Context) error {
	var sums []client.Checksum
	err := until(ctx, func() bool {
		var failed []client.BrokerError
		var err error
		sums, failed, err = r.cl.Checksums(ctx, only, record.NoOffset)
		return err == nil && len(failed) == 0 && len(sums) == 3 && sums[0].UpTo == sums[1].UpTo && sums[1].UpTo == sums[2].UpTo &&
			sums[0].From == sums[1].From && sums[1].From == sums[2].From
	})
	if err != nil {
		return fmt.Errorf("replicas do not come level: %v: %w", sums, err)
	}
	for _, s := range sums {
		if s.CRC32C != sums[0].CRC32C {
			return fmt.Errorf("replicas differ: %v", sums)
		}
	}
	fmt.Printf("agreed      three replicas, offsets %d to %d, checksum %08x\n", sums[0].From, sums[0].UpTo, sums[0].CRC32C)
	return nil
}

func (r *rig) leader(ctx context.Context) (leader int32, err error) {
	err = until(ctx, func() bool {
		m, err := r.cl.Metadata(ctx, only.Topic)
		if err != nil || len(m.Topics) != 1 || len(m.Topics[0].Partitions) != 1 {
			return false
		}
		leader = m.Topics[0].Partitions[0].Leader
		return leader > 0
	})
	return leader, err
}

// fill writes what the replica will lack.
func (r *rig) fill(ctx context.Context) error {
	p, err := r.cl.NewProducer(client.ProducerConfig{BatchBytes: 256 << 10})
	if err != nil {
		return err
	}
	value := make([]byte, 16<<10)
	for i := range value {
		value[i] = byte(i * 31)
	}
	var bad atomic.Int64
	for range r.o.size << 20 / int64(len(value)) {
		if err := p.Send(ctx, client.Record{Topic: only.Topic, Value: value}, func(res client.Result) {
			if res.Outcome != client.Written {
				bad.Add(1)
			}
		}); err != nil {
			return err
		}
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	if n := bad.Load(); n > 0 {
		return fmt.Errorf("%d records were not written", n)
	}
	return nil
}

// load writes steadily, and keeps what each record waited.
type load struct {
	written atomic.Int64
	failed  atomic.Int64
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	waits []time.Duration
	since time.Time
}

const loadRecord = 4 << 10

func startLoad(ctx context.Context, cl *client.Client, mib int64) *load {
	l := &load{since: time.Now()}
	ctx, l.cancel = context.WithCancel(ctx)
	l.done.Go(func() {
		p, err := cl.NewProducer(client.ProducerConfig{DeliveryTimeout: 2 * time.Minute})
		if err != nil {
			l.failed.Add(1)
			return
		}
		tick := time.NewTicker(time.Second * loadRecord / time.Duration(mib<<20))
		defer tick.Stop()
		for ctx.Err() == nil {
			began := time.Now()
			err := p.Send(context.WithoutCancel(ctx), client.Record{Topic: only.Topic, Value: make([]byte, loadRecord)}, func(res client.Result) { l.note(res, time.Since(began)) })
			if err != nil {
				l.failed.Add(1)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		_ = p.Close(context.Background()) // what failed has been counted
	})
	return l
}

func (l *load) note(res client.Result, waited time.Duration) {
	if res.Outcome != client.Written {
		l.failed.Add(1)
		return
	}
	l.written.Store(max(l.written.Load(), int64(res.Offset)))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = append(l.waits, waited)
}

// take gives what has been felt since the last time, in words.
func (l *load) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := time.Since(l.since)
	slices.SortFunc(l.waits, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	at := func(q float64) time.Duration {
		if len(l.waits) == 0 {
			return 0
		}
		return l.waits[int(q*float64(len(l.waits)-1))].Round(100 * time.Microsecond)
	}
	text := fmt.Sprintf("%.1f MiB/s written; acknowledged after %s (p50), %s (p99), %s (most)", float64(len(l.waits))*loadRecord/(1<<20)/took.Seconds(), at(0.5), at(0.99), at(1))
	l.waits, l.since = l.waits[:0], time.Now()
	return text
}

func (l *load) stop() int64 {
	l.cancel()
	l.done.Wait()
	return l.failed.Load()
}

func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func until(ctx context.Context, yes func() bool) error {
	for !yes() {
		if err := pass(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
