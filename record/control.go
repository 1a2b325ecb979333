package record

import "encoding/binary"

// Marker is what ends a transaction on a partition: the one record of a control batch (L1).
//
//	key:   version int16 0, type int16: 0 abort, 1 commit
//	value: version int16 0, coordinator epoch int32
type Marker struct {
	ProducerID       ProducerID
	Epoch            Epoch
	CoordinatorEpoch int32
	Commit           bool  // else abort
	Timestamp        int64 // ms since 1970
}

const (
	markerVersion = 0
	markerAbort   = 0
	markerCommit  = 1

	markerKeySize   = 4
	markerValueSize = 6
)

// ControlBatch makes the control batch of a marker: transactional and control bit, one record,
// no compression, no sequence (L1). Its base offset is 0 until apply sets it.
func ControlBatch(m Marker) Batch {
	key := make([]byte, 0, markerKeySize)
	key = binary.BigEndian.AppendUint16(key, markerVersion)
	kind := uint16(markerAbort)
	if m.Commit {
		kind = markerCommit
	}
	key = binary.BigEndian.AppendUint16(key, kind)
	value := make([]byte, 0, markerValueSize)
	value = binary.BigEndian.AppendUint16(value, markerVersion)
	value = binary.BigEndian.AppendUint32(value, uint32(m.CoordinatorEpoch))

	b := NewBuilder(CodecNone)
	// A clock before 1970 has no place in a log; it counts as none.
	if err := b.Append(max(m.Timestamp, NoTimestamp), key, value, nil); err != nil {
		panic(err) // a record of ten bytes always fits
	}
	batch := b.Finish(m.ProducerID, m.Epoch, NoSequence, true)
	batch.setAttributes(batch.Attributes() | AttrControl)
	batch.seal()
	return batch
}

// ParseMarker reads the marker in b, which must be exactly one batch, as Parse returns it. ok is
// false, without error, for a batch without control bit and for control records that are no
// transaction markers: readers ignore types that they do not know (L1). Errors:
// ErrInvalidRecord, ErrCorruptMessage.
func ParseMarker(b Batch) (m Marker, ok bool, err error) {
	if err := b.whole(); err != nil {
		return Marker{}, false, err
	}
	if !b.Attributes().Control() {
		return Marker{}, false, nil
	}
	records, err := b.Records(0)
	if err != nil {
		return Marker{}, false, err
	}
	defer records.Close()
	if !records.Next() {
		// A control batch may have been emptied by compaction.
		return Marker{}, false, records.Err()
	}
	r := records.Record()
	if len(r.Key) < markerKeySize {
		return Marker{}, false, refuseRecord(ErrInvalidRecord, 0, "key of a control record has %d bytes, want %d", len(r.Key), markerKeySize)
	}
	kind := binary.BigEndian.Uint16(r.Key[2:])
	if kind != markerAbort && kind != markerCommit {
		return Marker{}, false, nil
	}
	if len(r.Value) < markerValueSize {
		return Marker{}, false, refuseRecord(ErrInvalidRecord, 0, "value of a marker has %d bytes, want %d", len(r.Value), markerValueSize)
	}
	return Marker{
		ProducerID:       b.ProducerID(),
		Epoch:            b.ProducerEpoch(),
		CoordinatorEpoch: int32(binary.BigEndian.Uint32(r.Value[2:])),
		Commit:           kind == markerCommit,
		Timestamp:        r.Timestamp,
	}, true, nil
}
