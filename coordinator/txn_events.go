package coordinator

import (
	"log/slog"
	"sync"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/record"
)

// logEvent logs what a command has added to the history of an id: each event once, by the leader that had it agreed. A timeout
// is logged where it is noticed.
func (s *txnShard) logEvent(c *statev1.TransactionCommand, r txn.Result) {
	switch {
	case !r.Changed:
		return
	case c.GetInit() != nil, c.GetNote() != nil, c.GetAbort().GetReason() == statev1.AbortReason_ABORT_REASON_OPERATOR:
	default:
		return
	}
	if e := r.Transaction.LastEvent(); e != nil {
		s.logger.Info("event of a transactional id", "transactional_id", r.Transaction.ID, eventAttr(e))
	}
}

func eventAttr(e *txn.Event) slog.Attr {
	attrs := []any{"what", e.Kind.String(), "producer_id", int64(e.ProducerID), "epoch", int16(e.Epoch)}
	if e.Client != (txn.Client{}) {
		attrs = append(attrs, "client_id", e.Client.ID, "address", e.Client.Address)
	}
	if b := e.Refused; b != nil {
		attrs = append(attrs, "partition", b.TopicPartition.String(), "code", b.Code)
		if b.Received != record.NoSequence {
			attrs = append(attrs, "expected", int32(b.Expected), "received", int32(b.Received))
		}
	}
	return slog.Group("event", attrs...)
}

// maxFencedLogged bounds the memory of producers whose fencing has been logged. It is forgotten as a whole.
const maxFencedLogged = 1000

// fencedLog remembers which refused producers were logged, so that a zombie that goes on trying has one line.
type fencedLog struct {
	// mu guards told. Nothing blocks under it.
	mu   sync.Mutex
	told map[fencedProducer]struct{}
}

type fencedProducer struct {
	id string
	Producer
}

// first says whether a producer has not been logged yet, as far as is remembered.
func (f *fencedLog) first(id string, p Producer) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fencedProducer{id, p}
	if _, ok := f.told[key]; ok {
		return false
	}
	if f.told == nil || len(f.told) >= maxFencedLogged {
		f.told = make(map[fencedProducer]struct{})
	}
	f.told[key] = struct{}{}
	return true
}

// logFenced logs that a producer was refused because it does not own its id any more, and what happened to the id last.
func (t *Transactions) logFenced(s *txnShard, c *statev1.TransactionCommand, e *Error) {
	if e == nil || e.Code != CodeProducerFenced || e.Event == nil {
		return
	}
	if p := producerIn(c); t.fenced.first(c.GetTransactionalId(), p) {
		s.logger.Info("a fenced producer was refused", "transactional_id", c.GetTransactionalId(), "producer_id", int64(p.ID), "epoch", int16(p.Epoch), eventAttr(e.Event))
	}
}

// producerIn is who a command says that it comes from.
func producerIn(c *statev1.TransactionCommand) Producer {
	var p interface {
		GetProducerId() int64
		GetProducerEpoch() int32
	}
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		p = cmd.Init
	case *statev1.TransactionCommand_Add:
		p = cmd.Add
	case *statev1.TransactionCommand_End:
		p = cmd.End
	default:
		return NoProducer
	}
	return Producer{record.ProducerID(p.GetProducerId()), record.Epoch(p.GetProducerEpoch())}
}
