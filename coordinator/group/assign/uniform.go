package assign

import (
	"cmp"
	"slices"
)

// Uniform gives all members the same number of partitions, as far as their subscriptions allow; to move little comes second.
func Uniform(topics []int32, members []Member) [][]Partition {
	return inOrder(topics, members, func(topics []int32, members []Member) [][]Partition {
		for _, m := range members {
			if !slices.Equal(m.Topics, members[0].Topics) {
				return uneven(topics, members)
			}
		}
		return even(topics, members)
	})
}

// even is for members that are all subscribed to the same topics.
func even(topics []int32, members []Member) [][]Partition {
	if len(members) == 0 {
		return nil
	}
	var all []Partition // by place in this list
	first := make([]int, len(topics))
	for _, t := range members[0].Topics {
		first[t] = len(all)
		for n := range topics[t] {
			all = append(all, Partition{t, n})
		}
	}
	current := make([][]int, len(members))
	for i, m := range members {
		for _, p := range m.Current {
			current[i] = append(current[i], first[p.Topic]+int(p.Number))
		}
	}
	result := make([][]Partition, len(members))
	for i, items := range spread(len(all), current, false) {
		for _, item := range items {
			result[i] = append(result[i], all[item])
		}
	}
	return result
}

// uneven is for members with different subscriptions. Everyone keeps what it has, what is free goes to the subscriber with
// least, and then partitions move along chains of members until no chain makes the loads more equal.
func uneven(topics []int32, members []Member) [][]Partition {
	u := &unevenly{members: members, subscribers: make([][]int, len(topics)), held: make([]map[int][]int32, len(members)), loads: make([]int, len(members)),
		reached: make([]hop, len(members)), seen: make([]int, len(topics))}
	taken := make(map[Partition]bool)
	for i, m := range members {
		u.held[i] = make(map[int][]int32)
		for _, t := range m.Topics {
			u.subscribers[t] = append(u.subscribers[t], i)
		}
		for _, p := range m.Current {
			u.add(i, p)
			taken[p] = true
		}
	}
	for _, t := range u.fewestSubscribersFirst() {
		for n := range topics[t] {
			if p := (Partition{t, n}); !taken[p] {
				u.add(u.leastLoaded(t), p)
			}
		}
	}
	u.balance()
	result := make([][]Partition, len(members))
	for i := range members {
		for topic, numbers := range u.held[i] {
			for _, n := range numbers {
				result[i] = append(result[i], Partition{topic, n})
			}
		}
	}
	return result
}

// unevenly is the work on one uneven problem.
type unevenly struct {
	members []Member
	// subscribers of each topic, in the order of members.
	subscribers [][]int
	// held is what each member has of each topic: first what it had before, then what it has got. loads count them.
	held  []map[int][]int32
	loads []int
	// round counts the searches for chains; what was reached, or seen, in another round counts for nothing.
	round   int
	reached []hop
	seen    []int
}

func (u *unevenly) load(member int) int { return u.loads[member] }

func (u *unevenly) add(member int, p Partition) {
	u.held[member][p.Topic] = append(u.held[member][p.Topic], p.Number)
	u.loads[member]++
}

// take gives the last that a member has got of a topic; if it has got none, it loses one that it had.
func (u *unevenly) take(member, topic int) Partition {
	numbers := u.held[member][topic]
	last := len(numbers) - 1
	u.held[member][topic] = numbers[:last]
	u.loads[member]--
	return Partition{topic, numbers[last]}
}

// fewestSubscribersFirst lists the topics that somebody is subscribed to: those with the least choice go first.
func (u *unevenly) fewestSubscribersFirst() []int {
	var order []int
	for t, who := range u.subscribers {
		if len(who) > 0 {
			order = append(order, t)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(u.subscribers[a]), len(u.subscribers[b])) })
	return order
}

func (u *unevenly) leastLoaded(topic int) int {
	return slices.MinFunc(u.subscribers[topic], func(a, b int) int { return cmp.Or(cmp.Compare(u.load(a), u.load(b)), cmp.Compare(a, b)) })
}

// balance moves partitions from members with much to members with at least two less, until there are none of either kind that a
// chain connects: then the loads are as equal as they can be. Each chain lowers the sum of the squares, so there is an end.
func (u *unevenly) balance() {
	for _, from := range u.byLoad() {
		u.giveDirectly(from)
	}
	for moved := true; moved; {
		moved = false
		for _, from := range u.byLoad() {
			for u.moveAway(from) {
				moved = true
			}
		}
	}
}

// byLoad lists the members, those with most first.
func (u *unevenly) byLoad() []int {
	order := make([]int, len(u.members))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(u.load(b), u.load(a)) })
	return order
}

// giveDirectly takes from a member what others have much less of, one partition of each of its topics in turn, to the subscriber with least. Of
// what chains could do this is the most part, and done at once: whoever had everything does not fill its neighbours first.
func (u *unevenly) giveDirectly(from int) {
	for gave := true; gave; {
		gave = false
		for _, topic := range u.members[from].Topics {
			if len(u.held[from][topic]) == 0 {
				continue
			}
			if to := u.leastLoaded(topic); u.load(to) <= u.load(from)-2 {
				u.add(to, u.take(from, topic))
				gave = true
			}
		}
	}
}

// hop is how a member was reached in a round: from whom it would get a partition, and of which topic.
type hop struct{ round, from, topic int }

// moveAway takes one partition from a member and gives, at the end of the shortest chain, one to a member that has at least two
// less. Everyone in between gets one and gives one.
func (u *unevenly) moveAway(from int) bool {
	u.round++
	u.reached[from] = hop{u.round, -1, -1}
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		giver := queue[0]
		for _, topic := range u.members[giver].Topics {
			if u.seen[topic] == u.round || len(u.held[giver][topic]) == 0 {
				continue
			}
			u.seen[topic] = u.round
			for _, to := range u.subscribers[topic] {
				if u.reached[to].round == u.round {
					continue
				}
				u.reached[to] = hop{u.round, giver, topic}
				if u.load(to) <= u.load(from)-2 {
					u.moveAlong(to)
					return true
				}
				queue = append(queue, to)
			}
		}
	}
	return false
}

func (u *unevenly) moveAlong(to int) {
	for at := u.reached[to]; at.from >= 0; to, at = at.from, u.reached[at.from] {
		u.add(to, u.take(at.from, at.topic))
	}
}
