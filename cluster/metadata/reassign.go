package metadata

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// How the members of a partition change. Facts come in by ReportMembers; each step is taken when the facts
// for it are there, so that it does not matter how often or how late they are told:
//
//  1. A replica is added to Replicas, Joining. Its broker makes its directory, and the group's leader makes
//     it a learner.
//  2. When all that a reassignment adds have caught up, they lose Joining at once: from now on they are to
//     have votes. Those that shall go move to Leaving. A replica that replaces a lost one waits for nobody.
//  3. The leader gives votes first, and takes members away then.
//  4. A leaving replica that is no member any more is Removed, its broker removes its directory, and it
//     is forgotten.
//
// A broker may be given another replica while its old one is in Leaving: it begins that one when the old one is Removed, or lost
// (broker/reconcile.go). Nothing that is in Leaving comes back, and incarnations are never given twice: an old image is never
// wrong about who is to go. It may be about who is to come: leaders of groups confirm theirs first (broker/members.go).

func (s *State) reassignPartitions(c *statev1.ReassignPartitions, r *Result) {
	t, err := s.liveTopic(c.GetTopicId())
	if r.Err = err; err != nil {
		return
	}
	r.Topic = t
	replication := t.Replication
	if n := int(c.GetReplicationFactor()); n != 0 {
		replication = n
	}
	if r.Err = s.checkReassignment(t, c.GetPartitions(), replication); r.Err != nil {
		return
	}
	changed := *t
	changed.Replication, changed.Partitions = replication, slices.Clone(t.Partitions)
	edited := replication != t.Replication
	for _, a := range c.GetPartitions() {
		edited = s.retarget(&changed.Partitions[a.GetPartition()], a.GetBrokerIds()) || edited
	}
	if !edited {
		return
	}
	s.replaceTopic(&changed)
	r.Topic, r.Changed = &changed, true
}

// checkReassignment judges all that can be refused.
func (s *State) checkReassignment(t *Topic, list []*statev1.Reassignment, replication int) *Error {
	if len(list) == 0 {
		return refuse(InvalidRequest, "partitions", "no partition is named")
	}
	if replication != t.Replication {
		if err := CheckReplicationFactor(replication, len(s.img.brokers)); err != nil {
			return err
		}
		if len(list) != len(t.Partitions) {
			return refuse(InvalidRequest, "partitions", "%d of %d partitions are named; another replication factor is for all of them", len(list), len(t.Partitions))
		}
		if err := checkSettings(t.Settings, replication); err != nil {
			return err
		}
	}
	added := 0
	for i, a := range list {
		number := int64(a.GetPartition())
		if number >= int64(len(t.Partitions)) {
			return refuse(UnknownTopicOrPartition, "partitions", "topic %s has no partition %d", t.Name, number)
		}
		if i > 0 && number <= int64(list[i-1].GetPartition()) {
			return refuse(InvalidRequest, "partitions", "partition %d stands twice, or the partitions are not sorted", number)
		}
		if err := s.checkTarget(&t.Partitions[number], number, a.GetBrokerIds(), replication); err != nil {
			return err
		}
		added += len(a.GetBrokerIds())
	}
	return s.checkAllocators(0, added)
}

func (s *State) checkTarget(p *Partition, number int64, target []int32, replication int) *Error {
	if p.Phase != Active {
		return refuse(InvalidReplicaAssignment, "partitions", "partition %d is %v; it can be reassigned when it is active", number, p.Phase)
	}
	if len(target) != replication {
		return refuse(InvalidReplicaAssignment, "partitions", "partition %d is to be on %d brokers, not on %d", number, replication, len(target)).limit(replication)
	}
	for i, id := range target {
		if slices.Contains(target[:i], id) {
			return refuse(InvalidReplicaAssignment, "partitions", "partition %d is to have two replicas on broker %d", number, id)
		}
		b, ok := s.img.Broker(id)
		if !ok {
			return refuse(InvalidReplicaAssignment, "partitions", "partition %d is to be on broker %d, which is not registered", number, id)
		}
		if _, here := p.Replica(id); b.Draining && !here {
			return refuse(InvalidReplicaAssignment, "partitions", "partition %d is to be on broker %d, which gives its replicas to others", number, id)
		}
	}
	leaving := len(p.Leaving)
	for _, r := range p.Replicas {
		if !slices.Contains(target, r.Broker) {
			leaving++
		}
	}
	if leaving > MaxLeaving {
		return refuse(PolicyViolation, "partitions", "partition %d would wait to be rid of %d replicas; at most %d are allowed: has its group no leader?", number, leaving, MaxLeaving).limit(MaxLeaving)
	}
	return nil
}

// retarget begins, changes or ends a reassignment of a partition; false: it is as it was.
func (s *State) retarget(p *Partition, target []int32) (changed bool) {
	if p.Target != nil && slices.Equal(p.Target, target) || p.Target == nil && slices.Equal(p.brokers(), target) {
		return false
	}
	p.dropAdded(func(r Replica) bool { return !slices.Contains(target, r.Broker) })
	for _, id := range target {
		if _, ok := p.Replica(id); !ok {
			p.Replicas = append(p.Replicas, s.newReplica(id, true))
		}
	}
	p.Target = slices.Clone(target)
	p.settle()
	return true
}

// newReplica gives out an incarnation. The command has been accepted by then.
func (s *State) newReplica(broker int32, added bool) Replica {
	img := s.edit()
	r := Replica{Broker: broker, Incarnation: img.nextIncarnation, Joining: true, Added: added}
	img.nextIncarnation++
	return r
}

// dropAdded lets replicas leave that the reassignment under way has added.
func (p *Partition) dropAdded(drop func(Replica) bool) {
	p.leave(func(r Replica) bool { return r.Added && drop(r) })
}

// leave moves replicas to Leaving. Both lists are copied.
func (p *Partition) leave(goes func(Replica) bool) {
	stay := make([]Replica, 0, len(p.Replicas))
	leaving := slices.Clone(p.Leaving)
	for _, r := range p.Replicas {
		if goes(r) {
			leaving = append(leaving, Leaving{Broker: r.Broker, Incarnation: r.Incarnation})
		} else {
			stay = append(stay, r)
		}
	}
	p.Replicas, p.Leaving = stay, leaving
}

// settle ends the reassignment if those that shall hold the partition can do without the others: all have,
// or may have, their votes, and a majority of them has data. What shall not stay leaves.
func (p *Partition) settle() (settled bool) {
	if p.Target == nil {
		return false
	}
	whole := 0
	for _, id := range p.Target {
		r, _ := p.Replica(id)
		if r.Joining {
			return false
		}
		if r.whole() {
			whole++
		}
	}
	if 2*whole <= len(p.Target) {
		return false
	}
	p.leave(func(r Replica) bool { return !slices.Contains(p.Target, r.Broker) })
	slices.SortFunc(p.Replicas, func(a, b Replica) int {
		return slices.Index(p.Target, a.Broker) - slices.Index(p.Target, b.Broker)
	})
	for i := range p.Replicas {
		p.Replicas[i].Added = false
	}
	p.Target = nil
	return true
}

func (p *Partition) brokers() []int32 {
	ids := make([]int32, len(p.Replicas))
	for i, r := range p.Replicas {
		ids[i] = r.Broker
	}
	return ids
}

func (s *State) cancelReassignments(c *statev1.CancelReassignments, r *Result) {
	t, err := s.liveTopic(c.GetTopicId())
	if r.Err = err; err != nil {
		return
	}
	r.Topic = t
	changed := *t
	changed.Partitions = slices.Clone(t.Partitions)
	edited := false
	for i := range changed.Partitions {
		p := &changed.Partitions[i]
		if p.Target == nil || len(c.GetPartitions()) > 0 && !slices.Contains(c.GetPartitions(), uint32(i)) {
			continue
		}
		p.dropAdded(func(Replica) bool { return true })
		p.Target = nil
		if len(p.Replicas) != t.Replication {
			r.Err = refuse(InvalidRequest, "partitions", "partition %d is being given another number of replicas, %d instead of %d, which is not cancelled but set back", i, t.Replication, len(p.Replicas))
			return
		}
		edited = true
	}
	if edited {
		s.replaceTopic(&changed)
		r.Topic, r.Changed = &changed, true
	}
}

// replaceReplicas gives lost replicas a successor where they are. The group can do without those that are
// lost only as long as a majority is not.
func (s *State) replaceReplicas(c *statev1.ReplaceReplicas, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	if n := len(c.GetReplicas()); n > MaxReportedReplicas {
		r.Err = refuse(InvalidRequest, "replicas", "%d replicas at once; at most %d are allowed", n, MaxReportedReplicas).limit(MaxReportedReplicas)
		return
	}
	if r.Err = s.checkAllocators(0, len(c.GetReplicas())); r.Err != nil {
		return
	}
	e := &topicEdits{s: s}
	for _, ref := range c.GetReplicas() {
		e.partition(GroupID(ref.GetGroupId()), func(p *Partition) bool {
			i := slices.IndexFunc(p.Replicas, func(r Replica) bool { return r.Incarnation == ref.GetIncarnation() })
			if i < 0 || p.Phase != Active || !p.Replicas[i].Lost || !p.Survives() || len(p.Leaving) >= MaxLeaving {
				return false
			}
			old := p.Replicas[i]
			p.Replicas, p.Leaving = slices.Clone(p.Replicas), slices.Clone(p.Leaving)
			p.Replicas[i] = s.newReplica(old.Broker, old.Added)
			p.Leaving = append(p.Leaving, Leaving{Broker: old.Broker, Incarnation: old.Incarnation})
			return true
		})
	}
	r.Changed = e.finish()
}

// Survives tells whether a majority of the voters is whole.
func (p *Partition) Survives() bool {
	voters, whole := 0, 0
	for _, r := range p.Replicas {
		if r.Joining {
			continue
		}
		voters++
		if r.whole() {
			whole++
		}
	}
	return 2*whole > voters
}

// SurvivesWithout tells whether the group has a majority if all that a broker holds of it is lost: of those that are to vote,
// and of those that may vote until the group is rid of them.
func (p *Partition) SurvivesWithout(broker int32) bool {
	voters, whole, leaving := 0, 0, 0
	for _, r := range p.Replicas {
		if r.Joining {
			continue
		}
		voters++
		if r.whole() && r.Broker != broker {
			whole++
		}
	}
	rest := 0
	for _, l := range p.Leaving {
		if l.Removed {
			continue
		}
		leaving++
		if l.Broker != broker {
			rest++
		}
	}
	return 2*whole > voters && 2*(whole+rest) > voters+leaving
}

// whole tells whether a replica has a directory, and has not lost it.
func (r Replica) whole() bool { return r.Created && !r.Lost }

// reportMembers takes the facts on which members change.
func (s *State) reportMembers(c *statev1.ReportMembers, r *Result) {
	if r.Err = s.checkBroker(c.GetBrokerId(), c.GetNodeIncarnation()); r.Err != nil {
		return
	}
	if n := len(c.GetGroups()); n > MaxReportedReplicas {
		r.Err = refuse(InvalidRequest, "groups", "%d groups in one report; at most %d are allowed", n, MaxReportedReplicas).limit(MaxReportedReplicas)
		return
	}
	e := &topicEdits{s: s}
	for _, g := range c.GetGroups() {
		e.partition(GroupID(g.GetGroupId()), func(p *Partition) bool {
			if p.Phase != Active {
				return false
			}
			promoted := p.promote(g.GetCaughtUp())
			return s.removed(p, g.GetRemoved()) || promoted
		})
	}
	r.Changed = e.finish()
}

// promote ends the joining of replicas that have caught up: of one that replaces another at once, of those
// that a reassignment adds together.
func (p *Partition) promote(caughtUp []uint64) (changed bool) {
	ready := func(r Replica) bool {
		return !r.Joining || r.whole() && slices.Contains(caughtUp, r.Incarnation)
	}
	all := p.Target != nil
	for _, id := range p.Target {
		r, _ := p.Replica(id)
		all = all && ready(r)
	}
	replicas := slices.Clone(p.Replicas)
	for i, r := range replicas {
		if r.Joining && ready(r) && (all || !r.Added) {
			replicas[i].Joining, changed = false, true
		}
	}
	if changed {
		p.Replicas = replicas
		p.settle()
	}
	return changed
}

// removed enters that replicas have left the group. One whose broker is not registered any more is
// forgotten: nobody else could remove its directory.
func (s *State) removed(p *Partition, incarnations []uint64) (changed bool) {
	leaving := make([]Leaving, 0, len(p.Leaving))
	for _, l := range p.Leaving {
		if !l.Removed && slices.Contains(incarnations, l.Incarnation) {
			l.Removed, changed = true, true
			if _, ok := s.img.findBroker(l.Broker); !ok {
				continue
			}
		}
		leaving = append(leaving, l)
	}
	if changed {
		p.Leaving = leaving
	}
	return changed
}

// gone enters that the directory of a leaving replica has been removed, which its broker does once it is
// no member any more.
func (p *Partition) gone(broker int32, incarnation uint64) bool {
	i := slices.IndexFunc(p.Leaving, func(l Leaving) bool { return l.Broker == broker && l.Incarnation == incarnation && l.Removed })
	if i < 0 {
		return false
	}
	p.Leaving = slices.Delete(slices.Clone(p.Leaving), i, i+1)
	return true
}

// Holds tells whether a broker holds a replica that the group may count on.
func (p *Partition) Holds(broker int32) bool {
	_, ok := p.Replica(broker)
	return ok || slices.ContainsFunc(p.Leaving, func(l Leaving) bool { return l.Broker == broker && !l.Removed })
}

// forget enters that a broker's directories are not coming back: of a partition that is being deleted, or of
// replicas that have left.
func (p *Partition) forget(broker int32) (changed bool) {
	for i, r := range p.Replicas {
		if r.Broker == broker && !r.Deleted {
			p.Replicas = slices.Clone(p.Replicas)
			p.Replicas[i].Deleted, changed = true, true
		}
	}
	here := func(l Leaving) bool { return l.Broker == broker }
	if slices.ContainsFunc(p.Leaving, here) {
		p.Leaving, changed = slices.DeleteFunc(slices.Clone(p.Leaving), here), true
	}
	return changed
}

// abandon turns a partition to deleting: there is no group any more whose members could change.
func (p *Partition) abandon() {
	p.Phase, p.Target = Deleting, nil
	p.Replicas, p.Leaving = slices.Clone(p.Replicas), slices.Clone(p.Leaving)
	for i := range p.Replicas {
		r := &p.Replicas[i]
		r.Joining, r.Added, r.Lost = false, false, false
	}
	for i := range p.Leaving {
		p.Leaving[i].Removed = true
	}
}
