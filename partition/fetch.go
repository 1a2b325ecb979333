package partition

import (
	"context"
	"time"
)

// FetchRequest asks for records of one or more partitions.
type FetchRequest struct {
	Partitions []FetchPartition
	// MaxWait is how long to wait for MinBytes.
	MaxWait time.Duration
	// MinBytes and MaxBytes are over all partitions. The first partition with data gives at
	// least one whole batch, however large (L14).
	MinBytes, MaxBytes int
	// Committed: only data below the last stable offset (read_committed, L10).
	Committed bool
}

// fetchWaiter is a long poll; a partition whose bounds move puts a token in.
type fetchWaiter struct {
	moved chan struct{}
}

// Fetch reads, and waits until there is enough, an error, or MaxWait is over. The answers are in
// the order of the request.
func (h *Host) Fetch(ctx context.Context, req FetchRequest) []FetchedPartition {
	replicas := make([]*Replica, len(req.Partitions))
	for i, q := range req.Partitions {
		replicas[i] = h.replica(q.TopicPartition)
	}
	w := &fetchWaiter{moved: make(chan struct{}, 1)}
	var timeout <-chan time.Time
	for {
		answers, done := h.fetchOnce(ctx, req, replicas)
		if done || req.MaxWait <= 0 {
			return answers
		}
		if timeout == nil {
			// Registered before the last look, so that no move goes unnoticed between.
			timer := time.NewTimer(req.MaxWait)
			defer timer.Stop()
			timeout = timer.C
			for _, r := range replicas {
				r.addFetch(w)
				defer r.removeFetch(w)
			}
			continue
		}
		select {
		case <-w.moved:
		case <-timeout:
			req.MaxWait = 0
		case <-ctx.Done():
			return answers
		case <-h.stopping:
			return answers
		}
	}
}

// fetchOnce reads what there is. done: it is enough to answer.
func (h *Host) fetchOnce(ctx context.Context, req FetchRequest, replicas []*Replica) (answers []FetchedPartition, done bool) {
	answers = make([]FetchedPartition, len(req.Partitions))
	total := 0
	for i, q := range req.Partitions {
		if replicas[i] == nil {
			answers[i] = FetchedPartition{TopicPartition: q.TopicPartition, Err: h.unknown(q.TopicPartition),
				HighWatermark: -1, LastStable: -1, LogStart: -1}
		} else {
			budget := max(req.MaxBytes-total, 0)
			if total == 0 {
				budget = max(budget, 1)
			}
			answers[i] = replicas[i].read(ctx, q, req.Committed, budget)
		}
		total += answers[i].Bytes
		done = done || answers[i].Err != nil
	}
	return answers, done || total >= req.MinBytes
}

func (r *Replica) addFetch(w *fetchWaiter) {
	if r == nil {
		return
	}
	r.fetchMu.Lock()
	defer r.fetchMu.Unlock()
	if r.fetches == nil {
		r.fetches = make(map[*fetchWaiter]struct{})
	}
	r.fetches[w] = struct{}{}
}

func (r *Replica) removeFetch(w *fetchWaiter) {
	if r == nil {
		return
	}
	r.fetchMu.Lock()
	defer r.fetchMu.Unlock()
	delete(r.fetches, w)
}

// wakeFetches tells every long poll on this partition to look again (L13).
func (r *Replica) wakeFetches() {
	r.fetchMu.Lock()
	defer r.fetchMu.Unlock()
	for w := range r.fetches {
		select {
		case w.moved <- struct{}{}:
		default:
		}
	}
}
