package client

import (
	"context"
	"errors"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// maxFlights is how many questions may be out to one broker. A long poll for quiet partitions must
// not hold up a busy one that has room again; each partition is in at most one.
const maxFlights = 4

// fetchAhead is how many answers' worth of a partition may wait for Poll: one that is being used up,
// and one so that the next is there when that is done.
const fetchAhead = 2

// fetchBroker is what a consumer keeps per broker. The consumer's mutex guards it.
type fetchBroker struct {
	id       int32
	addr     string
	flights  int
	failures int
	retryAt  time.Time
}

// flight is one question to one broker: a fetch, or a look-up of offsets.
type flight struct {
	broker *fetchBroker
	lookup bool
	parts  []flightPart
	left   int   // partitions that still wait for it
	room   int64 // bytes reserved in the buffer
	since  time.Time
	cancel context.CancelFunc
}

// flightPart is a partition as it was when asked about.
type flightPart struct {
	p      *part
	seeks  uint64
	topic  string
	from   record.Offset
	target Position
	epoch  int32
}

// run asks brokers for what there is room for, whenever something has changed. It is the only one
// that starts questions.
func (k *Consumer) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		view, changed := k.c.meta.watch()
		next := k.launch(view, time.Now())
		timer.Reset(next)
		select {
		case <-k.wake:
		case <-changed:
		case <-timer.C:
		case <-k.ctx.Done():
			return
		}
	}
}

// launch starts every question that can be asked now, and says how long nothing else will be due.
func (k *Consumer) launch(v *view, now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := time.Hour
	later := func(t time.Time) { next = min(next, max(t.Sub(now), time.Millisecond)) }
	groups := make(map[*fetchBroker]*[2]*flight) // a fetch and a look-up for each broker
	k.first++
	for i := range k.order {
		p := k.order[(k.first+i)%len(k.order)]
		if !p.placed && p.target.kind == byPolicy && k.cfg.Reset == ResetError && !p.stopped {
			k.fail(p, invalid("Reset", "is ResetError and the partition has no position; call Seek").at(p.tp))
		}
		if p.stopped {
			continue
		}
		if wait, err := p.checkTopic(v, now); wait {
			k.leave(p)
			if err != nil {
				k.fail(p, err)
				continue
			}
			k.c.meta.refresh()
			later(now.Add(k.c.cfg.RetryBackoff))
			continue
		}
		broker, addr, epoch, ok := v.leaderOf(p.tp)
		if p.flight != nil {
			if ok && p.flight.broker.id != broker {
				k.leave(p) // somebody else leads: do not wait for the one that was asked
			} else {
				later(k.watchFlight(p.flight, now))
				continue
			}
		}
		if p.placed && (p.paused || p.bytes >= fetchAhead*int64(k.cfg.MaxPartitionBytes)) {
			continue
		}
		if !ok {
			k.c.meta.refresh()
			later(now.Add(k.c.cfg.RetryBackoff))
			continue
		}
		b := k.broker(broker, addr)
		if epoch > p.epoch { // who was elected lives: that it could not be reached is past
			p.epoch, p.failures, p.retryAt = epoch, 0, time.Time{}
			b.failures, b.retryAt = 0, time.Time{}
			k.conns.hurry(addr)
		}
		if wait := latest(p.retryAt, b.retryAt); now.Before(wait) {
			later(wait)
			continue
		}
		if b.flights >= maxFlights {
			continue // an answer will wake us
		}
		k.join(groups, b, p, epoch)
	}
	for b, pair := range groups {
		for _, f := range pair {
			if f != nil {
				b.flights++
				f.since = now
				later(now.Add(stallAfter))
				k.start(f)
			}
		}
	}
	return next
}

// checkTopic says whether the view has the topic that the position belongs to. If not, the partition is to wait,
// because the broker that was asked may be behind; after unknownTopicGrace err says why it gives nothing any
// more. Offsets of a deleted topic mean nothing in the next one of its name. Needs mu.
func (p *part) checkTopic(v *view, now time.Time) (wait bool, err *Error) {
	t := v.topics[p.tp.Topic]
	switch {
	case t == nil || t.err != nil && t.err.Reason != ReasonUnknownTopicOrPartition:
		return false, nil // not asked about yet, or passes by itself
	case t.err != nil || int(p.tp.Partition) >= len(t.parts):
		err = refusal(ReasonUnknownTopicOrPartition, "the topic or partition does not exist any more")
	case p.topic != "" && t.id != p.topic:
		err = refusal(ReasonInconsistentTopicID, "the topic was deleted, and another one of its name created; Seek says where to read that")
	default:
		p.topic, p.missing = t.id, time.Time{}
		return false, nil
	}
	if p.missing.IsZero() {
		p.missing = now
	}
	if now.Sub(p.missing) < unknownTopicGrace {
		return true, nil
	}
	return true, err.at(p.tp)
}

// join adds a partition to the question that its broker is about to be asked. Needs mu.
func (k *Consumer) join(groups map[*fetchBroker]*[2]*flight, b *fetchBroker, p *part, epoch int32) {
	pair := groups[b]
	if pair == nil {
		pair = new([2]*flight)
		groups[b] = pair
	}
	kind := 0
	if !p.placed {
		kind = 1
	}
	f := pair[kind]
	if f == nil {
		f = &flight{broker: b, lookup: kind == 1}
		pair[kind] = f
	}
	if !f.lookup && !k.reserve(f) {
		if len(f.parts) == 0 {
			pair[kind] = nil
		}
		return // Poll, or an answer, will make room
	}
	f.parts = append(f.parts, flightPart{p: p, seeks: p.seeks, topic: p.topic, from: p.next, target: p.target, epoch: epoch})
	f.left++
	p.flight = f
}

// reserve takes room in the buffer for one more partition of a fetch, up to the share of one
// fetch; beyond it the partition comes along for what the others leave. False: there is no room.
// Needs mu.
func (k *Consumer) reserve(f *flight) bool {
	want := int64(k.cfg.MaxPartitionBytes)
	share := min(max(k.cfg.BufferBytes/16, want), int64(k.cfg.MaxBytes))
	if f.room >= share {
		return true
	}
	want = min(want, share-f.room)
	if used := k.buffered + k.reserved; used > 0 && used+want > k.cfg.BufferBytes {
		return f.room > 0
	}
	f.room += want
	k.reserved += want
	return true
}

func (k *Consumer) broker(id int32, addr string) *fetchBroker {
	b := k.brokers[id]
	if b == nil || b.addr != addr {
		b = &fetchBroker{id: id, addr: addr}
		k.brokers[id] = b
	}
	return b
}

// watchFlight looks after a question that takes longer than it should: metadata may know another
// leader. It says when to look again. Needs mu.
func (k *Consumer) watchFlight(f *flight, now time.Time) time.Time {
	patience := stallAfter
	if !f.lookup {
		patience += k.cfg.MaxWait
	}
	if now.Sub(f.since) >= patience {
		k.c.meta.refresh()
		return now.Add(stallAfter)
	}
	return f.since.Add(patience)
}

// leave takes a partition out of its question; the last one cancels it. Needs mu.
func (k *Consumer) leave(p *part) {
	f := p.flight
	if f == nil {
		return
	}
	p.flight = nil
	f.left--
	if f.left == 0 {
		f.cancel()
	}
}

// start asks, on a goroutine of its own. Needs mu.
func (k *Consumer) start(f *flight) {
	limit := k.c.cfg.RequestTimeout
	if !f.lookup {
		limit += k.cfg.MaxWait
	}
	ctx, cancel := context.WithTimeout(k.ctx, limit)
	f.cancel = cancel
	k.wg.Go(func() {
		defer cancel()
		log, cc, err := k.conns.log(f.broker.addr)
		var got []answer
		if err == nil {
			if f.lookup {
				err = k.lookUp(ctx, log, f)
			} else {
				got, err = k.fetch(ctx, log, f)
			}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				k.conns.drop(f.broker.addr, cc) // it hangs
			}
		}
		k.land(f, err)
		// The next question is on its way while these are checked.
		for i := range got {
			k.check(&got[i])
		}
	})
}

// land ends a question: partitions that are still waiting for it may be asked about again.
func (k *Consumer) land(f *flight, err error) {
	k.mu.Lock()
	now := time.Now()
	abandoned := f.left == 0
	for _, fp := range f.parts {
		if fp.p.flight == f {
			fp.p.flight = nil
		}
	}
	k.reserved -= f.room
	b := f.broker
	b.flights--
	if err == nil {
		b.failures = 0
	} else if !abandoned && k.ctx.Err() == nil {
		b.failures++
		b.retryAt = now.Add(k.c.backoff(b.failures))
	}
	k.mu.Unlock()
	if err != nil && !abandoned && k.ctx.Err() == nil {
		e := fromCall(err, b.addr)
		k.c.log.Debug("fetch failed", "broker", b.id, "addr", b.addr, "err", e)
		k.c.meta.refresh()
	}
	signal(k.wake)
}

// fetch asks for records. What it gives is noted as fetched, and has to be checked.
func (k *Consumer) fetch(ctx context.Context, log clientv1.LogServiceClient, f *flight) ([]answer, error) {
	resp, err := log.Fetch(ctx, k.request(f))
	if err != nil {
		return nil, err
	}
	byName := f.byName()
	empty := true
	var got []answer
	for _, p := range resp.GetPartitions() {
		empty = empty && p.GetError() == nil && len(p.GetBatches()) == 0
		tp := record.TopicPartition{Topic: p.GetTopic(), Partition: p.GetPartition()}
		fp, ok := byName[tp]
		if !ok {
			continue
		}
		if e := fromProto(p.GetError()); e != nil {
			k.refused(fp, e.at(tp))
			continue
		}
		if a, ok := k.arrived(fp, p); ok {
			got = append(got, a)
		}
	}
	if empty && time.Since(f.since) < k.cfg.MaxWait/2 {
		// Not what a long poll is for. Whatever the reason, do not ask in a tight loop.
		sleep(ctx, earlyPause)
	}
	return got, nil
}

// request is what a fetch looks like on the wire.
func (k *Consumer) request(f *flight) *clientv1.FetchRequest {
	req := &clientv1.FetchRequest{
		MaxWaitMs: int32(k.cfg.MaxWait.Milliseconds()), MinBytes: int32(k.cfg.MinBytes), MaxBytes: int32(min(int64(k.cfg.MaxBytes), f.room)),
		IsolationLevel: clientv1.IsolationLevel_ISOLATION_LEVEL_READ_UNCOMMITTED,
	}
	if k.cfg.Isolation == ReadCommitted {
		req.IsolationLevel = clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED
	}
	for i := range f.parts {
		fp := &f.parts[i]
		req.Partitions = append(req.Partitions, &clientv1.FetchPartition{
			Topic: fp.p.tp.Topic, Partition: fp.p.tp.Partition, Offset: int64(fp.from),
			MaxBytes: int32(k.cfg.MaxPartitionBytes), LeaderEpoch: &fp.epoch, TopicId: fp.topic,
		})
	}
	return req
}

// earlyPause follows an answer that brought nothing before its time.
const earlyPause = 10 * time.Millisecond

func (f *flight) byName() map[record.TopicPartition]*flightPart {
	m := make(map[record.TopicPartition]*flightPart, len(f.parts))
	for i := range f.parts {
		m[f.parts[i].p.tp] = &f.parts[i]
	}
	return m
}

// refused reacts to an error for one partition: most pass with fresh metadata.
func (k *Consumer) refused(fp *flightPart, e *Error) {
	news := k.c.meta.hint(fp.p.tp, e.Leader)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := fp.p
	if p.seeks != fp.seeks {
		return
	}
	switch {
	case news:
		p.retryAt = time.Time{}
	case e.Reason == ReasonOffsetOutOfRange && k.cfg.Reset != ResetError:
		to := Beginning()
		if k.cfg.Reset == ResetLatest {
			to = End()
		}
		k.c.log.Info("offset out of range, position is reset", "topic", p.tp.Topic, "partition", p.tp.Partition, "offset", int64(fp.from), "latest", k.cfg.Reset == ResetLatest)
		again := p.failures
		k.place(p, to)
		if p.failures = again + 1; again > 0 {
			p.retryAt = time.Now().Add(k.c.backoff(again))
		}
	case e.Reason == ReasonOffsetOutOfRange || !e.Retriable && !e.staleMetadata():
		k.fail(p, e)
	default:
		p.failures++
		p.retryAt = time.Now().Add(k.c.backoff(p.failures))
		k.c.meta.refresh()
	}
}

// lookUp asks where positions are that are not offsets.
func (k *Consumer) lookUp(ctx context.Context, log clientv1.LogServiceClient, f *flight) error {
	req := &clientv1.ListOffsetsRequest{IsolationLevel: clientv1.IsolationLevel_ISOLATION_LEVEL_READ_UNCOMMITTED}
	if k.cfg.Isolation == ReadCommitted {
		req.IsolationLevel = clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED
	}
	for _, fp := range f.parts {
		req.Partitions = append(req.Partitions, &clientv1.ListOffsetsPartition{
			Topic: fp.p.tp.Topic, Partition: fp.p.tp.Partition, TimestampMs: k.timestamp(fp.target),
		})
	}
	resp, err := log.ListOffsets(ctx, req)
	if err != nil {
		return err
	}
	byName := f.byName()
	for _, l := range resp.GetPartitions() {
		fp, ok := byName[record.TopicPartition{Topic: l.GetTopic(), Partition: l.GetPartition()}]
		if !ok {
			continue
		}
		if e := fromProto(l.GetError()); e != nil {
			k.refused(fp, e.at(fp.p.tp))
			continue
		}
		k.found(fp, record.Offset(l.GetOffset()))
	}
	return nil
}

// Special timestamps of ListOffsets (L16).
const (
	timestampLatest   = -1
	timestampEarliest = -2
	timestampMax      = -3
)

func (k *Consumer) timestamp(p Position) int64 {
	if p.kind == byPolicy && k.cfg.Reset == ResetEarliest {
		return timestampEarliest
	}
	return p.timestamp()
}

// timestamp is what ListOffsets calls a position that is not an offset.
func (p Position) timestamp() int64 {
	switch p.kind {
	case since:
		return p.value
	case beginning:
		return timestampEarliest
	case newest:
		return timestampMax
	default:
		return timestampLatest
	}
}

// found places a partition. A time after the last record is the end.
func (k *Consumer) found(fp *flightPart, o record.Offset) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := fp.p
	switch {
	case p.seeks != fp.seeks || p.placed:
	case o < 0:
		p.target = End()
	default:
		again := p.failures
		k.place(p, At(o))
		p.failures = again
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
