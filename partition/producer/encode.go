package producer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/oncelog/oncelog/record"
)

// Layout, big endian; docs/formats/producer-state.md draws it in full:
//
//	header    magic "OLPS", version u16, zero u16, log start i64, end i64,
//	          idle producers u32, producers with an open transaction u32, aborted transactions u32
//	producers idle ones by touched, then open ones by openFrom: the table's two lists as they are
//	          id i64, last timestamp i64, touched i64, open from i64, last marker i64, voiding marker i64,
//	          coordinator epoch i32, epoch i16, batch count u8, zero u8,
//	          then per batch, oldest first: last sequence i32, delta i32, last offset i64, timestamp i64
//	aborted   id i64, first i64, last i64, last stable i64
//	CRC32C    u32, over all before it
//
// Nothing of the local layout (slots, pages, ring positions, map order) enters it, so equal states give equal bytes.
const (
	magic   = "OLPS"
	version = 1

	headerSize   = 36
	producerSize = 56
	batchSize    = 24
	abortedSize  = 32
	crcSize      = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendTo appends the state's encoding to buf. Two states that were given the same batches, markers, expiries
// and log starts encode to the same bytes, whether or not they went through Decode or Clone on the way (R6).
func (s *State) AppendTo(buf []byte) []byte {
	start := len(buf)
	be := binary.BigEndian
	buf = append(buf, magic...)
	buf = be.AppendUint16(buf, version)
	buf = be.AppendUint16(buf, 0)
	buf = be.AppendUint64(buf, uint64(s.logStart))
	buf = be.AppendUint64(buf, uint64(s.end))
	buf = be.AppendUint32(buf, uint32(s.table.idle.n))
	buf = be.AppendUint32(buf, uint32(s.table.open.n))
	buf = be.AppendUint32(buf, uint32(s.aborted.n))
	for _, l := range []list{s.table.idle, s.table.open} {
		for at := l.head; at != noSlot; at = s.table.links.at(at).next {
			buf = s.table.entries.at(at).appendTo(buf)
		}
	}
	for _, chunk := range s.aborted.chunks {
		for _, a := range chunk {
			buf = be.AppendUint64(buf, uint64(a.ProducerID))
			buf = be.AppendUint64(buf, uint64(a.First))
			buf = be.AppendUint64(buf, uint64(a.Last))
			buf = be.AppendUint64(buf, uint64(a.LastStable))
		}
	}
	return be.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
}

// EncodedSize is how many bytes AppendTo would append at most.
func (s *State) EncodedSize() int {
	return headerSize + s.Len()*(producerSize+window*batchSize) + s.aborted.n*abortedSize + crcSize
}

func (e *entry) appendTo(buf []byte) []byte {
	be := binary.BigEndian
	buf = be.AppendUint64(buf, uint64(e.id))
	buf = be.AppendUint64(buf, uint64(e.lastTimestamp))
	buf = be.AppendUint64(buf, uint64(e.touched))
	buf = be.AppendUint64(buf, uint64(e.openFrom))
	buf = be.AppendUint64(buf, uint64(e.lastMarker))
	buf = be.AppendUint64(buf, uint64(e.voidingMarker))
	buf = be.AppendUint32(buf, uint32(e.coordinatorEpoch))
	buf = be.AppendUint16(buf, uint16(e.epoch))
	buf = append(buf, e.count, 0)
	for i := range int(e.count) {
		k := e.batch(i)
		buf = be.AppendUint32(buf, uint32(k.lastSequence))
		buf = be.AppendUint32(buf, uint32(k.delta))
		buf = be.AppendUint64(buf, uint64(k.lastOffset))
		buf = be.AppendUint64(buf, uint64(k.timestamp))
	}
	return buf
}

// ErrCorrupt says that bytes are not what AppendTo wrote. The error that wraps it says where.
var ErrCorrupt = errors.New("producer state is corrupt")

// ErrVersion says that the state was written by a newer release.
var ErrVersion = errors.New("producer state has an unknown version")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// Decode reads exactly what AppendTo wrote, nothing before or after it. Arbitrary bytes give an error that is
// ErrCorrupt or ErrVersion, never a panic and never more memory than a small multiple of their length. What is
// decoded keeps the machine's invariants, and encodes to the same bytes again.
//
// More producers than limits allows are all taken, since dropping any here would make replicas differ; the next new
// producer evicts the excess.
func Decode(data []byte, limits Limits) (*State, error) {
	r := reader{data: data}
	if len(data) < headerSize+crcSize {
		return nil, corrupt("%d bytes are too few", len(data))
	}
	if got := string(r.take(4)); got != magic {
		return nil, corrupt("magic %q", got)
	}
	if got := r.u16(); got != version {
		return nil, fmt.Errorf("%w: %d, this release reads %d", ErrVersion, got, version)
	}
	body := len(data) - crcSize
	if want, got := binary.BigEndian.Uint32(data[body:]), crc32.Checksum(data[:body], castagnoli); want != got {
		return nil, corrupt("CRC32C %08x, expected %08x", got, want)
	}
	r.data = data[:body]
	if zero := r.u16(); zero != 0 {
		return nil, corrupt("reserved bytes are %d", zero)
	}
	s := &State{limits: limits, table: newTable()}
	s.logStart, s.end = record.Offset(r.i64()), record.Offset(r.i64())
	if s.logStart < 0 || s.logStart > s.end {
		return nil, corrupt("log start %d, end %d", s.logStart, s.end)
	}
	idle, open, aborted := int64(r.u32()), int64(r.u32()), int64(r.u32())
	if least := (idle+open)*producerSize + aborted*abortedSize; least > int64(r.left()) {
		return nil, corrupt("%d producers and %d aborted transactions in %d bytes", idle+open, aborted, r.left())
	}
	if err := s.decodeProducers(&r, int(idle), int(open)); err != nil {
		return nil, err
	}
	if err := s.decodeAborted(&r, int(aborted)); err != nil {
		return nil, err
	}
	if r.left() != 0 {
		return nil, corrupt("%d bytes too many", r.left())
	}
	return s, nil
}

func (s *State) decodeProducers(r *reader, idle, open int) error {
	s.table.index = make(map[record.ProducerID]slot, idle+open)
	previous := record.NoOffset
	for i := range idle + open {
		if i == idle {
			previous = record.NoOffset
		}
		e, err := decodeEntry(r, s.end)
		if err != nil {
			return err
		}
		if e.isOpen() != (i >= idle) {
			return corrupt("producer %d stands among the wrong ones", e.id)
		}
		order := e.touched
		if e.isOpen() {
			order = e.openFrom
		}
		if order <= previous {
			return corrupt("producer %d is out of order: offset %d after %d", e.id, order, previous)
		}
		previous = order
		if s.table.find(e.id) != noSlot {
			return corrupt("producer %d twice", e.id)
		}
		s.table.insert(e)
	}
	return nil
}

func decodeEntry(r *reader, end record.Offset) (entry, error) {
	if r.left() < producerSize {
		return entry{}, corrupt("%d bytes left for a producer", r.left())
	}
	e := entry{
		id: record.ProducerID(r.i64()), lastTimestamp: r.i64(), touched: record.Offset(r.i64()),
		openFrom: record.Offset(r.i64()), lastMarker: record.Offset(r.i64()), voidingMarker: record.Offset(r.i64()),
		coordinatorEpoch: int32(r.u32()), epoch: record.Epoch(r.u16()),
	}
	e.count = r.u8()
	zero := r.u8()
	switch {
	case e.id < 0 || e.epoch < record.NoEpoch || e.coordinatorEpoch < -1 || e.count > window || zero != 0:
		return entry{}, corrupt("producer %d: epoch %d, coordinator epoch %d, %d batches", e.id, e.epoch, e.coordinatorEpoch, e.count)
	case e.touched < 0 || e.touched >= end:
		return entry{}, corrupt("producer %d: touched at %d, end %d", e.id, e.touched, end)
	case e.voidingMarker < record.NoOffset || e.voidingMarker > e.lastMarker || e.lastMarker > e.touched:
		return entry{}, corrupt("producer %d: markers at %d and %d, touched at %d", e.id, e.voidingMarker, e.lastMarker, e.touched)
	case e.isOpen() && (e.openFrom <= e.lastMarker || e.openFrom > e.touched):
		return entry{}, corrupt("producer %d: open from %d, marker at %d, touched at %d", e.id, e.openFrom, e.lastMarker, e.touched)
	case r.left() < int(e.count)*batchSize:
		return entry{}, corrupt("producer %d: %d bytes left for %d batches", e.id, r.left(), e.count)
	}
	previous := record.NoOffset
	for i := range e.count {
		k := kept{lastSequence: record.Sequence(r.u32()), delta: int32(r.u32()), lastOffset: record.Offset(r.i64()), timestamp: r.i64()}
		if k.lastSequence < 0 || k.delta < 0 || k.lastOffset > e.touched || k.firstOffset() <= previous {
			return entry{}, corrupt("producer %d: batch %d ends with sequence %d, offset %d, delta %d", e.id, i, k.lastSequence, k.lastOffset, k.delta)
		}
		previous = k.lastOffset
		e.batches[i], e.newest = k, i
	}
	return e, nil
}

func (s *State) decodeAborted(r *reader, n int) error {
	if r.left() < n*abortedSize {
		return corrupt("%d bytes left for %d aborted transactions", r.left(), n)
	}
	last, stable := record.NoOffset, record.NoOffset
	for range n {
		a := Aborted{
			ProducerID: record.ProducerID(r.i64()), First: record.Offset(r.i64()),
			Last: record.Offset(r.i64()), LastStable: record.Offset(r.i64()),
		}
		if a.ProducerID < 0 || a.First < 0 || a.First >= a.Last || a.Last <= last || a.Last < s.logStart || a.Last >= s.end ||
			a.First < stable || a.LastStable < stable || a.LastStable < 0 || a.LastStable > a.Last+1 {
			return corrupt("aborted transaction %d to %d of producer %d, last stable %d", a.First, a.Last, a.ProducerID, a.LastStable)
		}
		last, stable = a.Last, a.LastStable
		s.aborted.add(a)
	}
	if first := s.firstUnstable(s.end); first < stable {
		return corrupt("a transaction is open from %d, below the stable offset %d of an aborted one", first, stable)
	}
	return nil
}

// reader takes fixed-size numbers off the front. Callers check left first.
type reader struct {
	data []byte
	pos  int
}

func (r *reader) left() int { return len(r.data) - r.pos }

func (r *reader) take(n int) []byte {
	b := r.data[r.pos : r.pos+n]
	r.pos += n
	return b
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) i64() int64  { return int64(binary.BigEndian.Uint64(r.take(8))) }
