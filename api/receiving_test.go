package api

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
)

// However the bytes of frames come, the payload of each DATA frame is told once, with its stream, and no read goes beyond a frame with headers.
func TestFramesAreFollowed(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&wire, nil)
	var want []string
	var stops []int
	for range 100 {
		stream := uint32(1 + 2*rng.IntN(1000))
		switch rng.IntN(7) {
		case 0:
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: make([]byte, rng.IntN(300)), EndHeaders: true})
			want = append(want, fmt.Sprintf("opened %d", stream))
			stops = append(stops, wire.Len())
		case 1:
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: make([]byte, rng.IntN(30))})
			want = append(want, fmt.Sprintf("opened %d", stream))
			stops = append(stops, wire.Len())
			_ = f.WriteContinuation(stream, true, make([]byte, rng.IntN(30)))
			want = append(want, fmt.Sprintf("opened %d", stream))
			stops = append(stops, wire.Len())
		case 2:
			_ = f.WriteWindowUpdate(stream, 5)
		case 3:
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		case 4:
			n, pad := rng.IntN(2)*rng.IntN(5000), rng.IntN(256)
			_ = f.WriteDataPadded(stream, rng.IntN(2) == 0, make([]byte, n), make([]byte, pad))
			if n > 0 {
				want = append(want, fmt.Sprintf("data %d %d, for %d", stream, n, cost(1+n+pad)))
			}
		default:
			n := rng.IntN(4) * rng.IntN(5000)
			_ = f.WriteData(stream, rng.IntN(2) == 0, make([]byte, n))
			if n > 0 {
				want = append(want, fmt.Sprintf("data %d %d, for %d", stream, n, cost(n)))
			}
		}
	}
	for _, most := range []int{1, 7, 100, 5000, 1 << 20} {
		var got []string
		var s frames
		for at, b := 0, wire.Bytes(); at < len(b); {
			n := s.scan(b[at:min(len(b), at+1+rng.IntN(most))], func(stream uint32, n int, cost int64) {
				got = append(got, fmt.Sprintf("data %d %d, for %d", stream, n, cost))
			})
			for _, stop := range stops {
				if at < stop && at+n > stop {
					t.Fatalf("seed %d, pieces of %d: a read goes from %d to %d, beyond the headers that end at %d", seed, most, at, at+n, stop)
				}
			}
			at += n
			if slices.Contains(stops, at) {
				got = append(got, fmt.Sprintf("opened %d", s.opened))
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d, pieces of %d: %d and %d things are seen of the same frames", seed, most, len(got), len(want))
		}
	}
}

// A call holds what has come of its request while it is not complete, and while a call with one request is not answered; nothing is held when all have ended.
func TestRequestsAreCountedWhileTheyAreReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.log.forget = true
		held := func() float64 {
			synctest.Wait()
			return r.metric(r.server.metrics.receivingBytes)
		}
		s := r.produce()
		for i := range 50 {
			s.send(request(uint64(i), "t", string(make([]byte, 100_000))))
			s.recv()
		}
		if n := held(); n != 0 {
			t.Errorf("%v bytes are held of requests that a handler has", n)
		}
		h := newHostile(t, r)
		h.begin(1, clientv1.LogService_Produce_FullMethodName)
		h.send(1, 1<<20, 300_000)
		h.begin(3, clientv1.AdminService_CreateTopic_FullMethodName)
		h.send(3, 1<<20, 200_000)
		if n := held(); n < 500_010 || n > 500_010+2*maxFrameLen {
			t.Errorf("%v bytes are held, of two requests that are not complete; 500010 have come, in frames for which the transport takes a little more", n)
		}
		h.reset(3)
		one := held()
		if n := one; n < 300_005 || n > 300_005+maxFrameLen {
			t.Errorf("%v bytes are held once one of the calls has been reset", n)
		}
		h.begin(5, "/oncelog.nothing/Here")
		h.send(5, 1<<20, 100_000)
		if n := held(); n != one {
			t.Errorf("%v bytes are held with a call of an unknown method", n)
		}
		h.close()
		if n := held(); n != 0 {
			t.Errorf("%v bytes are held without the connection", n)
		}
		s.end()
		if n := held(); n != 0 {
			t.Errorf("%v bytes are held without a call", n)
		}
	})
}

// A client that sends parts of requests without end is closed once others find no room; what is held stays within twice the part of the
// memory that requests may have, and other clients are served.
func TestClientThatSendsPartsOfRequestsIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory = 16 << 20
		r := newRig(t, func(c *Config) {
			c.MaxMessageBytes = 1 << 20
			c.Shared = frontdoor.NewShared(frontdoor.Limits{Memory: frontdoor.NewMemory(memory)})
		})
		r.log.forget = true
		var hostile []*hostileClient
		most := 0.0
		for range 3 {
			h := newHostile(t, r)
			hostile = append(hostile, h)
			go func() {
				for stream := uint32(1); stream < 600; stream += 2 {
					h.begin(stream, clientv1.LogService_Produce_FullMethodName)
					for range 10 {
						h.send(stream, 1<<20, 16_000)
					}
				}
			}()
			synctest.Wait()
			most = max(most, r.metric(r.server.metrics.receivingBytes))
		}
		if most < memory/4-32<<10 || most > memory/2 {
			t.Errorf("clients hold %v bytes, of %d that requests may have", most, memory/4)
		}
		s := r.produce()
		start := time.Now()
		s.send(request(1, "t", string(make([]byte, 500_000))))
		if a := s.recv(); a.Error != nil {
			t.Errorf("an honest client is told %v", a.Error)
		}
		if waited := time.Since(start); waited > 4*maxReceiveWait {
			t.Errorf("an honest client waited for %v", waited)
		}
		s.end()
		time.Sleep(5 * maxReceiveWait)
		s = r.produce()
		s.send(request(2, "t", string(make([]byte, 500_000))))
		if a := s.recv(); a.Error != nil {
			t.Errorf("an honest client is told %v", a.Error)
		}
		if n := r.metric(r.server.metrics.connectionsCut.WithLabelValues(cutNoRoom)); n < 2 || n > 3 {
			t.Errorf("%v connections are closed, of 3 that hold what they can", n)
		}
		for _, h := range hostile {
			h.close()
		}
		s.end()
		synctest.Wait()
		if n := r.metric(r.server.metrics.receivingBytes); n != 0 {
			t.Errorf("%v bytes are held in the end", n)
		}
	})
}

// What a call with one request has sent is held until it is answered, whatever its handler waits for.
func TestRequestsAreCountedUntilTheyAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		asked := make(chan struct{})
		answer := make(chan struct{})
		r.log.onFetch = func(context.Context, partition.FetchRequest) []partition.FetchedPartition {
			close(asked)
			<-answer
			return nil
		}
		done := make(chan error, 1)
		go func() {
			_, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{MaxBytes: 1000, Partitions: []*clientv1.FetchPartition{{Topic: "t", MaxBytes: 1000}}})
			done <- err
		}()
		<-asked
		synctest.Wait()
		if n := r.metric(r.server.metrics.receivingBytes); n == 0 {
			t.Error("a request that is being answered is not counted")
		}
		close(answer)
		<-done
		synctest.Wait()
		if n := r.metric(r.server.metrics.receivingBytes); n != 0 {
			t.Errorf("%v bytes are held of a call that has ended", n)
		}
	})
}

// hostileClient says on a connection what it likes.
type hostileClient struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	head   bytes.Buffer
	hpack  *hpack.Encoder
	left   map[uint32]int
}

func newHostile(t *testing.T, r *rig) *hostileClient {
	conn, err := r.listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	h := &hostileClient{t: t, conn: conn, framer: http2.NewFramer(conn, conn), left: make(map[uint32]int)}
	h.hpack = hpack.NewEncoder(&h.head)
	t.Cleanup(h.close)
	go func() {
		for {
			if _, err := h.framer.ReadFrame(); err != nil {
				return // what the server says does not matter
			}
		}
	}()
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	h.done(h.framer.WriteSettings())
	return h
}

// done forgives what fails since the server has closed the connection.
func (h *hostileClient) done(error) {}

// begin sends the head of a call.
func (h *hostileClient) begin(stream uint32, method string, more ...[2]string) {
	h.head.Reset()
	for _, f := range append([][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "broker"}, {"content-type", "application/grpc"}, {"te", "trailers"}}, more...) {
		_ = h.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	h.done(h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.head.Bytes(), EndHeaders: true}))
}

// send sends so much of a message that is said to be so long, with the head of it first.
func (h *hostileClient) send(stream uint32, length, n int) {
	if h.left[stream] == 0 {
		h.left[stream] = length
		h.done(h.framer.WriteData(stream, false, []byte{0, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}))
	}
	for n > 0 {
		piece := min(n, 16<<10)
		h.done(h.framer.WriteData(stream, false, make([]byte, piece)))
		n -= piece
		h.left[stream] -= piece
	}
}

func (h *hostileClient) reset(stream uint32) {
	h.done(h.framer.WriteRSTStream(stream, http2.ErrCodeCancel))
}

func (h *hostileClient) close() { _ = h.conn.Close() }
