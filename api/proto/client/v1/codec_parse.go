package clientv1

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The parsers below know the usual shape of their message and give up (false) on anything else:
// unknown fields, wrong wire types, records in proto form, broken bytes. Generated code then takes
// the message from the start and decides what it is. So they need to be right only about what
// they accept.

// fields hands the fields of a message to varint or to text, as their wire type is, until one gives up. The bytes stay a slice of b.
func fields(b []byte, varint func(protowire.Number, uint64) bool, text func(protowire.Number, []byte) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		taken := false
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			b, taken = b[n:], varint(num, v)
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			b, taken = b[n:], text(num, v[:len(v):len(v)])
		}
		if !taken {
			return false
		}
	}
	return true
}

// parseProduce reads a request whose batch stays a slice of b.
func parseProduce(b []byte, m *ProduceRequest) bool {
	m.Reset()
	return fields(b, func(num protowire.Number, v uint64) bool {
		switch num {
		case 1:
			m.RequestId = v
		case 3:
			m.Partition = int32(v)
		case 4:
			m.Acks = Acks(v)
		case 5:
			m.TimeoutMs = int32(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		switch {
		case num == 2 && utf8.Valid(v):
			m.Topic = string(v)
		case num == 6 && utf8.Valid(v):
			m.TransactionalId = string(v)
		case num == 7:
			m.Batch = v
		case num == 9 && utf8.Valid(v):
			m.TopicId = string(v)
		default:
			return false
		}
		return true
	})
}

// parseProduced reads an answer without an error. Nothing of it stays a slice of b.
func parseProduced(b []byte, m *ProduceResponse) bool {
	m.Reset()
	return fields(b, func(num protowire.Number, v uint64) bool {
		switch num {
		case 1:
			m.RequestId = v
		case 3:
			m.Partition = int32(v)
		case 4:
			m.BaseOffset = int64(v)
		case 5:
			m.LogStartOffset = int64(v)
		case 6:
			m.LogAppendTimeMs = int64(v)
		case 7:
			m.Duplicate = protowire.DecodeBool(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		if num != 2 || !utf8.Valid(v) {
			return false
		}
		m.Topic = string(v)
		return true
	})
}

// parseFetched reads an answer whose batches stay slices of b.
func parseFetched(b []byte, m *FetchResponse) bool {
	m.Reset()
	return fields(b, func(protowire.Number, uint64) bool { return false }, func(num protowire.Number, v []byte) bool {
		p := &FetchedPartition{}
		m.Partitions = append(m.Partitions, p)
		return num == 1 && parseFetchedPartition(v, p)
	})
}

func parseFetchedPartition(b []byte, p *FetchedPartition) bool {
	return fields(b, func(num protowire.Number, v uint64) bool {
		switch num {
		case 2:
			p.Partition = int32(v)
		case 4:
			p.HighWatermark = int64(v)
		case 5:
			p.LastStableOffset = int64(v)
		case 6:
			p.LogStartOffset = int64(v)
		case 10:
			p.NextOffset = int64(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool { return parseFetchedBytes(num, v, p) })
}

// parseFetchedBytes takes one length-delimited field of a FetchedPartition.
func parseFetchedBytes(num protowire.Number, v []byte, p *FetchedPartition) bool {
	switch {
	case num == 1 && utf8.Valid(v):
		p.Topic = string(v)
	case num == 3:
		// A field given twice is merged, as generated code does.
		if p.Error == nil {
			p.Error = &Error{}
		}
		return proto.UnmarshalOptions{Merge: true}.Unmarshal(v, p.Error) == nil
	case num == 7:
		a := &AbortedTransaction{}
		p.Aborted = append(p.Aborted, a)
		return proto.Unmarshal(v, a) == nil
	case num == 8:
		p.Batches = append(p.Batches, v)
	default:
		return false
	}
	return true
}
