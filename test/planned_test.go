package test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// mostForAPlannedRestart is how long an acknowledged write may wait because a broker is restarted in order. Mostly it is below 50 ms.
const mostForAPlannedRestart = 200 * time.Millisecond

// Brokers that are told to stop hand over what they lead: with one writer for each partition, on disks whose flushes take 2 ms, none waits for long while
// one broker after the other is stopped and started again. What the processor takes is not in it: time is virtual.
func TestPlannedRestartsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	const partitions = 16 // so many that some go back to the broker that has just come back
	brokertest.Simulate(t, brokertest.Options{}, func(t *testing.T, cluster *brokertest.Cluster) {
		s := beginOn(t, cluster)
		const name = "many"
		_, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: name, Partitions: partitions, ReplicationFactor: 3, WaitReady: 10 * time.Second})
		s.must("create", err)
		for _, id := range s.c.Brokers() {
			s.c.SlowDisk(id, 2*time.Millisecond)
		}
		over := make(chan struct{})
		var writers sync.WaitGroup
		var mu sync.Mutex
		var longest time.Duration
		var where string
		doing, n := "nothing", 0
		for part := range int32(partitions) {
			writers.Go(func() {
				p := s.producer(client.ProducerConfig{Linger: client.NoLinger})
				for {
					select {
					case <-over:
						return
					case <-time.After(40 * time.Millisecond):
					}
					began := time.Now()
					r := p.SendSync(s.ctx, client.Record{Topic: name, Partition: client.ToPartition(part), Value: []byte("x")})
					took := time.Since(began)
					mu.Lock()
					if n++; r.Outcome != client.Written {
						t.Errorf("while %s: %v", doing, r)
					}
					if took > longest {
						longest, where = took, fmt.Sprintf("%s while %s", record.TopicPartition{Topic: name, Partition: part}, doing)
					}
					mu.Unlock()
				}
			})
		}
		say := func(what string, id int32) {
			mu.Lock()
			defer mu.Unlock()
			doing = fmt.Sprintf("broker %d %s", id, what)
		}
		for _, id := range s.c.Brokers() {
			<-time.After(700 * time.Millisecond)
			say("stops", id)
			s.c.Stop(id)
			say("is away", id)
			<-time.After(700 * time.Millisecond)
			say("starts", id)
			s.c.StartAgain(id)
			s.c.WaitReady(id)
			say("is back", id)
		}
		<-time.After(700 * time.Millisecond)
		close(over)
		writers.Wait()
		t.Logf("%d records; the longest wait was %v: %s", n, longest, where)
		if longest > mostForAPlannedRestart {
			t.Errorf("%s waited for %v", where, longest)
		}
	})
}
