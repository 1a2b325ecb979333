// Package assign decides which member of a group reads which partition.
//
// Assignors are functions without state: what was assigned before goes in, so that as little as possible moves. The same input gives
// the same output, and the output as input gives itself again.
package assign

import (
	"cmp"
	"slices"
)

// Partition is one partition of the topics of a problem.
type Partition struct {
	// Topic is the topic's place in the list of topics.
	Topic int
	// Number is from 0 to the topic's count, less one.
	Number int32
}

func compare(a, b Partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
}

// Member is one member of a group.
type Member struct {
	// Name orders members: an instance id, which outlives the process, or else a member id. Each is there once.
	Name string
	// Topics it is subscribed to, sorted, as places in the list of topics.
	Topics []int
	// Current is what it has been assigned before, in any order. What is there no more, or is not subscribed to any more,
	// is passed over; no two members may have the same.
	Current []Partition
}

// Assignor gives every partition of every topic that somebody is subscribed to to one of its subscribers. topics has the
// number of partitions of each topic. The result has one sorted list for each member, in their order.
type Assignor func(topics []int32, members []Member) [][]Partition

// Default is the name of the assignor for groups whose members name none.
const Default = "uniform"

// ByName finds an assignor.
func ByName(name string) (Assignor, bool) {
	a, ok := map[string]Assignor{"uniform": Uniform, "range": Range}[name]
	return a, ok
}

// Names lists the assignors, the default one first.
func Names() []string { return []string{"uniform", "range"} }

// inOrder solves the problem with members sorted by name, without what is current no more.
func inOrder(topics []int32, members []Member, solve Assignor) [][]Partition {
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(members[a].Name, members[b].Name) })
	sorted := make([]Member, len(members))
	for i, at := range order {
		m := members[at]
		m.Current = slices.DeleteFunc(slices.Clone(m.Current), func(p Partition) bool {
			_, subscribed := slices.BinarySearch(m.Topics, p.Topic)
			return !subscribed || p.Number < 0 || p.Number >= topics[p.Topic]
		})
		slices.SortFunc(m.Current, compare)
		sorted[i] = m
	}
	result := make([][]Partition, len(members))
	for i, list := range solve(topics, sorted) {
		slices.SortFunc(list, compare)
		result[order[i]] = list
	}
	return result
}

// spread deals total items out to members so that no two of them differ by more than one, and each keeps what it has as far as
// that allows. current has the items of each member, sorted. What is free goes out in turns, or in ranges.
func spread(total int, current [][]int, ranges bool) [][]int {
	if len(current) == 0 {
		return nil
	}
	least, more := total/len(current), total%len(current)
	result := make([][]int, len(current))
	room := make([]int, len(current)) // how many each may still get
	taken := make([]bool, total)
	for i, has := range current { // who has more than the least keeps one more, as long as there is one
		quota := least
		if len(has) > least && more > 0 {
			quota, more = least+1, more-1
		}
		result[i] = slices.Clone(has[:min(len(has), quota)])
		room[i] = quota - len(result[i])
		for _, item := range result[i] {
			taken[item] = true
		}
	}
	for i := range room { // the rest of those that are one more goes to whoever comes first
		if more > 0 && len(result[i])+room[i] == least {
			room[i]++
			more--
		}
	}
	next := 0
	for item := range total {
		if taken[item] {
			continue
		}
		for room[next] == 0 {
			next = (next + 1) % len(room)
		}
		result[next] = append(result[next], item)
		if room[next]--; !ranges {
			next = (next + 1) % len(room)
		}
	}
	return result
}
