package client

import (
	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// What is fetched of a partition passes two steps. First the headers of its batches say where the
// next question begins, so that it can be asked at once; then, while the broker works on that, the
// batches are checked and put up for Poll. Several answers may be in the second step at a time, on
// goroutines of their own; they end it in the order of the first.

// answer is what a fetch brought for one partition.
type answer struct {
	fp    *flightPart
	data  *clientv1.FetchedPartition
	bytes int64
	// before is closed when the answer before this one is up for Poll, nil: there is none; done when
	// this one is.
	before, done chan struct{}
}

// arrived notes what came for a partition and moves its position behind it; false: nobody waits for it any more, or there
// is nothing in it.
func (k *Consumer) arrived(fp *flightPart, data *clientv1.FetchedPartition) (answer, bool) {
	next, bytes := survey(fp.from, data)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := fp.p
	if p.seeks != fp.seeks || p.next != fp.from {
		return answer{}, false
	}
	p.failures = 0
	if len(data.GetBatches()) == 0 {
		return answer{}, false
	}
	a := answer{fp: fp, data: data, bytes: bytes, before: p.last, done: make(chan struct{})}
	p.next, p.last = next, a.done
	p.unchecked += bytes
	p.bytes += bytes
	k.buffered += bytes
	return a, true
}

// check decodes an answer and puts its records up for Poll, after those of the answer before.
func (k *Consumer) check(a *answer) {
	defer close(a.done)
	fp, p := a.fp, a.fp.p
	got, err := decode(p.tp, fp.from, a.data, decoding{k.cfg.Isolation == ReadCommitted, k.cfg.ControlBatches, !k.cfg.DisableCRC})
	if a.before != nil {
		<-a.before
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.seeks != fp.seeks {
		return // drop has counted its bytes out
	}
	k.forget(p, a.bytes)
	if p.last == a.done {
		p.last = nil
	}
	if err != nil {
		// What was asked for, or has come, beyond a batch that cannot be read does not count.
		k.forget(p, p.unchecked)
		k.leave(p)
		p.seeks++
		p.next, p.last, p.failure = got.Next, nil, err
		p.stopped = true
	}
	if got.Next > fp.from {
		k.enqueue(p, got)
	}
	if p.failure != nil && p.last == nil {
		k.fail(p, p.failure)
	}
}

// forget counts out bytes that are not checked. Needs mu.
func (k *Consumer) forget(p *part, bytes int64) {
	p.unchecked -= bytes
	p.bytes -= bytes
	k.buffered -= bytes
}

// enqueue hands something to Poll. Needs mu.
func (k *Consumer) enqueue(p *part, f Fetched) {
	p.queue = append(p.queue, f)
	p.bytes += int64(f.bytes)
	k.buffered += int64(f.bytes)
	signal(k.ready)
}

// fail reports an error that does not pass, behind what was fetched before. Needs mu.
func (k *Consumer) fail(p *part, err error) {
	p.stopped = true
	if p.failure = err; p.last != nil {
		return // check will, when everything before is up for Poll
	}
	p.failure = nil
	k.enqueue(p, Fetched{
		TopicPartition: p.tp, Err: err, Next: p.next, from: p.next,
		HighWatermark: record.NoOffset, LastStable: record.NoOffset, LogStart: record.NoOffset,
	})
}
