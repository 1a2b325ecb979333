package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

func tp(p int32) record.TopicPartition { return record.TopicPartition{Topic: "t", Partition: p} }

// consumer is one that reads some partitions.
func consumer(t testing.TB, c *Client, cfg ConsumerConfig, assigned ...record.TopicPartition) *Consumer {
	t.Helper()
	k, err := c.NewConsumer(cfg)
	if err == nil && len(assigned) > 0 {
		err = k.Assign(bg, assigned...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// put stores records in partition 0 of "t", one batch for each argument, values split at spaces.
// Their timestamps are their offsets, in seconds.
func (c *fakeCluster) put(t testing.TB, batches ...string) {
	t.Helper()
	for _, b := range batches {
		c.append(t, 0, record.NoProducerID, false, strings.Fields(b)...)
	}
}

func (c *fakeCluster) append(t testing.TB, partition int32, pid record.ProducerID, transactional bool, values ...string) {
	t.Helper()
	p := c.partition("t", partition)
	c.mu.Lock()
	defer c.mu.Unlock()
	bd := record.NewBuilder(record.CodecNone)
	for i, v := range values {
		if err := bd.Append(1000*int64(int(p.log.end)+i), []byte("key-"+v), []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	p.store(bd.Finish(pid, 0, record.NoSequence, transactional), values)
}

// store puts a batch into the log as it is. Needs the cluster's lock.
func (p *fakePartition) store(b record.Batch, values []string) {
	b.SetBaseOffset(p.log.end)
	p.batches = append(p.batches, b)
	p.values = append(p.values, values...)
	p.log.end += record.Offset(len(values))
	p.wake()
}

// mark ends a transaction with a control record.
func (c *fakeCluster) mark(pid record.ProducerID, commit bool) {
	p := c.partition("t", 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.store(record.ControlBatch(record.Marker{ProducerID: pid, Commit: commit}), []string{""})
}

// read polls until n records have come, or for a minute.
func read(t testing.TB, k *Consumer, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	var got []string
	for len(got) < n {
		fs, err := k.Poll(ctx)
		if err != nil {
			t.Fatalf("Poll after %v: %v", got, err)
		}
		for _, f := range fs {
			if f.Err != nil {
				t.Fatalf("%v: %v", f.TopicPartition, f.Err)
			}
			for r, err := range f.Records() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(r.Value))
			}
		}
	}
	return got
}

// nothing checks that there is nothing to poll for a while.
func nothing(t testing.TB, k *Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, 3*time.Second)
	defer cancel()
	if fs, err := k.Poll(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, %v", fs, err)
	}
}

func (k *Consumer) mustSeek(t testing.TB, to Position) {
	t.Helper()
	if err := k.Seek(tp(0), to); err != nil {
		t.Fatal(err)
	}
}

func TestPollFromEveryPosition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		c.put(t, "0 1 2", "3 4", "5")
		k := consumer(t, c.connect(t), ConsumerConfig{}, tp(0))
		nothing(t, k) // latest
		c.put(t, "6")
		if got := read(t, k, 1); got[0] != "6" {
			t.Errorf("from the end: %v", got)
		}
		for _, test := range []struct {
			to   Position
			want string
		}{
			{Beginning(), "0 1 2 3 4 5 6"}, {At(1), "1 2 3 4 5 6"}, {At(5), "5 6"}, {Since(time.Unix(4, 0)), "4 5 6"}, {Since(time.Unix(3, 1)), "3 4 5 6"},
		} {
			k.mustSeek(t, test.to)
			want := strings.Fields(test.want)
			if got := read(t, k, len(want)); !slices.Equal(got, want) {
				t.Errorf("from %v: %v, want %v", test.to, got, want)
			}
			if pos, ok, err := k.Position(tp(0)); pos != 7 || !ok || err != nil {
				t.Errorf("position %v %v %v", pos, ok, err)
			}
		}
		for _, to := range []Position{End(), Since(time.Unix(1000, 0)), At(7)} {
			k.mustSeek(t, to)
			nothing(t, k)
		}
		if err := k.Seek(tp(0), At(-1)); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("negative offset: %v", err)
		}
		if err := k.Seek(tp(1), End()); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("not assigned: %v", err)
		}
		if err := k.Assign(bg, tp(1)); !errors.Is(err, ErrUnknownTopicOrPartition) {
			t.Errorf("unknown partition: %v", err)
		}
		if err := k.Assign(bg, record.TopicPartition{Topic: "none"}); !errors.Is(err, ErrUnknownTopicOrPartition) {
			t.Errorf("unknown topic: %v", err)
		}
	})
}

func TestPollGivesWholeRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		cl := c.connect(t)
		p := producer(t, cl, ProducerConfig{Compression: record.CodecZstd})
		at := time.UnixMilli(1234567)
		headers := []record.Header{{Key: "h", Value: []byte("v")}, {Key: "n"}}
		for _, r := range []Record{{Key: []byte("k"), Value: []byte("v"), Headers: headers, Timestamp: at}, {Value: []byte{}}, {Key: []byte{}}} {
			r.Topic = "t"
			if err := p.Send(bg, r, nil); err != nil {
				t.Fatal(err)
			}
		}
		flush(t, p)
		k := consumer(t, cl, ConsumerConfig{})
		if err := k.AssignTopic(bg, "t", Beginning()); err != nil {
			t.Fatal(err)
		}
		fs, err := k.Poll(bg)
		if err != nil || len(fs) != 1 || fs[0].Count() != 3 || fs[0].Next != 3 || fs[0].HighWatermark != 3 {
			t.Fatalf("%+v, %v", fs, err)
		}
		var rs []record.Record
		for r, err := range fs[0].Records() {
			if err != nil {
				t.Fatal(err)
			}
			r := *r
			r.Headers = slices.Clone(r.Headers)
			rs = append(rs, r)
		}
		if r := rs[0]; string(r.Key) != "k" || string(r.Value) != "v" || r.Timestamp != 1234567 || fmt.Sprint(r.Headers) != fmt.Sprint(headers) || r.Headers[1].Value != nil {
			t.Errorf("%+v", r)
		}
		if r := rs[1]; r.Key != nil || r.Value == nil || r.Offset != 1 {
			t.Errorf("%+v", r)
		}
		if r := rs[2]; r.Key == nil || r.Value != nil {
			t.Errorf("%+v", r)
		}
	})
}

// An idle consumer asks once per MaxWait and sleeps otherwise.
func TestPollDoesNotSpin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest}, tp(0))
		nothing(t, k)
		fetches := func() int {
			p := c.partition("t", 0)
			c.mu.Lock()
			defer c.mu.Unlock()
			return p.fetches
		}
		before := fetches()
		time.Sleep(10 * time.Minute)
		if n := fetches() - before; n < 1150 || n > 1250 {
			t.Errorf("%d fetches in ten idle minutes", n)
		}
	})
}

func TestPauseResumeAndAssignment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 3)
		k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest}, tp(2), tp(0), tp(2))
		if got := k.Assignment(); !slices.Equal(got, []record.TopicPartition{tp(0), tp(2)}) {
			t.Errorf("assigned %v", got)
		}
		if err := k.Pause(tp(0)); err != nil {
			t.Fatal(err)
		}
		c.put(t, "a")
		nothing(t, k)
		time.Sleep(time.Second)
		c.append(t, 2, record.NoProducerID, false, "b")
		c.append(t, 1, record.NoProducerID, false, "not assigned")
		if got := read(t, k, 1); got[0] != "b" {
			t.Errorf("got %v", got)
		}
		if err := k.Resume(tp(0)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, k, 1); got[0] != "a" {
			t.Errorf("got %v", got)
		}
		if err := k.Assign(bg, tp(0), tp(1)); err != nil { // 0 keeps its position
			t.Fatal(err)
		}
		if got := read(t, k, 1); got[0] != "not assigned" {
			t.Errorf("got %v", got)
		}
		nothing(t, k)
		c.put(t, "ahead")
		time.Sleep(time.Second) // it is fetched by now
		if err := k.Pause(tp(0)); err != nil {
			t.Fatal(err)
		}
		nothing(t, k)
		if err := k.Resume(tp(0)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, k, 1); got[0] != "ahead" {
			t.Errorf("got %v", got)
		}
		if err := k.Close(bg); err != nil {
			t.Error(err)
		}
		if _, err := k.Poll(bg); !errors.Is(err, ErrClosed) {
			t.Errorf("Poll after Close: %v", err)
		}
	})
}

// The rules of L11 and L2: aborted data and markers are not shown, data of a producer after its
// abort is, the position moves over all of it.
func TestReadCommitted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.append(t, 0, 1, true, "a1") // 0, aborted
		c.put(t, "plain")             // 1
		c.append(t, 0, 2, true, "c1") // 2, committed
		c.append(t, 0, 1, true, "a2") // 3, aborted
		c.append(t, 0, 1, false, "x") // 4, not transactional: always passes
		c.mark(1, false)              // 5
		c.append(t, 0, 1, true, "c2") // 6, committed
		c.mark(2, true)               // 7
		c.mark(1, true)               // 8
		c.append(t, 0, 2, true, "b1") // 9, aborted
		c.append(t, 0, 2, true, "b2") // 10, aborted
		c.mark(2, false)              // 11
		c.append(t, 0, 3, true, "o1") // 12, open
		c.put(t, "after")             // 13
		p := c.partition("t", 0)
		// Not sorted by first offset, as the index is in the order of markers (L8).
		p.aborted = []*clientv1.AbortedTransaction{{ProducerId: 2, FirstOffset: 9}, {ProducerId: 1, FirstOffset: 0}}
		p.stable = 12
		cl := c.connect(t)
		k := consumer(t, cl, ConsumerConfig{Isolation: ReadCommitted, Reset: ResetEarliest}, tp(0))
		if got := read(t, k, 4); !slices.Equal(got, []string{"plain", "c1", "x", "c2"}) {
			t.Errorf("committed: %v", got)
		}
		nothing(t, k)
		if pos, _, _ := k.Position(tp(0)); pos != 12 {
			t.Errorf("position %d, want 12", pos)
		}
		k.mustSeek(t, End())
		nothing(t, k)
		if pos, _, _ := k.Position(tp(0)); pos != 12 {
			t.Errorf("position of the end %d, want the last stable offset, 12", pos)
		}
		all := consumer(t, cl, ConsumerConfig{Reset: ResetEarliest})
		if err := all.Assign(bg, tp(0)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, all, 10); !slices.Equal(got, []string{"a1", "plain", "c1", "a2", "x", "c2", "b1", "b2", "o1", "after"}) {
			t.Errorf("uncommitted: %v", got)
		}
	})
}

// A broker may begin with batches that lie below the position; they are left out.
func TestDecodeSkipsWhatLiesBelow(t *testing.T) {
	var run []byte
	for i := range 3 {
		bd := record.NewBuilder(record.CodecNone)
		for range 2 {
			if err := bd.Append(0, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		b := bd.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
		b.SetBaseOffset(record.Offset(2 * i))
		run = append(run, b...)
	}
	f, err := decode(tp(0), 3, &clientv1.FetchedPartition{Batches: [][]byte{run[:len(run)/3], run[len(run)/3:]}}, decoding{crc: true})
	if err != nil || len(f.Batches()) != 2 || f.Next != 6 {
		t.Fatalf("%+v, %v", f, err)
	}
	next := record.Offset(3)
	for r, err := range f.Records() {
		if err != nil || r.Offset != next {
			t.Errorf("%+v, %v, want offset %d", r, err, next)
		}
		next++
	}
	if _, err := decode(tp(0), 0, &clientv1.FetchedPartition{Batches: [][]byte{run[:len(run)-1]}}, decoding{crc: true}); !errors.Is(err, &Error{Reason: ReasonCorruptMessage}) {
		t.Errorf("cut off: %v", err)
	}
}

func TestOffsetOutOfRange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.put(t, "0", "1", "2", "3")
		c.partition("t", 0).start = 2
		cl := c.connect(t)
		for reset, want := range map[Reset]string{ResetEarliest: "2", ResetLatest: "new"} {
			k := consumer(t, cl, ConsumerConfig{Reset: reset}, tp(0))
			k.mustSeek(t, At(1))
			if reset == ResetLatest {
				nothing(t, k)
				c.put(t, "new")
			}
			if got := read(t, k, 1); got[0] != want {
				t.Errorf("%v: %v, want %s", reset, got, want)
			}
		}
		k := consumer(t, cl, ConsumerConfig{Reset: ResetError}, tp(0))
		if fs, err := k.Poll(bg); err != nil || len(fs) != 1 || !errors.Is(fs[0].Err, ErrInvalidConfig) {
			t.Errorf("no position: %+v, %v", fs, err)
		}
		k.mustSeek(t, At(99))
		fs, err := k.Poll(bg)
		if err != nil || len(fs) != 1 || !errors.Is(fs[0].Err, ErrOffsetOutOfRange) {
			t.Errorf("%+v, %v", fs, err)
		}
		nothing(t, k) // told once
		k.mustSeek(t, At(3))
		if got := read(t, k, 1); got[0] != "3" {
			t.Errorf("after Seek: %v", got)
		}
	})
}

func TestConsumerFollowsLeaders(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		c.put(t, "0")
		k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest, MaxWait: 10 * time.Second}, tp(0))
		read(t, k, 1)
		c.partition("t", 0).move(2) // the long poll is told
		c.put(t, "1")
		start := time.Now()
		if got := read(t, k, 1); got[0] != "1" || time.Since(start) > time.Second {
			t.Errorf("%v after %v", got, time.Since(start))
		}
		c.brokers[2].host.pause() // the long poll is never answered
		c.partition("t", 0).move(3)
		c.put(t, "2")
		start = time.Now()
		if got := read(t, k, 1); got[0] != "2" || time.Since(start) > 13*time.Second {
			t.Errorf("%v after %v", got, time.Since(start))
		}
		c.brokers[2].host.resume()
		c.brokers[3].kill()
		c.partition("t", 0).move(1)
		c.put(t, "3")
		start = time.Now()
		if got := read(t, k, 1); got[0] != "3" || time.Since(start) > time.Second {
			t.Errorf("%v after %v", got, time.Since(start))
		}
	})
}

// A consumer, too, tries a broker at once that is back and leads, however long it could not be reached.
func TestConsumerTriesElectedBrokerAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		c.put(t, "0")
		k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest, MaxWait: 500 * time.Millisecond}, tp(0))
		read(t, k, 1)
		for n := range 5 {
			c.brokers[1].kill()
			time.Sleep(5*time.Second + time.Duration(n)*170*time.Millisecond) // it is tried, and cannot be reached
			c.partition("t", 0).move(2)
			c.put(t, "elsewhere")
			read(t, k, 1)
			c.brokers[1].start()
			c.partition("t", 0).move(1)
			c.put(t, "back")
			start := time.Now()
			if got := read(t, k, 1); got[0] != "back" || time.Since(start) > 300*time.Millisecond {
				t.Errorf("round %d: %v after %v", n, got, time.Since(start))
			}
		}
	})
}

// Nothing is fetched beyond the buffer's bound while nobody polls, and no partition starves.
func TestConsumerBufferIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		c.topic("t", 8)
		big := strings.Repeat("x", 1000)
		for i := range int32(8) {
			for range 64 {
				c.append(t, i, record.NoProducerID, false, big)
			}
		}
		cfg := ConsumerConfig{Reset: ResetEarliest, BufferBytes: 32 << 10, MaxPartitionBytes: 4 << 10, MaxPollBytes: 5 << 10}
		k := consumer(t, c.connect(t), cfg)
		if err := k.AssignTopic(bg, "t", Beginning()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		k.mu.Lock()
		if k.buffered > cfg.BufferBytes+8*2000 || k.buffered < cfg.BufferBytes/2 || k.reserved != 0 {
			t.Errorf("%d bytes buffered, %d reserved", k.buffered, k.reserved)
		}
		k.mu.Unlock()
		seen := map[int32]int{}
		for n := 0; n < 8*64; {
			fs, err := k.Poll(bg)
			if err != nil {
				t.Fatal(err)
			}
			bytes := 0
			for _, f := range fs {
				n += f.Count()
				seen[f.Partition] += f.Count()
				bytes += f.bytes
			}
			if bytes > cfg.MaxPollBytes+4<<10+2000 {
				t.Errorf("Poll gave %d bytes", bytes)
			}
		}
		for i := range int32(8) {
			if seen[i] != 64 {
				t.Errorf("partition %d gave %d", i, seen[i])
			}
		}
	})
}

func TestCorruptBatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.put(t, "0", "1", "2")
		b := c.partition("t", 0).batches[1]
		b[len(b)-1] ^= 1
		k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest}, tp(0))
		var got []Fetched
		for len(got) < 2 {
			fs, err := k.Poll(bg)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fs...)
		}
		if got[0].Count() != 1 || got[0].Next != 1 {
			t.Errorf("before the bad batch: %+v", got[0])
		}
		if err := got[1].Err; !errors.Is(err, &Error{Reason: ReasonCorruptMessage}) || !strings.Contains(err.Error(), "offset 1") {
			t.Errorf("bad batch: %v", err)
		}
		nothing(t, k)
		k.mustSeek(t, At(2))
		if got := read(t, k, 1); got[0] != "2" {
			t.Errorf("got %v", got)
		}
	})
}

func TestConsumerConfigNamesTheField(t *testing.T) {
	for field, cfg := range map[string]ConsumerConfig{
		"Isolation": {Isolation: 2}, "Reset": {Reset: 3}, "MaxWait": {MaxWait: time.Hour}, "MinBytes": {MinBytes: -1}, "MaxBytes": {MaxBytes: 1},
		"MaxPartitionBytes": {MaxPartitionBytes: 1}, "BufferBytes": {BufferBytes: 1}, "MaxPollBytes": {MaxPollBytes: -1},
	} {
		if err := cfg.Validate(); !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), field+" is ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// failure polls until a partition reports an error.
func (k *Consumer) failure(t testing.TB) *Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	for {
		fs, err := k.Poll(ctx)
		if err != nil {
			t.Fatalf("no partition failed: %v", err)
		}
		for _, f := range fs {
			if e := (*Error)(nil); errors.As(f.Err, &e) {
				return e
			}
			if f.Count() > 0 {
				t.Fatalf("%d records came instead, up to offset %d", f.Count(), f.Next)
			}
		}
	}
}

// A consumer of a topic that is deleted is told so, instead of waiting for ever.
func TestConsumerOfDeletedTopicIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		c.put(t, "0 1 2")
		cl := c.connect(t)
		k := consumer(t, cl, ConsumerConfig{Reset: ResetEarliest}, tp(0))
		read(t, k, 3)
		begin := time.Now()
		if err := cl.DeleteTopic(bg, "t"); err != nil {
			t.Fatal(err)
		}
		if e := k.failure(t); e.Reason != ReasonUnknownTopicOrPartition || e.TopicPartition != tp(0) {
			t.Fatalf("told %v", e)
		}
		if d := time.Since(begin); d > 2*unknownTopicGrace {
			t.Errorf("told after %v", d)
		}
		nothing(t, k)
		// The name may be used again. What was read says nothing about the new topic.
		c.topic("t", 1)
		c.put(t, "3 4")
		k.mustSeek(t, Beginning())
		if got := read(t, k, 2); !slices.Equal(got, []string{"3", "4"}) {
			t.Errorf("read %v of the new topic", got)
		}
	})
}

// A position in a topic that was deleted is not one in the next topic of that name: to go on from it
// would skip records without a word.
func TestConsumerNoticesAnotherTopicOfTheName(t *testing.T) {
	for _, epoch := range []int32{1, 9} { // as before, which is what most topics have, or another one
		bubble(t, func(t *testing.T) {
			c := newFakeCluster(t, 3)
			c.topic("t", 1)
			c.put(t, "0 1 2")
			k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest}, tp(0))
			read(t, k, 3)
			c.topic("t", 1).partitions[0].epoch = epoch
			c.put(t, "3 4 5 6 7")
			if e := k.failure(t); e.Reason != ReasonInconsistentTopicID {
				t.Fatalf("told %v", e)
			}
			k.mustSeek(t, Beginning())
			if got := read(t, k, 5); !slices.Equal(got, strings.Fields("3 4 5 6 7")) {
				t.Errorf("read %v of the new topic", got)
			}
		})
	}
}
