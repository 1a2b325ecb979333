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
	// Room bounds what fetches read into memory together; nil: no bound.
	Room Room
}

// Room bounds what fetches hold in memory, from before it is read. One Fetch uses it from one goroutine. Of what
// it has taken, the bytes in the answers stay taken when Fetch has returned.
type Room interface {
	// Take takes room for an answer of so many bytes or fewer, and gives how many it may have: enough for one batch of any
	// size, or 0 if there is no room until ctx ends.
	Take(ctx context.Context, most int) int
	// Give gives back what was taken and not used.
	Give(bytes int)
}

// noRoom is the Room of requests without one.
type noRoom struct{}

func (noRoom) Take(_ context.Context, most int) int { return max(most, 1) }
func (noRoom) Give(int)                             {}

// fetchWaiter is a long poll; a partition whose bounds move puts a token in.
type fetchWaiter struct {
	moved chan struct{}
}

// Fetch reads, and waits until there is enough, an error, or MaxWait is over. The answers are in
// the order of the request.
func (h *Host) Fetch(ctx context.Context, req FetchRequest) []FetchedPartition {
	if req.Room == nil {
		req.Room = noRoom{}
	}
	end, stop := context.WithTimeout(ctx, max(req.MaxWait, 0))
	defer stop()
	replicas := make([]*Replica, len(req.Partitions))
	for i, q := range req.Partitions {
		replicas[i], _ = h.meant(q.TopicPartition, q.TopicID)
	}
	w := &fetchWaiter{moved: make(chan struct{}, 1)}
	var timeout <-chan time.Time
	for {
		answers, done := h.fetchOnce(ctx, end, req, replicas)
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
			return withoutData(answers)
		case <-h.stopping:
			return withoutData(answers)
		}
	}
}

// fetchOnce reads what there is. done: it is enough to answer, or there is no room for it until end.
func (h *Host) fetchOnce(ctx, end context.Context, req FetchRequest, replicas []*Replica) (answers []FetchedPartition, done bool) {
	answers = make([]FetchedPartition, len(req.Partitions))
	room, full := 0, false
	if req.anyData(replicas) {
		room = req.Room.Take(end, req.MaxBytes)
		full = room == 0
	}
	left := min(room, req.MaxBytes)
	total := 0
	for i, q := range req.Partitions {
		if replicas[i] == nil {
			_, refusal := h.meant(q.TopicPartition, q.TopicID)
			if refusal == nil { // it has come meanwhile
				refusal = h.unknown(q.TopicPartition)
			}
			answers[i] = FetchedPartition{TopicPartition: q.TopicPartition, Err: refusal,
				HighWatermark: -1, LastStable: -1, LogStart: -1}
		} else {
			budget := max(left-total, 0)
			if total == 0 && room > 0 {
				budget = max(budget, 1)
			}
			answers[i] = replicas[i].read(ctx, q, req.Committed, budget)
		}
		total += answers[i].Bytes
		done = done || answers[i].Err != nil
	}
	done = done || full || total >= req.MinBytes || req.MaxWait <= 0
	if !done {
		req.Room.Give(room) // what was read is read again when there is more
		return answers, false
	}
	req.Room.Give(room - total)
	return answers, true
}

// withoutData drops what was read and has been given back.
func withoutData(answers []FetchedPartition) []FetchedPartition {
	for i := range answers {
		answers[i].Batches, answers[i].Bytes = nil, 0
	}
	return answers
}

// anyData says that something can be read now. What comes a moment later wakes the long poll.
func (req *FetchRequest) anyData(replicas []*Replica) bool {
	for i, r := range replicas {
		if r == nil {
			continue
		}
		b := r.bounds.Load()
		limit := b.highWatermark
		if req.Committed {
			limit = b.lastStable
		}
		if at := req.Partitions[i].Offset; at >= b.start && at < limit {
			return true
		}
	}
	return false
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
