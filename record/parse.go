package record

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of CRC32C; hash/crc32 uses the machine's instruction for it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// magicV2 is the only format version in use.
const magicV2 = 2

// Parse takes one whole batch off the front of b and returns what follows it. It checks the
// structure only: the length field's bounds and the magic, not the CRC. The batch aliases b.
//
// Errors: ErrInvalidRecord for bytes that end too soon and for formats 0 and 1, which Produce no
// longer takes; ErrCorruptMessage for an impossible length and for unknown formats (P28).
func Parse(b []byte) (batch Batch, rest []byte, err error) {
	if len(b) > offMagic && b[offMagic] != magicV2 {
		if m := int8(b[offMagic]); m == 0 || m == 1 {
			return nil, nil, refuse(ErrInvalidRecord, "magic %d is no longer accepted, only %d", m, magicV2)
		}
		return nil, nil, refuseForGood(ErrCorruptMessage, "unknown magic %d, want %d", int8(b[offMagic]), magicV2)
	}
	if len(b) < HeaderSize {
		return nil, nil, refuse(ErrInvalidRecord, "batch of %d bytes is shorter than a batch header (%d)", len(b), HeaderSize)
	}
	length := int64(int32(binary.BigEndian.Uint32(b[offLength:])))
	if length < HeaderSize-lengthPrefix {
		return nil, nil, refuse(ErrCorruptMessage, "batch length %d is below the least possible, %d", length, HeaderSize-lengthPrefix)
	}
	if size := length + lengthPrefix; size > int64(len(b)) {
		return nil, nil, refuse(ErrInvalidRecord, "batch length says %d bytes, only %d are there", size, len(b))
	}
	n := int(length) + lengthPrefix
	return Batch(b[:n:n]), b[n:], nil
}

// whole checks that b is exactly one batch, as every method that reads beyond the header needs.
func (b Batch) whole() error {
	_, rest, err := Parse(b)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return refuse(ErrInvalidRecord, "%d bytes after the batch", len(rest))
	}
	return nil
}

// CheckCRC compares the stored CRC32C with that of the bytes from the attributes to the end of b,
// which must be exactly one batch, as Parse returns it. The error is ErrCorruptMessage.
func (b Batch) CheckCRC() error {
	if len(b) < HeaderSize {
		return refuse(ErrCorruptMessage, "batch of %d bytes is shorter than a batch header (%d)", len(b), HeaderSize)
	}
	if got, want := b.computeCRC(), b.CRC(); got != want {
		return refuse(ErrCorruptMessage, "CRC32C of the batch is %08x, its header says %08x", got, want)
	}
	return nil
}

func (b Batch) computeCRC() uint32 { return crc32.Checksum(b[offAttributes:], castagnoli) }

// seal writes the CRC. b is exactly one batch.
func (b Batch) seal() { binary.BigEndian.PutUint32(b[offCRC:], b.computeCRC()) }
