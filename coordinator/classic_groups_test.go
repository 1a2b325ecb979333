package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// classicMember is a member of the classic protocol, as clients are: it joins, assigns if it leads, and is heard.
type classicMember struct {
	r            *rig
	b            *testBroker
	group        string
	id, instance string
	// metadata is what it says of itself; empty: something that cannot be read.
	metadata string
	joined   JoinAnswer
	assigned string
}

// join joins in the background; what comes of it is waited for by the function that it gives.
func (m *classicMember) join() func() error {
	done := make(chan error, 1)
	go func() {
		a, err := m.b.groups.JoinGroup(context.Background(), JoinRequest{
			Group: m.group, MemberID: m.id, InstanceID: m.instance, Client: group.Client{ID: "app"}, ProtocolType: "consumer",
			Protocols: []classic.Protocol{{Name: "range", Metadata: []byte(cmp.Or(m.metadata, "m"))}}, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute, MaySkip: true,
		})
		m.joined = a
		if err == nil {
			m.id = a.MemberID
		}
		done <- err
	}()
	return func() error { return <-done }
}

func (m *classicMember) sync() error {
	r := SyncRequest{Group: m.group, MemberID: m.id, InstanceID: m.instance, Generation: m.joined.Generation}
	for i, member := range m.joined.Members {
		r.Assignments = append(r.Assignments, classic.Assignment{MemberID: member.ID, Assignment: fmt.Appendf(nil, "%d of %d", i, len(m.joined.Members))})
	}
	a, err := m.b.groups.SyncGroup(context.Background(), r)
	m.assigned = string(a.Assignment)
	return err
}

func (m *classicMember) committer() group.Committer {
	return group.Committer{MemberID: m.id, InstanceID: m.instance, Epoch: m.joined.Generation}
}

func (m *classicMember) beat() error {
	return m.b.groups.ClassicHeartbeat(context.Background(), m.group, m.committer())
}

// rebalance lets members join together and get their assignments.
func (r *rig) rebalance(members ...*classicMember) {
	r.t.Helper()
	var joins []func() error
	for _, m := range members {
		joins = append(joins, m.join())
	}
	for _, join := range joins {
		if err := join(); err != nil {
			r.t.Fatal(err)
		}
	}
	syncs := make(chan error, len(members))
	for _, m := range members {
		go func() { syncs <- m.sync() }()
	}
	for range members {
		if err := <-syncs; err != nil {
			r.t.Fatal(err)
		}
	}
}

// G5 to G9, G19: members join, are assigned, commit, and go; the generation fences.
func TestClassicGroup(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		one, two := &classicMember{r: r, b: b, group: "g"}, &classicMember{r: r, b: b, group: "g"}
		begun := time.Now()
		r.rebalance(one, two)
		if waited := time.Since(begun); waited < 3*time.Second || waited > 10*time.Second {
			t.Errorf("the first generation began after %v", waited) // G4
		}
		if got := []string{one.assigned, two.assigned}; !slices.Contains(got, "0 of 2") || !slices.Contains(got, "1 of 2") {
			t.Fatalf("assigned %q", got)
		}
		if err := one.beat(); err != nil {
			t.Fatal(err)
		}
		r.mustCommit(b, "g", one.committer(), 7)
		d, err := b.groups.Describe(ctx, "g")
		if err != nil || d.Kind != group.KindClassic || d.Phase != group.PhaseStable || len(d.Classic) != 2 || string(d.Classic[0].Metadata) != "m" || d.Protocol != "range" {
			t.Fatalf("%+v, %v", d, err)
		}
		wantCode(t, b.groups.Delete(ctx, "g"), CodeNonEmptyGroup)
		three := &classicMember{r: r, b: b, group: "g"}
		join := three.join()
		time.Sleep(time.Second)
		wantCode(t, one.beat(), CodeRebalanceInProgress)
		list, _, err := b.groups.List(ctx, GroupFilter{}, 10)
		if err != nil || len(list) != 1 || list[0].Phase != group.PhasePreparingRebalance {
			t.Fatalf("%+v, %v", list, err)
		}
		old := two.committer()
		errs, err := b.groups.LeaveGroup(ctx, "g", []classic.Leaving{{MemberID: two.id}, {MemberID: "nobody"}})
		if err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		wantCode(t, errs[1], CodeUnknownMemberID)
		_, err = b.groups.CommitOffsets(ctx, CommitRequest{Group: "g", By: old, Offsets: offsetsOf(8)})
		wantCode(t, err, CodeUnknownMemberID)
		again := one.join()
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if err := join(); err != nil || three.joined.Generation != 2 || one.joined.Leader != one.id || len(one.joined.Members) != 2 || len(three.joined.Members) > 0 {
			t.Fatalf("%+v, %+v, %v", one.joined, three.joined, err)
		}
		r.wantCommitted(b, "g", 7)
		if _, err := b.groups.LeaveGroup(ctx, "g", []classic.Leaving{{MemberID: one.id}, {MemberID: three.id}}); err != nil {
			t.Fatal(err)
		}
		if err := b.groups.Delete(ctx, "g"); err != nil {
			t.Fatal(err) // whoever hears that the last one has left finds the group empty
		}
	})
}

// G11, G12, G13: another broker leads. The generation goes on; a static member comes back under another id, and gets what it had.
func TestClassicGroupSurvivesItsCoordinator(t *testing.T) {
	runGroups(t, 3, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		one, two := &classicMember{r: r, b: b, group: "g", instance: "i"}, &classicMember{r: r, b: b, group: "g"}
		r.rebalance(one, two)
		r.mustCommit(b, "g", one.committer(), 7)
		stranded := (&classicMember{r: r, b: b, group: "g"}).join()
		time.Sleep(time.Second)
		b.stop()
		wantCode(t, stranded(), CodeNotCoordinator)
		next := r.leaderOf(KindGroups)
		one.b, two.b = next, next
		if err := two.beat(); err != nil {
			t.Fatal(err) // whoever had begun to join has to come again
		}
		r.mustCommit(next, "g", two.committer(), 7, 8)
		back := &classicMember{r: r, b: next, group: "g", instance: "i"}
		if err := back.join()(); err != nil {
			t.Fatal(err)
		}
		if err := back.sync(); err != nil || back.assigned != one.assigned || back.joined.Generation != one.joined.Generation || back.id == one.id {
			t.Fatalf("%+v after %+v: %v", back, one, err)
		}
		wantCode(t, one.beat(), CodeFencedInstanceID)
		_, err := next.groups.CommitOffsets(ctx, CommitRequest{Group: "g", By: one.committer(), Offsets: offsetsOf(9)})
		wantCode(t, err, CodeFencedInstanceID)
		r.mustCommit(next, "g", back.committer(), 9)
		r.wantCommitted(next, "g", 9, 8)
		// G8: both are silent from now on, and the group empties.
		time.Sleep(90 * time.Second)
		d, err := next.groups.Describe(ctx, "g")
		if err != nil || d.Phase != group.PhaseEmpty || d.Epoch < 2 {
			t.Fatalf("%+v, %v", d, err)
		}
		if err := next.groups.Delete(ctx, "g"); err != nil {
			t.Fatal(err)
		}
	})
}

// G18: a group that has members keeps its protocol; an empty one changes it.
func TestClassicGroupAndKIP848(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		heartbeat := func() error {
			_, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "m", Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute}})
			return err
		}
		one := &classicMember{r: r, b: b, group: "g"}
		join := one.join()
		time.Sleep(time.Second) // it waits for others, and nothing is applied yet
		wantCode(t, heartbeat(), CodeGroupIDNotFound)
		if err := join(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, heartbeat(), CodeGroupIDNotFound)
		if _, err := b.groups.LeaveGroup(ctx, "g", []classic.Leaving{{MemberID: one.id}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := heartbeat(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, (&classicMember{r: r, b: b, group: "g"}).join()(), CodeInconsistentProtocol)
	})
}

// G1 to G3, KIP-394, and the bounds of a shard.
func TestClassicGroupRefusals(t *testing.T) {
	limits := group.Limits{MaxGroups: 1, MaxMembers: 1}
	runGroups(t, 1, func(c *GroupsConfig) { c.Limits, c.InitialRebalanceDelay = limits, -1 }, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		time.Sleep(time.Second) // until the limits are agreed
		join := func(change func(*JoinRequest)) (JoinAnswer, error) {
			j := JoinRequest{Group: "g", ProtocolType: "consumer", Protocols: []classic.Protocol{{Name: "range"}}, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute}
			change(&j)
			return b.groups.JoinGroup(ctx, j)
		}
		for _, c := range []struct {
			want   Code
			change func(*JoinRequest)
		}{
			{CodeInvalidGroupID, func(j *JoinRequest) { j.Group = "" }},
			{CodeInvalidSessionTimeout, func(j *JoinRequest) { j.SessionTimeout = time.Second }},
			{CodeInvalidRequest, func(j *JoinRequest) { j.Protocols[0].Name = "\xff" }},
			{CodeInvalidRequest, func(j *JoinRequest) { j.RebalanceTimeout = 0 }},
			{CodeInvalidRequest, func(j *JoinRequest) { j.MemberID = string(make([]byte, group.MaxIDLength+1)) }},
			{CodeInconsistentProtocol, func(j *JoinRequest) { j.Protocols = nil }},
			{CodeUnknownMemberID, func(j *JoinRequest) { j.MemberID = "nobody" }},
		} {
			_, err := join(c.change)
			wantCode(t, err, c.want)
		}
		longest := strings.Repeat("i", group.MaxIDLength)
		if _, err := join(func(j *JoinRequest) { j.InstanceID = longest }); err != nil {
			t.Fatal(err)
		}
		if errs, err := b.groups.LeaveGroup(ctx, "g", []classic.Leaving{{InstanceID: longest}}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		if err := b.groups.Delete(ctx, "g"); err != nil {
			t.Fatal(err)
		}
		a, err := join(func(j *JoinRequest) { j.MustKnowID = true })
		wantCode(t, err, CodeMemberIDRequired)
		_, err = join(func(j *JoinRequest) { j.Group = "h" }) // one group is all that there may be
		if e := wantCode(t, err, CodePolicyViolation); e.Limit != "limits.max_groups" {
			t.Errorf("%+v", e)
		}
		if a, err = join(func(j *JoinRequest) { j.MemberID = a.MemberID }); err != nil || a.Generation != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
		_, err = join(func(*JoinRequest) {})
		wantCode(t, err, CodeGroupMaxSizeReached)
		_, err = b.groups.SyncGroup(ctx, SyncRequest{Group: "g", MemberID: a.MemberID, Generation: 7})
		wantCode(t, err, CodeIllegalGeneration)
		_, err = b.groups.SyncGroup(ctx, SyncRequest{Group: "g", MemberID: a.MemberID, Generation: 1, Assignments: []classic.Assignment{{MemberID: a.MemberID, Assignment: make([]byte, group.MaxOpaque+1)}}})
		wantCode(t, err, CodeInvalidRequest)
		_, err = b.groups.SyncGroup(ctx, SyncRequest{Group: "nowhere", MemberID: a.MemberID, Generation: 1})
		wantCode(t, err, CodeUnknownMemberID)
		errs, err := b.groups.LeaveGroup(ctx, "nowhere", []classic.Leaving{{MemberID: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, errs[0], CodeUnknownMemberID)
		wantCode(t, b.groups.ClassicHeartbeat(ctx, "nowhere", group.Committer{MemberID: "x", Epoch: 1}), CodeUnknownMemberID)
	})
}

// Offsets do not expire while the first members of a group wait for others: they have not read where it stands yet (G29).
func TestOffsetsDoNotExpireWhileMembersGather(t *testing.T) {
	change := func(c *GroupsConfig) {
		c.OffsetsRetention, c.OffsetsRetentionCheck, c.InitialRebalanceDelay = 3*time.Hour, 30*time.Second, 4*time.Minute
	}
	runGroups(t, 1, change, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		r.mustCommit(b, "g", nobodyInGroup, 1)
		r.mustCommit(b, "other", nobodyInGroup, 1)
		time.Sleep(3*time.Hour - time.Minute)
		done := (&classicMember{b: b, group: "g"}).join()
		time.Sleep(3 * time.Minute)
		r.wantCommitted(b, "other", -1)
		r.wantCommitted(b, "g", 1)
		if err := done(); err != nil {
			t.Fatal(err)
		}
	})
}

// A stable group of consumers lets go of offsets that nobody needs any more, as one without members does; those of what it reads stay (G29).
func TestOffsetsOfStableGroupsExpire(t *testing.T) {
	change := func(c *GroupsConfig) { c.OffsetsRetention, c.OffsetsRetentionCheck = 10*time.Minute, time.Minute }
	runGroups(t, 1, change, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		r.setTopics(Topic{"orders", group.TopicID{1}, 6}, Topic{"invoices", group.TopicID{2}, 6})
		m := &classicMember{r: r, b: b, group: "g", metadata: "\x00\x00\x00\x00\x00\x01\x00\x08invoices"}
		r.rebalance(m)
		r.mustCommit(b, "g", m.committer(), 1) // of orders
		r.mustCommit(b, "other", nobodyInGroup, 1)
		for range 25 * time.Minute / (5 * time.Second) {
			time.Sleep(5 * time.Second)
			if err := m.beat(); err != nil {
				t.Fatal(err)
			}
		}
		r.wantCommitted(b, "other", -1)
		r.wantCommitted(b, "g", -1)
	})
}

// Ids that clients are given and have not joined with are held in memory, and count in it like members.
func TestIDsWithoutMembersAreBounded(t *testing.T) {
	runGroups(t, 1, func(c *GroupsConfig) { c.Limits.MaxBytes = 64 << 10 }, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		ask := func(id int) error {
			_, err := b.groups.JoinGroup(context.Background(), JoinRequest{
				Group: fmt.Sprint("g", id%10), Client: group.Client{ID: strings.Repeat("c", 255)}, ProtocolType: "consumer", Protocols: []classic.Protocol{{Name: "range"}},
				SessionTimeout: 30 * time.Minute, RebalanceTimeout: time.Minute, MustKnowID: true,
			})
			return err
		}
		given := 0
		for ; given < 1000; given++ {
			err := ask(given)
			if errorOf(err).Code == CodeMemberIDRequired {
				continue
			}
			if e := wantCode(t, err, CodePolicyViolation); e.Limit != "limits.max_group_bytes" {
				t.Fatalf("%+v", e)
			}
			break
		}
		if given < 100 || given == 1000 {
			t.Errorf("%d ids were given out", given)
		}
		time.Sleep(31 * time.Minute)
		wantCode(t, ask(0), CodeMemberIDRequired)
	})
}
