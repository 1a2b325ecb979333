package producer

import "github.com/oncelog/oncelog/record"

// Expirable names a producer that its leader found idle, at the epoch it had then (R5).
type Expirable struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
}

// Idle lists up to max producers whose last batch or marker was at or before cutoff, in ms of the leaders'
// clocks, and lies below an offset, and that have no transaction open (P25), longest idle first. The leader proposes to
// forget them, with the same cutoff and offset; Expire decides. The offset is the log's end at a time that the leader has itself
// seen to be long ago: stamps of clocks that were wrong make nobody idle. Idle looks at all producers: for 100,000 it
// takes some milliseconds.
func (s *State) Idle(cutoff int64, below record.Offset, max int) []Expirable {
	var found []Expirable
	for at := s.table.idle.head; at != noSlot && len(found) < max; at = s.table.links.at(at).next {
		e := s.table.entries.at(at)
		if e.touched >= below {
			break // the list is in this order
		}
		if e.lastTimestamp <= cutoff {
			found = append(found, Expirable{ProducerID: e.id, Epoch: e.epoch})
		}
	}
	return found
}

// Expire forgets those of the candidates that are still at the epoch given, still idle since cutoff or before, with nothing at
// or above the offset, and without an open transaction (P25, R5). It returns how many it forgot.
func (s *State) Expire(candidates []Expirable, cutoff int64, below record.Offset) int {
	n := 0
	for _, c := range candidates {
		at := s.table.find(c.ProducerID)
		if at == noSlot {
			continue
		}
		e := s.table.entries.at(at)
		if e.epoch != c.Epoch || e.isOpen() || e.lastTimestamp > cutoff || e.touched >= below {
			continue
		}
		s.table.remove(at)
		n++
	}
	return n
}
