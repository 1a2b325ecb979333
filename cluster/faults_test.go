package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

func reportRequest(n *node) *peerv1.ForwardRequest {
	return &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_ReportReplicas{ReportReplicas: &peerv1.ReportReplicas{
		Command: &statev1.ReportReplicas{BrokerId: n.id, NodeIncarnation: n.cluster.Self().Incarnation}}}}
}

func allocateRequest(n *node) *peerv1.ForwardRequest {
	return &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_AllocateProducerIds{AllocateProducerIds: &peerv1.AllocateProducerIds{
		Command: &statev1.AllocateProducerIds{BrokerId: n.id, NodeIncarnation: n.cluster.Self().Incarnation, Count: 10}}}}
}

// history is what clients of a cluster were told while it was broken.
type history struct {
	t *testing.T
	// mu guards what follows.
	mu sync.Mutex
	// topics has the numbers of partitions that each may have in the end; 0 is that it does not exist.
	topics map[string][]int
	ids    map[int64]int32
	told   map[string]int
}

func newHistory(t *testing.T) *history {
	return &history{t: t, topics: make(map[string][]int), ids: make(map[int64]int32), told: make(map[string]int)}
}

// note enters the possible ends of one change from the ends before it, and says whether the next can
// be built on it.
func (h *history) note(name, what string, to int, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told[what+" "+codeOf(err)]++
	before := h.topics[name]
	if before == nil {
		before = []int{0}
	}
	var refusal *metadata.Error
	switch {
	case err == nil:
		h.topics[name] = []int{to}
		return true
	case errors.As(err, &refusal) && OutcomeOf(err) == raftgroup.DidNotHappen:
		h.t.Errorf("%s of %s was refused: %v", what, name, err)
	case OutcomeOf(err) == raftgroup.DidNotHappen:
		h.topics[name] = before
	default:
		h.topics[name] = append(slices.Clone(before), to)
	}
	return false
}

// id enters a producer id.
func (h *history) id(broker int32, id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if was, twice := h.ids[id]; twice {
		h.t.Errorf("producer id %d was given by broker %d and by broker %d", id, was, broker)
	}
	h.ids[id] = broker
	h.told["id"]++
}

// work changes topics, each from its creation to its end, and takes producer ids, through one broker.
func (h *history) work(ctx context.Context, c *Cluster, life string) {
	select {
	case <-c.Ready():
	case <-ctx.Done():
	}
	for i := 0; ctx.Err() == nil; i++ {
		if id, err := c.NextProducerID(ctx); err == nil {
			h.id(c.config.Broker, int64(id))
		} else if !errors.Is(err, &Error{Code: LoadInProgress}) {
			h.t.Errorf("producer id: %v", err)
		}
		name := fmt.Sprintf("t-%s-%d", life, i)
		ask, cancel := context.WithTimeout(ctx, time.Duration(1+i%4)*time.Second)
		_, err := c.CreateTopic(ask, NewTopic{Name: name, Partitions: 1, ReplicationFactor: 1})
		next := h.note(name, "create", 1, err)
		if next && i%2 == 0 {
			_, err := c.AlterTopic(ask, TopicChange{Name: name, Partitions: 2})
			next = h.note(name, "alter", 2, err)
		}
		if next && i%3 == 0 {
			h.note(name, "delete", 0, c.DeleteTopic(ask, name))
		}
		cancel()
		sleep(ctx, nil, 300*time.Millisecond)
	}
}

// check compares what clients were told with what there is.
func (h *history) check(img *metadata.Image) {
	for name, ends := range h.topics {
		n := 0
		if t, ok := img.Topic(name); ok {
			n = len(t.Partitions)
		}
		if !slices.Contains(ends, n) {
			h.t.Errorf("topic %s has %d partitions; its clients were told of %v", name, n, ends)
		}
	}
	for _, t := range img.Topics() {
		if h.topics[t.Name] == nil {
			h.t.Errorf("topic %s was never asked for", t.Name)
		}
	}
}

// TestChangesUnderFaults: brokers lose power, links and connections while topics are changed and
// producer ids taken through all of them. Each change is what its caller was told, no producer id is
// given twice (I1), and all brokers hold the same.
func TestChangesUnderFaults(t *testing.T) {
	total := make(map[string]int)
	for seed := range seeds(5) {
		withSeed(t, seed, func(r *rig) {
			r.found(3)
			h := newHistory(t)
			var workers sync.WaitGroup
			lives := 0
			cancels := make(map[int32]context.CancelFunc)
			run := func(id int32) {
				n := r.start(id, func(n *node) { n.change = func(c *Config) { c.ProducerIDBlock = 3 } })
				ctx, cancel := context.WithCancel(context.Background())
				cancels[id] = cancel
				lives++
				c, life := n.cluster, fmt.Sprintf("%d-%d", id, lives)
				for w := range 2 {
					workers.Go(func() { h.work(ctx, c, fmt.Sprintf("%s-%d", life, w)) })
				}
			}
			for id := int32(1); id <= 3; id++ {
				run(id)
			}
			r.ready(r.running()...)
			for range 25 {
				time.Sleep(time.Duration(r.rng.IntN(800)) * time.Millisecond)
				r.disturb(run, cancels)
			}
			r.net.HealAll()
			for id := int32(1); id <= 3; id++ {
				if r.node(id).cluster == nil {
					run(id)
				}
			}
			r.ready(r.running()...)
			time.Sleep(2 * time.Second)
			for _, cancel := range cancels {
				cancel()
			}
			workers.Wait()
			h.check(r.agree())
			for what, n := range h.told {
				total[what] += n
			}
		})
	}
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%5d %s", total[what], what)
	}
	for _, must := range []string{"create OK", "alter OK", "delete OK", "id", "create NOT_CONTROLLER", "create REQUEST_TIMED_OUT"} {
		if total[must] == 0 {
			t.Errorf("%q never happened", must)
		}
	}
}

// disturb breaks or mends one thing.
func (r *rig) disturb(run func(int32), cancels map[int32]context.CancelFunc) {
	id := 1 + r.rng.Int32N(3)
	n, other := r.node(id), hostOf(1+r.rng.Int32N(3))
	switch k := r.rng.IntN(10); {
	case n.cluster == nil:
		run(id)
	case k < 3:
		if r.rng.IntN(2) == 0 {
			n.crash()
		} else {
			n.kill()
		}
		cancels[id]()
	case k < 5 && other != n.host:
		r.net.Cut(n.host, other)
	case k < 6:
		r.net.HealAll()
	case k < 8 && other != n.host:
		r.net.ResetConns(n.host, other)
	case other != n.host:
		r.net.Delay(n.host, other, time.Duration(r.rng.IntN(300))*time.Millisecond)
	}
}
