package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Batches that are written between the pieces of an answer give the same bytes as the codec, at every version.
func TestSplicedAnswersAreTheCodecs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	blob := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for version := endpoints[1].min; version <= endpoints[1].max; version++ {
		plain, spliced := kmsg.NewPtrFetchResponse(), kmsg.NewPtrFetchResponse()
		plain.Version, spliced.Version = version, version
		a := &answer{response: spliced}
		for range 3 {
			p, s := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopic()
			p.Topic, p.TopicID = "topic", [16]byte{1}
			s.Topic, s.TopicID = p.Topic, p.TopicID
			for number, size := range []int{0, 1, 126, 127, 128, 5000, 20_000, 0} {
				one := kmsg.NewFetchResponseTopicPartition()
				one.Partition = int32(number)
				two := one
				runs := [][]byte{blob(size / 2), blob(size - size/2)}
				one.RecordBatches = bytes.Join(runs, nil)
				two.RecordBatches = a.placed(runs, size)
				p.Partitions, s.Partitions = append(p.Partitions, one), append(s.Partitions, two)
			}
			plain.Topics, spliced.Topics = append(plain.Topics, p), append(spliced.Topics, s)
		}
		pieces, size, err := splice(spliced.AppendTo(nil), a.parts, spliced.IsFlexible())
		if err != nil {
			t.Fatal(err)
		}
		got, want := bytes.Join(pieces, nil), plain.AppendTo(nil)
		if !bytes.Equal(got, want) || size != len(want) {
			t.Errorf("version %d: the bytes differ: %d and %d, size %d", version, len(got), len(want), size)
		}
	}
}

// store is a log of one high watermark for each partition; a fetch below it gives one batch.
type store struct {
	mu      sync.Mutex
	end     map[record.TopicPartition]record.Offset
	asked   [][]partition.FetchPartition
	aborted []producer.Aborted
}

func (s *store) fetch(_ context.Context, req partition.FetchRequest) []partition.FetchedPartition {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, req.Partitions)
	var list []partition.FetchedPartition
	for _, q := range req.Partitions {
		f := partition.FetchedPartition{TopicPartition: q.TopicPartition, HighWatermark: s.end[q.TopicPartition], LastStable: s.end[q.TopicPartition]}
		if q.Offset < f.HighWatermark {
			b := batchOf("v")
			f.Batches, f.Bytes = [][]byte{b}, len(b)
		}
		if req.Committed {
			f.Aborted = append([]producer.Aborted{}, s.aborted...)
		}
		list = append(list, f)
	}
	return list
}

func (s *store) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *store) lastAsked() (list []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.asked[len(s.asked)-1] {
		list = append(list, q.Partition)
	}
	return list
}

func sessionFetch(id, epoch int32, offsets map[int32]int64) *kmsg.FetchRequest {
	req := fetchOf(11, "t", 0)
	req.MaxWaitMillis, req.SessionID, req.SessionEpoch = 0, id, epoch
	req.Topics[0].Partitions = nil
	for _, p := range slices.Sorted(mapsKeys(offsets)) {
		one := kmsg.NewFetchRequestTopicPartition()
		one.Partition, one.FetchOffset, one.PartitionMaxBytes, one.CurrentLeaderEpoch = p, offsets[p], 1<<20, -1
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, one)
	}
	if len(offsets) == 0 {
		req.Topics = nil
	}
	return req
}

func mapsKeys(m map[int32]int64) func(func(int32) bool) {
	return func(yield func(int32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func partitionsOf(resp *kmsg.FetchResponse) (list []int32) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			list = append(list, p.Partition)
		}
	}
	return list
}

// KIP-227: a session answers only what is new, takes changes of what is asked, and gives partitions their turns.
func TestFetchSessions(t *testing.T) {
	r := newRig(t, nil)
	tp := func(p int32) record.TopicPartition { return record.TopicPartition{Topic: "t", Partition: p} }
	s := &store{end: map[record.TopicPartition]record.Offset{tp(0): 5, tp(1): 0, tp(2): 0}}
	r.log.fetch = s.fetch
	w := r.dial()
	first := w.ask(sessionFetch(0, 0, map[int32]int64{0: 0, 1: 0, 2: 0})).(*kmsg.FetchResponse)
	if first.ErrorCode != 0 || first.SessionID == 0 || !slices.Equal(partitionsOf(first), []int32{0, 1, 2}) {
		t.Fatalf("first answer: %+v", first)
	}
	id := first.SessionID
	// Nothing is new but what partition 0 gives, as long as its offset has not been moved.
	if again := w.ask(sessionFetch(id, 1, nil)).(*kmsg.FetchResponse); !slices.Equal(partitionsOf(again), []int32{0}) {
		t.Errorf("second answer holds %v", partitionsOf(again))
	}
	if got := s.lastAsked(); !slices.Equal(got, []int32{1, 2, 0}) {
		t.Errorf("partition 0 gave records and is asked in the order %v, want last", got)
	}
	if none := w.ask(sessionFetch(id, 2, map[int32]int64{0: 5})).(*kmsg.FetchResponse); len(none.Topics) != 0 {
		t.Errorf("third answer holds %v", partitionsOf(none))
	}
	s.change(func() { s.end[tp(2)] = 1 })
	forget := sessionFetch(id, 3, nil)
	forget.ForgottenTopics = []kmsg.FetchRequestForgottenTopic{{Topic: "t", Partitions: []int32{1}}}
	if news := w.ask(forget).(*kmsg.FetchResponse); !slices.Equal(partitionsOf(news), []int32{2}) || len(s.lastAsked()) != 2 {
		t.Errorf("fourth answer holds %v, of %v", partitionsOf(news), s.lastAsked())
	}
	for _, c := range []struct {
		name      string
		id, epoch int32
		code      int16
	}{{"an old epoch", id, 3, 71}, {"an epoch to come", id, 9, 71}, {"an unknown session", id ^ 1, 4, 70}} {
		if got := w.ask(sessionFetch(c.id, c.epoch, nil)).(*kmsg.FetchResponse).ErrorCode; got != c.code {
			t.Errorf("%s: code %d, want %d", c.name, got, c.code)
		}
	}
	// A full fetch without a session ends it.
	if last := w.ask(sessionFetch(id, -1, map[int32]int64{0: 5})).(*kmsg.FetchResponse); last.SessionID != 0 || last.ErrorCode != 0 {
		t.Errorf("last answer: %+v", last)
	}
	if got := w.ask(sessionFetch(id, 4, nil)).(*kmsg.FetchResponse).ErrorCode; got != 70 {
		t.Errorf("the ended session gave code %d", got)
	}
}

func TestFetchSessionsAreBounded(t *testing.T) {
	r := newRig(t, nil)
	r.log.fetch = (&store{end: map[record.TopicPartition]record.Offset{}}).fetch
	w := r.dial()
	for i := range maxSessions + 5 {
		resp := w.ask(sessionFetch(0, 0, map[int32]int64{0: 0})).(*kmsg.FetchResponse)
		if want := i < maxSessions; (resp.SessionID != 0) != want || resp.ErrorCode != 0 || len(resp.Topics) != 1 {
			t.Fatalf("fetch %d: %+v", i, resp)
		}
	}
	if got := r.server.metricOf(r.server.metrics.fetchSessions); got != maxSessions {
		t.Errorf("%v sessions", got)
	}
}

// L10: with read_committed the list of aborted transactions is there, if empty; else it is null. L22: a client whose last epoch has
// ended elsewhere is told where.
func TestFetchIsolationAndDivergence(t *testing.T) {
	r := newRig(t, nil)
	type known struct {
		epoch     int32
		end       record.Offset
		code      int16
		diverging bool
	}
	var now atomic.Pointer[known]
	r.log.end = func(record.TopicPartition, int32, int32) (int32, record.Offset, error) {
		k := now.Load()
		return k.epoch, k.end, nil
	}
	tp := record.TopicPartition{Topic: "t"}
	s := &store{end: map[record.TopicPartition]record.Offset{tp: 5}}
	r.log.fetch = s.fetch
	w := r.dial()
	req := fetchOf(12, "t", 2)
	if p := w.ask(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.AbortedTransactions != nil || len(p.RecordBatches) == 0 {
		t.Errorf("read_uncommitted gave %+v", p)
	}
	req.IsolationLevel = 1
	if p := w.ask(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.AbortedTransactions == nil || len(p.AbortedTransactions) != 0 {
		t.Errorf("read_committed gave %+v", p)
	}
	s.change(func() { s.aborted = []producer.Aborted{{ProducerID: 9, First: 1}} })
	if p := w.ask(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]; len(p.AbortedTransactions) != 1 || p.AbortedTransactions[0].ProducerID != 9 {
		t.Errorf("read_committed gave %+v", p)
	}
	req.Topics[0].Partitions[0].LastFetchedEpoch = 4
	for _, c := range []known{{4, 9, 0, false}, {3, 9, 0, true}, {4, 1, 0, true}, {-1, -1, 1, false}} {
		now.Store(&c)
		p := w.ask(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if p.ErrorCode != c.code || (p.DivergingEpoch.EndOffset >= 0) != c.diverging || c.diverging != (len(p.RecordBatches) == 0 && c.code == 0) {
			t.Errorf("epoch %d ending at %d: %+v", c.epoch, c.end, p)
		}
	}
}

// Stored bytes are sent bytes: a fetch of 8 MiB allocates a small fraction of that, whichever form the answer has.
func TestFetchedBatchesAreNotCopied(t *testing.T) {
	const size, rounds, most = 8 << 20, 5, 128 << 10
	r := newRig(t, nil)
	stored := make([]byte, size)
	r.log.fetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		n := req.Room.Take(ctx, size)
		req.Room.Give(n - size)
		return []partition.FetchedPartition{{TopicPartition: req.Partitions[0].TopicPartition, Batches: [][]byte{stored[:size/2], stored[size/2:]}, Bytes: size}}
	}
	for _, version := range []int16{11, 12} {
		w := r.dial()
		var took uint64
		for round := range rounds {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w.send(fetchOf(version, "t", 0))
			var length [4]byte
			if _, err := io.ReadFull(w.conn, length[:]); err != nil {
				t.Fatal(err)
			}
			n, err := io.CopyN(io.Discard, struct{ io.Reader }{w.conn}, int64(binary.BigEndian.Uint32(length[:])))
			if err != nil || n < size {
				t.Fatalf("%d bytes, %v", n, err)
			}
			runtime.ReadMemStats(&after)
			if round > 0 { // the first one makes what the connection keeps
				took = max(took, after.TotalAlloc-before.TotalAlloc)
			}
		}
		if took > most {
			t.Errorf("version %d: a fetch of %d bytes allocated %d", version, size, took)
		}
	}
}
