package txn

import (
	"fmt"
	"math"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// MaxSnapshotBytes bounds what Restore reads.
const MaxSnapshotBytes = 1 << 30

// snapshotFormat is that of a shard's snapshot: one oncelog.state.v1.TransactionShardState.
var snapshotFormat = statev1.Format{Magic: "OLTX", Version: 1, MaxBytes: MaxSnapshotBytes}

func damaged(format string, args ...any) error {
	return fmt.Errorf("transaction shard: snapshot: %w: %s", statev1.ErrDamaged, fmt.Sprintf(format, args...))
}

// AppendSnapshot appends the shard's snapshot. Equal states give equal bytes (R6).
func (s *State) AppendSnapshot(buf []byte) ([]byte, error) {
	p := &statev1.TransactionShardState{Limits: LimitsToProto(s.limits)}
	for _, t := range s.All() {
		p.Ids = append(p.Ids, ToProto(t))
	}
	buf, err := snapshotFormat.Append(buf, p)
	if err != nil {
		return nil, fmt.Errorf("transaction shard: %w", err)
	}
	return buf, nil
}

// Restore reads what AppendSnapshot gives, and checks every invariant that Apply keeps. Any other bytes give an error that is
// statev1.ErrDamaged or statev1.ErrNewer.
func Restore(b []byte) (*State, error) {
	p := new(statev1.TransactionShardState)
	if err := snapshotFormat.Read(b, p); err != nil {
		return nil, fmt.Errorf("transaction shard: snapshot: %w", err)
	}
	if p.GetLimits() == nil || checkLimits(p.GetLimits()) != nil {
		return nil, damaged("limits %v", p.GetLimits())
	}
	s := New()
	s.limits = limitsOf(p.GetLimits())
	previous := ""
	for _, in := range p.GetIds() {
		t, err := fromProto(in)
		if err != nil {
			return nil, err
		}
		if t.ID <= previous {
			return nil, damaged("ids are not sorted")
		}
		previous = t.ID
		s.replace(nil, t, t.Version)
	}
	return s, nil
}

// ToProto encodes one id with all that is known of it.
func ToProto(t *Transaction) *statev1.TransactionalIdState {
	p := &statev1.TransactionalIdState{
		TransactionalId: t.ID, Version: t.Version, ProducerId: int64(t.ProducerID),
		PreviousProducerId: int64(t.PreviousProducerID), NextProducerId: int64(t.NextProducerID),
		ProducerEpoch: int32(t.Epoch), LastEpoch: int32(t.LastEpoch), TimeoutMs: t.TimeoutMS,
		Status: statev1.TransactionStatus(t.Status + 1), ClientVersion: uint32(t.ClientVersion),
		Partitions: PartitionsToProto(t.Partitions), StartMs: t.StartMS, UpdatedMs: t.UpdatedMS,
	}
	for i := range t.History {
		p.History = append(p.History, EventToProto(&t.History[i]))
	}
	return p
}

// EventToProto encodes one line of a history.
func EventToProto(e *Event) *statev1.TransactionEvent {
	p := &statev1.TransactionEvent{
		Kind: statev1.TransactionEventKind(e.Kind), TimeMs: e.TimeMS, ProducerId: int64(e.ProducerID), ProducerEpoch: int32(e.Epoch),
	}
	if e.Client != (Client{}) {
		p.Client = &statev1.ClientRef{ClientId: e.Client.ID, Address: e.Client.Address}
	}
	if r := e.Refused; r != nil {
		p.Refused = &statev1.RefusedBatch{
			Topic: r.Topic, Partition: r.Partition, Code: r.Code,
			ExpectedSequence: int32(r.Expected), ReceivedSequence: int32(r.Received),
		}
	}
	return p
}

// FromProto reads what ToProto gives, as another broker may have sent it.
func FromProto(p *statev1.TransactionalIdState) (*Transaction, error) { return fromProto(p) }

func fromProto(p *statev1.TransactionalIdState) (*Transaction, error) {
	bad := func(what string, args ...any) (*Transaction, error) {
		return nil, damaged("transactional id %.100q: %s", p.GetTransactionalId(), fmt.Sprintf(what, args...))
	}
	status := p.GetStatus() - 1
	switch {
	case checkID(p.GetTransactionalId()) != nil || p.GetVersion() == 0:
		return bad("version %d", p.GetVersion())
	case status < 0 || int(status) >= len(statusNames):
		return bad("status %v", p.GetStatus())
	case p.GetProducerId() < 0 || p.GetPreviousProducerId() < -1 || p.GetNextProducerId() < -1:
		return bad("producer ids %d, %d, %d", p.GetProducerId(), p.GetPreviousProducerId(), p.GetNextProducerId())
	case p.GetProducerEpoch() < 0 || p.GetProducerEpoch() > math.MaxInt16 || p.GetLastEpoch() < -1 || p.GetLastEpoch() > int32(lastEpoch):
		return bad("epoch %d, last %d", p.GetProducerEpoch(), p.GetLastEpoch())
	case p.GetTimeoutMs() <= 0 || p.GetClientVersion() > 2 || p.GetStartMs() < -1:
		return bad("timeout %d ms, client version %d, start %d", p.GetTimeoutMs(), p.GetClientVersion(), p.GetStartMs())
	case checkPartitions(p.GetPartitions(), math.MaxInt32) != nil:
		return bad("its partitions")
	case len(p.GetHistory()) > HistoryLength:
		return bad("%d events", len(p.GetHistory()))
	}
	t := &Transaction{
		ID: p.GetTransactionalId(), Version: p.GetVersion(), ProducerID: record.ProducerID(p.GetProducerId()),
		PreviousProducerID: record.ProducerID(p.GetPreviousProducerId()), NextProducerID: record.ProducerID(p.GetNextProducerId()),
		Epoch: record.Epoch(p.GetProducerEpoch()), LastEpoch: record.Epoch(p.GetLastEpoch()), TimeoutMS: p.GetTimeoutMs(),
		Status: Status(status), ClientVersion: int8(p.GetClientVersion()), Partitions: partitionsOf(p.GetPartitions()),
		StartMS: p.GetStartMs(), UpdatedMS: p.GetUpdatedMs(),
	}
	for _, in := range p.GetHistory() {
		e, ok := EventFromProto(in)
		if !ok {
			return bad("an event of kind %v", in.GetKind())
		}
		t.History = append(t.History, e)
	}
	if what := t.broken(); what != "" {
		return bad("%s", what)
	}
	return t, nil
}

// EventFromProto reads what EventToProto gives; false: p is nil, or no event that this version knows.
func EventFromProto(p *statev1.TransactionEvent) (Event, bool) {
	e := Event{
		Kind: EventKind(p.GetKind()), TimeMS: p.GetTimeMs(), ProducerID: record.ProducerID(p.GetProducerId()),
		Epoch: record.Epoch(p.GetProducerEpoch()), Client: clientOf(p.GetClient()),
	}
	if p.GetKind() < 1 || int(p.GetKind()) >= len(eventNames) || (p.GetRefused() != nil) != (e.Kind == BatchRefused) ||
		checkProducer(p.GetProducerId(), p.GetProducerEpoch()) != nil {
		return e, false
	}
	if r := p.GetRefused(); r != nil {
		e.Refused = &RefusedBatch{
			TopicPartition: record.TopicPartition{Topic: r.GetTopic(), Partition: r.GetPartition()}, Code: r.GetCode(),
			Expected: record.Sequence(r.GetExpectedSequence()), Received: record.Sequence(r.GetReceivedSequence()),
		}
	}
	return e, true
}

// broken says which invariant does not hold; empty: all do.
func (t *Transaction) broken() string {
	switch {
	case t.Status.idle() && len(t.Partitions) > 0:
		return "partitions without a transaction"
	case t.Status.Ending() && len(t.Partitions) == 0:
		return "an ending without partitions"
	case !t.Status.Ending() && t.NextProducerID != record.NoProducerID:
		return "a next producer id without an ending"
	case (t.NextProducerID != record.NoProducerID) != (t.Status.Ending() && t.Epoch == fencingEpoch && t.ClientVersion == 2):
		return "an ending with the last epoch and no next producer id, or the other way round"
	case t.Status == Ongoing && t.Epoch == fencingEpoch:
		return "a transaction at the fencing epoch"
	case t.PreviousProducerID != record.NoProducerID && (t.Epoch != 0 || !t.Status.idle()):
		return "a previous producer id of a producer that has moved on"
	case (t.StartMS == -1) != (t.Status == Empty):
		return "a start without a transaction, or the other way round"
	}
	return ""
}
