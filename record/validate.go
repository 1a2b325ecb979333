package record

import (
	"bytes"
	"math"
)

// NoTimestampLimit in TimestampBeforeMax or TimestampAfterMax switches that limit off.
const NoTimestampLimit int64 = math.MaxInt64

// Limits are the settings of a topic and of the broker that a produced batch must meet. The zero
// value limits nothing but the size when decompressed.
type Limits struct {
	// MaxBatchBytes is max.message.bytes: header included, as compressed. 0: no limit (P29).
	MaxBatchBytes int
	// SegmentBytes is segment.bytes: what one segment may hold. 0: no limit (P29).
	SegmentBytes int
	// MaxDecompressedBytes bounds the records when decompressed. 0: DefaultMaxDecompressed.
	MaxDecompressedBytes int
	// Compacted: cleanup.policy holds compact; records need a key (P29).
	Compacted bool
	// LogAppendTime: message.timestamp.type is LogAppendTime. The timestamps in the batch do
	// not count then, and a batch that claims to have log append time is refused (P28). The
	// caller still has to SetLogAppendTime.
	LogAppendTime bool
	// NoZstd: the request's version cannot carry zstd (Produce below 7, P28).
	NoZstd bool
	// TimestampBeforeMax is message.timestamp.before.max.ms: how far before Now a record's
	// timestamp may lie, in ms. NoTimestampLimit: any (P29).
	TimestampBeforeMax int64
	// TimestampAfterMax is message.timestamp.after.max.ms, likewise.
	TimestampAfterMax int64
	// Now is the broker's clock, ms since 1970. 0 or less: no clock, timestamps are not limited.
	Now int64
	// TrustRecords: do not look inside compressed batches. What remains unchecked is whether
	// they decompress, their records' structure, number and offsets, null keys, and all
	// timestamps but the base and the largest as the header gives them; consumers meet the
	// faults. Uncompressed batches are checked as ever, it costs next to nothing.
	TrustRecords bool
}

// Validate checks what a client wants to have appended: exactly one batch, by the rules P28 and
// P29, in this order: magic and lengths, base offset, size, CRC, header fields, records. It does
// not change b. The batch it returns aliases b; only where Kafka's broker would correct a batch
// rather than refuse it, it is a corrected copy: a log append time bit on a topic that does not
// use it, a max timestamp that is not that of the records, odd offset deltas.
//
// A good uncompressed batch is read once and nothing is allocated. A compressed one is decompressed
// within MaxDecompressedBytes, with pooled decoders and buffers. Every error is an *Error.
func Validate(b []byte, l Limits) (Batch, error) {
	batch, err := validateEnvelope(b, &l)
	if err != nil {
		return nil, err
	}
	if err := validateHeader(batch, &l); err != nil {
		return nil, err
	}
	codec := batch.Attributes().Codec()
	if codec != CodecNone && l.TrustRecords {
		return validateTrusted(batch, &l)
	}
	if codec == CodecNone {
		return validateRecords(batch, batch[HeaderSize:], &l)
	}
	buf := getBuffer()
	defer putBuffer(buf)
	frames, err := batch.content(buf, l.MaxDecompressedBytes)
	if err != nil {
		return nil, err
	}
	return validateRecords(batch, frames, &l)
}

// validateEnvelope checks all that concerns the bytes as a whole.
func validateEnvelope(b []byte, l *Limits) (Batch, error) {
	batch, rest, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, refuse(ErrInvalidRecord, "%d bytes after the batch, want exactly one batch", len(rest))
	}
	if o := batch.BaseOffset(); o != 0 {
		return nil, refuse(ErrInvalidRecord, "base offset is %d, want 0", o)
	}
	if err := l.checkSize(batch); err != nil {
		return nil, err
	}
	return batch, batch.CheckCRC()
}

func (l *Limits) checkSize(b Batch) error {
	if l.MaxBatchBytes > 0 && len(b) > l.MaxBatchBytes {
		return refuse(ErrMessageTooLarge, "batch of %d bytes exceeds max.message.bytes %d", len(b), l.MaxBatchBytes)
	}
	if l.SegmentBytes > 0 && len(b) > l.SegmentBytes {
		return refuse(ErrRecordListTooLarge, "batch of %d bytes exceeds segment.bytes %d", len(b), l.SegmentBytes)
	}
	return nil
}

// validateHeader checks the fields that the CRC covers.
func validateHeader(b Batch, l *Limits) error {
	a, count, last := b.Attributes(), b.Count(), b.LastOffsetDelta()
	pid := b.ProducerID()
	most := len(b) - HeaderSize
	if c := a.Codec(); c >= codecCount {
		return refuse(ErrUnsupportedCompression, "attributes name compression codec %d, which does not exist", c)
	} else if c == CodecZstd && l.NoZstd {
		return refuse(ErrUnsupportedCompression, "zstd needs version 7 of the produce request")
	} else if c != CodecNone {
		most = l.maxDecompressed()
	}
	switch {
	case count <= 0:
		return refuse(ErrInvalidRecord, "record count is %d, want at least 1", count)
	case last != count-1:
		return refuse(ErrInvalidRecord, "last offset delta is %d, want record count %d less 1", last, count)
	case int(count) > most/minFrame:
		return refuse(ErrInvalidRecord, "record count is %d, but %d bytes hold at most %d records", count, most, most/minFrame)
	case a.Control():
		return refuse(ErrInvalidRecord, "attributes have the control bit, which only brokers write")
	case pid < NoProducerID:
		return refuse(ErrInvalidRecord, "producer id is %d", pid)
	case pid != NoProducerID && b.BaseSequence() < 0:
		return refuse(ErrInvalidRecord, "base sequence is %d with producer id %d, want at least 0", b.BaseSequence(), pid)
	case pid == NoProducerID && a.Transactional():
		return refuse(ErrInvalidRecord, "attributes have the transactional bit, but there is no producer id")
	case a.LogAppendTime() && (l.LogAppendTime || b.MaxTimestamp() == NoTimestamp):
		return refuse(ErrInvalidTimestamp, "attributes have the log append time bit, which only brokers write")
	}
	return nil
}

func (l *Limits) maxDecompressed() int {
	if l.MaxDecompressedBytes <= 0 {
		return DefaultMaxDecompressed
	}
	return l.MaxDecompressedBytes
}

// timestampRange gives the least and the largest timestamp allowed.
func (l *Limits) timestampRange() (least, largest int64) {
	least, largest = math.MinInt64, math.MaxInt64
	if l.Now <= 0 || l.LogAppendTime {
		return least, largest
	}
	if l.TimestampBeforeMax != NoTimestampLimit {
		least = l.Now - max(l.TimestampBeforeMax, 0)
	}
	if l.TimestampAfterMax < math.MaxInt64-l.Now {
		largest = l.Now + max(l.TimestampAfterMax, 0)
	}
	return least, largest
}

func (l *Limits) badTimestamp(ordinal int32, ts int64) error {
	if ts < l.Now {
		return refuseRecord(ErrInvalidTimestamp, ordinal, "timestamp %d lies more than message.timestamp.before.max.ms %d before the broker's clock %d",
			ts, l.TimestampBeforeMax, l.Now)
	}
	return refuseRecord(ErrInvalidTimestamp, ordinal, "timestamp %d lies more than message.timestamp.after.max.ms %d after the broker's clock %d",
		ts, l.TimestampAfterMax, l.Now)
}

// validateTrusted is all that is checked of compressed records with TrustRecords.
func validateTrusted(b Batch, l *Limits) (Batch, error) {
	least, largest := l.timestampRange()
	for _, ts := range [...]int64{b.BaseTimestamp(), b.MaxTimestamp()} {
		if (ts < least || ts > largest) && ts != NoTimestamp {
			return nil, l.badTimestamp(-1, ts)
		}
	}
	if b.Attributes().LogAppendTime() {
		return b.withTimestamps(b.MaxTimestamp()), nil
	}
	return b, nil
}

// validateRecords walks over the frames of b, checks them and corrects b if need be.
func validateRecords(b Batch, frames []byte, l *Limits) (Batch, error) {
	maxTimestamp, numbered, err := walk(b, frames, l)
	if err != nil {
		return nil, err
	}
	if !numbered {
		return b.renumbered(frames, l)
	}
	if b.Attributes().LogAppendTime() || maxTimestamp != b.MaxTimestamp() && !l.LogAppendTime {
		return b.withTimestamps(maxTimestamp), nil
	}
	return b, nil
}

// walk checks every record. It gives the largest timestamp and whether the offset deltas run
// from 0 without gap, as all known clients write them.
func walk(b Batch, frames []byte, l *Limits) (maxTimestamp int64, numbered bool, err error) {
	var f frame
	count, base := b.Count(), b.BaseTimestamp()
	least, largest := l.timestampRange()
	pos := 0
	maxTimestamp, numbered = NoTimestamp, true
	for i := range count {
		if p := f.read(frames, pos); p != "" {
			return 0, false, refuseRecord(ErrInvalidRecord, i, "%s (record count %d, %d bytes of records)", p, count, len(frames))
		}
		pos = f.end
		ts := base + f.timestampDelta
		if f.timestampDelta >= 0 != (ts >= base) {
			return 0, false, refuseRecord(ErrInvalidTimestamp, i, "timestamp delta %d to base timestamp %d overflows", f.timestampDelta, base)
		}
		if (ts < least || ts > largest) && ts != NoTimestamp {
			return 0, false, l.badTimestamp(i, ts)
		}
		maxTimestamp = max(maxTimestamp, ts)
		if l.Compacted && f.keyLen < 0 {
			return 0, false, refuseRecord(ErrInvalidRecord, i, "key is null, but the topic is compacted")
		}
		numbered = numbered && f.offsetDelta == i
	}
	if pos != len(frames) {
		return 0, false, refuse(ErrInvalidRecord, "%d bytes after the last of %d records", len(frames)-pos, count)
	}
	return maxTimestamp, numbered, nil
}

// withTimestamps is a copy of b with create times and another max timestamp.
func (b Batch) withTimestamps(maxTimestamp int64) Batch {
	c := Batch(bytes.Clone(b))
	c.setAttributes(c.Attributes() &^ AttrLogAppendTime)
	c.setMaxTimestamp(maxTimestamp)
	c.seal()
	return c
}

// renumbered is a copy of b, whose frames have passed the walk, with offset deltas that run from
// 0 without gap (P28: they are rewritten, not refused).
func (b Batch) renumbered(frames []byte, l *Limits) (Batch, error) {
	builder := NewBuilder(b.Attributes().Codec())
	var f frame
	var headers []Header
	pos := 0
	for i := range b.Count() {
		if p := f.read(frames, pos); p != "" {
			return nil, refuseRecord(ErrInvalidRecord, i, "%s", p)
		}
		pos = f.end
		headers = f.appendHeaders(headers[:0], frames)
		err := builder.Append(b.BaseTimestamp()+f.timestampDelta, bytesAt(frames, f.key, f.keyLen), bytesAt(frames, f.value, f.valueLen), headers)
		if err != nil {
			return nil, err
		}
	}
	c := builder.Finish(b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), false)
	kept := b.Attributes() &^ (AttrCodecMask | AttrLogAppendTime)
	c.setAttributes(kept | c.Attributes()&AttrCodecMask)
	c.SetLeaderEpoch(b.LeaderEpoch())
	c.seal()
	if err := l.checkSize(c); err != nil {
		return nil, err
	}
	return c, nil
}
