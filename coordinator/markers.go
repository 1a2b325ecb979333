package coordinator

import (
	"context"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// Marker ends a transaction on one partition.
type Marker struct {
	record.TopicPartition
	ProducerID record.ProducerID
	// Epoch is the one at which the transaction was decided (T25).
	Epoch record.Epoch
	// CoordinatorEpoch is the term in which the shard's leader sends it: an older leader's markers are refused (P21).
	CoordinatorEpoch int32
	Commit           bool
	// Version is the transaction version of the end: 2 if it raised the epoch (P20).
	Version int8
	// Operator: a client sends it, not a coordinator. It may name no epoch, of the coordinator or the producer, above those that are known:
	// all below would be refused, for good.
	Operator bool
}

// MarkerState is what came of a marker.
type MarkerState uint8

// The states.
const (
	// MarkerUnknown: not written, or not known to be. It is sent again, for ever (T26).
	MarkerUnknown MarkerState = iota
	// MarkerWritten: it is in the partition's log, committed.
	MarkerWritten
	// MarkerGone: the partition does not exist any more; the metadata that says so is known to be the newest (T27).
	MarkerGone
	// MarkerEpochFenced: the partition has seen a higher epoch of the producer (INVALID_PRODUCER_EPOCH).
	MarkerEpochFenced
	// MarkerCoordinatorFenced: the partition has seen a marker of a later coordinator (TRANSACTION_COORDINATOR_FENCED).
	MarkerCoordinatorFenced
)

// MarkerResult is what came of one marker, and why, for the log.
type MarkerResult struct {
	State MarkerState
	Err   error
}

// Markers writes markers to partitions, wherever they are led, and to the shards of groups.
type Markers interface {
	// Write sends each marker to its partition's leader and says what came of each, in the order given. It returns when all
	// have answered, or with MarkerUnknown for the rest when ctx ends. A marker may be written more than once. It may be called
	// from many goroutines.
	Write(ctx context.Context, markers []Marker) []MarkerResult
}

// The pauses between attempts, and how long one attempt waits for an answer.
const (
	firstMarkerPause = 10 * time.Millisecond
	mostMarkerPause  = 250 * time.Millisecond
	markerTimeout    = 10 * time.Second
	// maxMarkerWrites bounds the transactions of one shard whose markers are being written at once. Those that wait for a
	// partition without a leader do not count.
	maxMarkerWrites = 64
)

// decided has the markers of a decided transaction written, once for each decision: resume and apply may both tell of it, and the one that
// comes late finds it completed. Written again it would end the next transaction of version 1, which has the same epoch. It does not
// block.
func (l *txnLeader) decided(t *txn.Transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.ending[t.ID] == t.Version {
		return
	}
	if now := l.s.find(t.ID); now == nil || now.Version != t.Version {
		return
	}
	l.ending[t.ID] = t.Version
	l.metrics.ending.Inc()
	l.work.Go(func() {
		l.finish(t)
		l.metrics.ending.Dec()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ending[t.ID] == t.Version {
			delete(l.ending, t.ID)
		}
	})
}

// finish writes the markers of a decided transaction and completes it. It gives up only with the term: a later leader goes on
// from the same decision (T32).
func (l *txnLeader) finish(t *txn.Transaction) {
	markers := l.t.host.config.Sabotage.toWrite(l.markersOf(t))
	for pause := firstMarkerPause; l.ctx.Err() == nil; pause = min(2*pause, mostMarkerPause) {
		if markers = l.write(t, markers); len(markers) == 0 && l.complete(t) {
			return
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
		}
	}
}

func (l *txnLeader) markersOf(t *txn.Transaction) []Marker {
	list := make([]Marker, len(t.Partitions))
	for i, tp := range t.Partitions {
		list[i] = Marker{
			TopicPartition: tp, ProducerID: t.ProducerID, Epoch: t.Epoch, CoordinatorEpoch: coordinatorEpoch(l.term),
			Commit: t.Status == txn.PrepareCommit, Version: t.ClientVersion,
		}
	}
	return list
}

// coordinatorEpoch is a term as partitions compare it (R7).
func coordinatorEpoch(t record.Term) int32 { return int32(t) }

// write makes one attempt and gives the markers that are still to be written.
func (l *txnLeader) write(t *txn.Transaction, markers []Marker) []Marker {
	if len(markers) == 0 {
		return nil
	}
	select {
	case l.slots <- struct{}{}:
	case <-l.ctx.Done():
		return markers
	}
	ctx, cancel := context.WithTimeout(l.ctx, markerTimeout)
	results := l.t.config.Markers.Write(ctx, markers)
	cancel()
	<-l.slots
	var left []Marker
	for i, r := range results {
		l.metrics.markers.WithLabelValues(markerLabels[r.State]).Inc()
		if r.State == MarkerWritten || r.State == MarkerGone || l.settled(t, markers[i], r) {
			continue
		}
		left = append(left, markers[i])
	}
	return left
}

var markerLabels = [...]string{"again", "written", "gone", "epoch_fenced", "coordinator_fenced"}

// settled deals with a partition that refuses a marker for good. Someone newer owns the transaction, mostly: then this term is over
// and its work ends with it. But while this leader is proved to be the leader, and the decision stands, nobody else will ever
// write that marker, and a higher producer epoch on the partition says that nothing of the transaction is open there (T26).
func (l *txnLeader) settled(t *txn.Transaction, m Marker, r MarkerResult) bool {
	if r.State != MarkerEpochFenced && r.State != MarkerCoordinatorFenced {
		return false
	}
	if err := l.s.confirm(l.ctx, l.term); err != nil {
		return false
	}
	if now := l.s.find(t.ID); now == nil || now.Version != t.Version {
		return true // decided and completed by this leader already
	}
	l.s.logger.Warn("a partition refuses a marker", "transactional_id", t.ID, "producer_id", int64(m.ProducerID), "epoch", int16(m.Epoch),
		"topic", m.Topic, "partition", m.Partition, "err", r.Err)
	return r.State == MarkerEpochFenced
}

// complete notes that all markers are written; false: not yet, try again. The version makes it belong to this decision
// whatever has happened to earlier attempts (R2).
//
// The next transaction's first adds, if they wait for this already, go with it: that spares them a round of their own (T24). An add
// whose completion has failed, or of which that is not known, looks again at what is applied.
func (l *txnLeader) complete(t *txn.Transaction) bool {
	var next []*waiter
	if l.t.host.config.FeatureLevel() >= nextLevel {
		next = l.s.takeAdds(t.ID)
	}
	r, err := l.propose(completion(t, next))
	for i, w := range next {
		if err == nil && r.Code == txn.OK {
			w.told <- ended{carried: true, result: r.Next[i]}
		} else {
			w.told <- ended{maybe: err != nil && err.Outcome == raftgroup.MayHaveHappened}
		}
	}
	if len(next) > 0 && err != nil && err.Outcome == raftgroup.DidNotHappen {
		// The adds may be why. They look again and would come along again: alone the completion is not held up by them.
		r, err = l.propose(completion(t, nil))
	}
	switch {
	case err == nil && r.Code == txn.OK:
		l.metrics.completed(t)
		return true
	case err == nil:
		return true // Stale: an earlier attempt of ours, whose outcome was unknown, did it
	case err.Outcome == raftgroup.MayHaveHappened:
		now := l.s.find(t.ID)
		return now == nil || now.Version != t.Version
	}
	return false
}
