package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// gap kills the leader of a partition under a client that sends a record each 5 ms, and gives the longest time between two
// acknowledgements.
func gap(ctx context.Context, _ *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		cl, err := client(v, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0), kgo.MetadataMinAge(100*time.Millisecond))
		if err != nil {
			return sample{}, err
		}
		defer cl.Close()
		described, err := kadm.NewClient(cl).Metadata(ctx, topic)
		if err != nil {
			return sample{}, err
		}
		leader := described.Topics[topic].Partitions[0].Leader
		w := writer{last: time.Now()}
		sending, stop := context.WithCancel(ctx)
		defer stop()
		var sender sync.WaitGroup
		sender.Go(func() { w.send(sending, cl) })
		time.Sleep(time.Second)
		w.begin()
		if err := v.kill(leader); err != nil {
			return sample{}, err
		}
		// It is over once acknowledgements have come for two seconds after the longest gap there was.
		for deadline := time.Now().Add(time.Minute); !w.quiet(2 * time.Second); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				return sample{}, fmt.Errorf("nothing is acknowledged a minute after broker %d was killed", leader)
			}
		}
		stop()
		sender.Wait()
		if err := v.revive(ctx, leader); err != nil {
			return sample{}, err
		}
		time.Sleep(3 * time.Second) // its replicas follow again
		return sample{value: w.longest.Seconds()}, w.err
	})
}

// writer notes when records are acknowledged.
type writer struct {
	mu      sync.Mutex
	last    time.Time
	begun   time.Time
	ended   time.Time // the last time that a gap of 100 ms and more was over
	longest time.Duration
	err     error
}

func (w *writer) send(ctx context.Context, cl *kgo.Client) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	value := make([]byte, 100)
	for ctx.Err() == nil {
		cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			now := time.Now()
			if err != nil {
				w.err = err
			}
			if !w.begun.IsZero() {
				if g := now.Sub(w.last); g > w.longest {
					w.longest = g
				}
				if now.Sub(w.last) > 100*time.Millisecond {
					w.ended = now
				}
			}
			w.last = now
		})
		<-ticker.C
	}
}

// begin says that a broker is about to be killed.
func (w *writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = time.Now()
}

// quiet says whether acknowledgements have come for so long, three seconds after the kill at the earliest.
func (w *writer) quiet(d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	return now.Sub(w.begun) > 3*time.Second && now.Sub(w.last) < 100*time.Millisecond && now.Sub(w.ended) > d
}

// ready starts another cluster in a new directory, and gives the time until a record has been written to a new topic. Kafka's directories are
// formatted before that.
func ready(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	dir, err := os.MkdirTemp(b.dir, "ready-")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	var s *system
	var began time.Time
	if v.kafka {
		c, err := newKafka(ctx, dir)
		if err != nil {
			return sample{}, err
		}
		began = time.Now()
		s, err = c.start(ctx)
		if err != nil {
			return sample{}, err
		}
	} else {
		if err := os.Link(filepath.Join(b.dir, "brokerd"), filepath.Join(dir, "brokerd")); err != nil {
			return sample{}, err
		}
		began = time.Now()
		if s, err = startOurs(ctx, dir, false); err != nil {
			return sample{}, err
		}
	}
	defer s.close()
	cl, err := client(variant{s, false}, kgo.DefaultProduceTopic("first"), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return sample{}, err
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 3, nil, "first"); err != nil {
		return sample{}, err
	}
	err = cl.ProduceSync(ctx, &kgo.Record{Value: []byte("first")}).FirstErr()
	return sample{value: time.Since(began).Seconds()}, err
}
