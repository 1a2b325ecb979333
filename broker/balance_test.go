package broker

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

func ledTest(group raftgroup.GroupID) ledGroup {
	return ledGroup{record.TopicPartition{Topic: "t", Partition: int32(group)}, group}
}

// A partition goes back to its preferred leader once that has been alive for a whole interval, is
// offered once, and again only after a while.
func TestBalancerOffers(t *testing.T) {
	alive := map[int32]bool{2: true, 3: false}
	prefers := map[raftgroup.GroupID]int32{1: 1, 2: 2, 3: 3}
	now := time.Unix(0, 0)
	b := &balancer{self: 1, looked: now,
		heard: func(id int32) time.Time {
			if alive[id] {
				return now
			}
			return time.Unix(0, 0)
		},
		preferred: func(g raftgroup.GroupID) (int32, bool) { to, ok := prefers[g]; return to, ok },
		led: func() []ledGroup {
			return []ledGroup{
				ledTest(1), // ours
				ledTest(2), // 2 shall have it
				ledTest(3), // 3 shall, and is dead
				ledTest(9), // no longer in the metadata
			}
		}}
	offered := func(partition, to int32) []offer {
		return []offer{{ledTest(raftgroup.GroupID(partition)), to}}
	}
	for i, step := range []struct {
		after  time.Duration
		change func()
		want   []offer
	}{
		{time.Second, nil, nil}, // 2 may have come up just now
		{time.Second, nil, offered(2, 2)},
		{time.Second, nil, nil},
		{time.Second, func() { alive[3] = true }, nil},
		{time.Second, func() { alive[3] = false }, nil}, // not for a whole interval
		{time.Second, func() { alive[3] = true }, nil},
		{time.Second, nil, offered(3, 3)},
		{offerAgain - 5*time.Second - 1, nil, nil},
		{1, nil, offered(2, 2)},
	} {
		now = now.Add(step.after)
		if step.change != nil {
			step.change()
		}
		if got := b.look(now); !reflect.DeepEqual(got, step.want) {
			t.Errorf("step %d: offers %v, want %v", i, got, step.want)
		}
	}
}

func TestBalancerGoesOnAfterARefusal(t *testing.T) {
	result := errors.New("nobody knows")
	tried := 0
	now := time.Unix(0, 0)
	b := &balancer{
		self: 1, looked: now.Add(-time.Second), seen: map[int32]bool{2: true}, logger: slog.New(slog.DiscardHandler),
		heard:     func(int32) time.Time { return now },
		preferred: func(raftgroup.GroupID) (int32, bool) { return 2, true },
		led:       func() []ledGroup { return []ledGroup{ledTest(7)} },
		transfer: func(ctx context.Context, _ record.TopicPartition, _ int32) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a hand-over has no time limit")
			}
			tried++
			return result
		},
	}
	turn := func() {
		now = now.Add(time.Second)
		for _, o := range b.look(now) {
			b.hand(t.Context(), o)
		}
	}
	turn()
	turn()
	if tried != 1 {
		t.Errorf("what may have happened was tried %d times within a second", tried)
	}
	now = now.Add(offerAgain)
	turn()
	turn()
	result = &partition.Error{Code: partition.CodeBusy, Outcome: raftgroup.DidNotHappen}
	now = now.Add(offerAgain)
	turn()
	turn()
	turn()
	if tried != 5 {
		t.Errorf("tried %d times, want 5: a refusal is asked again at once", tried)
	}
}
