package parity

import (
	"encoding/binary"
	"hash/crc32"
)

// seal makes the CRC of a batch right.
func seal(raw []byte) {
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
}

// What scenarios change in a batch of format 2, by offset.
const (
	atBaseOffset  = 0
	atMagic       = 16
	atCRC         = 17
	atAttributes  = 21
	atLastDelta   = 23
	atMaxTime     = 35
	atBaseSeq     = 53
	atRecordCount = 57
	batchHead     = 61
)

func put16(at int, v int16) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b[at:], uint16(v)) }
}
func put32(at int, v int32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
}
func put64(at int, v int64) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
}
func put8(at int, v byte) func([]byte) { return func(b []byte) { b[at] = v } }
