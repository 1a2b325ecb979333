package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// directory tells coordinators where shards are (coordinator.Directory).
type directory struct{ p *parts }

// Shards is how many shards the metadata has.
func (d directory) Shards(k coordinator.Kind) int {
	t, ok := d.p.cluster.Image().Topic(k.Topic())
	if !ok {
		return 0
	}
	return len(t.Partitions)
}

// Create makes the shards, unless another broker was first.
func (d directory) Create(ctx context.Context, k coordinator.Kind) error {
	shards := d.p.cfg.Transactions.Shards
	if k == coordinator.KindGroups {
		shards = d.p.cfg.Groups.Shards
	}
	_, err := d.p.cluster.CreateTopic(ctx, cluster.NewTopic{Name: k.Topic(), Partitions: int32(shards), Internal: true})
	if errors.Is(err, &metadata.Error{Code: metadata.TopicAlreadyExists}) {
		_, err = d.p.cluster.Confirm(ctx)
	}
	return err
}

// Leader is who leads a shard and is ready.
func (d directory) Leader(k coordinator.Kind, number int32) (int32, bool) {
	return d.p.leaderOf(record.TopicPartition{Topic: k.Topic(), Partition: number})
}

// leaderOf is who leads a partition and is ready, as far as this broker has heard.
func (p *parts) leaderOf(tp record.TopicPartition) (int32, bool) {
	partition, ok := p.cluster.Image().Partition(tp)
	if !ok {
		return -1, false
	}
	lead, ok := p.cluster.Leader(partition.Group)
	return lead.Broker, ok && lead.Ready
}

// txnGlue is where partitions and coordinators of transactions meet: it carries the question of a partition to the coordinator
// (partition.Transactions), and markers to partitions (coordinator.Markers), here or on another broker.
type txnGlue struct{ p *parts }

const (
	// joinPatience is how long a question is carried to another coordinator when the first one has moved.
	joinPatience = 5 * time.Second
	joinPause    = 20 * time.Millisecond
)

// Join asks the coordinator whether a partition is in a transaction. While the coordinator moves, it looks for the new one.
func (g txnGlue) Join(ctx context.Context, j partition.Joining) *partition.Error {
	patience, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	for {
		err := g.joinOnce(ctx, j)
		if err == nil || !isMoving(err.Code) {
			return err
		}
		select {
		case <-time.After(joinPause):
		case <-patience.Done():
			return err
		}
	}
}

// isMoving says of a coordinator's answer that another broker, or the same one later, will answer.
func isMoving(c partition.Code) bool {
	switch coordinator.Code(c) {
	case coordinator.CodeNotCoordinator, coordinator.CodeLoading, coordinator.CodeNotAvailable:
		return true
	}
	return false
}

func (g txnGlue) joinOnce(ctx context.Context, j partition.Joining) *partition.Error {
	broker, ok := g.p.coordinators.Lookup(coordinator.KindTransactions, j.TransactionalID)
	if !ok {
		return &partition.Error{Code: partition.Code(coordinator.CodeNotAvailable), Message: fmt.Sprintf("nobody coordinates transactional id %q now", j.TransactionalID)}
	}
	if broker == g.p.cfg.BrokerID {
		return partitionError(g.joinHere(ctx, j))
	}
	target, ok := g.p.cluster.PeerTarget(broker)
	if !ok {
		return &partition.Error{Code: partition.Code(coordinator.CodeNotAvailable), Message: fmt.Sprintf("broker %d has no known address", broker)}
	}
	resp, err := g.p.cluster.Peers().JoinTransaction(ctx, target, &peerv1.JoinTransactionRequest{Partition: joiningToProto(j), Version: uint32(j.Version)})
	if err != nil {
		return &partition.Error{Code: partition.Code(coordinator.CodeNotAvailable), Message: fmt.Sprintf("asking the coordinator of transactional id %q", j.TransactionalID), Cause: err}
	}
	return failureToPartition(resp.GetFailure())
}

// joinHere asks this broker's own coordinator.
func (g txnGlue) joinHere(ctx context.Context, j partition.Joining) error {
	producer := coordinator.Producer{ID: j.ProducerID, Epoch: j.Epoch}
	if j.Version < 2 {
		return g.p.transactions.VerifyPartition(ctx, j.TransactionalID, producer, j.TopicPartition)
	}
	return g.p.transactions.AddPartitions(ctx, coordinator.AddRequest{
		TransactionalID: j.TransactionalID, Producer: producer, Partitions: []record.TopicPartition{j.TopicPartition}, Version: j.Version})
}

// Refused tells the coordinator that a partition refused a batch. It is for people: a failure is let go.
func (g txnGlue) Refused(ctx context.Context, r partition.Refusal) {
	broker, ok := g.p.coordinators.Lookup(coordinator.KindTransactions, r.TransactionalID)
	if !ok {
		return
	}
	if broker == g.p.cfg.BrokerID {
		_ = g.noteHere(ctx, r)
		return
	}
	if target, ok := g.p.cluster.PeerTarget(broker); ok {
		_, _ = g.p.cluster.Peers().NoteRefusal(ctx, target, &peerv1.NoteRefusalRequest{Partition: joiningToProto(r.Joining), Code: string(r.Code),
			ExpectedSequence: int32(r.Expected), ReceivedSequence: int32(r.Received)})
	}
}

func (g txnGlue) noteHere(ctx context.Context, r partition.Refusal) error {
	return g.p.transactions.NoteRefusal(ctx, r.TransactionalID, coordinator.Producer{ID: r.ProducerID, Epoch: r.Epoch},
		txn.RefusedBatch{TopicPartition: r.TopicPartition, Code: string(r.Code), Expected: r.Expected, Received: r.Received})
}

// Write sends markers to the leaders of their partitions, all brokers at once. A partition that is gone is only taken for gone on
// metadata that is known to be the newest (T27).
func (g txnGlue) Write(ctx context.Context, markers []coordinator.Marker) []coordinator.MarkerResult {
	results := make([]coordinator.MarkerResult, len(markers))
	byBroker := make(map[int32][]int)
	var missing []int
	for i, m := range markers {
		switch leader, ok := g.p.leaderOf(m.TopicPartition); {
		case ok:
			byBroker[leader] = append(byBroker[leader], i)
		case !g.exists(g.p.cluster.Image(), m.TopicPartition):
			missing = append(missing, i)
		default:
			results[i].Err = fmt.Errorf("%s has no leader", m.TopicPartition)
		}
	}
	var wg sync.WaitGroup
	for broker, list := range byBroker {
		wg.Go(func() {
			inParts(list, func(some []int) { g.writeAt(ctx, broker, markers, some, results) })
		})
	}
	if len(missing) > 0 {
		g.confirmGone(ctx, markers, missing, results)
	}
	wg.Wait()
	return results
}

// markersAtOnce is how many markers go to a broker in one question: no more than it takes, and few enough to be written well within the
// time that it is given. What is answered for counts, though ctx ends before the rest: so a transaction of whatever size comes to its end.
const markersAtOnce = 500

const _ = uint(peer.MaxMarkers - markersAtOnce) // a broker takes that many

func inParts(list []int, write func(some []int)) {
	for some := range slices.Chunk(list, markersAtOnce) {
		write(some)
	}
}

func (g txnGlue) exists(img *metadata.Image, tp record.TopicPartition) bool {
	_, ok := img.Partition(tp)
	return ok
}

func (g txnGlue) confirmGone(ctx context.Context, markers []coordinator.Marker, missing []int, results []coordinator.MarkerResult) {
	img, err := g.p.cluster.Confirm(ctx)
	for _, i := range missing {
		switch {
		case err != nil:
			results[i].Err = err
		case !g.exists(img, markers[i].TopicPartition):
			results[i].State = coordinator.MarkerGone
		}
	}
}

// writeAt has one broker write some of the markers.
func (g txnGlue) writeAt(ctx context.Context, broker int32, markers []coordinator.Marker, list []int, results []coordinator.MarkerResult) {
	var errs []*partition.Error
	if broker == g.p.cfg.BrokerID {
		batch := make([]partition.Marker, len(list))
		for k, i := range list {
			batch[k] = partition.Marker(markers[i])
		}
		errs = g.writeHere(ctx, batch)
	} else {
		errs = g.writeThere(ctx, broker, markers, list)
	}
	for k, i := range list {
		results[i] = markerResult(errs[k])
	}
}

// writeHere writes markers to partitions, and to shards of groups, that this broker leads.
func (g txnGlue) writeHere(ctx context.Context, markers []partition.Marker) []*partition.Error {
	errs := make([]*partition.Error, len(markers))
	var partitions []partition.Marker
	var shards []coordinator.Marker
	var atPartitions, atShards []int
	for i, m := range markers {
		if m.Topic == coordinator.KindGroups.Topic() {
			shards, atShards = append(shards, coordinator.Marker(m)), append(atShards, i)
		} else {
			partitions, atPartitions = append(partitions, m), append(atPartitions, i)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for k, err := range g.p.groups.WriteMarkers(ctx, shards) {
			errs[atShards[k]] = partitionError(err)
		}
	})
	if len(partitions) > 0 {
		for k, err := range g.p.partitions.WriteMarkers(ctx, partitions) {
			errs[atPartitions[k]] = err
		}
	}
	wg.Wait()
	return errs
}

func (g txnGlue) writeThere(ctx context.Context, broker int32, markers []coordinator.Marker, list []int) []*partition.Error {
	failed := func(err error) []*partition.Error {
		e := &partition.Error{Code: partition.CodeNotLeader, Message: fmt.Sprintf("asking broker %d for markers", broker), Outcome: raftgroup.MayHaveHappened, Cause: err}
		return slices.Repeat([]*partition.Error{e}, len(list))
	}
	target, ok := g.p.cluster.PeerTarget(broker)
	if !ok {
		return failed(errors.New("it has no known address"))
	}
	req := &peerv1.WriteMarkersRequest{}
	for _, i := range list {
		req.Markers = append(req.Markers, markerToProto(markers[i]))
	}
	resp, err := g.p.cluster.Peers().WriteMarkers(ctx, target, req)
	if err != nil {
		return failed(err)
	}
	errs, err := markerFailures(resp, len(list))
	if err != nil {
		return failed(err)
	}
	return errs
}

// markerFailures reads what became of n markers; nil: written. An answer of another length says of none what became of it.
func markerFailures(resp *peerv1.WriteMarkersResponse, n int) ([]*partition.Error, error) {
	if got := len(resp.GetResults()); got != n {
		return nil, fmt.Errorf("it answers for %d markers of %d", got, n)
	}
	errs := make([]*partition.Error, n)
	for k, r := range resp.GetResults() {
		errs[k] = failureToPartition(r.GetFailure())
	}
	return errs, nil
}

func markerResult(e *partition.Error) coordinator.MarkerResult {
	switch {
	case e == nil:
		return coordinator.MarkerResult{State: coordinator.MarkerWritten}
	case e.Code == partition.CodeInvalidProducerEpoch:
		return coordinator.MarkerResult{State: coordinator.MarkerEpochFenced, Err: e}
	case e.Code == partition.CodeCoordinatorFenced:
		return coordinator.MarkerResult{State: coordinator.MarkerCoordinatorFenced, Err: e}
	}
	return coordinator.MarkerResult{Err: e}
}

// JoinTransaction answers another broker's partition (peer.Handler).
func (h peerHandler) JoinTransaction(ctx context.Context, _ peerIdentity, req *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error) {
	j := joiningFromProto(req.GetPartition())
	j.Version = int8(req.GetVersion())
	return &peerv1.JoinTransactionResponse{Failure: partitionToFailure(partitionError(txnGlue{h.p}.joinHere(ctx, j)))}, nil
}

// NoteRefusal answers another broker's partition (peer.Handler).
func (h peerHandler) NoteRefusal(ctx context.Context, _ peerIdentity, req *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error) {
	err := txnGlue{h.p}.noteHere(ctx, partition.Refusal{Joining: joiningFromProto(req.GetPartition()), Code: partition.Code(req.GetCode()),
		Expected: record.Sequence(req.GetExpectedSequence()), Received: record.Sequence(req.GetReceivedSequence())})
	return &peerv1.NoteRefusalResponse{Failure: partitionToFailure(partitionError(err))}, nil
}

// WriteMarkers answers another broker's coordinator (peer.Handler).
func (h peerHandler) WriteMarkers(ctx context.Context, _ peerIdentity, req *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error) {
	markers := make([]partition.Marker, len(req.GetMarkers()))
	for i, m := range req.GetMarkers() {
		markers[i] = markerFromProto(m)
	}
	resp := &peerv1.WriteMarkersResponse{}
	for _, e := range (txnGlue{h.p}).writeHere(ctx, markers) {
		resp.Results = append(resp.Results, &peerv1.MarkerResult{Failure: partitionToFailure(e)})
	}
	return resp, nil
}
