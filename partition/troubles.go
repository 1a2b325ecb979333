package partition

import (
	"cmp"
	"errors"
	"slices"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// Troubles lists the replicas here that are out of service, with Spec and Problem only, and counts those that know no leader. It is what
// health asks for again and again: Groups costs much more.
func (h *Host) Troubles() (problems []GroupStatus, leaderless int) {
	h.mu.RLock()
	for _, p := range h.problems {
		problems = append(problems, GroupStatus{Spec: p.spec, Problem: p.err.Error()})
	}
	replicas := make([]*Replica, 0, len(h.byGroup))
	for _, r := range h.byGroup {
		replicas = append(replicas, r)
	}
	h.mu.RUnlock()
	for _, r := range replicas {
		if problem := r.problem(); problem != "" {
			problems = append(problems, GroupStatus{Spec: r.spec, Problem: problem})
		} else if leader, _ := r.group.Leader(); leader == "" {
			leaderless++
		}
	}
	slices.SortFunc(problems, func(a, b GroupStatus) int {
		x, y := a.Spec.TopicPartition, b.Spec.TopicPartition
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return problems, leaderless
}

// problem is why the replica is out of service; empty: it is not.
func (r *Replica) problem() string {
	if p := r.group.Problem(); p != "" {
		return p
	}
	if damage := r.damaged.Load(); damage != nil {
		return (*damage).Error()
	}
	return ""
}

// Lost lists the replicas that have lost what they acknowledged, or may have: other replicas have it, and
// these can only be replaced. A replica that cannot be opened for another reason is not among them.
func (h *Host) Lost() []ReplicaSpec {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var list []ReplicaSpec
	for _, p := range h.problems {
		if lost(p.err) {
			list = append(list, p.spec)
		}
	}
	for _, r := range h.byGroup {
		if r.left.Load() {
			list = append(list, r.spec)
		}
	}
	return list
}

// lost tells whether a replica that was not opened for a reason has lost something.
func lost(err error) bool {
	return errors.Is(err, ErrReplicaMissing) || errors.Is(err, ErrReplicaDamaged) || errors.Is(err, raftgroup.ErrStateLost) ||
		errors.Is(err, recordlog.ErrBehindSnapshot) || errors.As(err, new(*recordlog.CorruptionError))
}
