package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// mostVoters is how many brokers vote in the metadata group at the most: more make each change slower, and
// five survive two.
const mostVoters = 5

// registerWithin is how long after the beginning of a controller's term a voter that is not registered may be
// a founder that has not got to it yet.
const registerWithin = 30 * time.Second

// followMembers keeps the members of the metadata group in step with the registered brokers.
func (c *Cluster) followMembers(ctx context.Context, t term, img *metadata.Image) error {
	st := t.group.Status()
	plan, needed := votersPlan(st, img, c.Alive, time.Since(t.began) > registerWithin)
	if !needed {
		return nil
	}
	plan.Term = t.term
	_, err := t.group.Reshape(ctx, plan)
	return err
}

// votersPlan says who shall vote in the metadata group, who shall follow it without a vote, and who shall
// leave it; needed is false if it is so already.
//
// The founders vote. With fewer than three brokers that stays so; from the third on, three vote, or as many
// as founded the cluster, made odd. A voter that is unregistered or draining leaves when another has its vote, and in
// its place comes a broker that is alive, the lowest ids first. A voter that is
// only dead keeps its vote: nobody can know whether it comes back. One whose disk was lost is unregistered: its broker has
// another incarnation. Nobody gets a vote that makes their number even: it would take a larger majority and survive no more.
// settled: who is not registered will not be.
func votersPlan(st raftgroup.Status, img *metadata.Image, alive func(int32) bool, settled bool) (plan raftgroup.Plan, needed bool) {
	// going have a vote that others shall have; staying are not registered yet.
	var going, candidates []raftgroup.ServerID
	able, staying := 0, 0
	registered := make(map[raftgroup.ServerID]bool)
	for _, b := range img.Brokers() {
		id := raftgroup.MakeServerID(b.ID, b.Incarnation)
		registered[id] = true
		votes := slices.Contains(st.Voters, id)
		if !b.Draining {
			able++
		}
		switch {
		case votes && b.Draining:
			going = append(going, id)
		case votes:
			plan.Voters = append(plan.Voters, id)
		default:
			plan.Learners = append(plan.Learners, id)
			if !b.Draining && alive(b.ID) {
				candidates = append(candidates, id)
			}
		}
	}
	for _, id := range st.Voters {
		switch {
		case registered[id]:
		case settled || replaced(img, id):
			going = append(going, id)
		default:
			staying++
		}
	}
	want, stay := len(plan.Voters), going
	if able >= 3 {
		size := len(st.Voters)
		if size%2 == 0 && size > want {
			size-- // one is to go: its successor has its vote already
		}
		want = min(max(3, size|1), mostVoters, (able-1)|1)
	}
	added := candidates[:min(len(candidates), max(0, want-len(plan.Voters)))]
	if able >= 3 {
		stay = going[:min(len(going), max(0, want-len(plan.Voters)-len(added)))]
	}
	if n := len(added); n > 0 && (len(plan.Voters)+n+len(stay)+staying)%2 == 0 {
		added = added[:n-1]
	}
	plan.Voters = slices.Concat(plan.Voters, added)
	plan.Learners = slices.DeleteFunc(plan.Learners, func(id raftgroup.ServerID) bool { return slices.Contains(added, id) })
	plan.Leaving = slices.Clone(going[len(stay):])
	for _, id := range stay {
		if registered[id] {
			plan.Voters = append(plan.Voters, id)
		}
	}
	for _, id := range st.Learners {
		if !registered[id] {
			plan.Leaving = append(plan.Leaving, id)
		}
	}
	needed = len(added) > 0 || len(plan.Leaving) > 0
	for _, id := range plan.Learners {
		needed = needed || !slices.Contains(st.Learners, id)
	}
	return plan, needed
}

// replaced tells whether a voter's broker is registered under another incarnation: that voter has lost its disk.
func replaced(img *metadata.Image, id raftgroup.ServerID) bool {
	broker, incarnation, err := raftgroup.ParseServerID(id)
	if err != nil {
		return false
	}
	b, ok := img.Broker(broker)
	return ok && b.Incarnation != incarnation
}
