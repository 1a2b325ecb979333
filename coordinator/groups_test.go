package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/record"
)

// G19, G21, G27: offsets of a group without members, bad ones refused one by one.
func TestOffsetsAreCommitted(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		r.wantCommitted(b, "g", -1, -1)
		r.mustCommit(b, "g", nobodyInGroup, 7, 8)
		r.wantCommitted(b, "g", 7, 8, -1)
		at := func(topic string, n int32) record.TopicPartition {
			return record.TopicPartition{Topic: topic, Partition: n}
		}
		refusals, err := b.groups.CommitOffsets(context.Background(), CommitRequest{Group: "g", By: nobodyInGroup, Offsets: []OffsetToCommit{
			{TopicPartition: at("nowhere", 0), Offset: 1}, {TopicPartition: at("orders", 6), Offset: 1}, {TopicPartition: at("orders", 1), Offset: 10},
			{TopicPartition: at("orders", 2), Offset: 1, Metadata: strings.Repeat("x", 4097)}, {TopicPartition: at("orders", 1), Offset: 9},
		}})
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for _, f := range refusals {
			codes = append(codes, f.String()+" "+string(f.Code))
		}
		want := []string{"nowhere/0 UNKNOWN_TOPIC_OR_PARTITION", "orders/2 OFFSET_METADATA_TOO_LARGE", "orders/6 UNKNOWN_TOPIC_OR_PARTITION"}
		if !slices.Equal(codes, want) {
			t.Fatalf("refused %v, want %v", codes, want)
		}
		r.wantCommitted(b, "g", 7, 9, -1)
		_, err = b.groups.CommitOffsets(context.Background(), CommitRequest{Group: "g", By: group.Committer{MemberID: "m", Epoch: 3}, Offsets: offsetsOf(1)})
		wantCode(t, err, CodeUnknownMemberID)
		all, err := b.groups.FetchOffsets(context.Background(), FetchRequest{Group: "g", By: nobodyInGroup})
		if err != nil || len(all) != 2 {
			t.Fatalf("all offsets: %+v, %v", all, err)
		}
		again := []WantedTopic{{"orders", []int32{1, 0, 1}}, {"lost", []int32{0}}, {"orders", []int32{0, 2, 2}}, {"lost", []int32{0}}}
		some, err := b.groups.FetchOffsets(context.Background(), FetchRequest{Group: "g", By: nobodyInGroup, Topics: again})
		var named []string
		for _, f := range some {
			named = append(named, at(f.Topic, f.Partition).String())
		}
		if once := []string{"orders/1", "orders/0", "lost/0", "orders/2"}; err != nil || !slices.Equal(named, once) {
			t.Fatalf("offsets of %v, %v; want those of %v", named, err, once)
		}
	})
}

// G30: groups and offsets that are deleted, topics that are.
func TestDeletion(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		r.mustCommit(b, "g", nobodyInGroup, 1, 2, 3)
		if subscribed, err := b.groups.DeleteOffsets(ctx, "g", []WantedTopic{{"orders", []int32{2, 0}}}); err != nil || len(subscribed) > 0 {
			t.Fatal(subscribed, err)
		}
		r.wantCommitted(b, "g", -1, 2, -1)
		c := r.joinGroup(b, "g", "m", "")
		c.until(6)
		wantCode(t, b.groups.Delete(ctx, "g"), CodeNonEmptyGroup)
		if subscribed, err := b.groups.DeleteOffsets(ctx, "g", []WantedTopic{{"orders", []int32{1}}}); err != nil || !slices.Equal(subscribed, []string{"orders"}) {
			t.Fatal(subscribed, err)
		}
		if err := c.m.Say(ctx, MemberMessage{Leave: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.m.Next(ctx); !errors.Is(err, ErrLeft) {
			t.Fatalf("after leaving: %v", err)
		}
		c.m.Close()
		r.wantCommitted(b, "g", -1, 2)
		r.setTopics(Topic{"orders", group.TopicID{2}, 6}) // deleted and created again
		time.Sleep(time.Second)
		r.wantCommitted(b, "g", -1, -1)
		if err := b.groups.Delete(ctx, "g"); err != nil {
			t.Fatal(err)
		}
		wantCode(t, b.groups.Delete(ctx, "g"), CodeGroupIDNotFound)
		_, err := b.groups.Describe(ctx, "g")
		wantCode(t, err, CodeGroupIDNotFound)
	})
}

// An offset in a topic that was deleted is none in the next one of its name, and is not taken for one.
func TestOffsetsOfAnotherTopicAreRefused(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		r.setTopics(Topic{"orders", group.TopicID{2}, 6})
		for id, want := range map[group.TopicID]Code{{1}: CodeUnknownTopicID, {2}: "", {}: ""} {
			refused, err := b.groups.CommitOffsets(ctx, CommitRequest{Group: "g", By: nobodyInGroup, Offsets: []OffsetToCommit{
				{TopicPartition: record.TopicPartition{Topic: "orders"}, TopicID: id, Offset: 5, LeaderEpoch: -1}}})
			if err != nil || (want == "") != (len(refused) == 0) || len(refused) > 0 && refused[0].Code != want {
				t.Errorf("of topic %v: refused %+v, %v", id, refused, err)
			}
		}
	})
}

// G16: members come and go, nobody gets what another has, and all of it is there after the leader has died.
func TestMembersShareAndSurviveTheirCoordinator(t *testing.T) {
	runGroups(t, 3, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		one := r.joinGroup(b, "g", "m1", "")
		one.until(6)
		two := r.joinGroup(b, "g", "m2", "")
		one.until(3)
		two.until(3)
		for _, p := range one.last.owned() {
			if slices.Contains(two.last.owned(), p) {
				t.Fatalf("both have %v", p)
			}
		}
		r.mustCommit(b, "g", group.Committer{MemberID: "m2", Epoch: two.last.Epoch}, 4)
		_, err := b.groups.CommitOffsets(ctx, CommitRequest{Group: "g", By: group.Committer{MemberID: "m2", Epoch: two.last.Epoch + 1}, Offsets: offsetsOf(5)})
		wantCode(t, err, CodeStaleMemberEpoch)
		d, err := b.groups.Describe(ctx, "g")
		if err != nil || len(d.Members) != 2 || d.Phase != group.PhaseStable {
			t.Fatalf("%+v, %v", d, err)
		}
		one.next() // the epoch at which it keeps what it has kept
		b.stop()
		_, err = one.m.Next(ctx)
		wantCode(t, err, CodeNotCoordinator)
		next := r.leaderOf(KindGroups)
		r.wantCommitted(next, "g", 4, -1)
		m, err := next.groups.OpenMembership(ctx, MemberRequest{Group: "g", MemberID: "m1", Epoch: one.last.Epoch, Owned: one.last.owned()})
		if err != nil {
			t.Fatal(err)
		}
		epoch := one.last.Epoch
		one.m = m
		if one.next(); one.last.Epoch != epoch || len(one.last.owned()) != 3 {
			t.Fatalf("after the coordinator has moved: %+v", one.last)
		}
		// The other one never comes: its session ends, and the first gets all.
		one.until(6)
		one.m.Close()
	})
}

// G20: requests that are older than KIP-848 do not commit for its members; for others they do.
func TestCommitsBeforeKIP848(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		a, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		commit := func(id string, by group.Committer, old bool) error {
			_, err := b.groups.CommitOffsets(ctx, CommitRequest{Group: id, By: by, Offsets: offsetsOf(5), BeforeKIP848: old})
			return err
		}
		member := group.Committer{MemberID: a.MemberID, Epoch: a.Epoch}
		wantCode(t, commit("g", member, true), CodeUnsupportedVersion)
		later := member
		later.Epoch++
		wantCode(t, commit("g", later, true), CodeUnsupportedVersion)
		wantCode(t, commit("g", group.Committer{MemberID: "other", Epoch: a.Epoch}, true), CodeUnknownMemberID)
		r.wantCommitted(b, "g", -1)
		if err := errors.Join(commit("g", member, false), commit("simple", nobodyInGroup, true)); err != nil {
			t.Fatal(err)
		}
		r.wantCommitted(b, "g", 5)
		r.wantCommitted(b, "simple", 5)
	})
}

// T11, G22: a commit in a transaction of a producer that nobody can have is refused for the transaction's reason.
func TestCommitsOfNegativeProducers(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		commit := func(p Producer) error {
			_, err := b.groups.CommitInTransaction(context.Background(), TransactionalCommit{TransactionalID: "tx", Producer: p, Group: "g", By: nobodyInGroup, Offsets: offsetsOf(1), Version: 2})
			return err
		}
		wantCode(t, commit(NoProducer), CodeInvalidProducerIDMapping)
		for _, answer := range []Code{"", CodeProducerFenced, CodeConcurrentTransactions, CodeTransactionAbortable} {
			r.joins = func(j Joining) error {
				if j.Version != 1 || j.Producer.Epoch < 0 {
					t.Errorf("asked as %+v", j)
				}
				if answer == "" {
					return nil
				}
				return refused(answer, "as the test wants")
			}
			wantCode(t, commit(Producer{7, -1}), CodeInvalidProducerEpoch)
		}
		r.joins = func(Joining) error { return refused(CodeInvalidProducerIDMapping, "another one's") }
		wantCode(t, commit(Producer{7, -1}), CodeInvalidProducerIDMapping)
		r.wantCommitted(b, "g", -1)
	})
}

// Kafka's heartbeats: one question, one answer (G14, G15, G17).
func TestHeartbeats(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		_, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "m", Epoch: 4})
		wantCode(t, err, CodeGroupIDNotFound)
		sub := Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute}
		a, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", Subscription: sub})
		if err != nil || a.MemberID == "" || a.Epoch < 1 || len(a.owned()) != 6 || a.Interval != 5*time.Second {
			t.Fatalf("%+v, %v", a, err)
		}
		again, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: a.MemberID, Epoch: a.Epoch})
		if err != nil || again.Epoch != a.Epoch || len(again.owned()) != 6 {
			t.Fatalf("%+v, %v", again, err)
		}
		other, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "other", Subscription: sub})
		if err != nil || len(other.owned()) != 0 {
			t.Fatalf("%+v, %v: nothing is free yet", other, err)
		}
		time.Sleep(time.Second)
		if a, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: a.MemberID, Epoch: a.Epoch, Owned: a.owned()}); err != nil || len(a.owned()) != 3 {
			t.Fatalf("%+v, %v", a, err)
		}
		if a, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: a.MemberID, Epoch: a.Epoch, Owned: a.owned()}); err != nil {
			t.Fatal(err)
		}
		if other, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "other", Epoch: other.Epoch, Owned: other.owned()}); err != nil || len(other.owned()) != 3 {
			t.Fatalf("%+v, %v", other, err)
		}
		bad := "uniformly"
		_, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "x", Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute, Assignor: &bad}})
		wantCode(t, err, CodeUnsupportedAssignor)
		for _, pattern := range []string{"((", "o)|(a"} { // the second is none without the parentheses that are put around it
			_, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "x", Subscription: Subscription{Pattern: &pattern, RebalanceTimeout: time.Minute}})
			wantCode(t, err, CodeInvalidRegularExpression)
		}
		if a, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: a.MemberID, Epoch: group.LeaveEpoch}); err != nil || a.Epoch != group.LeaveEpoch {
			t.Fatalf("%+v, %v", a, err)
		}
		_, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: a.MemberID, Epoch: 5})
		wantCode(t, err, CodeUnknownMemberID)
		// The session of the other one ends.
		time.Sleep(46 * time.Second)
		_, err = b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "other", Epoch: other.Epoch})
		wantCode(t, err, CodeUnknownMemberID)
	})
}

// Topics that a pattern matches are assigned when they appear (G14).
func TestPatternFindsTopics(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, pattern := r.leaderOf(KindGroups), "ord.*|x"
		m, err := b.groups.OpenMembership(context.Background(), MemberRequest{
			Group: "g", MemberID: "m", Subscription: Subscription{Pattern: &pattern, RebalanceTimeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		c := &consumer{t: t, m: m, id: "m"}
		c.until(6)
		r.setTopics(Topic{"orders", group.TopicID{1}, 8}, Topic{"xx", group.TopicID{2}, 1}, Topic{"x", group.TopicID{3}, 1}, Topic{"ordinary", group.TopicID{4}, 2})
		c.until(11)
		m.Close()
	})
}

// A pattern matches nothing that its member may not see, which others may be assigned.
func TestPatternFindsWhatItsMemberSees(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		r.setTopics(Topic{"orders", group.TopicID{1}, 6}, Topic{"secret", group.TopicID{2}, 3})
		b, pattern := r.leaderOf(KindGroups), ".*"
		open := func(id string, sees func(string) bool) *consumer {
			m, err := b.groups.OpenMembership(context.Background(), MemberRequest{
				Group: "g-" + id, MemberID: id, Subscription: Subscription{Pattern: &pattern, RebalanceTimeout: time.Minute}, Sees: sees})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Close)
			return &consumer{t: t, m: m, id: id}
		}
		half := open("half", func(topic string) bool { return topic != "secret" && topic != "hidden" })
		half.until(6)
		open("all", nil).until(9)
		r.setTopics(Topic{"orders", group.TopicID{1}, 6}, Topic{"secret", group.TopicID{2}, 3}, Topic{"hidden", group.TopicID{3}, 4}, Topic{"x", group.TopicID{4}, 2})
		half.until(8)
	})
}

// G22 to G26, T9: offsets in a transaction wait for its marker.
func TestOffsetsInTransaction(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		r.mustCommit(b, "g", nobodyInGroup, 1, 1)
		commit := func(epoch record.Epoch, offsets ...record.Offset) error {
			_, err := b.groups.CommitInTransaction(ctx, TransactionalCommit{
				TransactionalID: "tx", Producer: Producer{5, epoch}, Group: "g", By: nobodyInGroup, Offsets: offsetsOf(offsets...), Version: 2})
			return err
		}
		marker := func(epoch record.Epoch, coordinator int32, commit bool) error {
			return b.groups.WriteMarkers(ctx, []Marker{{TopicPartition: record.TopicPartition{Topic: KindGroups.Topic()}, ProducerID: 5, Epoch: epoch, CoordinatorEpoch: coordinator, Commit: commit, Version: 2}})[0]
		}
		for i, ok := range []bool{true, false} {
			epoch := record.Epoch(i)
			for range 2 {
				if err := commit(epoch, record.Offset(10+i)); err != nil {
					t.Fatal(err)
				}
			}
			if len(r.joined) != i+1 {
				t.Fatalf("asked %d times: %+v", len(r.joined), r.joined)
			}
			r.wantCommitted(b, "g", -2, 1)
			if err := marker(epoch+1, 1, ok); err != nil {
				t.Fatal(err)
			}
			r.wantCommitted(b, "g", 10, 1)
		}
		if j := r.joined[0]; j.TransactionalID != "tx" || j.Producer != (Producer{5, 0}) || j.Topic != "__consumer_offsets" || j.Version != 2 {
			t.Fatalf("asked %+v", j)
		}
		wantCode(t, commit(1, 3), CodeInvalidProducerEpoch) // a zombie (P9)
		wantCode(t, marker(2, 0, true), CodeCoordinatorFenced)
		r.joins = func(Joining) error { return &Error{Code: CodeProducerFenced, Message: "test"} }
		wantCode(t, commit(2, 3), CodeInvalidProducerEpoch)
		r.wantCommitted(b, "g", 10, 1)
		_, err := b.groups.CommitInTransaction(ctx, TransactionalCommit{TransactionalID: "tx", Producer: Producer{5, 2}, By: nobodyInGroup})
		wantCode(t, err, CodeInvalidGroupID)
	})
}

// G29: what nobody needs is forgotten in time, and not at once when the clock jumps.
// A coordinator that has not heard of a topic, or of its deletion, does not say that there is no offset before it has asked: a consumer would
// start over (G27).
func TestOffsetsWhereMetadataLags(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		r.mustCommit(b, "g", nobodyInGroup, 7, 8)
		_, err := b.groups.CommitInTransaction(ctx, TransactionalCommit{
			TransactionalID: "tx", Producer: Producer{5, 0}, Group: "g", By: nobodyInGroup, Offsets: offsetsOf(9), Version: 2})
		if err != nil {
			t.Fatal(err)
		}
		now := r.All()
		for what, heard := range map[string][]Topic{"nothing": nil, "an older topic": {{"orders", group.TopicID{9}, 6}}} {
			all := FetchRequest{Group: "g", By: nobodyInGroup}
			some := FetchRequest{Group: "g", By: nobodyInGroup, Topics: []WantedTopic{{"orders", []int32{1}}}}
			r.setConfirms(func() error { return errors.New("no controller") })
			r.setTopics(heard...)
			_, err := b.groups.FetchOffsets(ctx, some)
			wantCode(t, err, CodeNotAvailable)
			if heard != nil { // otherwise all are given as they are
				_, err = b.groups.FetchOffsets(ctx, all)
				wantCode(t, err, CodeNotAvailable)
			}
			r.setConfirms(func() error { r.setTopics(now...); return nil })
			r.wantCommitted(b, "g", -2, 8) // the first is pending
			r.setTopics(heard...)
			if found, err := b.groups.FetchOffsets(ctx, all); err != nil || len(found) != 2 {
				t.Fatalf("%s heard: %+v, %v", what, found, err)
			}
			r.setTopics(now...)
		}
		r.setConfirms(nil)
		r.setTopics(Topic{"orders", group.TopicID{2}, 6}) // deleted, and another one made
		r.wantCommitted(b, "g", -1, -1)
	})
}

// A coordinator that has not heard that a topic was made anew does not put offsets of the old one in the place of those of the new one (G27).
func TestCommitsWhereMetadataLags(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		now, old := r.All(), []Topic{{"orders", group.TopicID{9}, 6}}
		plain := func(o record.Offset) error {
			_, err := b.groups.CommitOffsets(ctx, CommitRequest{Group: "g", By: nobodyInGroup, Offsets: offsetsOf(o)})
			return err
		}
		inTransaction := func(o record.Offset) error {
			_, err := b.groups.CommitInTransaction(ctx, TransactionalCommit{
				TransactionalID: "tx", Producer: Producer{5, 0}, Group: "g", By: nobodyInGroup, Offsets: offsetsOf(o), Version: 2})
			return err
		}
		r.mustCommit(b, "g", nobodyInGroup, 7)
		for i, commit := range []func(record.Offset) error{plain, inTransaction} {
			r.setConfirms(func() error { return errors.New("no controller") })
			r.setTopics(old...)
			wantCode(t, commit(100), CodeNotAvailable)
			r.setTopics(now...)
			r.wantCommitted(b, "g", record.Offset(7+i))
			r.setTopics(old...)
			r.setConfirms(func() error { r.setTopics(now...); return nil })
			if err := commit(record.Offset(8 + i)); err != nil {
				t.Fatal(err)
			}
			r.setConfirms(nil)
		}
		if err := b.groups.WriteMarkers(ctx, []Marker{{TopicPartition: record.TopicPartition{Topic: KindGroups.Topic()}, ProducerID: 5, Epoch: 1, CoordinatorEpoch: 1, Commit: true, Version: 2}})[0]; err != nil {
			t.Fatal(err)
		}
		r.wantCommitted(b, "g", 9)
	})
}

func TestOffsetsExpire(t *testing.T) {
	runGroups(t, 1, func(c *GroupsConfig) { c.OffsetsRetention = 3 * time.Hour }, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		r.mustCommit(b, "old", nobodyInGroup, 1)
		time.Sleep(2 * time.Hour)
		r.mustCommit(b, "new", nobodyInGroup, 1)
		r.setClock(100 * 24 * time.Hour)
		time.Sleep(30 * time.Minute)
		r.wantCommitted(b, "old", 1)
		r.setClock(0)
		time.Sleep(time.Hour)
		r.wantCommitted(b, "old", -1)
		r.wantCommitted(b, "new", 1)
		list, _, err := b.groups.List(context.Background(), GroupFilter{}, 10)
		if err != nil || len(list) != 1 || list[0].ID != "new" {
			t.Fatalf("%+v, %v", list, err)
		}
	})
}

// A clock that was wrong from the start makes nothing old that this leader has not watched for a while (R5).
func TestLeaderWithAWrongClockWatchesFirst(t *testing.T) {
	runGroups(t, 1, func(c *GroupsConfig) { c.OffsetsRetention = 3 * time.Hour }, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		r.mustCommit(b, "g", nobodyInGroup, 1)
		b.stop()
		r.setClock(100 * 24 * time.Hour)
		b.start()
		b.open()
		b = r.leaderOf(KindGroups)
		time.Sleep(50 * time.Minute)
		r.wantCommitted(b, "g", 1)
		time.Sleep(30 * time.Minute)
		r.wantCommitted(b, "g", -1)
	})
}

// Members may take as long as they like to give partitions back: clients ask for their max.poll.interval.ms, which is days where records take
// hours.
func TestMembersMayTakeDays(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b := r.leaderOf(KindGroups)
		for i, timeout := range []time.Duration{25 * time.Hour, math.MaxInt32 * time.Millisecond} {
			a, err := b.groups.Heartbeat(context.Background(), MemberRequest{Group: fmt.Sprint("g", i), MemberID: "m",
				Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: timeout}})
			if err != nil || len(a.Topics) != 1 {
				t.Errorf("%v: assigned %+v, %v", timeout, a, err)
			}
		}
		_, err := b.groups.Heartbeat(context.Background(), MemberRequest{Group: "g", MemberID: "m",
			Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: (math.MaxInt32 + 1) * time.Millisecond}})
		if e := wantCode(t, err, CodeInvalidRequest); e.Field != "rebalance_timeout_ms" {
			t.Errorf("%+v", e)
		}
	})
}

// A member whose client finds no topic that it wants is in the group all the same, as in Kafka, and reads once there is one.
func TestMembersMayReadNothing(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		nothing, none := Subscription{Topics: []string{}, MayBeEmpty: true, RebalanceTimeout: time.Minute}, ""
		nothing.Pattern = &none
		m := MemberRequest{Group: "g", MemberID: "m", Subscription: nothing}
		beat := func(sub Subscription) (n int) {
			t.Helper()
			m.Subscription = sub
			for range 3 { // what it has is told, and what is free then
				a, err := b.groups.Heartbeat(ctx, m)
				if err != nil || a.Epoch < 1 {
					t.Fatalf("%+v, %v", a, err)
				}
				m.Epoch, m.Owned, n = a.Epoch, a.owned(), len(a.owned())
				m.Subscription = Subscription{}
				time.Sleep(time.Second)
			}
			return n
		}
		if n := beat(nothing); n != 0 {
			t.Fatalf("a member that wants nothing has %d partitions", n)
		}
		if n := beat(Subscription{Topics: []string{"orders"}, MayBeEmpty: true}); n != 6 {
			t.Errorf("a member that wants all has %d partitions", n)
		}
		described := func() {
			t.Helper()
			d, err := b.groups.Describe(ctx, "g")
			if err != nil || len(d.Members) != 1 || d.Members[0].Pattern != "" {
				t.Errorf("%+v, %v", d.Members, err)
			}
		}
		described()
		if n := beat(Subscription{Topics: []string{}, MayBeEmpty: true}); n != 0 {
			t.Errorf("a member that wants nothing any more has %d partitions", n)
		}
		described()
		nothing.MayBeEmpty = false
		_, err := b.groups.Heartbeat(ctx, MemberRequest{Group: "g", MemberID: "n", Subscription: nothing})
		wantCode(t, err, CodeInvalidRequest)
	})
}

// The bounds are those of the configuration, and are told with their names.
func TestGroupLimits(t *testing.T) {
	runGroups(t, 1, func(c *GroupsConfig) { c.Limits = group.Limits{MaxGroups: 1, MaxMembers: 1} }, func(t *testing.T, r *rig) {
		b, ctx := r.leaderOf(KindGroups), context.Background()
		time.Sleep(time.Second) // until the limits are agreed
		one := r.joinGroup(b, "g", "m1", "")
		one.until(6)
		m, err := b.groups.OpenMembership(ctx, MemberRequest{Group: "g", MemberID: "m2", Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute}})
		if err == nil {
			_, err = m.Next(ctx)
			m.Close()
		}
		if e := wantCode(t, err, CodeGroupMaxSizeReached); e.Limit != "groups.max_size" {
			t.Fatalf("%+v", e)
		}
		_, err = b.groups.CommitOffsets(ctx, CommitRequest{Group: "h", By: nobodyInGroup, Offsets: offsetsOf(1)})
		if e := wantCode(t, err, CodePolicyViolation); e.Limit != "limits.max_groups" {
			t.Fatalf("%+v", e)
		}
		one.m.Close()
	})
}
