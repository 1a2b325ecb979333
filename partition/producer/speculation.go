package producer

import "github.com/oncelog/oncelog/record"

// Speculation is a leader's note of the batches it has proposed and not yet seen applied, laid over the
// committed State (R3). It never refuses: what it cannot vouch for is proposed, and apply decides. It belongs to one
// leadership of one partition and is not safe for concurrent use.
//
// The leader asks Admit for each batch in the order in which it proposes, calls Done when the batch's proposal was
// applied, whatever the verdict, and Discard after any proposal that failed or whose outcome is unknown.
type Speculation struct {
	limit    int
	inFlight map[Key]struct{}
	// life counts the discards, so that a late Done of an earlier life finds nothing.
	life uint64
}

// Key names a batch in flight. It is comparable, so that a leader can keep those who wait for the batch's
// outcome in a map. The zero Key names nothing: it is given to batches that cannot have duplicates.
type Key struct {
	id          record.ProducerID
	epoch       record.Epoch
	first, last record.Sequence
	life        uint64
}

// Tracked says whether the key names a batch, so that Done is due and duplicates may come to wait for it.
func (k Key) Tracked() bool { return k.life != 0 }

// Action says what a leader does with a batch.
type Action uint8

// The actions. The zero Action is none of them.
const (
	// Propose the batch. It is now in flight under the answer's key.
	Propose Action = iota + 1
	// DuplicateInFlight: the same batch is in flight under the answer's key. Wait for its outcome and give the
	// same answer, be it success or failure (F14); propose nothing.
	DuplicateInFlight
	// CommittedDuplicate: the batch was written before and the answer's verdict says where. Confirm the leadership, then
	// acknowledge it (R1, P6); propose nothing.
	CommittedDuplicate
	// Full: as many batches as the limit allows are in flight. Try again after some are done, or say that it
	// did not happen.
	Full
)

// String names the action.
func (a Action) String() string {
	switch a {
	case Propose:
		return "propose"
	case DuplicateInFlight:
		return "duplicate in flight"
	case CommittedDuplicate:
		return "committed duplicate"
	case Full:
		return "full"
	}
	return "none"
}

// Answer is what Admit says.
type Answer struct {
	Action Action
	// Key is set with Propose (zero for a batch without idempotence) and DuplicateInFlight.
	Key Key
	// Verdict is set with CommittedDuplicate.
	Verdict Verdict
}

// NewSpeculation notes at most limit batches, which must be at least 1.
func NewSpeculation(limit int) *Speculation {
	return &Speculation{limit: limit, inFlight: make(map[Key]struct{}), life: 1}
}

// Len is how many batches are in flight.
func (sp *Speculation) Len() int { return len(sp.inFlight) }

// Admit decides what to do with the batch b, given the committed state, and if it is to be proposed, notes it as in flight.
// A batch that follows others in flight, or does not, is proposed alike: only apply knows (R3).
func (sp *Speculation) Admit(s *State, b Batch) Answer {
	if b.ProducerID < 0 || b.Coordinator {
		return Answer{Action: Propose}
	}
	key := Key{id: b.ProducerID, epoch: b.Epoch, first: b.BaseSequence, last: b.LastSequence, life: sp.life}
	if _, ok := sp.inFlight[key]; ok {
		return Answer{Action: DuplicateInFlight, Key: key}
	}
	if v, _ := s.decide(&b, 0); v.Code == Duplicate { // which the time has no part in
		return Answer{Action: CommittedDuplicate, Verdict: v}
	}
	if len(sp.inFlight) >= sp.limit {
		return Answer{Action: Full}
	}
	sp.inFlight[key] = struct{}{}
	return Answer{Action: Propose, Key: key}
}

// Done tells that the batch under this key was applied and the committed state knows its outcome. A key from before a
// Discard, or the zero key, is no harm.
func (sp *Speculation) Done(key Key) { delete(sp.inFlight, key) }

// Discard forgets all batches in flight. It is due after any failed proposal, not only when leadership is lost (R3): the ones
// behind it may now be decided differently than foreseen. Those who wait for a batch are the leader's to answer.
func (sp *Speculation) Discard() {
	clear(sp.inFlight)
	sp.life++
}
