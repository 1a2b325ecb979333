package record

import (
	"errors"
	"testing"
)

// control is a control batch of one record.
func control(t *testing.T, key, value []byte) Batch {
	t.Helper()
	b := NewBuilder(CodecNone)
	if err := b.Append(now, key, value, nil); err != nil {
		t.Fatal(err)
	}
	batch := b.Finish(1, 0, NoSequence, true)
	return altered(batch, func(b Batch) { b.setAttributes(b.Attributes() | AttrControl) })
}

func TestControlBatchFields(t *testing.T) {
	for _, m := range []Marker{
		{ProducerID: 1, Epoch: 32767, CoordinatorEpoch: -1, Commit: true, Timestamp: now},
		{ProducerID: 1 << 62, Epoch: 0, CoordinatorEpoch: 1 << 30, Commit: false, Timestamp: 0},
		{ProducerID: 0, Epoch: 1, Timestamp: NoTimestamp},
	} {
		b := ControlBatch(m)
		a := b.Attributes()
		if !a.Control() || !a.Transactional() || a.Codec() != CodecNone || b.BaseSequence() != NoSequence || b.LastSequence() != NoSequence ||
			b.Count() != 1 || b.LastOffsetDelta() != 0 || b.CheckCRC() != nil || b.whole() != nil {
			t.Errorf("%+v: % x", m, []byte(b))
		}
		if got, ok, err := ParseMarker(b); got != m || !ok || err != nil {
			t.Errorf("got  %+v, %v, %v\nwant %+v", got, ok, err, m)
		}
	}
	if b := ControlBatch(Marker{Timestamp: -5}); b.MaxTimestamp() != NoTimestamp {
		t.Errorf("timestamp %d", b.MaxTimestamp())
	}
}

func TestParseMarker(t *testing.T) {
	empty := altered(ControlBatch(Marker{})[:HeaderSize], func(b Batch) { b.newHeader(AttrControl|AttrTransactional, 0, now, now) })
	for _, tc := range []struct {
		name  string
		batch Batch
		ok    bool
		code  Code // 0: no error
	}{
		{"no control bit", sample(t, CodecNone), false, 0},
		{"no control bit, key of a marker", altered(ControlBatch(Marker{}), func(b Batch) { b.setAttributes(AttrTransactional) }), false, 0},
		{"unknown type 2 (L1: ignored)", control(t, []byte{0, 0, 0, 2}, nil), false, 0},
		{"newer versions, longer", control(t, []byte{0, 1, 0, 1, 9}, []byte{0, 1, 0, 0, 0, 3, 9}), true, 0},
		{"emptied by compaction", empty, false, 0},
		{"null key", control(t, nil, nil), false, ErrInvalidRecord},
		{"short key", control(t, []byte{0, 0, 0}, make([]byte, 6)), false, ErrInvalidRecord},
		{"short value", control(t, []byte{0, 0, 0, 1}, make([]byte, 5)), false, ErrInvalidRecord},
		{"cut", ControlBatch(Marker{})[:70], false, ErrInvalidRecord},
		{"followed by more", append(ControlBatch(Marker{}), 0), false, ErrInvalidRecord},
		{"unknown codec", altered(ControlBatch(Marker{}), func(b Batch) { b.setAttributes(AttrControl | 6) }), false, ErrUnsupportedCompression},
		{"malformed record", altered(ControlBatch(Marker{}), func(b Batch) { b[HeaderSize] = 0 }), false, ErrInvalidRecord},
	} {
		m, ok, err := ParseMarker(tc.batch)
		if ok != tc.ok || (err == nil) != (tc.code == 0) || err != nil && !errors.Is(err, tc.code) {
			t.Errorf("%s: %+v, %v, %v", tc.name, m, ok, err)
		}
	}
}
