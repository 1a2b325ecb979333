package test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// TestWipedDisksAreRebuilt: every broker in turn loses its power and its disk, while producers write, and is started again on
// an empty one under its id. It comes back as somebody else, gets everything from the others, and votes again everywhere:
// in the end no disk is left that was there in the beginning, and all that was acknowledged is still there once, with the
// state of transactions and groups.
func TestWipedDisksAreRebuilt(t *testing.T) {
	t.Parallel()
	brokertest.Simulate(t, brokertest.Options{LogLevel: silent, Latency: time.Millisecond}, func(t *testing.T, cluster *brokertest.Cluster) {
		s := beginOn(t, cluster)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		s.ctx = ctx
		s.inTransaction("before", "committed")
		if err := s.cl.SetGroupOffsets(ctx, "readers", client.Offsets{only: 1}); err != nil {
			t.Fatal(err)
		}
		want := []string{"committed"}
		p := s.producer(client.ProducerConfig{DeliveryTimeout: time.Minute})
		for _, id := range []int32{s.leader(), s.leader()%3 + 1, (s.leader()+1)%3 + 1} {
			before := s.voters(id)
			var n atomic.Int64
			stop := s.c.Go(func(ctx context.Context) {
				for ; ctx.Err() == nil; n.Add(1) {
					s.write(p, fmt.Sprintf("%d-%d", id, n.Load()))
				}
			})
			s.c.Wipe(id)
			had := n.Load()
			s.until("writes to go on without the broker", func() bool { return n.Load() > had+5 })
			s.c.Restart(id)
			s.whole(id, before)
			stop()
			for i := range n.Load() {
				want = append(want, fmt.Sprintf("%d-%d", id, i))
			}
		}
		s.replicasAgree()
		s.wantStored(want...)
		s.inTransaction("before") // the coordinator knows the id
		if got, err := s.cl.GroupOffsets(ctx, "readers", false, only); err != nil || len(got) != 1 || got[0].Offset != 1 {
			t.Errorf("the group's offset: %+v, %v", got, err)
		}
	})
}

// voters are the names under which a broker votes, in all groups.
func (s *scenario) voters(id int32) map[string]bool {
	s.t.Helper()
	names := map[string]bool{}
	s.until("ask for all groups", func() bool {
		groups, _, err := s.cl.RaftGroups(s.ctx, "")
		for _, g := range groups {
			for _, v := range g.Voters {
				if strings.HasPrefix(v, fmt.Sprintf("%d/", id)) {
					names[fmt.Sprintf("%d: %s", g.GroupID, v)] = true
				}
			}
		}
		return err == nil && len(names) > 0
	})
	return names
}

// whole waits until every group has three voters that have everything, the broker among them under none of the names that
// it had before.
func (s *scenario) whole(id int32, before map[string]bool) {
	s.t.Helper()
	if err := s.c.AwaitWhole(s.ctx, s.cl); err != nil {
		s.t.Fatal(err)
	}
	for name := range s.voters(id) {
		if before[name] {
			s.t.Fatalf("voter %s is still there", name)
		}
	}
}
