package clientv1

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// randomMessage fills every field of a message with some probability. Batches get sizes on both
// sides of minDirect.
func randomMessage(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(4) == 0 || depth > 4 {
			continue
		}
		switch {
		case f.IsMap():
			mm := m.Mutable(f).Map()
			for range r.IntN(2) {
				mm.Set(randomScalar(r, f.MapKey(), 16).MapKey(), randomScalar(r, f.MapValue(), 16))
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(4) {
				if f.Message() != nil {
					e := list.NewElement()
					randomMessage(r, e.Message(), depth+1)
					list.Append(e)
				} else {
					list.Append(randomScalar(r, f, 3*minDirect))
				}
			}
		case f.Message() != nil:
			if r.IntN(3) == 0 { // records and errors: seldom, as in life
				e := m.NewField(f)
				randomMessage(r, e.Message(), depth+1)
				m.Set(f, e)
			}
		default:
			m.Set(f, randomScalar(r, f, 3*minDirect))
		}
	}
}

func randomScalar(r *rand.Rand, f protoreflect.FieldDescriptor, maxBytes int) protoreflect.Value {
	n := r.Int64() >> r.IntN(64)
	if r.IntN(2) == 0 {
		n = -n
	}
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("täst-%d", n))
	case protoreflect.BytesKind:
		b := make([]byte, r.IntN(maxBytes))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return protoreflect.ValueOfBytes(b)
	}
	panic("a kind that no message had so far: " + f.Kind().String())
}

// pieces cuts bytes into buffers as the transport might.
func pieces(r *rand.Rand, b []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := 1 + r.IntN(len(b))
		out = append(out, mem.SliceBuffer(bytes.Clone(b[:n])))
		b = b[n:]
	}
	return out
}

func TestCodecAgreesWithGeneratedCode(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	direct := map[string]int{}
	for i := range 2000 {
		var m, back, byHand proto.Message
		switch i % 4 {
		case 3:
			m, back, byHand = &ProduceResponse{}, &ProduceResponse{}, &ProduceResponse{}
		case 0:
			m, back, byHand = &ProduceRequest{}, &ProduceRequest{}, &ProduceRequest{}
		case 1:
			m, back, byHand = &FetchResponse{}, &FetchResponse{}, &FetchResponse{}
		case 2:
			m, back, byHand = &DescribeProducersResponse{}, &DescribeProducersResponse{}, &DescribeProducersResponse{}
		}
		randomMessage(r, m.ProtoReflect(), 0)
		if f, ok := m.(*FetchResponse); ok && r.IntN(2) == 0 {
			for _, p := range f.Partitions {
				p.Records = nil // else nearly every answer falls back
			}
		}
		if r.IntN(20) == 0 {
			m.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) // field 99, varint 1
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Codec{}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 1 {
			direct[fmt.Sprintf("%T", m)]++
		}
		if p, ok := m.(*ProduceResponse); ok { // in one piece also by generated code
			if _, byHand := marshalProduced(p); byHand && parseProduced(want, &ProduceResponse{}) {
				direct["*clientv1.ProduceResponse"]++
			}
		}
		if !bytes.Equal(got.Materialize(), want) {
			t.Fatalf("message %d: %T is encoded otherwise than by generated code", i, m)
		}
		if err := proto.Unmarshal(want, back); err != nil {
			t.Fatal(err)
		}
		// What the message held before must not show through.
		randomMessage(r, byHand.ProtoReflect(), 0)
		if err := (Codec{}).Unmarshal(pieces(r, want), byHand); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(back, byHand) {
			t.Fatalf("message %d: decoded %v, generated code gives %v", i, byHand, back)
		}
	}
	for _, name := range []string{"*clientv1.ProduceRequest", "*clientv1.ProduceResponse", "*clientv1.FetchResponse"} {
		if direct[name] < 50 {
			t.Errorf("only %d messages %s were encoded by hand: the test proves little", direct[name], name)
		}
	}
}

// A batch must stay whole after the transport has taken its buffers back, and must not overlap
// with anything else.
func TestReceivedBatchesAreTheMessagesOwn(t *testing.T) {
	batch := bytes.Repeat([]byte{7}, 3*minDirect)
	wire, err := proto.Marshal(&ProduceRequest{Topic: "t", Batch: batch, TimeoutMs: 5})
	if err != nil {
		t.Fatal(err)
	}
	transport := mem.BufferSlice{mem.SliceBuffer(wire)} // one buffer: nothing to be joined, still to be copied
	var m ProduceRequest
	if err := (Codec{}).Unmarshal(transport, &m); err != nil {
		t.Fatal(err)
	}
	clear(wire)
	if !bytes.Equal(m.Batch, batch) || m.Topic != "t" {
		t.Fatal("the message changed with the transport's buffer")
	}
	if cap(m.Batch) != len(m.Batch) {
		t.Fatalf("batch has capacity %d beyond its %d bytes", cap(m.Batch), len(m.Batch))
	}
}

func TestSentBatchesAreNotCopied(t *testing.T) {
	batch := make([]byte, 2*minDirect)
	req, err := Codec{}.Marshal(&ProduceRequest{Batch: batch})
	if err != nil {
		t.Fatal(err)
	}
	if got := req[len(req)-1].ReadOnlyData(); &got[0] != &batch[0] {
		t.Error("produce: the batch was copied")
	}
	counter := &sendCounter{}
	answer, err := Codec{}.Marshal(Counted{Counter: counter, FetchResponse: &FetchResponse{Partitions: []*FetchedPartition{
		{Topic: "a", Batches: [][]byte{batch, batch[:10]}}, {Topic: "b", Batches: [][]byte{batch}, NextOffset: 9}}}})
	if err != nil {
		t.Fatal(err)
	}
	if n := answer.Len(); n < 2*len(batch) || n > 2*len(batch)+200 {
		t.Errorf("answer of %d bytes for two batches of %d", n, len(batch))
	}
	if counter.held != 2*len(batch) {
		t.Errorf("%d bytes are counted while they are sent, want %d", counter.held, 2*len(batch))
	}
	answer.Free()
	if counter.held != 0 {
		t.Errorf("%d bytes are counted after they were sent", counter.held)
	}
	if _, err := (Codec{}).Marshal(Counted{Counter: counter, FetchResponse: &FetchResponse{}}); err != nil || counter.held != 0 || counter.encoded != 2 {
		t.Errorf("an answer without batches: %v, %d bytes counted", err, counter.held)
	}
}

type sendCounter struct{ held, encoded int }

func (c *sendCounter) Hold(n int)      { c.held += n }
func (c *sendCounter) Encoded()        { c.encoded++ }
func (c *sendCounter) Put(b *[]byte)   { c.held -= len(*b) }
func (c *sendCounter) Get(int) *[]byte { panic("the codec takes nothing from the pool") }

// A field that the hand-written code does not know would get lost in silence.
func TestCodecKnowsEveryField(t *testing.T) {
	for _, c := range []struct {
		m      proto.Message
		fields int
	}{{&ProduceRequest{}, 9}, {&ProduceResponse{}, 8}, {&FetchResponse{}, 1}, {&FetchedPartition{}, 10}} {
		if n := c.m.ProtoReflect().Descriptor().Fields().Len(); n != c.fields {
			t.Errorf("%T has %d fields, the codec knows %d: teach it the new ones", c.m, n, c.fields)
		}
	}
}

func TestCodecRefusesWhatGeneratedCodeRefuses(t *testing.T) {
	big := make([]byte, 2*minDirect)
	for _, m := range []proto.Message{
		&ProduceRequest{Topic: "\xff", Batch: big},
		&ProduceRequest{TransactionalId: "\xff", Batch: big},
		&ProduceRequest{TopicId: "\xff", Batch: big},
		&ProduceResponse{Topic: "\xff"},
		&FetchResponse{Partitions: []*FetchedPartition{{Topic: "\xff", Batches: [][]byte{big}}}},
		&FetchResponse{Partitions: []*FetchedPartition{{Error: &Error{Message: "\xff"}, Batches: [][]byte{big}}}},
	} {
		if _, err := proto.Marshal(m); err == nil {
			t.Fatalf("generated code takes %v", m)
		}
		if _, err := (Codec{}).Marshal(m); err == nil {
			t.Errorf("encoded %T with broken UTF-8", m)
		}
	}
}

// fuzzUnmarshal says whether codec and generated code agree on bytes that may be anything.
func fuzzUnmarshal[M any, P interface {
	*M
	proto.Message
}](t *testing.T, b []byte, cut uint) {
	want, got := P(new(M)), P(new(M))
	wantErr := proto.Unmarshal(b, want)
	at := int(cut % uint(len(b)+1))
	gotErr := Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b[:at]), mem.SliceBuffer(b[at:])}, got)
	if (wantErr == nil) != (gotErr == nil) {
		t.Fatalf("%T: codec says %v, generated code %v", want, gotErr, wantErr)
	}
	if wantErr == nil && !proto.Equal(want, got) {
		t.Fatalf("codec read %v, generated code %v", got, want)
	}
}

func FuzzUnmarshal(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		for _, m := range []proto.Message{&ProduceRequest{}, &ProduceResponse{}, &FetchResponse{}} {
			randomMessage(r, m.ProtoReflect(), 0)
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, r.Uint32())
		}
	}
	f.Add([]byte{0x0a, 0x04, 0x1a, 0x00, 0x1a, 0x00}, uint32(3))       // an error given twice
	f.Add([]byte{0x38, 0x01}, uint32(0))                               // batch as a varint
	f.Add([]byte{0x12, 0x01, 0xff}, uint32(0))                         // a topic that is not UTF-8
	f.Add([]byte{0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, uint32(1)) // a length beyond the end
	f.Fuzz(func(t *testing.T, b []byte, cut uint32) {
		fuzzUnmarshal[ProduceRequest](t, b, uint(cut))
		fuzzUnmarshal[ProduceResponse](t, b, uint(cut))
		fuzzUnmarshal[FetchResponse](t, b, uint(cut))
	})
}

func benchmarkCodecs(b *testing.B, m proto.Message, size int) {
	wire, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	var frames mem.BufferSlice // as they come from HTTP/2
	for rest := wire; len(rest) > 0; {
		n := min(16<<10, len(rest))
		frames = append(frames, mem.SliceBuffer(rest[:n]))
		rest = rest[n:]
	}
	for _, c := range []struct {
		name  string
		codec interface {
			Marshal(any) (mem.BufferSlice, error)
			Unmarshal(mem.BufferSlice, any) error
		}
	}{{"codec", Codec{}}, {"generated", fallback}} {
		b.Run("marshal/"+c.name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				out, err := c.codec.Marshal(m)
				if err != nil {
					b.Fatal(err)
				}
				out.Free()
			}
		})
		b.Run("unmarshal/"+c.name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				into := reflect.New(reflect.TypeOf(m).Elem()).Interface()
				if err := c.codec.Unmarshal(frames, into); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkProduceRequest(b *testing.B) {
	for _, size := range []int{200, 16 << 10, 100 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			benchmarkCodecs(b, &ProduceRequest{RequestId: 1, Topic: "orders", Partition: 3, Batch: make([]byte, size)}, size)
		})
	}
}

func BenchmarkFetchResponse(b *testing.B) {
	for _, size := range []int{100 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			benchmarkCodecs(b, &FetchResponse{Partitions: []*FetchedPartition{
				{Topic: "orders", HighWatermark: 1, Batches: [][]byte{make([]byte, size)}}}}, size)
		})
	}
}
