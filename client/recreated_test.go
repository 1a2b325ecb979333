package client

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// sendBatches sends each value as a batch of its own, without waiting for any.
func (r *results) sendBatches(t *testing.T, p *Producer, values ...string) {
	t.Helper()
	for _, v := range values {
		r.send(t, p, v)
		synctest.Wait() // it is on its way
	}
}

// The topic is deleted and another one of its name created while batches are on their way to the old one. A broker without state for a producer
// takes any first sequence (P13): the new topic must not take the second batch before the first, and have the first counted as written because
// the second is.
func TestRecreatedTopicUnderFive(t *testing.T) {
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprintf("lost %v", lost), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newFakeCluster(t, 1)
				c.topic("t", 1)
				created, refused := false, false
				c.script = func(_ *clientv1.ProduceRequest, values []string) fault {
					switch {
					case values[0] == "b" && !created:
						created = true
						p := c.partition0()
						c.made++
						c.topics["t"] = &fakeTopic{id: fmt.Sprintf("%032d", c.made), configs: map[string]string{}, partitions: []*fakePartition{{
							c: c, tp: tp(0), leader: 1, epoch: 1, log: newModelLog(), changed: make(chan struct{}), aliases: make(map[string]int), stable: -1,
						}}}
						p.wake()
						if lost {
							return fault{cutBefore: true}
						}
						return busy()
					case values[0] == "b" && !refused && lost: // the new leader is not ready
						refused = true
						return busy()
					}
					return fault{}
				}
				p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
				p.SendSync(bg, rec("a"))
				r := newResults()
				c.brokers[1].host.pause()
				r.sendBatches(t, p, "b", "c", "d", "e", "f")
				c.brokers[1].host.resume()
				if err := p.Flush(bg); err != nil {
					t.Fatal(err)
				}
				if res := p.SendSync(bg, rec("g")); res.Outcome != Written {
					t.Errorf("after it all: %v", res)
				}
				stored := c.partition("t", 0).stored()
				if !slices.IsSorted(stored) {
					t.Errorf("the new topic holds %v", stored)
				}
				for _, v := range []string{"b", "c", "d", "e", "f"} {
					if res := r.got[v]; (res.Outcome == Written) != slices.Contains(stored, v) {
						t.Errorf("%s: %v; the new topic holds %v", v, res, stored)
						t.Log(c.seen)
					} else if lost && res.Outcome != Unknown || !lost && res.Outcome != Written {
						t.Errorf("%s: %v", v, res) // a lost attempt may have been written to the old topic
					}
				}
			})
		})
	}
}
