package brokertest

import (
	"context"
	"fmt"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// AwaitWhole waits until every group of the cluster has as many voters as it shall have, and each of them has everything: nothing is lost
// that is not rebuilt. The metadata has up to five, every other group three, or one in a cluster of one. The error says what is
// missing when ctx ends.
func (c *Cluster) AwaitWhole(ctx context.Context, cl *client.Client) error {
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	why := "nobody has answered"
	for {
		switch now := c.notWhole(ctx, cl); {
		case now == "":
			return nil
		case ctx.Err() == nil: // else it is the end of ctx that was in the way
			why = now
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster does not become whole: %s", why)
		}
	}
}

// notWhole says what is missing; nothing: "".
func (c *Cluster) notWhole(ctx context.Context, cl *client.Client) string {
	groups, failed, err := cl.RaftGroups(ctx, "")
	if err != nil || len(failed) > 0 {
		return fmt.Sprintf("brokers do not answer: %v %v", failed, err)
	}
	leads, replicas := map[uint64]client.RaftGroup{}, map[uint64]map[int32]client.RaftGroup{}
	for _, g := range groups {
		if g.Role == "leader" && g.Term >= leads[g.GroupID].Term {
			leads[g.GroupID] = g
		}
		if replicas[g.GroupID] == nil {
			replicas[g.GroupID] = map[int32]client.RaftGroup{}
		}
		replicas[g.GroupID][g.Broker] = g
	}
	for id, of := range replicas {
		if why := c.missing(leads[id], of); why != "" {
			return why
		}
	}
	return ""
}

// missing says what a group lacks whose leader knows lead and whose replicas are those.
func (c *Cluster) missing(lead client.RaftGroup, replicas map[int32]client.RaftGroup) string {
	if lead.GroupID == 0 {
		for _, g := range replicas {
			return "nobody leads " + g.Name
		}
	}
	want := min(3, len(c.nodes))
	if n := len(lead.Voters); n != want && (lead.Name != "metadata" || n < want) {
		return fmt.Sprintf("%s has the voters %v", lead.Name, lead.Voters)
	}
	seen := map[int32]bool{}
	for _, v := range lead.Voters {
		broker, _, err := raftgroup.ParseServerID(raftgroup.ServerID(v))
		if err != nil {
			return fmt.Sprintf("a voter of %s: %v", lead.Name, err)
		}
		if seen[broker] {
			return fmt.Sprintf("broker %d votes twice in %s: %v", broker, lead.Name, lead.Voters)
		}
		seen[broker] = true
		g, ok := replicas[broker]
		// An entry or two are always on their way.
		if !ok || g.Problem != "" || g.Role != "leader" && g.Role != "follower" || g.LastIndex+10 < lead.CommitIndex {
			return fmt.Sprintf("%s has the voter %s, of which its broker says: %+v; the leader has committed %d", lead.Name, v, g, lead.CommitIndex)
		}
	}
	return ""
}
