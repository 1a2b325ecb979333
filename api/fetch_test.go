package api

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

func TestFetchAsksAndAnswers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, nil)
	run := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	runs := [][]byte{run(100), run(300_000), run(5000)}
	want := [][]byte{bytes.Clone(runs[0]), bytes.Clone(runs[1]), bytes.Clone(runs[2])}
	var asked partition.FetchRequest
	r.log.onFetch = func(_ context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		asked = req
		return []partition.FetchedPartition{
			{TopicPartition: req.Partitions[0].TopicPartition, Batches: runs, Bytes: 305_100, HighWatermark: 50, LastStable: 40, LogStart: 3,
				Aborted: []producer.Aborted{{ProducerID: 9, First: 11, Last: 12}}},
			{TopicPartition: req.Partitions[1].TopicPartition, HighWatermark: -1, LastStable: -1, LogStart: -1,
				Err: &partition.Error{Code: partition.CodeOffsetOutOfRange, Message: "too far", Outcome: raftgroup.DidNotHappen}},
		}
	}
	answer, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{
		Partitions: []*clientv1.FetchPartition{{Topic: "t", Partition: 1, Offset: 20, LeaderEpoch: proto.Int32(6)}, {Topic: "t", Partition: -1},
			{Topic: "orders", Offset: 99, MaxBytes: 77, TopicId: strings.Repeat("07", 16)}},
		IsolationLevel: clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED, MaxBytes: 1 << 30, MinBytes: 5})
	if err != nil {
		t.Fatal(err)
	}
	// One partition was refused at once, so there is no waiting for the others.
	if asked.MaxWait != 0 || asked.MinBytes != 5 || asked.MaxBytes != defaultFetchMaxBytes || !asked.Committed || len(asked.Partitions) != 2 {
		t.Errorf("asked %+v", asked)
	}
	if q := asked.Partitions[0]; q.String() != "t/1" || q.Offset != 20 || q.MaxBytes != 1<<20 || q.LeaderEpoch != 6 {
		t.Errorf("asked first for %+v", q)
	}
	if q := asked.Partitions[1]; q.String() != "orders/0" || q.Offset != 99 || q.MaxBytes != 77 || q.LeaderEpoch != -1 || q.TopicID[0] != 7 {
		t.Errorf("asked second for %+v", q)
	}
	p := answer.Partitions
	if len(p) != 3 || p[0].HighWatermark != 50 || p[0].LastStableOffset != 40 || p[0].LogStartOffset != 3 || p[0].Error != nil ||
		len(p[0].Aborted) != 1 || p[0].Aborted[0].ProducerId != 9 || p[0].Aborted[0].FirstOffset != 11 {
		t.Fatalf("answer %v", answer)
	}
	if !bytes.Equal(bytes.Join(p[0].Batches, nil), bytes.Join(want, nil)) {
		t.Error("the batches are not those that the log gave")
	}
	if p[1].Error.GetReason() != reasonInvalidRequest || p[1].HighWatermark != -1 || p[1].Partition != -1 {
		t.Errorf("refused partition %v", p[1])
	}
	if p[2].Error.GetReason() != "OFFSET_OUT_OF_RANGE" || p[2].Topic != "orders" {
		t.Errorf("failed partition %v", p[2])
	}
}

// A long poll ends with data, with its client, and with the server.
func TestFetchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var waits []time.Duration
		ended := make(chan error, 3)
		r.log.onFetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
			waits = append(waits, req.MaxWait)
			timer := time.NewTimer(req.MaxWait)
			defer timer.Stop()
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			ended <- ctx.Err()
			return []partition.FetchedPartition{{TopicPartition: req.Partitions[0].TopicPartition}}
		}
		ask := func(ctx context.Context, ms int32) error {
			_, err := r.client.Fetch(ctx, &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}, MaxWaitMs: ms})
			return err
		}
		start := time.Now()
		if err := ask(r.ctx(), 0); err != nil || <-ended != nil || time.Since(start) != 500*time.Millisecond {
			t.Errorf("a poll without max_wait_ms: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(r.ctx())
		go func() { time.Sleep(time.Second); cancel() }()
		if err := ask(ctx, 20_000); status.Code(err) != codes.Canceled || <-ended == nil {
			t.Errorf("a cancelled poll: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			_ = r.server.Stop(context.Background())
		}()
		start = time.Now()
		if err := ask(r.ctx(), 20_000); err != nil || <-ended == nil || time.Since(start) != time.Second {
			t.Errorf("a poll when the server stops: %v after %v", err, time.Since(start))
		}
		if len(waits) != 3 || waits[1] != 20*time.Second {
			t.Errorf("waits %v", waits)
		}
	})
}

// fetchLog serves one partition's batches from memory, as the partition would.
func fetchLog(batches [][]byte, aborted []producer.Aborted) func(context.Context, partition.FetchRequest) []partition.FetchedPartition {
	return func(_ context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		f := partition.FetchedPartition{TopicPartition: req.Partitions[0].TopicPartition}
		if req.Committed {
			f.Aborted = aborted
		}
		for _, b := range batches {
			rb := record.Batch(b)
			last := rb.BaseOffset() + record.Offset(rb.LastOffsetDelta())
			f.HighWatermark = last + 1
			if last >= req.Partitions[0].Offset && (f.Bytes == 0 || f.Bytes+len(b) <= min(req.MaxBytes, req.Partitions[0].MaxBytes)) {
				f.Batches = append(f.Batches, b)
				f.Bytes += len(b)
			}
		}
		f.LastStable = f.HighWatermark
		return []partition.FetchedPartition{f}
	}
}

// script builds a log: each step appends a batch at the next offset.
type script struct {
	end     record.Offset
	batches [][]byte
}

func (s *script) add(codec record.Codec, pid record.ProducerID, transactional bool, values ...string) {
	b := record.NewBuilder(codec)
	for i, v := range values {
		var headers []record.Header
		if i == 0 {
			headers = []record.Header{{Key: "h\xff", Value: []byte("x")}, {Key: "null"}}
		}
		if err := b.Append(int64(s.end)*1000, nil, []byte(v), headers); err != nil {
			panic(err)
		}
	}
	seq := record.NoSequence
	if pid != record.NoProducerID {
		seq = 0
	}
	s.put(b.Finish(pid, record.Epoch(min(pid, 0)), seq, transactional))
}

func (s *script) put(b record.Batch) {
	b.SetBaseOffset(s.end)
	s.end += record.Offset(b.Count())
	s.batches = append(s.batches, b)
}

func (s *script) mark(pid record.ProducerID, commit bool) {
	s.put(record.ControlBatch(record.Marker{ProducerID: pid, Commit: commit}))
}

// readDecoded reads a partition to its end as a client without a batch decoder does.
func readDecoded(t *testing.T, r *rig, from int64, level clientv1.IsolationLevel) (values []string, offsets []int64) {
	t.Helper()
	for range 10_000 {
		answer, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t", Offset: from, MaxBytes: 1 << 30}},
			Decode: true, IsolationLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		p := answer.Partitions[0]
		if p.Error != nil || len(p.Batches) != 0 || len(p.Aborted) != 0 {
			t.Fatalf("answer %v", p)
		}
		for _, rec := range p.Records {
			values, offsets = append(values, string(rec.Value)), append(offsets, rec.Offset)
		}
		if p.NextOffset == from {
			if from != p.HighWatermark {
				t.Fatalf("stuck at offset %d before the end, %d", from, p.HighWatermark)
			}
			return values, offsets
		}
		if p.NextOffset < from {
			t.Fatalf("the next offset went back from %d to %d", from, p.NextOffset)
		}
		from = p.NextOffset
	}
	t.Fatal("no end in 10,000 fetches")
	return nil, nil
}

func TestFetchDecodes(t *testing.T) {
	const committed, uncommitted = clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED, clientv1.IsolationLevel_ISOLATION_LEVEL_READ_UNCOMMITTED
	var s script
	s.add(record.CodecNone, record.NoProducerID, false, "a0", "a1", "a2")
	s.add(record.CodecZstd, 5, true, "bad3", "bad4")  // aborted
	s.add(record.CodecGzip, 6, true, "good5")         // committed
	s.add(record.CodecLZ4, 5, false, "plain6")        // same producer, no transaction
	s.mark(5, false)                                  // 7
	s.mark(6, true)                                   // 8
	s.add(record.CodecSnappy, 5, true, "good9", "10") // the same producer's next transaction
	s.mark(5, true)                                   // 11
	s.add(record.CodecNone, 5, true, "bad12")
	s.mark(5, false) // 13: the end is a control record
	aborted := []producer.Aborted{{ProducerID: 5, First: 3, Last: 7}, {ProducerID: 5, First: 12, Last: 13}}
	r := newRig(t, nil)
	r.log.onFetch = fetchLog(s.batches, aborted)

	values, offsets := readDecoded(t, r, 0, uncommitted)
	if got := strings.Join(values, " "); got != "a0 a1 a2 bad3 bad4 good5 plain6 good9 10 bad12" {
		t.Errorf("read uncommitted: %s", got)
	}
	if offsets[3] != 3 || offsets[9] != 12 {
		t.Errorf("offsets %v", offsets)
	}
	if values, _ = readDecoded(t, r, 0, committed); strings.Join(values, " ") != "a0 a1 a2 good5 plain6 good9 10" {
		t.Errorf("read committed: %v", values)
	}
	// From inside a batch, and from inside an aborted transaction.
	if values, _ = readDecoded(t, r, 1, committed); strings.Join(values, " ") != "a1 a2 good5 plain6 good9 10" {
		t.Errorf("read committed from 1: %v", values)
	}
	if values, _ = readDecoded(t, r, 4, committed); strings.Join(values, " ") != "good5 plain6 good9 10" {
		t.Errorf("read committed from 4: %v", values)
	}
	answer, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t", Offset: 0}}, Decode: true})
	if err != nil {
		t.Fatal(err)
	}
	first := answer.Partitions[0].Records[0]
	if first.Key != nil || first.TimestampMs != 0 || len(first.Headers) != 2 || first.Headers[0].Key != "h?" || string(first.Headers[0].Value) != "x" || first.Headers[1].Value != nil {
		t.Errorf("first record %v", first)
	}
}

// A decoded answer stays within its bound, gives at least one record, and loses none.
func TestFetchDecodesWithinBounds(t *testing.T) {
	var s script
	want := 0
	big := strings.Repeat("x", 1<<20)
	for range 6 {
		values := make([]string, 5)
		for i := range values {
			values[i] = fmt.Sprint(want) + big
			want++
		}
		s.add(record.CodecZstd, record.NoProducerID, false, values...)
	}
	s.add(record.CodecNone, record.NoProducerID, false, strings.Repeat("y", maxDecodedBytes+1), "z")
	want += 2
	r := newRig(t, nil)
	r.log.onFetch = fetchLog(s.batches, nil)
	largest := 0
	got := 0
	for from := int64(0); ; {
		answer, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t", Offset: from, MaxBytes: 1 << 30}}, Decode: true})
		if err != nil {
			t.Fatal(err)
		}
		p := answer.Partitions[0]
		size := proto.Size(answer)
		if len(p.Records) > 1 {
			largest = max(largest, size)
		}
		for _, rec := range p.Records {
			if rec.Offset != int64(got) {
				t.Fatalf("offset %d, want %d", rec.Offset, got)
			}
			if v := string(rec.Value); got < want-2 && v != fmt.Sprint(got)+big {
				t.Fatalf("offset %d holds %.20s...", rec.Offset, v)
			}
			got++
		}
		if p.NextOffset == from {
			break
		}
		from = p.NextOffset
	}
	if got != want || largest > maxDecodedBytes+1000 || largest < 4<<20 {
		t.Errorf("%d records, want %d; the largest answer of several records has %d bytes", got, want, largest)
	}
}

func TestFetchOfADamagedBatchSaysSo(t *testing.T) {
	var s script
	s.add(record.CodecNone, record.NoProducerID, false, "good")
	s.add(record.CodecZstd, record.NoProducerID, false, strings.Repeat("bad", 100))
	s.batches[1][record.HeaderSize+3] ^= 0xff
	r := newRig(t, nil)
	r.log.onFetch = fetchLog(s.batches, nil)
	ask := func(from int64) *clientv1.FetchedPartition {
		answer, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t", Offset: from}}, Decode: true})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Partitions[0]
	}
	if p := ask(0); p.Error != nil || len(p.Records) != 1 || p.NextOffset != 1 {
		t.Errorf("answer %v, want the record before the damage", p)
	}
	if p := ask(1); p.Error.GetReason() != "CORRUPT_MESSAGE" || len(p.Records) != 0 {
		t.Errorf("answer %v, want CORRUPT_MESSAGE", p)
	}
}

// stuckConn is a client's connection that can stop reading.
type stuckConn struct {
	net.Conn
	mu    sync.Mutex
	stuck bool
	freed chan struct{}
	once  sync.Once
}

func (c *stuckConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	stuck := c.stuck
	c.mu.Unlock()
	if stuck {
		<-c.freed
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.freed) })
	return c.Conn.Close()
}

// Answers that a client does not take are counted, hold other fetches back, and are counted out
// when the connection breaks.
func TestFetchBytesOnTheirWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 12 << 20
		r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{FetchBytes: 10 << 20}) })
		data := make([]byte, size)
		r.log.onFetch = reading(data, 0)
		req := &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}, MaxWaitMs: 3000}
		gauge := r.server.metrics.fetchingBytes

		if a, err := r.client.Fetch(r.ctx(), req); err != nil || len(a.Partitions[0].Batches[0]) != size {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.metric(gauge); got != 0 {
			t.Fatalf("%v bytes are counted after an answer was read", got)
		}

		var conn *stuckConn
		slow, err := grpc.NewClient("passthrough:///slow", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*size)),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				c, err := r.listener.DialContext(ctx)
				conn = &stuckConn{Conn: c, freed: make(chan struct{})}
				return conn, err
			}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = slow.Close() }()
		if _, err := clientv1.NewAdminServiceClient(slow).GetMetadata(r.ctx(), &clientv1.GetMetadataRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		conn.mu.Lock()
		conn.stuck = true
		conn.mu.Unlock()
		ended := make(chan error, 1)
		go func() {
			_, err := clientv1.NewLogServiceClient(slow).Fetch(r.ctx(), req)
			ended <- err
		}()
		synctest.Wait()
		if got := r.metric(gauge); got != size {
			t.Fatalf("%v bytes are counted while a client does not read, want %d", got, size)
		}
		start := time.Now()
		_, err = r.client.Fetch(r.ctx(), req)
		if e, after, _ := clientv1.ErrorOf(err); e.GetReason() != reasonBusy || after == 0 || time.Since(start) != 3*time.Second {
			t.Fatalf("another client got %v after %v, want %s after 3s", err, time.Since(start), reasonBusy)
		}
		go func() {
			time.Sleep(time.Second)
			_ = slow.Close()
		}()
		start = time.Now()
		if _, err := r.client.Fetch(r.ctx(), req); err != nil || time.Since(start) != time.Second {
			t.Errorf("after the slow client had gone another got %v after %v, want its answer after 1s", err, time.Since(start))
		}
		<-ended
		synctest.Wait()
		if got := r.metric(gauge); got != 0 {
			t.Errorf("%v bytes are counted at the end", got)
		}
	})
}

// reading is a log whose every fetch finds data, as partition.Host does it: it takes room, reads, and gives back the rest.
func reading(data []byte, delay time.Duration) func(context.Context, partition.FetchRequest) []partition.FetchedPartition {
	return func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		ctx, cancel := context.WithTimeout(ctx, req.MaxWait)
		defer cancel()
		f := partition.FetchedPartition{TopicPartition: req.Partitions[0].TopicPartition}
		if room := req.Room.Take(ctx, req.MaxBytes); room > 0 {
			time.Sleep(delay) // virtual
			f.Batches, f.Bytes = [][]byte{data}, len(data)
			req.Room.Give(room - len(data))
		}
		return []partition.FetchedPartition{f}
	}
}

// Many fetches at once hold no more than the limit together, also while they are being read, and all are answered.
func TestFetchesAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 << 20
		r := newRig(t, func(c *Config) {
			c.Shared, c.MaxMessageBytes = frontdoor.NewShared(frontdoor.Limits{FetchBytes: limit}), 1<<20
		})
		read := reading(make([]byte, 900<<10), 10*time.Millisecond)
		most := 0.0
		var mu sync.Mutex
		r.log.onFetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
			f := read(ctx, req)
			mu.Lock()
			defer mu.Unlock()
			most = max(most, r.metric(r.server.metrics.fetchingBytes))
			return f
		}
		req := &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}, MaxWaitMs: 60_000, MaxBytes: 4 << 20}
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if a, err := r.client.Fetch(r.ctx(), req); err != nil || len(a.Partitions[0].Batches) == 0 {
					t.Errorf("answer %v, %v", a, err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if most > limit || most < limit/2 {
			t.Errorf("%v bytes were held at once, the limit is %d", most, limit)
		}
		if got := r.metric(r.server.metrics.fetchingBytes); got != 0 {
			t.Errorf("%v bytes are counted at the end", got)
		}
	})
}

// The partitions that fetches wait for are bounded: a long poll costs memory for each of them.
func TestPartitionsOfFetchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{FetchPartitions: 5}) })
		r.log.onFetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
			select {
			case <-ctx.Done():
			case <-time.After(req.MaxWait):
			}
			return make([]partition.FetchedPartition, len(req.Partitions))
		}
		three := &clientv1.FetchRequest{MaxWaitMs: 1000, Partitions: []*clientv1.FetchPartition{{Topic: "t"}, {Topic: "t", Partition: 1}, {Topic: "t", Partition: 2}}}
		waiting := make(chan error)
		go func() {
			_, err := r.client.Fetch(r.ctx(), three)
			waiting <- err
		}()
		synctest.Wait()
		if got := r.metric(r.server.metrics.fetchPartitions); got != 3 {
			t.Errorf("%v partitions are counted, want 3", got)
		}
		_, err := r.client.Fetch(r.ctx(), three)
		if e, after, _ := clientv1.ErrorOf(err); e.GetReason() != reasonBusy || after == 0 || !strings.Contains(e.GetMessage(), "5 partitions") {
			t.Errorf("the second fetch got %v, want %s", err, reasonBusy)
		}
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if _, err := r.client.Fetch(r.ctx(), three); err != nil {
			t.Errorf("after the first had ended: %v", err)
		}
		if got := r.metric(r.server.metrics.fetchPartitions); got != 0 {
			t.Errorf("%v partitions are counted at the end", got)
		}
	})
}
