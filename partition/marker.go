package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Marker ends a producer's transaction on one partition.
type Marker struct {
	record.TopicPartition
	ProducerID record.ProducerID
	// Epoch is the one at which the transaction was decided (T25).
	Epoch record.Epoch
	// CoordinatorEpoch orders the coordinators that may send markers (P21).
	CoordinatorEpoch int32
	// Commit says commit; false is abort.
	Commit bool
	// Version is the transaction version of the end: 2 if it raised the epoch (P20).
	Version int8
	// Operator: a client sends it, not a coordinator. It may name no epoch, of the coordinator or the producer, above those that are known:
	// all below would be refused, for good.
	Operator bool
}

// WriteMarkers appends markers to partitions that this broker leads, and says of each, in order, what came of it: nil once it is
// committed and applied, so that readers of committed data see what it decides. A marker whose outcome is not known may be
// sent again.
func (h *Host) WriteMarkers(ctx context.Context, markers []Marker) []*Error {
	type answer struct {
		i   int
		err *Error
	}
	answers := make(chan answer, len(markers))
	for i, m := range markers {
		h.writeMarker(ctx, m, func(err *Error) { answers <- answer{i, err} })
	}
	errs := make([]*Error, len(markers))
	for i, m := range markers {
		errs[i] = uncertain(CodeRequestTimedOut, nil, "%s did not commit the marker in time; it may still be written", m.TopicPartition)
	}
	for range markers {
		select {
		case a := <-answers:
			errs[a.i] = a.err
		case <-ctx.Done():
			for { // what has been said by now counts
				select {
				case a := <-answers:
					errs[a.i] = a.err
				default:
					return errs
				}
			}
		}
	}
	return errs
}

// writeMarker proposes one marker and calls done exactly once. A marker that comes late does harm: the coordinator sends it again
// when its time is up, and under version 1 of transactions the producer may be in its next one by then, at the same epoch, which a
// marker from before would end (KIP-890). Therefore none is proposed once ctx has ended, nor in another term than that in which it came.
func (h *Host) writeMarker(ctx context.Context, m Marker, done func(*Error)) {
	r := h.replica(m.TopicPartition)
	if r == nil {
		done(h.unknown(m.TopicPartition))
		return
	}
	term, refusal := r.ready()
	if refusal != nil {
		done(refusal)
		return
	}
	if m.Operator {
		if refusal := r.judgeOperator(m); refusal != nil {
			done(refusal)
			return
		}
	}
	if err := ctx.Err(); err != nil {
		e := refused(CodeRequestTimedOut, "the time for a marker of %s was over before it was looked at", m.TopicPartition)
		e.Cause = err
		done(e)
		return
	}
	stamp := h.config.Wall().UnixMilli()
	batch := record.ControlBatch(record.Marker{
		ProducerID: m.ProducerID, Epoch: m.Epoch, CoordinatorEpoch: m.CoordinatorEpoch, Commit: m.Commit, Timestamp: stamp,
	})
	r.group.ProposeAsync(raftgroup.Command{Meta: metaOfMarker(m.Version), Data: batch, AppendTime: stamp, Term: term}, func(result any, err error) {
		if err != nil {
			done(r.proposalError(err))
			return
		}
		a, ok := result.(appended)
		if !ok {
			done(uncertain(CodeUnknown, nil, "apply answered %T", result))
			return
		}
		h.metrics.marker(a.err)
		done(a.err)
	})
}

// judgeOperator refuses epochs that nobody can have (P20, P21).
func (r *Replica) judgeOperator(m Marker) *Error {
	known := producer.Description{Epoch: record.NoEpoch, CoordinatorEpoch: -1}
	r.mu.RLock()
	if found, _ := r.state.producers.Describe([]record.ProducerID{m.ProducerID}, 1); len(found) > 0 {
		known = found[0]
	}
	r.mu.RUnlock()
	highest := int32(known.Epoch)
	if m.Version >= 2 {
		highest++ // the end raises it
	}
	switch {
	case int32(m.Epoch) > highest:
		return refused(CodeInvalidProducerEpoch, "producer %d has epoch %d at %s, and no marker can have epoch %d (P20)", m.ProducerID, known.Epoch, m.TopicPartition, m.Epoch)
	case m.CoordinatorEpoch > max(known.CoordinatorEpoch, 0):
		return refused(CodeCoordinatorFenced, "producer %d: the latest coordinator at %s has epoch %d, and none has %d (P21)", m.ProducerID, m.TopicPartition, known.CoordinatorEpoch, m.CoordinatorEpoch)
	}
	return nil
}

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
