package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/oncelog/oncelog/client"
)

// replicas looks at every group: which of its replicas run, are whole and are level with their leader.
func (v *viewed) replicas() {
	var damaged, behind, missing, risk []string
	reasons := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(v.groups)) {
		replicas := v.groups[id]
		leader := slices.IndexFunc(replicas, func(g client.RaftGroup) bool { return g.Role == "leader" && g.Ready })
		for _, g := range replicas {
			if g.Problem != "" || g.Role == "stopped" || g.Role == "quarantined" {
				name := fmt.Sprintf("%s on broker %d", g.Name, g.Broker)
				damaged = append(damaged, name)
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
	for _, name := range damaged[:min(len(damaged), maxTold)] {
		v.found(isProblem, "replica_stopped", []string{name}, reasons[name],
			"if it is damaged or lost, it is rebuilt by itself as long as a majority of its group is whole. Else start its broker again, which reads anew what the disk holds")
	}
	if n := len(damaged) - maxTold; n > 0 {
		v.found(isProblem, "replica_stopped", damaged[maxTold:], fmt.Sprintf("and %d more replicas are stopped", n), "brokerctl cluster groups shows them all")
	}
	if len(risk) > 0 {
		v.found(isProblem, "majority_at_risk", risk, fmt.Sprintf("the next failure stops %s, which have no replica to spare: %s", plural(int64(len(risk)), "group"), shorten(risk, 8)),
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

// maxTold bounds findings of one kind that are told one by one.
const maxTold = 8

// rebuilding tells of learners: replicas that copy what the others have.
func (v *viewed) rebuilding() {
	var learners []string
	var have, want int64
	for _, id := range slices.Sorted(maps.Keys(v.groups)) {
		for _, g := range v.groups[id] {
			if g.Role != "leader" {
				continue
			}
			joining := brokersOf(g.Learners)
			h, w := copying(v.groups[id], func(_ client.RaftGroup, b int32) bool { return slices.Contains(joining, b) })
			have, want = have+h, want+w
			for _, b := range joining {
				learners = append(learners, fmt.Sprintf("%s on broker %d", g.Name, b))
			}
		}
	}
	if len(learners) > 0 {
		v.found(isWarning, "rebuilding", learners, fmt.Sprintf("%s being filled, %s of %s are there: %s", plural(int64(len(learners)), "new replica"), size(have), size(want), shorten(learners, 8)),
			"wait; catch_up.bytes_per_second bounds how fast it goes")
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
