package producer

import "github.com/oncelog/oncelog/record"

// Expirable names a producer that its leader found idle, at the epoch it had then (R5).
type Expirable struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
}

// Idle lists up to max producers whose last batch or marker was at or before cutoff, in ms of the leader's
// clock, and that have no transaction open (P25), longest idle first. The leader proposes to forget them, with the same
// cutoff; Expire decides. Idle looks at all producers: for 100,000 it takes some milliseconds.
func (s *State) Idle(cutoff int64, max int) []Expirable {
	var found []Expirable
	for at := s.table.idle.head; at != noSlot && len(found) < max; at = s.table.links.at(at).next {
		if e := s.table.entries.at(at); e.lastTimestamp <= cutoff {
			found = append(found, Expirable{ProducerID: e.id, Epoch: e.epoch})
		}
	}
	return found
}

// Expire forgets those of the candidates that are still at the epoch given, still idle since cutoff or before, and
// without an open transaction (P25, R5). It returns how many it forgot.
func (s *State) Expire(candidates []Expirable, cutoff int64) int {
	n := 0
	for _, c := range candidates {
		at := s.table.find(c.ProducerID)
		if at == noSlot {
			continue
		}
		e := s.table.entries.at(at)
		if e.epoch != c.Epoch || e.isOpen() || e.lastTimestamp > cutoff {
			continue
		}
		s.table.remove(at)
		n++
	}
	return n
}
