package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// chaos is one random run of producers against a fake cluster that breaks all the time.
type chaos struct {
	t    *testing.T
	c    *fakeCluster
	rng  *rand.Rand // under the cluster's lock, or before anything runs
	calm bool       // under the cluster's lock

	mu      sync.Mutex
	results map[string]Result
	sent    map[string][]string // by producer and partition, in the order of Send
	told    map[string][]string // the same, in the order of callbacks
}

func (x *chaos) int(n int) int {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	return x.rng.IntN(n)
}

// script decides about one request. It runs under the cluster's lock.
func (x *chaos) script(_ *clientv1.ProduceRequest, values []string) fault {
	for _, v := range values {
		if strings.HasSuffix(v, "bad") {
			return refused("INVALID_RECORD")
		}
	}
	if x.calm {
		return fault{}
	}
	switch n := x.rng.IntN(100); {
	case n < 2:
		return fault{cutBefore: true}
	case n < 4:
		return fault{loseAck: true}
	case n < 6:
		return fault{loseAck: true, moveTo: 1 + x.rng.Int32N(3)}
	case n < 9:
		return busy()
	case n < 11:
		return fault{uncertain: true}
	case n < 12:
		return fault{later: time.Duration(1 + x.rng.IntN(int(3*time.Second)))}
	case n < 16:
		return fault{delay: time.Duration(x.rng.IntN(int(time.Second)))}
	case n < 17 && len(values) > 1:
		return refused(ReasonMessageTooLarge)
	}
	return fault{}
}

// storm breaks brokers until its time is over, and then heals them all.
func (x *chaos) storm(d time.Duration) {
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(x.int(int(3 * time.Second))))
		b := x.c.brokers[int32(1+x.int(3))]
		switch x.int(6) {
		case 0:
			b.host.cut()
		case 1, 2:
			b.host.pause()
			time.Sleep(time.Duration(x.int(int(8 * time.Second))))
			b.host.resume()
		case 3:
			b.kill()
			time.Sleep(time.Duration(x.int(int(4 * time.Second))))
			b.start()
		case 4:
			x.c.partition("t", int32(x.int(3))).move(int32(1 + x.int(3)))
		case 5: // no leader for a while
			p := x.c.partition("t", int32(x.int(3)))
			p.move(-1)
			time.Sleep(time.Duration(x.int(int(2 * time.Second))))
			p.move(int32(1 + x.int(3)))
		}
	}
	x.c.mu.Lock()
	x.calm = true
	x.c.mu.Unlock()
}

// produce sends n records, in bursts.
func (x *chaos) produce(name string, p *Producer, n int) {
	for i := range n {
		partition := int32(x.int(3))
		value := fmt.Sprintf("%s/%d/%d", name, partition, i)
		if x.int(60) == 0 {
			value += "bad"
		}
		lane := fmt.Sprintf("%s/%d", name, partition)
		x.mu.Lock()
		x.sent[lane] = append(x.sent[lane], value)
		x.mu.Unlock()
		err := p.Send(bg, Record{Topic: "t", Partition: ToPartition(partition), Value: []byte(value)}, func(res Result) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if _, again := x.results[value]; again {
				x.t.Errorf("%s: told twice", value)
			}
			x.results[value] = res
			x.told[lane] = append(x.told[lane], value)
		})
		if err != nil {
			x.t.Errorf("Send: %v", err)
		}
		if x.int(5) == 0 {
			time.Sleep(time.Duration(x.int(int(400 * time.Millisecond))))
		}
	}
}

func newChaos(t *testing.T, seed uint64) *chaos {
	x := &chaos{
		t: t, c: newFakeCluster(t, 3), rng: rand.New(rand.NewPCG(seed, 11)),
		results: map[string]Result{}, sent: map[string][]string{}, told: map[string][]string{},
	}
	x.c.topic("t", 3)
	x.c.script = x.script
	return x
}

// run lets producers send through a storm, and waits until every record has its result.
func (x *chaos) run(idempotent bool) {
	cl := x.c.connect(x.t)
	var wg sync.WaitGroup
	var producers []*Producer
	for i := range 2 {
		cfg := ProducerConfig{
			RequestTimeout:  time.Duration(1+x.int(5)) * time.Second,
			DeliveryTimeout: time.Duration(7+x.int(40)) * time.Second,
			MaxInFlight:     1 + x.int(5), BatchBytes: 1024, DisableIdempotence: !idempotent,
		}
		if x.int(2) == 0 {
			cfg.Linger = NoLinger
		}
		if x.int(4) == 0 {
			cfg.Compression = record.CodecSnappy
		}
		p := producer(x.t, cl, cfg)
		producers = append(producers, p)
		wg.Go(func() { x.produce(fmt.Sprint("p", i), p, 400) })
	}
	wg.Go(func() { x.storm(30 * time.Second) })
	wg.Wait()
	for _, p := range producers {
		ctx, cancel := context.WithTimeout(bg, 5*time.Minute)
		if err := p.Close(ctx); err != nil {
			x.t.Errorf("Close: %v", err)
		}
		cancel()
		if s := p.Stats(); s.BufferedBytes != 0 || s.Contradictions != 0 {
			x.t.Errorf("stats: %+v", s)
		}
	}
	time.Sleep(10 * time.Second) // what the brokers still hold is written now or never
}

// check compares results with the logs; it returns how many records are there twice.
func (x *chaos) check(idempotent bool) (duplicates int, outcomes map[Outcome]int) {
	count := map[string]int{}
	at := map[string]record.Offset{}
	outcomes = map[Outcome]int{}
	for i := range int32(3) {
		last := map[string]int{}
		for off, v := range x.c.partition("t", i).stored() {
			if count[v]++; count[v] == 1 {
				at[v] = record.Offset(off)
			}
			var name string
			var partition, n int
			parts := strings.Split(v, "/")
			name = parts[0]
			if _, err := fmt.Sscan(parts[1]+" "+strings.TrimSuffix(parts[2], "bad"), &partition, &n); err != nil {
				x.t.Errorf("value %q: %v", v, err)
			}
			if idempotent && n+1 <= last[name] {
				x.t.Errorf("partition %d: %s lies behind number %d", i, v, last[name]-1)
			}
			last[name] = n + 1
		}
	}
	for lane, values := range x.sent {
		if fmt.Sprint(x.told[lane]) != fmt.Sprint(values) {
			x.t.Errorf("%s: callbacks in another order than sends, or missing: %d of %d", lane, len(x.told[lane]), len(values))
		}
		for _, v := range values {
			res := x.results[v]
			outcomes[res.Outcome]++
			if count[v] > 1 {
				duplicates++
			}
			switch {
			case idempotent && count[v] > 1:
				x.t.Errorf("%s (%v) is in the log %d times", v, res, count[v])
			case res.Outcome == Written && count[v] == 0:
				x.t.Errorf("%s is not in the log: %v", v, res)
			case res.Outcome == NotWritten && count[v] > 0:
				x.t.Errorf("%s is in the log: %v", v, res)
			case idempotent && res.Outcome == Written && res.Offset != record.NoOffset && res.Offset != at[v]:
				x.t.Errorf("%s is at %d: %v", v, at[v], res)
			case (res.Err == nil) != (res.Outcome == Written):
				x.t.Errorf("%s: %v with error %v", v, res.Outcome, res.Err)
			}
		}
	}
	return duplicates, outcomes
}

// TestChaos: producers with several batches in flight, while connections break, answers get lost or
// late, brokers pause, die and come back, leaders move, and batches are refused. Written records
// are in the log once, at their offset and in order; those not written are absent.
func TestChaos(t *testing.T) {
	total := map[Outcome]int{}
	seeds(t, 12, func(t *testing.T, seed uint64) {
		bubble(t, func(t *testing.T) {
			x := newChaos(t, seed)
			x.run(true)
			_, outcomes := x.check(true)
			for o, n := range outcomes {
				total[o] += n
			}
			if t.Failed() {
				t.Errorf("seed %d", seed)
			}
		})
	})
	t.Log(total)
}

// TestChaosWithoutIdempotence: the same runs write records twice when nothing deduplicates. That
// shows that the faults bite and that the check sees.
func TestChaosWithoutIdempotence(t *testing.T) {
	duplicates := 0
	seeds(t, 3, func(t *testing.T, seed uint64) {
		bubble(t, func(t *testing.T) {
			x := newChaos(t, seed)
			x.run(false)
			n, _ := x.check(false)
			duplicates += n
		})
	})
	t.Logf("%d duplicates", duplicates)
	if duplicates == 0 {
		t.Error("no duplicates without idempotence")
	}
}
