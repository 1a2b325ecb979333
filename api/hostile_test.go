package api

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/mem"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/partition"
)

// What a client can send a little of, to make the broker hold much.

// A request in many small frames counts for what the transport takes for them, and one in frames with padding for no more than what is there: when
// its handler has it, nothing is counted.
func TestFramesCountForWhatTheyTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.log.forget = true
		held := func() float64 {
			synctest.Wait()
			return r.metric(r.server.metrics.receivingBytes)
		}
		h := newHostile(t, r)
		h.begin(1, clientv1.LogService_Produce_FullMethodName)
		message, err := proto.Marshal(request(1, "t", string(make([]byte, 1000))))
		if err != nil {
			t.Fatal(err)
		}
		whole := append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
		for range 3 {
			for _, b := range whole[:len(whole)-1] {
				h.done(h.framer.WriteData(1, false, []byte{b}))
			}
			if n := held(); n < float64(100*len(message)) {
				t.Errorf("%v bytes are held of a request of %d bytes, of which each has a frame", n, len(message))
			}
			h.done(h.framer.WriteData(1, false, whole[len(whole)-1:]))
			if n := held(); n != 0 {
				t.Errorf("%v bytes are held of a request that came in small frames", n)
			}
			h.done(h.framer.WriteDataPadded(1, false, whole, make([]byte, 255)))
			h.done(h.framer.WriteDataPadded(1, false, nil, make([]byte, 255)))
			if n := held(); n != 0 {
				t.Errorf("%v bytes are held of a request that came with padding", n)
			}
		}
	})
}

// What a handler has of a stream is counted until the call ends, unless somebody else counts it: an answer of reflection repeats what was asked, and
// waits for its client to read.
func TestStreamsHoldWhatTheirHandlersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Reflection = true })
		held := func() float64 {
			synctest.Wait()
			return r.metric(r.server.metrics.receivingBytes)
		}
		s, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name := string(make([]byte, 1<<20))
		if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: name}}); err != nil {
			t.Fatal(err)
		}
		if n := held(); n < 1<<20 {
			t.Errorf("%v bytes are held of a question of 1 MiB, whose answer is not read", n)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = s.Recv()
		}
		if n := held(); n != 0 {
			t.Errorf("%v bytes are held of a call that has ended", n)
		}
	})
}

// A client that takes no answers is refused more once a few are made: of one connection no more than maxUnsent bytes wait, and one answer. Who takes
// them is served.
func TestAnswersThatNobodyTakesAreNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Reflection = true })
		req := &clientv1.GetMetadataRequest{}
		for i := range 500 {
			req.Topics = append(req.Topics, fmt.Sprint("nowhere", i))
		}
		message, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := clientv1.NewAdminServiceClient(r.conn).GetMetadata(r.ctx(), req)
		if err != nil {
			t.Fatal(err)
		}
		h := newHostile(t, r)
		h.done(h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		before := inUse()
		const calls = 800
		for i := range uint32(calls) {
			h.begin(2*i+1, clientv1.AdminService_GetMetadata_FullMethodName)
			h.done(h.framer.WriteData(2*i+1, true, append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)))
		}
		if n, most := inUse()-before, int64(maxUnsent+calls<<14); n > most {
			t.Errorf("%d bytes are in use after %d calls whose answers of %d bytes are not read, want at most %d", n, calls, proto.Size(answer), most)
		}
		h.close()
		for range 100 {
			if _, err := clientv1.NewAdminServiceClient(r.conn).GetMetadata(r.ctx(), req); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What a request to produce held beside its batch is not kept with it while it waits for its commit: a name that is given twice, a field that nobody knows.
func TestProduceKeepsNamesAndBatch(t *testing.T) {
	const padding, requests = 2 << 20, 20
	for _, field := range []protowire.Number{2, 100} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			var undecided []func(partition.ProduceResult, error)
			r.log.onProduce = func(_ partition.ProduceRequest, done func(partition.ProduceResult, error)) {
				undecided = append(undecided, done)
			}
			small, err := proto.Marshal(request(1, "t", "v"))
			if err != nil {
				t.Fatal(err)
			}
			message := append(protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), strings.Repeat("x", padding)), small...)
			h := newHostile(t, r)
			h.begin(1, clientv1.LogService_Produce_FullMethodName)
			before := inUse()
			for range requests {
				whole := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
				for piece := range slices.Chunk(whole, maxFrameLen) {
					h.done(h.framer.WriteData(1, false, piece))
				}
				synctest.Wait()
			}
			if n := r.metric(r.server.metrics.inFlight); n != requests {
				t.Errorf("%v requests are under way", n)
			}
			if n := inUse() - before; n > 4*padding {
				t.Errorf("%d bytes are in use with %d requests of which each has a batch of %d bytes, and field %d", n, requests, len(batchOf("v")), field)
			}
			for _, done := range undecided {
				done(partition.ProduceResult{}, nil)
			}
		})
	}
}

// Requests that decode to many times their size are refused before, or are decoded one at a time; what is within reason is decoded, however much it is.
func TestLargeRequestsAreDecodedAlone(t *testing.T) {
	var alone sync.Mutex
	codec := clientv1.Codec{Alone: &alone}
	produce := func(record string, n int) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 8, protowire.BytesType), strings.Repeat(record, n))
	}
	header := "\x1a\x00"
	for _, c := range []struct {
		name    string
		message []byte
		into    proto.Message
		refused bool
		alone   bool
	}{
		{"a small request", make([]byte, 0), new(clientv1.FetchRequest), false, false},
		{"a fetch of many partitions", []byte(strings.Repeat("\x0a\x00", 100_000)), new(clientv1.FetchRequest), false, true},
		{"a fetch of too many", []byte(strings.Repeat("\x0a\x00", 2_000_000)), new(clientv1.FetchRequest), true, false},
		{"a batch", protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), make([]byte, 4<<20)), new(clientv1.ProduceRequest), false, false},
		{"records", produce("\x0a\x06\x0a\x01k\x12\x01v", 100_000), new(clientv1.ProduceRequest), false, true},
		{"records of nothing", produce("\x0a\x00", 4_000_000), new(clientv1.ProduceRequest), true, true},
		{"records of nothing behind a number", append([]byte{0xa5, 6, 1, 2, 3, 4}, produce("\x0a\x00", 4_000_000)...), new(clientv1.ProduceRequest), true, true},
		{"headers of nothing", produce("\x0a\x64"+strings.Repeat(header, 50), 60_000), new(clientv1.ProduceRequest), true, true},
	} {
		decoded := make(chan error, 1)
		check := func(err error) {
			if _, _, why := clientv1.LeftOut(c.into); err != nil || (why != "") != c.refused || c.refused && proto.Size(c.into) > 1 {
				t.Errorf("%s: %v, left out because: %q", c.name, err, why)
			}
		}
		alone.Lock()
		go func() { decoded <- codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(c.message)}, c.into) }()
		if !c.alone {
			check(<-decoded)
			alone.Unlock()
			continue
		}
		runtime.Gosched()
		select {
		case err := <-decoded:
			t.Errorf("%s is decoded while another is: %v", c.name, err)
			alone.Unlock()
		default:
			alone.Unlock()
			check(<-decoded)
		}
	}
}

func inUse() int64 {
	synctest.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A call that is turned away leaves nothing behind, however long its client would have waited: what gRPC keeps until then goes with the connection, and
// one connection is turned away so many times only.
func TestCallsTurnedAwayLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := demandingRig(t, nil)
		connect := func(calls int) *hostileClient {
			h := newHostile(t, r)
			for i := range calls {
				h.begin(uint32(2*i+1), clientv1.AdminService_GetMetadata_FullMethodName, [2]string{"grpc-timeout", "99999999H"})
			}
			synctest.Wait()
			return h
		}
		connections := func(calls int) int64 {
			before := inUse()
			for range 20 {
				connect(calls).close()
			}
			return inUse() - before
		}
		connections(maxTurnedAway)
		if none, n := connections(1), connections(maxTurnedAway); n > none+(8<<20) {
			t.Errorf("20 connections leave %d bytes with %d calls that were turned away, and %d with one", n, maxTurnedAway, none)
		}
		if n := r.metric(r.server.metrics.connectionsCut.WithLabelValues(cutTurnedAway)); n != 0 {
			t.Errorf("%v connections were closed for what all may do", n)
		}
		connect(maxTurnedAway + 1)
		if n := r.metric(r.server.metrics.connectionsCut.WithLabelValues(cutTurnedAway)); n != 1 || r.metric(r.server.metrics.connections) != 0 {
			t.Errorf("%v connections were closed, %v are left", n, r.metric(r.server.metrics.connections))
		}
	})
}
