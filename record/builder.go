package record

import (
	"math"
	"slices"
)

// Builder makes a batch record by record, as clients send it: base offset 0, offset deltas from
// 0 without gap. Records are encoded as they come into one buffer behind room for the header, so
// that Finish compresses it in one pass or, without compression, only fills in the header.
//
// Reset lets it be used again with the memory it has. Not safe for concurrent use.
type Builder struct {
	compression *Compression
	raw         []byte // room for the header, then the records as they are
	out         []byte // header and compressed records, once finished
	count       int32
	base, max   int64 // timestamps
	finished    bool
}

// NewBuilder makes a builder with a compression of its own; see NewCompression for the levels.
func NewBuilder(codec Codec, level ...int) *Builder {
	return NewCompression(codec, level...).NewBuilder()
}

// NewBuilder makes a builder that shares c's encoders. Whoever holds many builders wants this.
func (c *Compression) NewBuilder() *Builder { return &Builder{compression: c} }

// Reset empties the builder. The batch that Finish returned is no longer valid.
func (b *Builder) Reset() {
	b.raw, b.out = b.raw[:0], b.out[:0]
	b.count, b.finished = 0, false
}

// Len is the number of records appended.
func (b *Builder) Len() int { return int(b.count) }

// Size is how many bytes the batch takes if it is finished now: exactly without compression, at
// most with. It is 0 while there is no record.
func (b *Builder) Size() int { return len(b.raw) }

// SizeWith is what Size would be after Append of a record with these fields: exactly, so that a
// client can stop before max.message.bytes. It is no promise that Append takes the record.
func (b *Builder) SizeWith(ts int64, key, value []byte, headers []Header) int {
	body := bodySize(b.count, b.delta(ts), key, value, headers)
	return b.sizeWith(body)
}

// sizeWith is the size with one more record, whose length field counts body.
func (b *Builder) sizeWith(body int) int {
	return max(len(b.raw), HeaderSize) + sizeVarlong(int64(body)) + body
}

// delta is the timestamp delta that a record would get: the first one's timestamp is the base.
func (b *Builder) delta(ts int64) int64 {
	if b.count == 0 {
		return 0
	}
	return ts - b.base
}

// Append adds a record. Timestamps are ms since 1970, NoTimestamp for none; a nil key or value is
// null. Everything is copied.
//
// Errors: ErrInvalidTimestamp for other negative timestamps and distances above 63 bits; ErrInvalidRecord for more than
// MaxRecordHeaders headers, and after Finish; ErrMessageTooLarge if the batch would not fit the
// format's 2 GiB. The builder is then as before.
func (b *Builder) Append(ts int64, key, value []byte, headers []Header) error {
	delta := b.delta(ts)
	body := bodySize(b.count, delta, key, value, headers)
	size := b.sizeWith(body)
	switch {
	case b.finished:
		return refuseRecord(ErrInvalidRecord, b.count, "the batch is already finished")
	case ts < NoTimestamp:
		return refuseRecord(ErrInvalidTimestamp, b.count, "timestamp is %d, want at least 0, or -1 for none", ts)
	case b.count > 0 && (ts >= b.base) != (delta >= 0):
		return refuseRecord(ErrInvalidTimestamp, b.count, "timestamp %d lies too far from the first one, %d", ts, b.base)
	case len(headers) > MaxRecordHeaders:
		return refuseRecord(ErrInvalidRecord, b.count, "%d headers, at most %d are allowed (MaxRecordHeaders)", len(headers), MaxRecordHeaders)
	case size > math.MaxInt32:
		return refuseRecord(ErrMessageTooLarge, b.count, "batch would take %d bytes, at most %d are possible", size, math.MaxInt32)
	}
	if b.count == 0 {
		b.raw = append(b.raw[:0], make([]byte, HeaderSize)...)
		b.base, b.max = ts, ts
	}
	b.raw = slices.Grow(b.raw, size-len(b.raw))
	b.raw = appendVarint(b.raw, int32(body))
	b.raw = append(b.raw, 0)
	b.raw = appendVarlong(b.raw, delta)
	b.raw = appendVarint(b.raw, b.count)
	b.raw = appendBytes(b.raw, key)
	b.raw = appendBytes(b.raw, value)
	b.raw = appendVarint(b.raw, int32(len(headers)))
	for _, h := range headers {
		b.raw = appendVarint(b.raw, int32(len(h.Key)))
		b.raw = append(b.raw, h.Key...)
		b.raw = appendBytes(b.raw, h.Value)
	}
	b.max = max(b.max, ts)
	b.count++
	return nil
}

// bodySize is what a record's length field counts.
func bodySize(offsetDelta int32, timestampDelta int64, key, value []byte, headers []Header) int {
	n := 1 + sizeVarlong(timestampDelta) + sizeVarlong(int64(offsetDelta)) +
		sizeBytes(key) + sizeBytes(value) + sizeVarlong(int64(len(headers)))
	for _, h := range headers {
		n += sizeVarlong(int64(len(h.Key))) + len(h.Key) + sizeBytes(h.Value)
	}
	return n
}

// sizeBytes is what appendBytes writes; null takes one byte, as does the empty string.
func sizeBytes(v []byte) int { return sizeVarlong(int64(len(v))) + len(v) }

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return appendVarint(b, -1)
	}
	return append(appendVarint(b, int32(len(v))), v...)
}

// Finish gives the batch; nil if there is no record. Without idempotence pass NoProducerID,
// NoEpoch, NoSequence. The batch lies in the builder's memory and is good until Reset; Rewrite
// changes it in place. Records that compression does not make smaller stay as they are.
func (b *Builder) Finish(pid ProducerID, epoch Epoch, baseSeq Sequence, transactional bool) Batch {
	if b.count == 0 {
		return nil
	}
	batch, attributes := b.compressed()
	if transactional {
		attributes |= AttrTransactional
	}
	batch.newHeader(attributes, b.count, b.base, b.max)
	batch.Rewrite(pid, epoch, baseSeq)
	b.finished = true
	return batch
}

// compressed gives the batch's bytes, header not yet written, and its codec.
func (b *Builder) compressed() (Batch, Attributes) {
	if b.compression.codec == CodecNone {
		return b.raw, 0
	}
	if !b.finished {
		b.out = append(b.out[:0], b.raw[:HeaderSize]...)
		b.out = b.compression.appendTo(b.out, b.raw[HeaderSize:])
	}
	if len(b.out) >= len(b.raw) {
		return b.raw, 0
	}
	return b.out, Attributes(b.compression.codec)
}
