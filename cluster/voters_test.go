package cluster

import (
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

func TestVotersPlan(t *testing.T) {
	ids := func(brokers ...int32) (list []raftgroup.ServerID) {
		for _, b := range brokers {
			list = append(list, raftgroup.MakeServerID(b, uint64(b)))
		}
		return list
	}
	none := map[int32]bool{}
	for name, c := range map[string]struct {
		registered               int
		voters, learners         []int32
		draining, dead, gone     map[int32]bool
		early                    bool
		wantVoters, wantLearners []int32
		wantLeaving              []int32
		same                     bool
	}{
		"three founders":                 {registered: 3, voters: []int32{1, 2, 3}, wantVoters: []int32{1, 2, 3}, same: true},
		"one founder, a second joins":    {registered: 2, voters: []int32{1}, wantVoters: []int32{1}, wantLearners: []int32{2}},
		"one founder, a third joins":     {registered: 3, voters: []int32{1}, learners: []int32{2, 3}, wantVoters: []int32{1, 2, 3}},
		"the third is dead":              {registered: 3, voters: []int32{1}, learners: []int32{2, 3}, dead: map[int32]bool{3: true}, wantVoters: []int32{1}, wantLearners: []int32{2, 3}, same: true},
		"four are left of five":          {registered: 6, voters: []int32{1, 2, 3, 4, 5}, learners: []int32{6}, gone: map[int32]bool{4: true, 5: true}, wantVoters: []int32{1, 2, 3}, wantLearners: []int32{6}, wantLeaving: []int32{4, 5}},
		"one of two can be replaced":     {registered: 7, voters: []int32{1, 2, 3, 4, 5}, learners: []int32{6, 7}, gone: map[int32]bool{4: true, 5: true}, dead: map[int32]bool{7: true}, wantVoters: []int32{1, 2, 3, 6}, wantLearners: []int32{7}, wantLeaving: []int32{5}},
		"and then the other cannot":      {registered: 7, voters: []int32{1, 2, 3, 4, 6}, learners: []int32{7}, gone: map[int32]bool{4: true, 5: true}, dead: map[int32]bool{7: true}, wantVoters: []int32{1, 2, 3, 6}, wantLearners: []int32{7}, same: true},
		"two drain, one can take over":   {registered: 5, voters: []int32{1, 2, 3}, learners: []int32{4, 5}, draining: map[int32]bool{1: true, 2: true}, dead: map[int32]bool{5: true}, wantVoters: []int32{3, 4, 1}, wantLearners: []int32{5}, wantLeaving: []int32{2}},
		"three of five":                  {registered: 5, voters: []int32{1, 2, 3}, learners: []int32{4, 5}, wantVoters: []int32{1, 2, 3}, wantLearners: []int32{4, 5}, same: true},
		"five founders":                  {registered: 5, voters: []int32{1, 2, 3, 4, 5}, wantVoters: []int32{1, 2, 3, 4, 5}, same: true},
		"founders register":              {registered: 3, voters: []int32{1, 2, 3, 4, 5}, early: true, wantVoters: []int32{1, 2, 3}, same: true},
		"a dead voter stays":             {registered: 4, voters: []int32{1, 2, 3}, learners: []int32{4}, dead: map[int32]bool{3: true}, wantVoters: []int32{1, 2, 3}, wantLearners: []int32{4}, same: true},
		"a voter was unregistered":       {registered: 4, voters: []int32{1, 2, 3}, learners: []int32{4}, gone: map[int32]bool{2: true}, wantVoters: []int32{1, 3, 4}, wantLeaving: []int32{2}},
		"and nobody can take its place":  {registered: 3, voters: []int32{1, 2, 3}, gone: map[int32]bool{2: true}, wantVoters: []int32{1, 3}, same: true},
		"a voter drains":                 {registered: 4, voters: []int32{1, 2, 3}, learners: []int32{4}, draining: map[int32]bool{1: true}, wantVoters: []int32{2, 3, 4}, wantLeaving: []int32{1}},
		"a voter drains, nobody is free": {registered: 3, voters: []int32{1, 2, 3}, draining: map[int32]bool{1: true}, wantVoters: []int32{2, 3, 1}, same: true},
		"it follows then":                {registered: 4, voters: []int32{2, 3, 4}, draining: map[int32]bool{1: true}, wantVoters: []int32{2, 3, 4}, wantLearners: []int32{1}},
		"its successor votes already":    {registered: 5, voters: []int32{1, 2, 3, 4}, learners: []int32{5}, gone: map[int32]bool{2: true}, wantVoters: []int32{1, 3, 4}, wantLearners: []int32{5}, wantLeaving: []int32{2}},
		"that of a draining one does":    {registered: 5, voters: []int32{1, 2, 3, 4}, learners: []int32{5}, draining: map[int32]bool{1: true}, wantVoters: []int32{2, 3, 4}, wantLearners: []int32{5}, wantLeaving: []int32{1}},
		"four founders and a fifth":      {registered: 5, voters: []int32{1, 2, 3, 4}, learners: []int32{5}, wantVoters: []int32{1, 2, 3, 4, 5}},
		"a learner was unregistered":     {registered: 4, voters: []int32{1, 2, 3}, learners: []int32{4}, gone: map[int32]bool{4: true}, wantVoters: []int32{1, 2, 3}, wantLeaving: []int32{4}},
	} {
		s := brokers(t, 0, make([]string, c.registered)...)
		for id := range c.draining {
			apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetDraining{SetDraining: &statev1.SetDraining{BrokerId: id, NodeIncarnation: uint64(id), Draining: true}}})
		}
		for id := range c.gone {
			apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_UnregisterBroker{UnregisterBroker: &statev1.UnregisterBroker{BrokerId: id, NodeIncarnation: uint64(id)}}})
		}
		if c.dead == nil {
			c.dead = none
		}
		plan, needed := votersPlan(raftgroup.Status{Voters: ids(c.voters...), Learners: ids(c.learners...)}, s.Image(),
			func(id int32) bool { return !c.dead[id] }, !c.early)
		if needed == c.same || !slices.Equal(plan.Voters, ids(c.wantVoters...)) || !slices.Equal(plan.Learners, ids(c.wantLearners...)) || !slices.Equal(plan.Leaving, ids(c.wantLeaving...)) {
			t.Errorf("%s: voters %v, learners %v, leaving %v, needed %t", name, plan.Voters, plan.Learners, plan.Leaving, needed)
		}
	}
}

// A cluster that one broker founded has three voters in its metadata group once two others have joined, and
// loses none of what it knows when the founder dies; a founder that is unregistered is replaced.
func TestMetadataVotersFollowTheBrokers(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		r.found(1)
		a := r.start(1)
		r.ready(a)
		voters := func() []raftgroup.ServerID { return (*r.controller().cluster.group.Load()).Status().Voters }
		b, c := r.start(2), r.start(3)
		r.ready(b, c)
		r.within(30*time.Second, "three voters", func() bool { return len(voters()) == 3 })
		d := r.start(4)
		r.ready(d)
		a.stop()
		r.within(30*time.Second, "another controller", func() bool { n := r.controller(); return n != nil && n != a })
		r.within(30*time.Second, "the founder to be forgotten", func() bool {
			return r.controller().cluster.UnregisterBroker(r.context(5*time.Second), 1) == nil
		})
		r.within(2*time.Minute, "the fourth to vote in its place", func() bool {
			v := voters()
			return len(v) == 3 && !slices.ContainsFunc(v, func(id raftgroup.ServerID) bool { b, _, _ := raftgroup.ParseServerID(id); return b == 1 })
		})
	})
}
