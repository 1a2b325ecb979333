package clientv1

import (
	"bytes"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Codec is the protobuf codec of both ends of the API. On the wire it is plain protobuf, so any
// client can talk to a broker that uses it and the other way round; it only spares the batches in
// ProduceRequest and FetchResponse the copies that generated code makes of them. All other
// messages, and these two when they hold anything out of the ordinary, go through generated code.
//
// What it asks of those who use it:
//
//   - Sending: the batch bytes of a sent message are handed to the transport as they are. They
//     must not be changed after SendMsg, not even when it has returned or the stream has ended: the
//     transport may still be reading them. Whoever must change a batch that was sent (renumbering
//     after KIP-360) changes a copy.
//   - Receiving: the batches of one message are slices of one buffer, which belongs to the message
//     and to nobody else; it is never pooled, and lives as long as any slice of it. They may be
//     written to and kept. Each is capped at its own length, so appending to one copies.
//
// Install it with grpc.ForceServerCodecV2 on servers and grpc.ForceCodecV2 on clients. The zero
// value works; a Codec may be used by many goroutines at once.
type Codec struct {
	// Alone, where not nil, has what clients send bounded: it is held while a message is decoded that takes many times its size, and messages are
	// left out (LeftOut) that are larger than any request, or have next to nothing in each of many records, or are no messages.
	Alone sync.Locker
}

var _ encoding.CodecV2 = Codec{}

// Counted is a FetchResponse whose batches are counted while the transport holds them. A server's
// interceptor may return it in place of the message.
type Counted struct {
	*FetchResponse
	Counter SendCounter
}

// Encoded is a message that has been encoded. A server may send it in place of the message. Pool is told when the transport has let go of Bytes, where
// they are minDirect or more, and must not recycle the memory.
type Encoded struct {
	Bytes []byte
	Pool  mem.BufferPool
}

// SendCounter is told of the batches of one message, or of many. Hold is called when a buffer is
// handed to the transport, Put (from mem.BufferPool) when the transport has let go of the same
// buffer; the transport is known to forget buffers that are queued when their connection breaks.
// Put must not recycle the memory, which is the message's. Get is never called. Encoded is called once, when the message
// has been encoded, or could not be: what has not been held by then was short and has been copied.
type SendCounter interface {
	Hold(bytes int)
	Encoded()
	mem.BufferPool
}

// fallback does everything that is not worth doing by hand.
var fallback = encoding.GetCodecV2(protocodec.Name)

// minDirect is the number of batch bytes from which handing them over costs less than copying
// them: below it, one buffer is cheaper than two. It lies above the size from which mem.NewBuffer
// counts references, so a SendCounter hears of every buffer.
const minDirect = 4 << 10

// maxBeside is what a request holds beside its batch, if it is one that can be served.
const maxBeside = 2 << 10

// Name gives "proto".
func (Codec) Name() string { return protocodec.Name }

// Marshal gives the protobuf encoding of a message.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *ProduceRequest:
		if out, ok := marshalProduce(m); ok {
			return out, nil
		}
	case *ProduceResponse:
		if out, ok := marshalProduced(m); ok {
			return out, nil
		}
	case *FetchResponse:
		if out, ok := marshalFetched(m, nil); ok {
			return out, nil
		}
	case Encoded:
		return mem.BufferSlice{mem.NewBuffer(&m.Bytes, m.Pool)}, nil
	case Counted:
		defer m.Counter.Encoded()
		if out, ok := marshalFetched(m.FetchResponse, m.Counter); ok {
			return out, nil
		}
		v = m.FetchResponse
	}
	return fallback.Marshal(v)
}

const (
	// maxPlain is the largest request but those to produce. Ten thousand partitions with the longest names take less.
	maxPlain = 3 << 20
	// largePlain is what is decoded alone: a message within another takes two bytes there, and more than a hundred when it is decoded.
	largePlain = 64 << 10
	// minRecord is what records of more than largePlain take on average, with their headers as records of their own.
	minRecord = 8
)

// alone waits until a message of so many bytes may be decoded; done must be called when it has been.
func (c Codec) alone(n int) (done func()) {
	if c.Alone == nil || n <= largePlain {
		return func() {}
	}
	c.Alone.Lock()
	return c.Alone.Unlock
}

// records counts records and their headers in an encoded request to produce.
func records(b []byte) (n int) {
	texts(b, func(num protowire.Number, list []byte) {
		if num != 8 {
			return
		}
		texts(list, func(num protowire.Number, record []byte) {
			n++
			if num == 1 {
				texts(record, func(num protowire.Number, _ []byte) {
					if num == 3 {
						n++
					}
				})
			}
		})
	})
	return n
}

// texts hands on the fields of a message that are of BytesType, up to what is no field.
func texts(b []byte, text func(protowire.Number, []byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			text(num, v)
		}
		b = b[size:]
	}
}

// beside are the fields of a message but one of BytesType.
func beside(b []byte, not protowire.Number) (rest []byte) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(rest, b...) // whoever decodes it says what is wrong
		}
		if num != not || typ != protowire.BytesType {
			rest = append(rest, b[:n]...)
		}
		b = b[n:]
	}
	return rest
}

// Unmarshal replaces what v holds by the message in data.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *ProduceRequest:
		own := data.Materialize()
		if parseProduce(own, m) {
			if len(own)-len(m.Batch) > maxBeside {
				m.Batch = bytes.Clone(m.Batch) // it may be kept for long, and what is beside it with it
			}
			return nil
		}
		defer c.alone(len(own))()
		if n := records(own); c.Alone != nil && n > largePlain && n > len(own)/minRecord {
			// Whom the answer is for is told beside the records.
			if err := proto.Unmarshal(beside(own, 8), m); err != nil {
				return err
			}
			leaveOut(m, manyRecords)
			return nil
		}
		return proto.Unmarshal(own, m)
	case *ProduceResponse:
		b := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer b.Free()
		if parseProduced(b.ReadOnlyData(), m) {
			return nil
		}
	case *FetchResponse:
		own := data.Materialize()
		if parseFetched(own, m) {
			return nil
		}
		return proto.Unmarshal(own, m)
	}
	m, isMessage := v.(proto.Message)
	bounded := c.Alone != nil && isMessage
	if bounded && data.Len() > maxPlain {
		proto.Reset(m)
		leaveOut(m, tooLarge)
		return nil
	}
	defer c.alone(data.Len())()
	err := fallback.Unmarshal(data, v)
	if err != nil && bounded {
		proto.Reset(m)
		leaveOut(m, noMessage)
		return nil
	}
	return err
}

// marshalProduce encodes a request with an encoded batch; ok is false when the generated code has
// to do it.
func marshalProduce(m *ProduceRequest) (out mem.BufferSlice, ok bool) {
	if m == nil || len(m.Batch) == 0 || m.Records != nil || len(m.unknownFields) != 0 ||
		!utf8.ValidString(m.Topic) || !utf8.ValidString(m.TransactionalId) || !utf8.ValidString(m.TopicId) {
		return nil, false
	}
	// Seven small fields of at most 1+10 bytes, and the tag and length of the batch.
	room := 91 + len(m.Topic) + len(m.TransactionalId) + len(m.TopicId)
	if len(m.Batch) < minDirect {
		room += len(m.Batch)
	}
	b := make([]byte, 0, room)
	b = appendVarint(b, 1, m.RequestId)
	b = appendString(b, 2, m.Topic)
	b = appendVarint(b, 3, uint64(m.Partition))
	b = appendVarint(b, 4, uint64(m.Acks))
	b = appendVarint(b, 5, uint64(m.TimeoutMs))
	b = appendString(b, 6, m.TransactionalId)
	b = protowire.AppendTag(b, 7, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(m.Batch)))
	if len(m.Batch) < minDirect {
		b = append(b, m.Batch...)
		return mem.BufferSlice{mem.SliceBuffer(appendString(b, 9, m.TopicId))}, true
	}
	head := len(b)
	b = appendString(b, 9, m.TopicId)
	if len(b) == head {
		return mem.BufferSlice{mem.SliceBuffer(b), mem.SliceBuffer(m.Batch)}, true
	}
	return mem.BufferSlice{mem.SliceBuffer(b[:head:head]), mem.SliceBuffer(m.Batch), mem.SliceBuffer(b[head:])}, true
}

// marshalProduced encodes an answer without an error; ok is false when the generated code has to do it.
func marshalProduced(m *ProduceResponse) (out mem.BufferSlice, ok bool) {
	if m == nil || m.Error != nil || len(m.unknownFields) != 0 || !utf8.ValidString(m.Topic) {
		return nil, false
	}
	// Six small fields of at most 1+10 bytes.
	b := make([]byte, 0, 66+len(m.Topic))
	b = appendVarint(b, 1, m.RequestId)
	b = appendString(b, 2, m.Topic)
	b = appendVarint(b, 3, uint64(m.Partition))
	b = appendVarint(b, 4, uint64(m.BaseOffset))
	b = appendVarint(b, 5, uint64(m.LogStartOffset))
	b = appendVarint(b, 6, uint64(m.LogAppendTimeMs))
	b = appendVarint(b, 7, protowire.EncodeBool(m.Duplicate))
	return mem.BufferSlice{mem.SliceBuffer(b)}, true
}

// marshalFetched encodes an answer that holds batches; ok is false when the generated code has to
// do it.
func marshalFetched(m *FetchResponse, counter SendCounter) (out mem.BufferSlice, ok bool) {
	if m == nil || len(m.unknownFields) != 0 {
		return nil, false
	}
	total, runs := 0, 0
	for _, p := range m.Partitions {
		if p == nil || len(p.unknownFields) != 0 || len(p.Records) != 0 || !utf8.ValidString(p.Topic) {
			return nil, false
		}
		for _, b := range p.Batches {
			total += len(b)
		}
		runs += len(p.Batches)
	}
	if total < minDirect {
		return nil, false
	}
	w := fetchedWriter{counter: counter, out: make(mem.BufferSlice, 0, 2*runs+1), small: make([]byte, 0, 64*len(m.Partitions)+16*runs)}
	for _, p := range m.Partitions {
		if !w.partition(p) {
			w.out.Free()
			return nil, false
		}
	}
	w.flush()
	return w.out, true
}

// fetchedWriter strings small fields and batches together in wire order.
type fetchedWriter struct {
	counter SendCounter // nil: not counted
	out     mem.BufferSlice
	// small holds what has been written since the last batch, from flushed on.
	small   []byte
	flushed int
}

// flush puts the small bytes that wait into the output. A later append may move small to a new
// array; what is in the output keeps the old one.
func (w *fetchedWriter) flush() {
	if w.flushed < len(w.small) {
		w.out = append(w.out, mem.SliceBuffer(w.small[w.flushed:len(w.small):len(w.small)]))
		w.flushed = len(w.small)
	}
}

// partition writes one element of FetchResponse.partitions.
func (w *fetchedWriter) partition(p *FetchedPartition) bool {
	// What comes before the batches, by generated code.
	head := &FetchedPartition{
		Topic: p.Topic, Partition: p.Partition, Error: p.Error, HighWatermark: p.HighWatermark,
		LastStableOffset: p.LastStableOffset, LogStartOffset: p.LogStartOffset, Aborted: p.Aborted,
	}
	size := proto.Size(head)
	for _, b := range p.Batches {
		size += protowire.SizeTag(8) + protowire.SizeBytes(len(b))
	}
	if p.NextOffset != 0 {
		size += protowire.SizeTag(10) + protowire.SizeVarint(uint64(p.NextOffset))
	}
	w.small = protowire.AppendTag(w.small, 1, protowire.BytesType)
	w.small = protowire.AppendVarint(w.small, uint64(size))
	var err error
	if w.small, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(w.small, head); err != nil {
		return false
	}
	for _, b := range p.Batches {
		w.small = protowire.AppendTag(w.small, 8, protowire.BytesType)
		w.small = protowire.AppendVarint(w.small, uint64(len(b)))
		if len(b) < minDirect {
			w.small = append(w.small, b...)
			continue
		}
		w.flush()
		if w.counter == nil {
			w.out = append(w.out, mem.SliceBuffer(b))
			continue
		}
		w.counter.Hold(len(b))
		w.out = append(w.out, mem.NewBuffer(&b, w.counter))
	}
	w.small = appendVarint(w.small, 10, uint64(p.NextOffset))
	return true
}

// appendVarint writes a field of a varint type, nothing for zero.
func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

// appendString writes a string field, nothing for the empty string.
func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}
