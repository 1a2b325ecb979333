package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The nodes are this test binary again.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := runNode(role, os.Args[1:], os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func frame(number uint64, payload int) []byte {
	b := make([]byte, lengthBytes+payload)
	binary.BigEndian.PutUint32(b, uint32(payload))
	binary.BigEndian.PutUint64(b[lengthBytes:], number)
	return b
}

// What was acknowledged is on the leader's disk and on that of a follower, in
// order, without a gap.
func TestAcknowledgedIsOnTwoDisks(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	args := []string{"-dir", dir, "-keep", "-partitions", "3", "-batch-bytes", "5000", "-in-flight", "7",
		"-warm-up", "50ms", "-duration", "1s", "-o", "json"}
	if err := run(args, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Batches == 0 || r.MBPerSecond <= 0 || r.P50Micros <= 0 || r.P99Micros < r.P50Micros || r.CPUPerGiB <= 0 || len(r.CPUSeconds) != 4 {
		t.Fatalf("report %+v", r)
	}
	runs, err := filepath.Glob(filepath.Join(dir, "oncelog-limit-*"))
	if err != nil || len(runs) != 1 {
		t.Fatalf("directories %v, %v", runs, err)
	}
	durable := 0
	for _, partition := range []string{"partition-0.log", "partition-1.log", "partition-2.log"} {
		leader := countBatches(t, filepath.Join(runs[0], "leader", partition), 5000)
		first := countBatches(t, filepath.Join(runs[0], "follower_1", partition), 5000)
		second := countBatches(t, filepath.Join(runs[0], "follower_2", partition), 5000)
		durable += min(leader, max(first, second))
	}
	if durable < r.Batches {
		t.Errorf("%d batches were acknowledged, %d are on two disks", r.Batches, durable)
	}
}

// countBatches checks that a file holds batches 0, 1, 2 ... and counts them. The
// last may be cut, as the processes were ended amid writing.
func countBatches(t *testing.T, path string, payload int) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for len(data) >= lengthBytes+payload {
		if size := binary.BigEndian.Uint32(data); size != uint32(payload) {
			t.Fatalf("%s: batch %d has %d bytes, want %d", path, count, size, payload)
		}
		if number := binary.BigEndian.Uint64(data[lengthBytes:]); number != uint64(count) {
			t.Fatalf("%s: batch %d stands where %d should", path, number, count)
		}
		data = data[lengthBytes+payload:]
		count++
	}
	return count
}

// Every variant acknowledges batches and leaves nothing behind.
func TestVariants(t *testing.T) {
	for _, variant := range [][]string{{"-overwrite"}, {"-no-sync", "-batch-bytes", "8", "-in-flight", "1"}, {"-batch-bytes", "6000000", "-in-flight", "2"}} {
		t.Run(strings.Join(variant, " "), func(t *testing.T) {
			dir := t.TempDir()
			// A machine that is busy with other things may take longer for one batch.
			for _, duration := range []string{"200ms", "2s", "20s"} {
				var out bytes.Buffer
				args := append([]string{"-dir", dir, "-warm-up", "0s", "-duration", duration}, variant...)
				if err := run(args, &out); err != nil {
					t.Fatal(err)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Fatalf("left behind: %v, %v", left, err)
				}
				if strings.Contains(out.String(), "MB/s") && !strings.Contains(out.String(), "(0 batches)") {
					return
				}
			}
			t.Fatal("no batch was acknowledged in 20 s")
		})
	}
}

func TestSafeThrough(t *testing.T) {
	tests := []struct {
		local int64
		peers []int64
		want  int64
	}{
		{10, nil, 10},               // A follower speaks for itself.
		{10, []int64{0, 0}, 0},      // The leader alone is no majority.
		{0, []int64{10, 10}, 0},     // Both followers without the leader: the issue asks for the leader.
		{10, []int64{7, 0}, 7},      // One follower is enough.
		{10, []int64{0, 12}, 10},    // A follower may be ahead of the leader's disk.
		{5, []int64{7, 9}, 5},       //
		{20, []int64{15, 18}, 18},   // The faster one counts.
		{1 << 40, []int64{3, 4}, 4}, //
	}
	for _, test := range tests {
		if got := safeThrough(test.local, test.peers); got != test.want {
			t.Errorf("safeThrough(%d, %v) = %d, want %d", test.local, test.peers, got, test.want)
		}
	}
}

// The client hears nothing before both the leader's disk and one follower's
// have the batch, whichever comes last.
func TestNoAckBeforeTheMajority(t *testing.T) {
	client, leader := net.Pipe()
	defer client.Close()
	answers := make(chan int64, 10)
	go func() {
		defer close(answers)
		var answer [8]byte
		for {
			if _, err := io.ReadFull(client, answer[:]); err != nil {
				return
			}
			answers <- int64(binary.BigEndian.Uint64(answer[:]))
		}
	}()
	p := newPartition(leader, nil, []net.Conn{nil, nil})
	steps := []struct {
		note func()
		want int64 // the answer that follows; 0: none
	}{
		{func() { p.local = 100 }, 0},
		{func() { p.peer[1] = 60 }, 60},
		{func() { p.peer[0] = 50 }, 0},
		{func() { p.peer[0] = 160 }, 100},
		{func() { p.local = 100 }, 0},
		{func() { p.local = 200 }, 160},
	}
	var got, want []int64
	for _, step := range steps {
		if err := p.durable(step.note); err != nil {
			t.Fatal(err)
		}
		if step.want > 0 {
			want = append(want, step.want)
		}
	}
	_ = leader.Close()
	for answer := range answers {
		got = append(got, answer)
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers %v, want %v", got, want)
	}
}

// Frames come out as they went in, however the network cuts them.
func TestFrameReader(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	var stream []byte
	const chunk = 4096
	sizes := []int{8, 9, 100, chunk, chunk - lengthBytes, chunk - lengthBytes - 1, 5 * chunk}
	for range 500 {
		sizes = append(sizes, 8+random.IntN(2*chunk))
	}
	for i, size := range sizes {
		stream = append(stream, frame(uint64(i), size)...)
	}
	for name, source := range map[string]io.Reader{
		"whole":  bytes.NewReader(stream),
		"halves": iotest.HalfReader(bytes.NewReader(stream)),
		"cut":    &cutReader{rest: stream, random: random},
		"at end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		reader := newFrameReader(source, chunk)
		var got []byte
		frames := 0
		for {
			s, err := reader.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, name, err)
			}
			got = append(got, s.bytes...)
			frames += s.frames
			s.release()
		}
		reader.close()
		if frames != len(sizes) || !bytes.Equal(got, stream) {
			t.Errorf("seed %d, %s: %d frames of %d, %d bytes of %d", seed, name, frames, len(sizes), len(got), len(stream))
		}
	}
}

// cutReader gives pieces of random size.
type cutReader struct {
	rest   []byte
	random *rand.Rand
}

func (r *cutReader) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:1+r.random.IntN(len(b))], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestFrameReaderRefuses(t *testing.T) {
	cut := newFrameReader(bytes.NewReader(frame(0, 100)[:50]), 10)
	if _, err := cut.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that ends in a frame: %v", err)
	}
	huge := newFrameReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), 10)
	if _, err := huge.next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

func TestGatherJoinsNeighbours(t *testing.T) {
	a, b := newChunk(100), newChunk(100)
	spans := []span{{a, a.bytes[:10:10], 1}, {a, a.bytes[10:30], 1}, {b, b.bytes[:5], 1}}
	spans[0].bytes = a.bytes[:10]
	vectors, total := gather(nil, spans)
	if total != 35 || len(vectors) != 2 || len(vectors[0]) != 30 || len(vectors[1]) != 5 {
		t.Errorf("%d vectors, %d bytes", len(vectors), total)
	}
}

func TestQueueGivesEverySpanToEveryWriter(t *testing.T) {
	q := newQueue(2)
	for i := range 3 {
		c := newChunk(100)
		if !q.put(span{c, c.bytes[:10+i], 1}) {
			t.Fatal("closed")
		}
	}
	for writer := range 2 {
		spans, ok := q.take(writer, nil)
		if !ok || len(spans) != 3 {
			t.Fatalf("writer %d got %d spans", writer, len(spans))
		}
		for _, s := range spans {
			if users := s.chunk.users.Load(); users != int32(2-writer) {
				t.Errorf("writer %d: %d users of a chunk", writer, users)
			}
		}
		releaseAll(spans)
	}
	q.close()
	if _, ok := q.take(0, nil); ok {
		t.Error("spans from a closed queue")
	}
	c := newChunk(10)
	if q.put(span{c, c.bytes[:1], 1}) {
		t.Error("a closed queue takes a span")
	}
}

func TestFileAppendsVectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := createLog(path, false, false)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	var vectors [][]byte
	for i := range 3000 { // More than one pwritev takes.
		b := frame(uint64(i), 8+i%7)
		want = append(want, b...)
		vectors = append(vectors, b)
	}
	if err := l.append(vectors, len(want)); err != nil {
		t.Fatal(err)
	}
	if err := l.append([][]byte{[]byte("end")}, 3); err != nil {
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, append(want, "end"...)) {
		t.Errorf("the file has %d bytes (%v), want %d", len(got), err, len(want)+3)
	}
}

func TestSkip(t *testing.T) {
	for n := range 7 {
		vectors := skip([][]byte{{1, 2}, {3}, {4, 5, 6}}, n)
		if got, want := bytes.Join(vectors, nil), []byte{1, 2, 3, 4, 5, 6}[n:]; !bytes.Equal(got, want) {
			t.Errorf("skip %d leaves %v, want %v", n, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var values []time.Duration
	for i := 1; i <= 100; i++ {
		values = append(values, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0.5: 50, 0.99: 99, 0.01: 1, 1: 100} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %g = %d, want %d", q, got, want)
		}
	}
	if got := quantile(values[:1], 0.99); got != 1 {
		t.Errorf("quantile of one value = %d", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, args := range []string{"-partitions 0", "-batch-bytes 7", "-in-flight 0", "-duration 0s", "-warm-up -1s", "-o xml", "more", "-duration 10m"} {
		if _, err := parseOptions(strings.Fields(args)); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
