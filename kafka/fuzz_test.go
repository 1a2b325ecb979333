package kafka

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill gives every field of a message a value, and every list a few elements.
func fill(v reflect.Value, rng *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if rng.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng, depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Version" && f.Name != "UnknownTags" {
				fill(v.Field(i), rng, depth)
			}
		}
	case reflect.Slice:
		n := rng.IntN(4)
		if depth > 3 || n == 0 && rng.IntN(2) == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), rng, depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), rng, depth)
		}
	case reflect.String:
		v.SetString([]string{"", "t", "none", "a/b", "__consumer_offsets"}[rng.IntN(5)])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt([]int64{0, 1, -1, 2, 100}[rng.IntN(5)])
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(rng.IntN(256)))
	}
}

// filledFrame is a frame of some request with something in it.
func filledFrame(rng *rand.Rand, key int16) []byte {
	e := endpoints[key]
	req := kmsg.RequestForKey(key)
	req.SetVersion(e.min + int16(rng.IntN(int(e.max-e.min)+1)))
	fill(reflect.ValueOf(req).Elem(), rng, 0)
	if p, ok := req.(*kmsg.ProduceRequest); ok && len(p.Topics) > 0 && len(p.Topics[0].Partitions) > 0 {
		p.Topics[0].Partitions[0].Records = batchOf("v")
	}
	return encode(req, 1)
}

// mostPerByte is how many bytes of memory a byte of a request may become while it is decoded, at the worst: the codec makes a list for as
// many elements as there are bytes left, before it finds that they are not there.
const mostPerByte = 256

// FuzzDecode: no frame makes the decoder panic, or take more than a bounded multiple of itself.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 0))
	for _, key := range keys() {
		for range 4 {
			f.Add(filledFrame(rng, key))
			if b := randomFrame(rng); len(b) > headLen {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, e := headOf(b)
		if e == nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := &request{endpoint: e, frame: b[headLen:]}
		err := r.decode(h)
		runtime.ReadMemStats(&after)
		if err == nil && r.msg == nil {
			t.Fatal("no request and no error")
		}
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(256<<10+mostPerByte*len(b)); took > most {
			t.Errorf("%s: a request of %d bytes took %d", e.name, len(b), took)
		}
	})
}

// headOf reads what a frame begins with; nil: it is no request that is served.
func headOf(b []byte) (head, *endpoint) {
	if len(b) < headLen {
		return head{}, nil
	}
	h := head{int32(len(b) - 4), int16(binary.BigEndian.Uint16(b[4:])), int16(binary.BigEndian.Uint16(b[6:])), 1}
	return h, endpoints[h.key]
}

// FuzzHandle: whatever a frame says, its handler does not panic, and gives an answer that can be written.
func FuzzHandle(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 0))
	for _, key := range keys() {
		for range 8 {
			f.Add(filledFrame(rng, key))
		}
	}
	r := newRig(f, nil)
	r.cluster.image = imageOf(f, "t", 2)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, e := headOf(b)
		if e == nil {
			return
		}
		server, client := net.Pipe()
		defer func() { _, _ = server.Close(), client.Close() }()
		c := newConn(r.server, testListener, server)
		c.cancel() // nothing waits
		req := &request{endpoint: e, frame: b[headLen:], correlation: 1, received: time.Now()}
		if req.decode(h) != nil {
			return
		}
		a := e.handle(c, req)
		a.request = req
		if a.done != nil {
			select {
			case <-a.done:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s is not answered", e.name)
			}
		}
		if throttled, ok := a.response.(kmsg.ThrottleResponse); ok {
			if ms, _ := throttled.Throttle(); ms != 0 {
				t.Errorf("%s: throttled for %d ms, and there are no quotas", e.name, ms)
			}
		}
		if a.response != nil {
			written := appendHeader(nil, req, a.response)
			if got := a.response.AppendTo(written); len(got) <= len(written)-1 {
				t.Fatalf("%s has no answer", e.name)
			}
		}
		a.gone()
	})
}

// What the budget of requests does not count is bounded: a list's elements are not larger than mostPerByte, whichever request it is in.
func TestNoRequestGrowsMuch(t *testing.T) {
	var walk func(name string, of reflect.Type)
	walk = func(name string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Array:
			walk(name, of.Elem())
		case reflect.Slice:
			if size := of.Elem().Size(); size > mostPerByte/2 { // append may make room for twice as many
				t.Errorf("%s: an element of %v takes %d bytes", name, of, size)
			}
			walk(name, of.Elem())
		case reflect.Struct:
			for i := range of.NumField() {
				if f := of.Field(i); f.IsExported() {
					walk(name, f.Type)
				}
			}
		}
	}
	for key, e := range endpoints {
		walk(e.name, reflect.TypeOf(kmsg.RequestForKey(key)))
	}
}

// Large requests that are not to produce are decoded one after the other: while one of them takes its worst, others wait.
func TestLargeRequestsAreDecodedOneByOne(t *testing.T) {
	r := newRig(t, nil)
	r.server.decoding.Lock()
	large, small := r.dial(), r.dial()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 1
	req.Resources = make([]kmsg.DescribeConfigsRequestResource, 20_000)
	id := large.send(req)
	req.Resources = req.Resources[:10]
	small.ask(req) // small ones do not wait
	_ = large.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := large.frame(); err == nil {
		t.Errorf("answered: %x", b[:8])
	}
	_ = large.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	r.server.decoding.Unlock()
	req.Resources = make([]kmsg.DescribeConfigsRequestResource, 20_000)
	large.recv(id, req)
}

// A client that connects again and again, each time with a request that ends its connection, costs nothing that stays, and others are
// served meanwhile.
func TestAClientThatReconnectsInALoop(t *testing.T) {
	r := newRig(t, nil)
	for range 300 {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte{0, 0, 0, 10, 3, 231, 0, 0, 0, 0, 0, 0, 0xff, 0xff}); err != nil { // key 999
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Fatal("the connection is open")
		}
		_ = conn.Close()
	}
	r.works()
	waitFor(t, func() bool {
		r.server.mu.Lock()
		defer r.server.mu.Unlock()
		return len(r.server.conns) <= 1 // that of works
	})
	if got := r.server.metricOf(r.server.metrics.closed.WithLabelValues("unknown_key")); got != 300 {
		t.Errorf("%v connections were closed for an unknown key", got)
	}
}
