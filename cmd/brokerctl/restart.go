package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) clusterCanRestart() *cobra.Command {
	return &cobra.Command{
		Use:   "can-restart BROKER",
		Short: "Say whether a broker can be stopped without any partition losing its majority",
		Long: `Ask every broker for its Raft groups and say whether each group with a replica on this
broker keeps a majority of replicas that run and are up to date when it stops. If not,
the exit code is 5 and the groups are listed with what holds them up.

Use it before each step of a rolling restart:

  until brokerctl cluster can-restart 2 -q; do sleep 1; done`,
		Example: `  brokerctl cluster can-restart 2
  brokerctl cluster can-restart 2 -o json`,
		Args:              exactly("BROKER"),
		ValidArgsFunction: p.completeBrokers,
		RunE: func(cmd *cobra.Command, args []string) error {
			broker, err := strconv.ParseInt(args[0], 10, 32)
			if err != nil || broker < 0 {
				return usagef("%q is no broker: want an id, such as 2", args[0])
			}
			return p.with(func(c *client.Client) error { return p.canRestart(cmd.Context(), c, int32(broker)) })
		},
	}
}

// restartJSON is the answer as -o json shows it.
type restartJSON struct {
	Broker int32 `json:"broker"`
	// CanRestart: nothing holds it up.
	CanRestart bool `json:"can_restart"`
	// Groups is how many have a voter there.
	Groups   int              `json:"groups"`
	Blockers []restartBlocker `json:"blockers"`
}

// restartBlocker is a group that would lose its majority.
type restartBlocker struct {
	Group  string `json:"group"`
	Reason string `json:"reason"`
}

func (p *program) canRestart(ctx context.Context, c *client.Client, broker int32) error {
	m, err := c.Metadata(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(m.Brokers, func(b client.Broker) bool { return b.ID == broker }) {
		return fmt.Errorf("there is no broker %d; brokerctl cluster status lists them", broker)
	}
	groups, failed, err := c.RaftGroups(ctx, "")
	if err != nil {
		return err
	}
	out := restartJSON{Broker: broker}
	out.Groups, out.Blockers = restartBlockers(broker, groups)
	// What is not known may stop.
	led := make(map[uint64]bool)
	for _, g := range groups {
		led[g.GroupID] = led[g.GroupID] || g.Role == "leader"
	}
	if !led[metadataGroup] {
		out.Blockers = append(out.Blockers, restartBlocker{"metadata", "it has no leader that answers"})
	}
	for _, t := range m.Topics {
		for _, part := range t.Partitions {
			if (part.Leader < 0 || !led[part.GroupID]) && slices.Contains(part.Replicas, broker) {
				out.Blockers = append(out.Blockers, restartBlocker{fmt.Sprintf("%s/%d", t.Name, part.Partition), "it has no leader that answers"})
			}
		}
	}
	slices.SortFunc(out.Blockers, func(a, b restartBlocker) int { return cmp.Compare(a.Group, b.Group) })
	out.Blockers = slices.CompactFunc(out.Blockers, func(a, b restartBlocker) bool { return a.Group == b.Group })
	out.CanRestart = len(out.Blockers) == 0
	for _, f := range failed {
		p.sayf("broker %d at %s does not answer: %v", f.Broker, f.Address, f.Err)
	}
	if err := p.printRestart(out); err != nil {
		return err
	}
	if !out.CanRestart {
		return &checkError{fmt.Sprintf("broker %d should not be stopped now: %s would lose the majority", broker, plural(int64(len(out.Blockers)), "group"))}
	}
	return nil
}

func (p *program) printRestart(r restartJSON) error {
	if p.json() {
		return p.writeJSON(r)
	}
	if r.CanRestart {
		return writeTo(p.stdout, fmt.Sprintf("broker %d can be stopped: each of its %s keeps a majority\n", r.Broker, plural(int64(r.Groups), "group")))
	}
	const most = 20
	t := newTable("GROUP", "WHY IT WOULD STOP")
	for _, b := range r.Blockers[:min(len(r.Blockers), most)] {
		t.row(b.Group, b.Reason)
	}
	if err := t.write(p.stdout); err != nil {
		return err
	}
	if n := len(r.Blockers) - most; n > 0 {
		return writeTo(p.stdout, fmt.Sprintf("and %d more\n", n))
	}
	return nil
}

// behindAllowed is how many entries a replica may lie behind what its leader has committed and still
// count: under load nobody is ever level.
const behindAllowed = 100

// restartBlockers counts the groups with a voter on a broker, and lists those that would have no
// majority of voters left that run and are up to date.
func restartBlockers(broker int32, groups []client.RaftGroup) (concerned int, blockers []restartBlocker) {
	blockers = []restartBlocker{}
	byGroup := make(map[uint64][]client.RaftGroup)
	for _, g := range groups {
		byGroup[g.GroupID] = append(byGroup[g.GroupID], g)
	}
	for _, id := range slices.Sorted(maps.Keys(byGroup)) {
		replicas := byGroup[id]
		leader := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Role == "leader" && g.Ready })
		if leader < 0 {
			if slices.ContainsFunc(replicas, func(g client.RaftGroup) bool { return g.Broker == broker }) {
				concerned++
				blockers = append(blockers, restartBlocker{replicas[0].Name, "it has no leader that is ready"})
			}
			continue
		}
		voters := brokersOf(replicas[leader].Voters)
		if !slices.Contains(voters, broker) {
			continue
		}
		concerned++
		if reason := withoutBroker(broker, voters, replicas, replicas[leader].CommitIndex); reason != "" {
			blockers = append(blockers, restartBlocker{replicas[leader].Name, reason})
		}
	}
	return concerned, blockers
}

// withoutBroker says why a group has no majority without a broker; empty: it has.
func withoutBroker(broker int32, voters []int32, replicas []client.RaftGroup, committed record.Index) string {
	if len(voters) == 1 {
		return "it has no other replica"
	}
	left := 0
	var missing []string
	for _, v := range voters {
		if v == broker {
			continue
		}
		i := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Broker == v })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("broker %d does not answer", v))
		case replicas[i].Problem != "":
			missing = append(missing, fmt.Sprintf("the replica on broker %d is %s", v, replicas[i].Role))
		case replicas[i].LastIndex+behindAllowed < committed:
			missing = append(missing, fmt.Sprintf("broker %d is %s behind", v, plural(int64(committed-replicas[i].LastIndex), "entry")))
		default:
			left++
		}
	}
	if left > len(voters)/2 {
		return ""
	}
	if len(missing) == 0 {
		missing = []string{"no other has a vote yet"}
	}
	return fmt.Sprintf("%d of %d replicas would be left: %s", left, len(voters), strings.Join(missing, ", "))
}

// brokersOf gives the brokers of server ids, "broker/incarnation".
func brokersOf(servers []string) []int32 {
	var ids []int32
	for _, s := range servers {
		name, _, _ := strings.Cut(s, "/")
		if id, err := strconv.ParseInt(name, 10, 32); err == nil {
			ids = append(ids, int32(id))
		}
	}
	return ids
}
