package record

// Layout of one record inside a batch (KIP-98); var: zigzag varint of 32 bits, long: of 64 bits.
//
//	length           var    bytes after this field
//	attributes       int8   unused
//	timestamp delta  long   to the batch's base timestamp, ms
//	offset delta     var    to the batch's base offset
//	key length       var    -1: null
//	key
//	value length     var    -1: null
//	value
//	header count     var
//	then per header:
//	  key length     var    not null
//	  key                   UTF-8
//	  value length   var    -1: null
//	  value
const (
	// minFrame is the size of the smallest record: null key, null value, no headers.
	minFrame = 7
	// minHeader is the size of the smallest header: empty key, null value.
	minHeader = 2

	// MaxRecordHeaders is how many headers one record may have. Kafka has no such limit; a
	// header of 2 bytes becomes one of 40 in memory, so there must be one.
	MaxRecordHeaders = 1 << 16
)

// frame is where the parts of one record lie in its buffer.
type frame struct {
	timestampDelta int64
	offsetDelta    int32
	keyLen         int32 // -1: null
	valueLen       int32 // -1: null
	headerCount    int32
	key            int
	value          int
	headers        int
	end            int // position after the record
}

// problem is what is wrong with a record frame; empty: nothing.
type problem string

const (
	badLength  problem = "length does not fit the batch"
	badDelta   problem = "timestamp delta or offset delta is malformed"
	badKey     problem = "key length does not fit the record"
	badValue   problem = "value length does not fit the record"
	badHeaders problem = "header count does not fit the record or exceeds 65536 (MaxRecordHeaders)"
	badHeader  problem = "header key or value does not fit the record"
	badEnd     problem = "length counts more bytes than the record's fields take"
)

// read finds the parts of the record that begins at pos. It never reads beyond b, whatever b
// holds, and allocates nothing.
func (f *frame) read(b []byte, pos int) problem {
	length, p := varint(b, pos)
	if p < 0 || length < minFrame-1 || int(length) > len(b)-p {
		return badLength
	}
	f.end = p + int(length)
	b = b[:f.end]
	f.timestampDelta, p = varlong(b, p+1)
	f.offsetDelta, p = varint(b, p)
	if p < 0 {
		return badDelta
	}
	f.keyLen, f.key, p = span(b, p)
	if p < 0 {
		return badKey
	}
	f.valueLen, f.value, p = span(b, p)
	if p < 0 {
		return badValue
	}
	f.headerCount, p = varint(b, p)
	if p < 0 || f.headerCount < 0 || f.headerCount > MaxRecordHeaders || int(f.headerCount) > (f.end-p)/minHeader {
		return badHeaders
	}
	f.headers = p
	for range f.headerCount {
		var n int32
		if n, _, p = span(b, p); n < 0 {
			return badHeader
		}
		_, _, p = span(b, p)
	}
	if p < 0 {
		return badHeader
	}
	if p != f.end {
		return badEnd
	}
	return ""
}

// span reads a length and steps over as many bytes: their number (-1: null), where they begin,
// and the position after them, -1 if they do not fit.
func span(b []byte, pos int) (n int32, at, next int) {
	n, at = varint(b, pos)
	if at < 0 || n < -1 || int(n) > len(b)-at {
		return -1, 0, -1
	}
	return n, at, at + int(max(n, 0))
}

// bytesAt is what span found; nil for null.
func bytesAt(b []byte, at int, n int32) []byte {
	if n < 0 {
		return nil
	}
	return b[at : at+int(n) : at+int(n)]
}
