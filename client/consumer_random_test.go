package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// TestConsumerChaos: consumers that read through a storm, and seek and pause now and then, see every
// record of the log in order, without a gap.
func TestConsumerChaos(t *testing.T) {
	seeds(t, 8, func(t *testing.T, seed uint64) {
		bubble(t, func(t *testing.T) {
			x := newChaos(t, seed)
			k := consumer(t, x.c.connect(t), ConsumerConfig{Reset: ResetError, MaxPartitionBytes: 2 << 10, BufferBytes: 8 << 10, MaxPollBytes: 1 << 10})
			if err := k.AssignTopic(bg, "t", Beginning()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(bg)
			var wg sync.WaitGroup
			got := map[int32][]string{}
			wg.Go(func() { x.consume(ctx, k, seed, got) })
			x.run(true)
			x.check(true)
			time.Sleep(time.Minute)
			cancel()
			wg.Wait()
			for i := range int32(3) {
				if want := x.c.partition("t", i).stored(); !slices.Equal(got[i], want) {
					t.Errorf("partition %d: read %d records, log has %d", i, len(got[i]), len(want))
				}
			}
			if t.Failed() {
				t.Errorf("seed %d", seed)
			}
		})
	})
}

// consume reads until ctx ends. Every position that it seeks to is one it has been at.
func (x *chaos) consume(ctx context.Context, k *Consumer, seed uint64, got map[int32][]string) {
	rng := rand.New(rand.NewPCG(seed, 3))
	for {
		fs, err := k.Poll(ctx)
		if err != nil {
			return
		}
		for _, f := range fs {
			if f.Err != nil {
				x.t.Errorf("%v: %v", f.TopicPartition, f.Err)
				return
			}
			for r, err := range f.Records() {
				if err != nil {
					x.t.Error(err)
					return
				}
				if r.Offset != record.Offset(len(got[f.Partition])) {
					x.t.Errorf("%v: offset %d after %d", f.TopicPartition, r.Offset, len(got[f.Partition])-1)
					return
				}
				got[f.Partition] = append(got[f.Partition], string(r.Value))
			}
			if pos, _, _ := k.Position(f.TopicPartition); pos < f.Next {
				x.t.Errorf("position %d below %d", pos, f.Next)
			}
		}
		switch p := int32(rng.IntN(3)); rng.IntN(10) {
		case 0:
			back := rng.IntN(len(got[p]) + 1)
			if k.Seek(tp(p), At(record.Offset(back))) == nil {
				got[p] = got[p][:back]
			}
		case 1:
			_ = k.Pause(tp(p)) // never fails: it is assigned
			time.Sleep(time.Duration(rng.IntN(int(time.Second))))
			_ = k.Resume(tp(p))
		}
	}
}
