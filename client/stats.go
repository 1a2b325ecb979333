package client

import "sync/atomic"

// ProducerStats are counts since the producer was made, but for the first two.
type ProducerStats struct {
	// BufferedBytes is what unresolved records take of BufferBytes now.
	BufferedBytes int64
	// Waiting is how many calls of Send wait for room now.
	Waiting int
	// Blocked counts the calls of Send that had to wait for room.
	Blocked int64
	// BatchesSent counts attempts, BatchesRetried those that were not the first.
	BatchesSent, BatchesRetried int64
	// RecordsWritten, RecordsNotWritten and RecordsUnknown count results.
	RecordsWritten, RecordsNotWritten, RecordsUnknown int64
	// Duplicates counts batches that an earlier attempt had already written.
	Duplicates int64
	// NewIdentities counts raised epochs and new producer ids: gaps that were healed.
	NewIdentities int64
	// Contradictions counts answers that a broker by the rules P5 to P13 cannot give, such as
	// an acknowledgement under a number it had refused. More than 0 is a broker's fault.
	Contradictions int64
}

type producerCounters struct {
	blocked, sent, retried       atomic.Int64
	written, notWritten, unknown atomic.Int64
	duplicates                   atomic.Int64
}

func (c *producerCounters) count(r resolution) {
	switch n := int64(r.b.records); r.outcome {
	case Written:
		c.written.Add(n)
	case NotWritten:
		c.notWritten.Add(n)
	default:
		c.unknown.Add(n)
	}
	if r.b.ack.duplicate {
		c.duplicates.Add(1)
	}
}

// Stats counts what the producer has done.
func (p *Producer) Stats() ProducerStats {
	c := &p.stats
	s := ProducerStats{
		BufferedBytes: p.budget.used.Load(), Waiting: int(p.budget.pressed.Load()), Blocked: c.blocked.Load(),
		BatchesSent: c.sent.Load(), BatchesRetried: c.retried.Load(), RecordsWritten: c.written.Load(),
		RecordsNotWritten: c.notWritten.Load(), RecordsUnknown: c.unknown.Load(), Duplicates: c.duplicates.Load(),
	}
	p.eachLane(func(l *lane) {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.NewIdentities += int64(l.led.bumps)
		s.Contradictions += int64(l.led.contradictions)
	})
	return s
}
