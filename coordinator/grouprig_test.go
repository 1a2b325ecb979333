package coordinator

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/record"
)

// runGroups plays a story with groups on some brokers, on virtual time. There is a topic "orders" of six partitions.
func runGroups(t *testing.T, brokers int, change func(*GroupsConfig), story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if change == nil {
			change = func(*GroupsConfig) {}
		}
		r := newRig(t, brokers, nil, change)
		r.setTopics(Topic{"orders", group.TopicID{1}, 6})
		defer r.close()
		story(t, r)
	})
}

// setTopics says which topics there are from now on.
func (r *rig) setTopics(topics ...Topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(topics, func(a, b Topic) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	r.topics = topics
	r.topicsVersion++
	close(r.topicsChanged)
	r.topicsChanged = make(chan struct{})
}

// Topic gives a topic (Topics).
func (r *rig) Topic(name string) (Topic, bool) {
	for _, t := range r.All() {
		if t.Name == name {
			return t, true
		}
	}
	return Topic{}, false
}

// All gives all topics (Topics).
func (r *rig) All() []Topic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.topics
}

// WaitNewer waits for setTopics (Topics).
func (r *rig) WaitNewer(ctx context.Context, version uint64) (uint64, error) {
	for {
		r.mu.Lock()
		now, changed := r.topicsVersion, r.topicsChanged
		r.mu.Unlock()
		if now > version {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Confirm does nothing, since all brokers hear of topics at once, but for tests in which they do not (Topics).
func (r *rig) Confirm(context.Context) error {
	r.mu.Lock()
	f := r.confirms
	r.mu.Unlock()
	if f == nil {
		return nil
	}
	return f()
}

func (r *rig) setConfirms(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.confirms = f
}

// JoinTransaction does with questions what the test wants (Joiner).
func (r *rig) JoinTransaction(_ context.Context, j Joining) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joined = append(r.joined, j)
	if r.joins != nil {
		return r.joins(j)
	}
	return nil
}

func offsetsOf(offsets ...record.Offset) []OffsetToCommit {
	var list []OffsetToCommit
	for i, o := range offsets {
		list = append(list, OffsetToCommit{TopicPartition: record.TopicPartition{Topic: "orders", Partition: int32(i)}, Offset: o, LeaderEpoch: -1})
	}
	return list
}

// nobodyInGroup commits for no member.
var nobodyInGroup = group.Committer{Epoch: group.NoEpochShown}

func (r *rig) mustCommit(b *testBroker, id string, by group.Committer, offsets ...record.Offset) {
	r.t.Helper()
	refusals, err := b.groups.CommitOffsets(context.Background(), CommitRequest{Group: id, By: by, Offsets: offsetsOf(offsets...)})
	if err != nil || len(refusals) > 0 {
		r.t.Fatalf("commit: %v, refused %v", err, refusals)
	}
}

// committed gives the offsets of partitions 0 to n-1 of orders: -1 where there is none, -2 where it is unstable.
func (r *rig) committed(b *testBroker, id string, n int32) []record.Offset {
	r.t.Helper()
	want := WantedTopic{Topic: "orders"}
	for i := range n {
		want.Partitions = append(want.Partitions, i)
	}
	found, err := b.groups.FetchOffsets(context.Background(), FetchRequest{Group: id, By: nobodyInGroup, Topics: []WantedTopic{want}, RequireStable: true})
	if err != nil {
		r.t.Fatal(err)
	}
	var list []record.Offset
	for _, f := range found {
		switch {
		case f.Unstable:
			list = append(list, -2)
		case !f.Found:
			list = append(list, -1)
		default:
			list = append(list, f.Offset.Offset)
		}
	}
	return list
}

func (r *rig) wantCommitted(b *testBroker, id string, want ...record.Offset) {
	r.t.Helper()
	if got := r.committed(b, id, int32(len(want))); !slices.Equal(got, want) {
		r.t.Fatalf("committed in %q: %v, want %v", id, got, want)
	}
}

// consumer is a member as clients are: it does what it is told at once.
type consumer struct {
	t    *testing.T
	m    *Membership
	id   string
	last Assigned
}

func (r *rig) joinGroup(b *testBroker, id, member, instance string) *consumer {
	r.t.Helper()
	m, err := b.groups.OpenMembership(context.Background(), MemberRequest{
		Group: id, MemberID: member, InstanceID: instance, Subscription: Subscription{Topics: []string{"orders"}, RebalanceTimeout: time.Minute},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return &consumer{t: r.t, m: m, id: member}
}

// next waits until the member is told something, does it, and says so. Meanwhile it is heard every five seconds.
func (c *consumer) next() Assigned {
	c.t.Helper()
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		a, err := c.m.Next(ctx)
		cancel()
		if err == nil {
			c.last = a
		} else if wantCode(c.t, err, CodeRequestTimedOut); c.t.Failed() {
			return a
		}
		if err := c.m.Say(context.Background(), MemberMessage{Ack: c.last.Version, Owned: c.last.owned()}); err != nil {
			c.t.Fatal(err)
		}
		if err == nil {
			return a
		}
	}
	c.t.Fatalf("%s is told nothing", c.id)
	return Assigned{}
}

// until goes on until the member has so many partitions.
func (c *consumer) until(partitions int) {
	c.t.Helper()
	for len(c.last.owned()) != partitions || c.last.Epoch == 0 {
		c.next()
	}
}

func (a Assigned) owned() []group.Partition {
	list := []group.Partition{}
	for _, t := range a.Topics {
		for _, n := range t.Partitions {
			list = append(list, group.Partition{TopicID: t.ID, Number: n})
		}
	}
	return list
}
