package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/oncelog/oncelog/client"
)

// replicas looks at every group: which of its replicas run, are whole and are level with their leader.
func (v *viewed) replicas() {
	var behind, missing, risk []string
	reasons, byBroker := map[string]string{}, map[int32][]string{}
	for _, id := range slices.Sorted(maps.Keys(v.groups)) {
		replicas := v.groups[id]
		leader := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Role == "leader" && g.Ready })
		for _, g := range replicas {
			if g.Problem != "" || g.Role == "stopped" || g.Role == "quarantined" {
				name := fmt.Sprintf("%s on broker %d", g.Name, g.Broker)
				byBroker[g.Broker] = append(byBroker[g.Broker], name)
				reasons[name] = fmt.Sprintf("%s is %s: %s", name, g.Role, g.Problem)
			}
		}
		if leader < 0 {
			continue // told as without a leader
		}
		lead := replicas[leader]
		voters := brokersOf(lead.Voters)
		left := 0
		for _, b := range voters {
			i := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Broker == b })
			name := fmt.Sprintf("%s on broker %d", lead.Name, b)
			switch {
			case i < 0:
				missing = append(missing, name)
			case replicas[i].Problem != "":
			case replicas[i].LastIndex+behindAllowed < lead.CommitIndex:
				behind = append(behind, name)
				reasons[name] = fmt.Sprintf("%s by %s", name, plural(int64(lead.CommitIndex-replicas[i].LastIndex), "entry"))
			default:
				left++
			}
		}
		if majority := len(voters)/2 + 1; len(voters) > 1 && left <= majority {
			// A group of two has no failure to spare even when it is whole.
			if left < len(voters) || len(voters) == 2 {
				risk = append(risk, lead.Name)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byBroker)) {
		names := byBroker[id]
		what := reasons[names[0]]
		if len(names) > 1 {
			what = fmt.Sprintf("%s on broker %d are out of service. The first: %s", plural(int64(len(names)), "replica"), id, what)
		}
		v.found(isProblem, "replica_stopped", names, what,
			"if it is damaged or lost, it is rebuilt by itself as long as a majority of its group is whole. Else start its broker again, which reads anew what the disk holds. brokerctl cluster groups shows each")
	}
	if len(risk) > 0 {
		v.found(isProblem, "majority_at_risk", risk, fmt.Sprintf("no replica to spare: the next failure stops %s: %s", plural(int64(len(risk)), "group"), shorten(risk, 8)),
			"stop no other broker; bring back what is missing, or wait for what is behind")
	}
	if len(missing) > 0 {
		v.found(isWarning, "under_replicated", missing, fmt.Sprintf("%s with a vote that nobody answers for: %s", plural(int64(len(missing)), "replica"), shorten(missing, 8)),
			"start their brokers, or drain those that are gone for good")
	}
	if len(behind) > 0 {
		told := make([]string, len(behind))
		for i, name := range behind {
			told[i] = reasons[name]
		}
		v.found(isWarning, "replica_behind", behind, fmt.Sprintf("%s behind: %s", plural(int64(len(behind)), "replica"), shorten(told, 8)),
			"wait, and look again: the number should fall. If it grows, look at that broker's disk and network")
	}
	v.rebuilding()
}

// rebuilding tells of learners: replicas that copy what the others have, or that wait for their broker to do so.
func (v *viewed) rebuilding() {
	var filled, waiting []string
	var have, want int64
	for _, id := range slices.Sorted(maps.Keys(v.groups)) {
		replicas := v.groups[id]
		i := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Role == "leader" })
		if i < 0 {
			continue
		}
		lead := replicas[i]
		h, w := copying(replicas, func(g client.RaftGroup, _ int32) bool { return fills(lead, g) })
		have, want = have+h, want+w
		for _, b := range brokersOf(lead.Learners) {
			name := fmt.Sprintf("%s on broker %d", lead.Name, b)
			switch i := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Broker == b }); {
			case i < 0 && id != metadataGroup:
				waiting = append(waiting, name)
			case i >= 0 && fills(lead, replicas[i]):
				filled = append(filled, name)
			}
		}
	}
	if len(filled) > 0 {
		v.found(isWarning, "rebuilding", filled, fmt.Sprintf("%s being filled, %s of %s are there: %s", plural(int64(len(filled)), "new replica"), size(have), size(want), shorten(filled, 8)),
			"wait; brokerctl cluster status shows how fast it goes, catch_up.bytes_per_second bounds it")
	}
	if len(waiting) > 0 {
		v.found(isWarning, "rebuilding", waiting, fmt.Sprintf("%s to be filled on brokers that do not answer: %s", plural(int64(len(waiting)), "new replica"), shorten(waiting, 8)),
			"start these brokers, or drain those that are gone for good")
	}
}

// leaders compares who leads with who should.
func (v *viewed) leaders() {
	alive := map[int32]bool{}
	for _, b := range v.m.Brokers {
		alive[b.ID] = b.Alive && !b.Draining
	}
	var astray []string
	total := 0
	for _, t := range v.m.Topics {
		for _, part := range t.Partitions {
			if part.Leader < 0 || len(part.Replicas) < 2 || len(part.Target) > 0 {
				continue
			}
			total++
			if first := part.Replicas[0]; first != part.Leader && alive[first] {
				astray = append(astray, fmt.Sprintf("%s/%d", t.Name, part.Partition))
			}
		}
	}
	if len(astray)*10 > total {
		v.found(isWarning, "leaders_unbalanced", astray, fmt.Sprintf("%d of %d partitions are not led by their first replica, which is alive: %s", len(astray), total, shorten(astray, 8)),
			"wait: leaders go back within some rounds of leader_balance; or move one with brokerctl cluster transfer")
	}
}
