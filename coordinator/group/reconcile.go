package group

import "slices"

// reconcile takes a member one step towards its target, as far as what it says of itself and what the others have allow:
// first it gives back, then its epoch moves, then it gets what is free (G16). A partition is given only when nobody has it: whoever had it
// has said that it reads it no more, or was fenced, or has left.
func (c *consumer) reconcile(m *Member, own *owned) *Member {
	switch {
	case m.Status == Stable && m.Epoch == c.assignmentEpoch:
		return m
	case m.Status == Revoking && own.any(m.Revoking):
		return m
	}
	next := *m
	kept, released := split(m.Assigned, m.Target)
	next.Assigned = slices.Clip(kept)
	if len(released) > 0 && own.any(released) {
		next.Revoking = released // it does not get to the epoch of its target until they are given back
		if m.Status == Revoking {
			// The target has changed meanwhile. What it gave back just now may be anybody's from here on, so the epoch at which it had that
			// must not be its epoch any more.
			next.Epoch, next.PreviousEpoch = c.assignmentEpoch-1, m.Epoch
		}
		next.Status = Revoking
		return &next
	}
	if m.Epoch != c.assignmentEpoch {
		next.Epoch, next.PreviousEpoch = c.assignmentEpoch, m.Epoch
	}
	next.Status, next.Revoking = Stable, nil
	for _, p := range m.Target {
		if _, has := findHeld(kept, p); has {
			continue
		}
		if owner, taken := c.owners[p]; taken && owner != m.ID {
			next.Status = Waiting
			continue
		}
		next.Assigned = append(next.Assigned, Held{p, next.Epoch})
	}
	slices.SortFunc(next.Assigned, compareHeld)
	return &next
}

// split tells what a member keeps from what it has to give back.
func split(assigned []Held, target []Partition) (kept, released []Held) {
	for _, h := range assigned {
		if hasPartition(target, h.Partition) {
			kept = append(kept, h)
		} else {
			released = append(released, h)
		}
	}
	return kept, released
}
