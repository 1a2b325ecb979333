package assign

import (
	"fmt"
	"slices"
)

// Range gives each member a range of each topic's partitions. Topics with as many partitions and the same subscribers are dealt
// out alike, so that partitions of the same number go to the same member: what has to be joined meets in one place. Members keep
// what they have where that is possible, and then their ranges have gaps.
func Range(topics []int32, members []Member) [][]Partition {
	return inOrder(topics, members, func(topics []int32, members []Member) [][]Partition {
		result := make([][]Partition, len(members))
		for _, class := range alike(topics, members) {
			for i, numbers := range spread(int(topics[class.topics[0]]), class.current(members), true) {
				member := class.members[i]
				for _, t := range class.topics {
					for _, n := range numbers {
						result[member] = append(result[member], Partition{t, int32(n)})
					}
				}
			}
		}
		return result
	})
}

// class are topics that are dealt out alike.
type class struct {
	topics, members []int
}

// alike sorts the topics that somebody is subscribed to into classes.
func alike(topics []int32, members []Member) []class {
	var classes []class
	place := make(map[string]int)
	for t := range topics {
		var who []int
		for i, m := range members {
			if _, ok := slices.BinarySearch(m.Topics, t); ok {
				who = append(who, i)
			}
		}
		if len(who) == 0 || topics[t] == 0 {
			continue
		}
		key := fmt.Sprint(topics[t], who)
		at, ok := place[key]
		if !ok {
			at = len(classes)
			place[key] = at
			classes = append(classes, class{members: who})
		}
		classes[at].topics = append(classes[at].topics, t)
	}
	return classes
}

// current is what the members of the class have of that topic of which most is assigned.
func (c class) current(members []Member) [][]int {
	var best [][]int
	most := -1
	for _, t := range c.topics {
		n := 0
		has := make([][]int, len(c.members))
		for i, m := range c.members {
			for _, p := range members[m].Current {
				if p.Topic == t {
					has[i] = append(has[i], int(p.Number))
					n++
				}
			}
		}
		if n > most {
			best, most = has, n
		}
	}
	return best
}
