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

// parseProduce reads a request whose batch stays a slice of b.
func parseProduce(b []byte, m *ProduceRequest) bool {
	m.Reset()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			b = b[n:]
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
		case typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			switch {
			case num == 2 && utf8.Valid(v):
				m.Topic = string(v)
			case num == 6 && utf8.Valid(v):
				m.TransactionalId = string(v)
			case num == 7:
				m.Batch = v[:len(v):len(v)]
			default:
				return false
			}
		default:
			return false
		}
	}
	return true
}

// parseProduced reads an answer without an error. Nothing of it stays a slice of b.
func parseProduced(b []byte, m *ProduceResponse) bool {
	m.Reset()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			b = b[n:]
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
		case typ == protowire.BytesType && num == 2:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 || !utf8.Valid(v) {
				return false
			}
			b = b[n:]
			m.Topic = string(v)
		default:
			return false
		}
	}
	return true
}

// parseFetched reads an answer whose batches stay slices of b.
func parseFetched(b []byte, m *FetchResponse) bool {
	m.Reset()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num != 1 || typ != protowire.BytesType {
			return false
		}
		b = b[n:]
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		p := &FetchedPartition{}
		if !parseFetchedPartition(v, p) {
			return false
		}
		m.Partitions = append(m.Partitions, p)
	}
	return true
}

func parseFetchedPartition(b []byte, p *FetchedPartition) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			b = b[n:]
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
		case typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 || !parseFetchedBytes(num, v[:len(v):len(v)], p) {
				return false
			}
			b = b[n:]
		default:
			return false
		}
	}
	return true
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
