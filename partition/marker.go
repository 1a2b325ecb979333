package partition

import (
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// metaOfMarker is the meta of a cmdEndTransaction.
func metaOfMarker(version int8) []byte {
	return []byte{commandVersion, cmdEndTransaction, byte(version)}
}

// decodeMarker reads what metaOfMarker and record.ControlBatch wrote.
func decodeMarker(meta, payload []byte) (record.Batch, producer.Marker, error) {
	if len(meta) != 1 {
		return nil, producer.Marker{}, fmt.Errorf("marker meta of %d bytes, want 1", len(meta))
	}
	b, rest, err := record.Parse(payload)
	if err != nil {
		return nil, producer.Marker{}, err
	}
	if len(rest) > 0 || b.LastOffsetDelta() != 0 {
		return nil, producer.Marker{}, fmt.Errorf("marker takes %d offsets and leaves %d bytes", b.LastOffsetDelta()+1, len(rest))
	}
	m, ok, err := record.ParseMarker(b)
	if err != nil {
		return nil, producer.Marker{}, err
	}
	if !ok {
		return nil, producer.Marker{}, errors.New("the batch holds no marker")
	}
	return b, producer.Marker{
		ProducerID:       b.ProducerID(),
		Epoch:            b.ProducerEpoch(),
		CoordinatorEpoch: m.CoordinatorEpoch,
		Commit:           m.Commit,
		Version:          int8(meta[0]),
	}, nil
}
