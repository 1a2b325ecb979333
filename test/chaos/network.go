package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/netproxy"
)

// What is done to the traffic between brokers, where the proxy of internal/netproxy carries it. Clients reach every broker all
// the time.
const (
	isCut    = "cut off from the brokers" // in both directions
	isMute   = "mute"                     // hears the other brokers, and none of them hears it
	isDeaf   = "deaf"                     // is heard, and hears none of them
	isOneWay = "one-way cut"              // one other broker does not hear it, or is not heard by it
	isReset  = "resets"                   // its connections break again and again
	isLate   = "delay"                    // all that it sends and gets comes late
	isSlow   = "slow link"
)

// networkFaults are those that a level can inject, to be chosen from.
var networkFaults = []string{isCut, isMute, isDeaf, isOneWay, isReset, isLate, isSlow}

// silences tells whether a broker that leads cannot go on leading: nobody gets what it sends, or it gets no answer.
func silences(what string) bool { return what == isCut || what == isMute || what == isDeaf }

// breakNetwork begins a fault of a broker's traffic; end undoes it, and says whether the fault has touched anything: one that
// has not proves nothing.
func breakNetwork(n *netproxy.Network, rng *rand.Rand, brokers []int32, what string, id int32) (detail string, end func() error) {
	before := n.Stats()
	cut := netproxy.Rule{Cut: true}
	stop := func() {}
	switch what {
	case isCut:
		n.SetFrom(id, cut)
		n.SetTo(id, cut)
	case isMute:
		n.SetFrom(id, cut)
	case isDeaf:
		n.SetTo(id, cut)
	case isOneWay:
		from, to := id, brokers[rng.IntN(len(brokers))]
		for to == id {
			to = brokers[rng.IntN(len(brokers))]
		}
		if rng.IntN(2) == 0 {
			from, to = to, from
		}
		detail = fmt.Sprintf(" from %d to %d", from, to)
		n.Set(from, to, cut)
	case isReset:
		stop = resetAgain(n, id)
	case isLate:
		r := netproxy.Rule{Delay: time.Duration(20+rng.IntN(180)) * time.Millisecond, Jitter: time.Duration(rng.IntN(150)) * time.Millisecond}
		detail = fmt.Sprintf(" of %v and up to %v more", r.Delay, r.Jitter)
		n.SetFrom(id, r)
		n.SetTo(id, r)
	case isSlow:
		r := netproxy.Rule{BytesPerSecond: (32 + rng.IntN(224)) << 10}
		detail = fmt.Sprintf(" of %d KiB/s", r.BytesPerSecond>>10)
		n.SetFrom(id, r)
		n.SetTo(id, r)
	}
	// What was held goes on late when the fault is over, or is lost with its connections.
	lose := (silences(what) || what == isOneWay) && rng.IntN(2) == 0
	if lose {
		detail += ", what was held is lost"
	}
	return detail, func() error {
		stop()
		if lose {
			n.Reset(id)
		}
		n.HealAll()
		after := n.Stats()
		if after.Held == before.Held && after.Delayed == before.Delayed && after.Slowed == before.Slowed && after.Reset == before.Reset {
			return fmt.Errorf("%s of broker %d touched no connection: the fault does not bite", what, id)
		}
		return nil
	}
}

// resetAgain breaks all connections of a broker every 200 ms.
func resetAgain(n *netproxy.Network, id int32) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			n.Reset(id)
			if !pause(ctx, 200*time.Millisecond) {
				return
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// awaitElsewhere waits until none of a topic's partitions has its newest leader on a broker that nobody hears.
func awaitElsewhere(ctx context.Context, cl *client.Client, topic string, id int32) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		at := ""
		groups, _, err := cl.RaftGroups(ctx, topic)
		newest := make(map[uint64]client.RaftGroup)
		for _, g := range groups {
			if old, ok := newest[g.GroupID]; g.Role == "leader" && (!ok || g.Term > old.Term) {
				newest[g.GroupID] = g
			}
		}
		for _, g := range newest {
			if g.Broker == id {
				at = g.Name
			}
		}
		if err == nil && len(newest) > 0 && at == "" {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("after 20 s broker %d, which the others do not hear or which does not hear them, still leads %s (%v)", id, at, err)
		}
	}
}
