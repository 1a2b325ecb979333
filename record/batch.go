// Package record is what producers send, logs store and consumers get: the batch, byte for byte,
// and the names (topic partition, offset, producer, epoch, sequence).
package record

import "encoding/binary"

// Layout of a record batch v2 (KIP-98), big endian:
//
//	 0 base offset            int64   set by apply, outside the CRC
//	 8 batch length           int32   bytes after this field
//	12 partition leader epoch int32   set on the way out, outside the CRC
//	16 magic                  int8    2
//	17 CRC32C                 uint32  over all bytes from 21 on
//	21 attributes             int16   L3
//	23 last offset delta      int32
//	27 base timestamp         int64   ms
//	35 max timestamp          int64   ms
//	43 producer id            int64
//	51 producer epoch         int16
//	53 base sequence          int32
//	57 record count           int32
//	61 records                        compressed as attributes say
const (
	HeaderSize = 61

	offBaseOffset      = 0
	offLength          = 8
	offLeaderEpoch     = 12
	offMagic           = 16
	offCRC             = 17
	offAttributes      = 21
	offLastOffsetDelta = 23
	offBaseTimestamp   = 27
	offMaxTimestamp    = 35
	offProducerID      = 43
	offProducerEpoch   = 51
	offBaseSequence    = 53
	offRecordCount     = 57

	// lengthPrefix is how many bytes precede what the length field counts.
	lengthPrefix = 12
)

// Batch is one whole record batch v2 as it lies on the wire and on disk. The accessors
// need at least HeaderSize bytes; whoever makes a Batch of foreign bytes checks them first.
type Batch []byte

// BaseOffset is the offset of the first record.
func (b Batch) BaseOffset() Offset { return Offset(binary.BigEndian.Uint64(b[offBaseOffset:])) }

// SetBaseOffset writes the base offset. It lies outside the CRC.
func (b Batch) SetBaseOffset(o Offset) { binary.BigEndian.PutUint64(b[offBaseOffset:], uint64(o)) }

// Size is the batch's length in bytes as its header gives it, header included.
func (b Batch) Size() int { return int(int32(binary.BigEndian.Uint32(b[offLength:]))) + lengthPrefix }

// LeaderEpoch is the partition leader epoch the batch was written under.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[offLeaderEpoch:])) }

// SetLeaderEpoch writes the partition leader epoch. It lies outside the CRC.
func (b Batch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[offLeaderEpoch:], uint32(e)) }

// Magic is the format version; only 2 is accepted.
func (b Batch) Magic() int8 { return int8(b[offMagic]) }

// CRC is the stored CRC32C of all bytes from the attributes on.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[offCRC:]) }

// Attributes holds the codec and the flags (L3).
func (b Batch) Attributes() Attributes {
	return Attributes(binary.BigEndian.Uint16(b[offAttributes:]))
}

// LastOffsetDelta is the last record's offset minus the base offset.
func (b Batch) LastOffsetDelta() int32 {
	return int32(binary.BigEndian.Uint32(b[offLastOffsetDelta:]))
}

// BaseTimestamp is the first record's timestamp in ms since 1970.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[offBaseTimestamp:])) }

// MaxTimestamp is the largest timestamp in the batch, in ms since 1970.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[offMaxTimestamp:])) }

// ProducerID is the producer's id, NoProducerID without idempotence.
func (b Batch) ProducerID() ProducerID {
	return ProducerID(binary.BigEndian.Uint64(b[offProducerID:]))
}

// ProducerEpoch is the producer's epoch, NoEpoch without idempotence.
func (b Batch) ProducerEpoch() Epoch { return Epoch(binary.BigEndian.Uint16(b[offProducerEpoch:])) }

// BaseSequence is the first record's sequence, NoSequence without idempotence.
func (b Batch) BaseSequence() Sequence {
	return Sequence(binary.BigEndian.Uint32(b[offBaseSequence:]))
}

// LastSequence is the last record's sequence, through the wrap (P11).
func (b Batch) LastSequence() Sequence {
	if b.BaseSequence() == NoSequence {
		return NoSequence
	}
	return b.BaseSequence().Add(b.LastOffsetDelta())
}

// Count is the number of records.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[offRecordCount:])) }

// Attributes are a batch's 16 attribute bits (L3).
type Attributes uint16

// The attribute bits of a batch v2.
const (
	AttrCodecMask     Attributes = 0x07
	AttrLogAppendTime Attributes = 0x08
	AttrTransactional Attributes = 0x10
	AttrControl       Attributes = 0x20
	AttrDeleteHorizon Attributes = 0x40
)

// Transactional says whether the batch belongs to a transaction.
func (a Attributes) Transactional() bool { return a&AttrTransactional != 0 }

// Control says whether the batch holds a control record, such as a marker.
func (a Attributes) Control() bool { return a&AttrControl != 0 }

// LogAppendTime says whether all records carry the time of their append, which is then the max
// timestamp (P30).
func (a Attributes) LogAppendTime() bool { return a&AttrLogAppendTime != 0 }

// Codec is how the records are compressed. Values above CodecZstd do not exist.
func (a Attributes) Codec() Codec { return Codec(a & AttrCodecMask) }

// NoTimestamp marks a record or batch without a timestamp.
const NoTimestamp int64 = -1

// LastOffset is the offset of the last record.
func (b Batch) LastOffset() Offset { return b.BaseOffset() + Offset(b.LastOffsetDelta()) }

// Rewrite sets producer id, epoch and base sequence, and the CRC: how a client renumbers a batch
// after it has raised its epoch (KIP-360). b is exactly one batch, and nobody may be reading it.
func (b Batch) Rewrite(pid ProducerID, epoch Epoch, baseSeq Sequence) {
	b.setProducer(pid, epoch, baseSeq)
	b.seal()
}

// SetLogAppendTime gives all records one timestamp, in ms since 1970: attribute bit, max
// timestamp and CRC (P30). b is exactly one batch, and nobody may be reading it.
func (b Batch) SetLogAppendTime(ts int64) {
	b.setAttributes(b.Attributes() | AttrLogAppendTime)
	b.setMaxTimestamp(ts)
	b.seal()
}

func (b Batch) setProducer(pid ProducerID, epoch Epoch, baseSeq Sequence) {
	binary.BigEndian.PutUint64(b[offProducerID:], uint64(pid))
	binary.BigEndian.PutUint16(b[offProducerEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[offBaseSequence:], uint32(baseSeq))
}

func (b Batch) setAttributes(a Attributes) { binary.BigEndian.PutUint16(b[offAttributes:], uint16(a)) }

func (b Batch) setMaxTimestamp(ts int64) {
	binary.BigEndian.PutUint64(b[offMaxTimestamp:], uint64(ts))
}

// newHeader writes all header fields but the CRC over the first HeaderSize bytes of b, whose
// length is the batch's.
func (b Batch) newHeader(a Attributes, count int32, baseTimestamp, maxTimestamp int64) {
	b.SetBaseOffset(0)
	binary.BigEndian.PutUint32(b[offLength:], uint32(len(b)-lengthPrefix))
	b.SetLeaderEpoch(-1)
	b[offMagic] = magicV2
	b.setAttributes(a)
	binary.BigEndian.PutUint32(b[offLastOffsetDelta:], uint32(count-1))
	binary.BigEndian.PutUint64(b[offBaseTimestamp:], uint64(baseTimestamp))
	b.setMaxTimestamp(maxTimestamp)
	b.setProducer(NoProducerID, NoEpoch, NoSequence)
	binary.BigEndian.PutUint32(b[offRecordCount:], uint32(count))
}
