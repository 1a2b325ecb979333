package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// BrokerState is how a broker is, as it sees it.
type BrokerState struct {
	Broker  int32
	Version string
	// Reasons keep it from being ready; Warnings keep nobody from being served.
	Reasons, Warnings []string
	// ClockAhead is by how much its clock is ahead of this machine's, give or take ClockError, half the time that
	// the question took.
	ClockAhead, ClockError time.Duration
	// ClockJump is by how much its clock has jumped forward and is not believed.
	ClockJump time.Duration
	Disk      DiskState
	// MaxFeatureLevel is the newest feature level that it knows.
	MaxFeatureLevel uint32
}

// DiskState is how a broker's disk is.
type DiskState struct {
	// Free and Total are bytes of the file system; Total is 0 where it does not tell.
	Free, Total int64
	// Full: a write was refused lately for lack of space.
	Full bool
	// Stalled is for how long the longest write under way has been, SlowestSync the longest sync of the last 10 to 20 s.
	Stalled, SlowestSync time.Duration
}

// DescribeBrokers asks every broker how it is. Brokers that do not answer are in failed. The error is that not even the
// list of brokers could be had.
func (c *Client) DescribeBrokers(ctx context.Context) (states []BrokerState, failed []BrokerError, err error) {
	var mu sync.Mutex
	failed, err = c.eachBroker(ctx, func(ctx context.Context, b Broker, cc *grpc.ClientConn) error {
		began := time.Now()
		r, err := clientv1.NewAdminServiceClient(cc).DescribeBroker(ctx, &clientv1.DescribeBrokerRequest{})
		if err != nil {
			return err
		}
		took := time.Since(began)
		d := r.GetDisk()
		ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
		mu.Lock()
		defer mu.Unlock()
		states = append(states, BrokerState{
			Broker: b.ID, Version: r.GetVersion(), Reasons: r.GetReasons(), Warnings: r.GetWarnings(), MaxFeatureLevel: r.GetMaxFeatureLevel(),
			ClockAhead: time.UnixMilli(r.GetTimeMs()).Sub(began.Add(took / 2).Round(0)), ClockError: took/2 + time.Millisecond, ClockJump: ms(r.GetClockJumpMs()),
			Disk: DiskState{Free: d.GetFreeBytes(), Total: d.GetTotalBytes(), Full: d.GetFull(), Stalled: ms(d.GetStalledMs()), SlowestSync: ms(d.GetSlowestSyncMs())},
		})
		return nil
	})
	slices.SortFunc(states, func(a, b BrokerState) int { return int(a.Broker - b.Broker) })
	return states, failed, err
}
