package txn

import (
	"fmt"
	"maps"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// State is one shard. Apply, Restore and nothing else change it; all other methods may run at the same time as each
// other. Clones are independent.
type State struct {
	limits Limits
	// ids are all that are known.
	ids map[string]*Transaction
	// open are those of them that are Ongoing or Ending: what a leader has to look after.
	open map[string]*Transaction
	// openPartitions counts the partitions of all in open.
	openPartitions int
}

// Limits bound what clients can make a shard remember. They are part of the state: every replica changes them
// at the same command.
type Limits struct {
	// MaxIDs is how many transactional ids are remembered. One more is refused.
	MaxIDs int
	// MaxPartitions is how many partitions one transaction can have.
	MaxPartitions int
	// MaxOpenPartitions is how many partitions all open transactions have together.
	MaxOpenPartitions int
}

// DefaultLimits hold until a command sets others.
func DefaultLimits() Limits {
	return Limits{MaxIDs: 10_000, MaxPartitions: 10_000, MaxOpenPartitions: 200_000}
}

// New is the state before the first command.
func New() *State {
	return &State{limits: DefaultLimits(), ids: make(map[string]*Transaction), open: make(map[string]*Transaction)}
}

// Result is what came of a command.
type Result struct {
	// Code is OK or why nothing was done. With Concurrent an open transaction may have been fenced: Changed tells.
	Code Code
	// ProducerID and Epoch are what the client has from now on, with OK of init and end; NoProducerID and NoEpoch
	// otherwise.
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// Changed: the command changed something.
	Changed bool
	// Transaction is the id as it is after the command; nil: it is not known.
	Transaction *Transaction
	// Expired counts the ids that were forgotten.
	Expired int
	// Next is what came of the adds that a completion carried, in their order; none if there was no completion.
	Next []Result
}

// Version is the version of the id after the command, 0 if it is not known. After Check it is the version that
// the command must carry to be applied.
func (r Result) Version() uint64 { return r.Transaction.version() }

// Apply takes the command at an index of the Raft log. Indexes grow; now is the leader's time in ms since 1970 from the
// entry, and may go back. An error means that the entry cannot be applied here at all: the replica must
// stop. A refusal is a Result.
func (s *State) Apply(index uint64, now int64, data []byte) (Result, error) {
	c, err := DecodeCommand(data)
	if err != nil {
		return Result{}, fmt.Errorf("txn: entry %d: %w", index, err)
	}
	switch c := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Limits:
		s.limits = limitsOf(c.Limits)
		return Result{Changed: true}, nil
	case *statev1.TransactionCommand_Expire:
		return s.expire(c.Expire), nil
	}
	t := s.ids[c.GetTransactionalId()]
	if c.GetVersion() != t.version() {
		return refuse(t, Stale), nil
	}
	r := s.decide(t, c, now)
	if r.Changed {
		s.replace(t, r.Transaction, index)
	}
	if next := c.GetComplete().GetNext(); r.Code == OK && len(next) > 0 {
		r.Next = s.begin(r.Transaction, next, now, index)
		r.Transaction = s.ids[r.Transaction.ID]
	}
	return r, nil
}

// begin applies adds that have waited for the completion before them. t is the id as the completion has left it.
func (s *State) begin(t *Transaction, adds []*statev1.AddPartitions, now int64, index uint64) []Result {
	results := make([]Result, len(adds))
	for i, add := range adds {
		results[i] = s.add(t, add, now)
		if results[i].Changed {
			s.replace(t, results[i].Transaction, index)
			t = results[i].Transaction
		}
	}
	return results
}

// Check says what Apply would say to the command, if the id is still as it is now. It takes no account of the
// version in the command; the result's is the one to put there. Commands of the coordinator that are not about one id
// (limits, expire) are not checked.
func (s *State) Check(now int64, c *statev1.TransactionCommand) Result {
	t := s.ids[c.GetTransactionalId()]
	r := s.decide(t, c, now)
	r.Transaction = t
	return r
}

// decide is the one place where a command meets the id it is about. A result that is Changed holds the id as it is
// to be.
func (s *State) decide(t *Transaction, c *statev1.TransactionCommand, now int64) Result {
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		return s.init(t, c.GetTransactionalId(), cmd.Init, clientOf(c.GetClient()), now)
	case *statev1.TransactionCommand_Add:
		return s.add(t, cmd.Add, now)
	case *statev1.TransactionCommand_End:
		return end(t, cmd.End, now)
	case *statev1.TransactionCommand_Complete:
		return complete(t, now)
	case *statev1.TransactionCommand_Abort:
		return abort(t, cmd.Abort, clientOf(c.GetClient()), now)
	case *statev1.TransactionCommand_Note:
		return note(t, cmd.Note, now)
	default:
		panic(fmt.Sprintf("txn: command %T is about no id", cmd)) // DecodeCommand lets nothing else through
	}
}

// replace puts a changed transaction in the place of the old one; nil: there was none. It is moved on to index unless
// only partitions or events came in.
func (s *State) replace(old, t *Transaction, index uint64) {
	if movedOn(old, t) {
		t.Version = index
	}
	s.remove(old)
	s.ids[t.ID] = t
	if !t.Status.idle() {
		s.open[t.ID] = t
		s.openPartitions += len(t.Partitions)
	}
}

// movedOn tells a change of owner or outcome from one that only adds to a transaction or to the history.
func movedOn(old, t *Transaction) bool {
	if old == nil {
		return true
	}
	began := t.Status == Ongoing // by adding, from wherever it was
	return !began && (t.Status != old.Status || t.ProducerID != old.ProducerID || t.Epoch != old.Epoch || t.TimeoutMS != old.TimeoutMS)
}

func (s *State) remove(t *Transaction) {
	if t == nil {
		return
	}
	delete(s.ids, t.ID)
	if _, ok := s.open[t.ID]; ok {
		delete(s.open, t.ID)
		s.openPartitions -= len(t.Partitions)
	}
}

// Clone makes an independent copy, which a snapshot can be written from while the original goes on. It copies pointers
// only.
func (s *State) Clone() *State {
	c := *s
	c.ids, c.open = maps.Clone(s.ids), maps.Clone(s.open)
	return &c
}

// Limits are the bounds that hold now.
func (s *State) Limits() Limits { return s.limits }

// Len is how many ids are known, OpenLen how many of them have a transaction open or ending, and OpenPartitions how
// many partitions these have: for the metrics that go with the limits.
func (s *State) Len() int { return len(s.ids) }

// OpenLen counts the transactions that are open or ending.
func (s *State) OpenLen() int { return len(s.open) }

// OpenPartitions counts the partitions of the transactions that are open or ending.
func (s *State) OpenPartitions() int { return s.openPartitions }

// refuse leaves t as it is.
func refuse(t *Transaction, code Code) Result {
	return Result{Code: code, ProducerID: record.NoProducerID, Epoch: record.NoEpoch, Transaction: t}
}

// unchanged is OK without anything to do.
func unchanged(t *Transaction) Result { return refuse(t, OK) }

// changed replaces the transaction.
func changed(t *Transaction) Result {
	r := refuse(t, OK)
	r.Changed = true
	return r
}

// handOut tells the client its producer id and epoch.
func (r Result) handOut(id record.ProducerID, epoch record.Epoch) Result {
	r.ProducerID, r.Epoch = id, epoch
	return r
}
