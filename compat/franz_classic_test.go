package compat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// coordinatorOf gives the broker that coordinates a group.
func coordinatorOf(t *testing.T, ctx context.Context, admin *kgo.Client, group string) int32 {
	t.Helper()
	for ctx.Err() == nil {
		found := kadm.NewClient(admin).FindGroupCoordinators(ctx, group)
		if r, ok := found[group]; ok && r.Err == nil {
			return r.NodeID
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatal("no coordinator")
	return 0
}

// classicMember is a consumer of a test, and what it has.
type classicMember struct {
	cl  *kgo.Client
	mu  sync.Mutex
	has map[int32]bool
	// gained and lost count partitions over time.
	gained, lost int
}

func startClassicMember(t *testing.T, c *brokerproc.Cluster, group string, opts ...kgo.Opt) *classicMember {
	t.Helper()
	m := &classicMember{has: map[int32]bool{}}
	change := func(have bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, n := range topics["in"] {
				if have {
					m.has[n] = true
					m.gained++
				} else {
					delete(m.has, n)
					m.lost++
				}
			}
		}
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...), kgo.ConsumerGroup(group), kgo.ConsumeTopics("in"),
		kgo.SessionTimeout(8 * time.Second), kgo.HeartbeatInterval(time.Second), kgo.RebalanceTimeout(10 * time.Second),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.cl = cl
	return m
}

func (m *classicMember) partitions() []int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.has))
}

// settled waits until members share all partitions, each one once.
func settled(t *testing.T, n int, members ...*classicMember) {
	t.Helper()
	var has []int32
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		has = nil
		for _, m := range members {
			has = append(has, m.partitions()...)
		}
		slices.Sort(has)
		if len(has) == n && len(slices.Compact(has)) == n {
			return
		}
	}
	t.Fatalf("not settled: %v", has)
}

// G11: a group goes on with its generation when its coordinator is killed, again and again, and members that come meanwhile get
// their share; nothing is read by two.
func TestFranzClassicGroupThroughCoordinatorKills(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "groups of the classic protocol, eager and cooperative, whose coordinator is killed again and again")
	for name, opts := range map[string][]kgo.Opt{"cooperative": nil, "eager": {kgo.Balancers(kgo.RoundRobinBalancer())}} {
		t.Run(name, func(t *testing.T) {
			const partitions = 6
			c := startCluster(t)
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			admin := franzClient(t, c)
			createTopic(t, admin, "in", partitions)
			members := []*classicMember{startClassicMember(t, c, "g", opts...), startClassicMember(t, c, "g", opts...)}
			settled(t, partitions, members...)
			for round := range 3 {
				kill(t, c, coordinatorOf(t, ctx, admin, "g"))
				if round == 1 { // in the middle of it, too
					members = append(members, startClassicMember(t, c, "g", opts...))
				}
				settled(t, partitions, members...)
			}
			last := members[0]
			last.cl.Close()
			settled(t, partitions, members[1:]...)
			for _, m := range members[1:] {
				m.cl.Close()
			}
		})
	}
}

// G12, G13, KIP-345: a static member that restarts gets what it had, and the others notice nothing; a killed coordinator changes nothing
// of that. An operator removes it by its instance id (G9).
func TestFranzStaticMembers(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "static members")
	const partitions = 6
	c := startCluster(t, "groups.initial_rebalance_delay=1s")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "in", partitions)
	static := func(i int) *classicMember {
		return startClassicMember(t, c, "g", kgo.InstanceID(fmt.Sprint("member-", i)), kgo.SessionTimeout(30*time.Second))
	}
	members := []*classicMember{static(0), static(1), static(2)}
	settled(t, partitions, members...)
	for round := range 2 {
		i := round + 1
		had := members[i].partitions()
		before := members[0].lost + members[0].gained
		members[i].cl.Close() // a static member does not leave
		if round == 1 {
			kill(t, c, coordinatorOf(t, ctx, admin, "g"))
		}
		members[i] = static(i)
		settled(t, partitions, members...)
		if got := members[i].partitions(); !slices.Equal(got, had) {
			t.Errorf("member %d has %v after its restart, and had %v", i, got, had)
		}
		if after := members[0].lost + members[0].gained; after != before {
			t.Errorf("member 0 gained or lost %d partitions meanwhile", after-before)
		}
	}
	gone := members[2]
	gone.cl.Close()
	left, err := kadm.NewClient(admin).LeaveGroup(ctx, kadm.LeaveGroup("g").InstanceIDs("member-2", "member-9"))
	if err != nil || left["member-2"].Err != nil || left["member-9"].Err == nil {
		t.Errorf("leave: %+v, %v", left, err)
	}
	settled(t, partitions, members[:2]...)
	for _, m := range members[:2] {
		m.cl.Close()
	}
}
