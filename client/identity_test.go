package client

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// firstLane is the lane of partition 0 of "t".
func firstLane(p *Producer) *lane { return (*(*p.topics.Load())["t"].lanes.Load())[0] }

// A retry older than the five-batch window cannot be recognised, so it never comes to that: while
// the first batch is undecided, at most four others follow it.
func TestNoRetryOutsideTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		c.seen = nil
		c.onFirst(map[string]fault{"0": {delay: 20 * time.Second}})
		r := newResults()
		want := []string{"a"}
		for i := range 20 {
			want = append(want, fmt.Sprint(i))
			r.send(t, p, want[i+1])
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if len(c.seen) != 5 {
			t.Errorf("%d batches were sent while the first was undecided: %v", len(c.seen), c.seen)
		}
		if len(r.seq) != 1 && len(r.got) != 0 {
			t.Errorf("told of %v before the first", r.seq)
		}
		flush(t, p)
		c.wantLog(t, want...)
		if !slices.Equal(r.seq, want[1:]) {
			t.Errorf("callbacks: %v", r.seq)
		}
	})
}

// A broker that has forgotten a producer's window answers a retry with 45 although the batch was
// written. Under a new number it would be there twice (F1): the outcome is unknown.
func TestForgottenWindowIsUnknown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		c.script = func(_ *clientv1.ProduceRequest, values []string) fault {
			if values[0] != "b" || len(c.partition0().values) > 1 {
				return fault{}
			}
			return fault{loseAck: true}
		}
		forget := func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.partition0().log.producers {
				m.window = nil
			}
		}
		r := newResults()
		r.send(t, p, "b")
		time.Sleep(7 * time.Millisecond)
		forget()
		flush(t, p)
		r.want(t, "b", Unknown, ReasonOutOfOrderSequence)
		if res := p.SendSync(bg, rec("c")); res.Outcome != Written {
			t.Error(res)
		}
		c.wantLog(t, "a", "b", "c")
	})
}

func (c *fakeCluster) partition0() *fakePartition { return c.topics["t"].partitions[0] }

// A broker that has lost acknowledged records answers 45 to the next batch. Nothing of that batch
// was written, so it goes under a new epoch at once.
func TestLostStateIsHealed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		p.SendSync(bg, rec("b"))
		c.mu.Lock()
		for _, m := range c.partition0().log.producers {
			m.last = 0
		}
		c.mu.Unlock()
		if res := p.SendSync(bg, rec("c")); res.Outcome != Written || p.Stats().NewIdentities != 1 {
			t.Error(res)
		}
		c.wantLog(t, "a", "b", "c")
	})
}

// An epoch that the broker calls old, and epochs that run out, bring a new producer id.
func TestNewProducerID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		c.mu.Lock()
		for _, m := range c.partition0().log.producers {
			m.epoch = 7
		}
		c.mu.Unlock()
		if res := p.SendSync(bg, rec("b")); res.Outcome != Written {
			t.Error(res)
		}
		if n := len(c.partition0().log.producers); n != 2 {
			t.Errorf("%d producer ids, want 2", n)
		}
		l := firstLane(p)
		l.mu.Lock()
		l.led.id.epoch = maxEpoch
		l.led.confirmed = true
		for _, m := range c.partition0().log.producers {
			m.epoch = max(m.epoch, maxEpoch)
		}
		l.mu.Unlock()
		c.onFirst(map[string]fault{"c": refused("INVALID_RECORD")})
		if res := p.SendSync(bg, rec("c")); res.Outcome != NotWritten {
			t.Error(res)
		}
		if res := p.SendSync(bg, rec("d")); res.Outcome != Written {
			t.Error(res)
		}
		if n := len(c.partition0().log.producers); n != 3 {
			t.Errorf("%d producer ids, want 3", n)
		}
		c.wantLog(t, "a", "b", "d")
	})
}

// Bytes that gRPC was given stay as they are: a new number goes into a copy.
func TestRenumberingCopies(t *testing.T) {
	b := &batch{builder: record.NewBuilder(record.CodecNone)}
	if err := b.builder.Append(1, nil, []byte("v"), nil); err != nil {
		t.Fatal(err)
	}
	b.stamp(0, identity{7, 0}, 5)
	first, before := b.wire, slices.Clone(b.wire)
	b.handed++
	b.stamp(0, identity{7, 0}, 5)
	if &b.wire[0] != &first[0] {
		t.Error("the same number was written twice")
	}
	b.stamp(1, identity{7, 1}, 0)
	if !slices.Equal(first, before) || b.wire.ProducerEpoch() != 1 || b.wire.BaseSequence() != 0 || b.wire.CheckCRC() != nil {
		t.Errorf("first %v, now %v", first, b.wire)
	}
}

// Sequences go on from 0 after 2^31-1 (P11), also in a batch that straddles the wrap.
func TestSequenceWrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		l := firstLane(p)
		l.mu.Lock()
		l.led.next = 1<<31 - 2
		l.mu.Unlock()
		for _, m := range c.partition0().log.producers {
			m.last = 1<<31 - 3
		}
		c.onFirst(map[string]fault{"0": {loseAck: true}})
		r := newResults()
		want := []string{"a"}
		for i := range 10 {
			want = append(want, fmt.Sprint(i))
			r.send(t, p, want[i+1])
		}
		flush(t, p)
		p.SendSync(bg, rec("z"))
		c.wantLog(t, append(want, "z")...)
		if s := p.Stats(); s.NewIdentities != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// The first batches of a producer cannot overtake each other, although a broker without state takes
// any sequence (P13).
func TestFirstBatchesKeepOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.onRequest(map[int]fault{1: busy(), 2: busy()})
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		r := newResults()
		var want []string
		for i := range 6 {
			want = append(want, fmt.Sprint(i))
			r.send(t, p, want[i])
			time.Sleep(time.Microsecond)
		}
		flush(t, p)
		c.wantLog(t, want...)
	})
}

// After a long silence the broker may have forgotten the producer (P25); the same holds then.
func TestOrderAfterSilence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		time.Sleep(25 * time.Hour)
		c.mu.Lock()
		clear(c.partition0().log.producers)
		c.mu.Unlock()
		c.onFirst(map[string]fault{"b": busy()})
		r := newResults()
		r.send(t, p, "b")
		time.Sleep(time.Microsecond)
		r.send(t, p, "c")
		flush(t, p)
		c.wantLog(t, "a", "b", "c")
	})
}
