package assign

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/oncelog/oncelog/internal/machinetest"
)

// The scripts in testdata: "uniform" and "range" assign, "topics t=4 u=2" says what topics there are. One member a line:
//
//	NAME TOPIC,... [has TOPIC/N,...]
//
// Without "has" a member keeps what it was assigned last; "fresh" as an argument forgets all that.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var topics []string
		var counts []int32
		last := map[string][]Partition{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "topics" {
				topics, counts = nil, nil
				for _, arg := range d.CmdArgs {
					var n int32
					fmt.Sscan(arg.Vals[0], &n)
					topics, counts = append(topics, arg.Key), append(counts, n)
				}
				return "ok\n"
			}
			solve, ok := ByName(d.Cmd)
			if !ok {
				t.Fatalf("unknown directive %q", d.Cmd)
			}
			if d.HasArg("fresh") {
				clear(last)
			}
			var members []Member
			for line := range strings.Lines(d.Input) {
				words := strings.Fields(line)
				m := Member{Name: words[0], Current: last[words[0]]}
				for name := range strings.SplitSeq(words[1], ",") {
					m.Topics = append(m.Topics, slices.Index(topics, name))
				}
				slices.Sort(m.Topics)
				if len(words) > 3 {
					m.Current = nil
					for one := range strings.SplitSeq(words[3], ",") {
						name, n, _ := strings.Cut(one, "/")
						p := Partition{Topic: slices.Index(topics, name)}
						fmt.Sscan(n, &p.Number)
						m.Current = append(m.Current, p)
					}
				}
				members = append(members, m)
			}
			result := solve(counts, members)
			mustSolve(t, counts, members, result)
			out := ""
			clear(last)
			for i, list := range result {
				last[members[i].Name] = list
				out += members[i].Name + ":"
				for _, p := range list {
					out += fmt.Sprintf(" %s/%d", topics[p.Topic], p.Number)
				}
				out += "\n"
			}
			return out
		})
	})
}

// mustSolve checks what every assignment must fulfil: all partitions of topics with subscribers, each once, each to a subscriber.
func mustSolve(t *testing.T, topics []int32, members []Member, result [][]Partition) {
	t.Helper()
	if len(result) != len(members) {
		t.Fatalf("%d lists for %d members", len(result), len(members))
	}
	owner := map[Partition]int{}
	for i, list := range result {
		if !slices.IsSortedFunc(list, compare) {
			t.Fatalf("%v is not sorted", list)
		}
		for _, p := range list {
			if other, ok := owner[p]; ok {
				t.Fatalf("%v goes to %d and to %d", p, other, i)
			}
			if !slices.Contains(members[i].Topics, p.Topic) || p.Number < 0 || p.Number >= topics[p.Topic] {
				t.Fatalf("%v goes to %+v", p, members[i])
			}
			owner[p] = i
		}
	}
	for topic, n := range topics {
		subscribed := slices.ContainsFunc(members, func(m Member) bool { return slices.Contains(m.Topics, topic) })
		for number := range n {
			if _, ok := owner[Partition{topic, number}]; ok != subscribed {
				t.Fatalf("topic %d partition %d: assigned %v, subscribed %v", topic, number, ok, subscribed)
			}
		}
	}
}

// TestRandom holds both assignors to what they promise, on problems that follow from one another as in the life of a group.
func TestRandom(t *testing.T) {
	rnd := machinetest.Rand(t)
	machinetest.Runs(t, 2*time.Second, []string{"uniform even", "uniform uneven", "range"}, func(seen map[string]int) int {
		g := newGroup(rnd)
		const steps = 30
		for range steps {
			g.change(rnd)
			even := !slices.ContainsFunc(g.members, func(m Member) bool { return !slices.Equal(m.Topics, g.members[0].Topics) })
			solve := Uniform
			if g.ranges {
				solve = Range
			}
			before := slices.Clone(g.members)
			result := solve(g.topics, g.members)
			mustSolve(t, g.topics, g.members, result)
			for i := range g.members {
				g.members[i].Current = result[i]
			}
			if again := solve(g.topics, g.members); fmt.Sprint(again) != fmt.Sprint(result) {
				t.Fatalf("%+v\nonce: %v\ntwice: %v", before, result, again)
			}
			switch {
			case g.ranges:
				seen["range"]++
				mustMeet(t, g.topics, g.members, result)
			case even:
				seen["uniform even"]++
				mustBeEven(t, g.topics, before, result)
			default:
				seen["uniform uneven"]++
				mustBeOptimal(t, g.topics, g.members, result)
			}
		}
		return steps
	})
}

// group is a problem in the course of time.
type group struct {
	topics  []int32
	members []Member
	ranges  bool
	next    int
}

func newGroup(r *rand.Rand) *group {
	g := &group{topics: []int32{int32(r.IntN(6)), int32(r.IntN(6)), int32(r.IntN(6))}, ranges: r.IntN(3) == 0}
	return g
}

func (g *group) change(r *rand.Rand) {
	switch n := r.IntN(10); {
	case n < 5 && len(g.members) < 6 || len(g.members) == 0:
		g.next++
		m := Member{Name: fmt.Sprint("m", r.IntN(10), "-", g.next), Topics: []int{0, 1, 2}}
		g.members = slices.Insert(g.members, r.IntN(len(g.members)+1), m)
		fallthrough
	case n < 7:
		m := &g.members[r.IntN(len(g.members))]
		if r.IntN(3) > 0 {
			m.Topics = []int{0, 1, 2}
			break
		}
		m.Topics = nil
		for t := range g.topics {
			if r.IntN(2) == 0 {
				m.Topics = append(m.Topics, t)
			}
		}
	case n < 9:
		at := r.IntN(len(g.members))
		g.members = slices.Delete(g.members, at, at+1)
		if len(g.members) == 0 {
			g.change(r)
		}
	default:
		g.topics[r.IntN(len(g.topics))] += int32(r.IntN(3))
	}
}

// mustBeEven: no two members differ by more than one, and no assignment that is even moves less.
func mustBeEven(t *testing.T, topics []int32, members []Member, result [][]Partition) {
	t.Helper()
	total, kept := 0, 0
	var has []int // what each member had and could keep
	for i, m := range members {
		total += len(result[i])
		n := 0
		for _, p := range m.Current {
			if slices.Contains(m.Topics, p.Topic) {
				n++
			}
		}
		has = append(has, n)
		for _, p := range result[i] {
			if slices.Contains(m.Current, p) {
				kept++
			}
		}
	}
	least, more := total/len(members), total%len(members)
	for _, list := range result {
		if len(list) < least || len(list) > least+1 {
			t.Fatalf("%v is not even", result)
		}
	}
	most := 0 // that can be kept
	slices.SortFunc(has, func(a, b int) int { return b - a })
	for i, n := range has {
		quota := least
		if i < more {
			quota++
		}
		most += min(n, quota)
	}
	if kept != most {
		t.Fatalf("topics %v, members %+v\n%v keeps %d, %d could be kept", topics, members, result, kept, most)
	}
}

// mustBeOptimal compares the loads with those of the best of all assignments, by trying them all: the sum of squares is least for
// the most equal loads.
func mustBeOptimal(t *testing.T, topics []int32, members []Member, result [][]Partition) {
	t.Helper()
	all := int32(0)
	for _, n := range topics {
		all += n
	}
	if all > 9 || len(members) > 4 {
		return // too many to try
	}
	squares := 0
	for _, list := range result {
		squares += len(list) * len(list)
	}
	loads := make([]int, len(members))
	var try func(topic int, number int32) int
	try = func(topic int, number int32) int {
		for topic < len(topics) && number == topics[topic] {
			topic, number = topic+1, 0
		}
		best := 0
		if topic == len(topics) {
			for _, n := range loads {
				best += n * n
			}
			return best
		}
		for i, m := range members {
			if slices.Contains(m.Topics, topic) {
				loads[i]++
				if n := try(topic, number+1); best == 0 || n < best {
					best = n
				}
				loads[i]--
			}
		}
		if best == 0 { // nobody is subscribed
			return try(topic, number+1)
		}
		return best
	}
	if best := try(0, 0); best != squares {
		t.Fatalf("topics %v, members %+v\n%v has loads with squares %d, the best has %d", topics, members, result, squares, best)
	}
}

// mustMeet: partitions with the same number, of topics with as many partitions and the same subscribers, go to the same member;
// and of each topic no two subscribers have numbers that differ by more than one.
func mustMeet(t *testing.T, topics []int32, members []Member, result [][]Partition) {
	t.Helper()
	for a := range topics {
		for b := range a {
			same := topics[a] == topics[b]
			for _, m := range members {
				same = same && slices.Contains(m.Topics, a) == slices.Contains(m.Topics, b)
			}
			for i := range members {
				for n := range topics[a] {
					if same && slices.Contains(result[i], Partition{a, n}) != slices.Contains(result[i], Partition{b, n}) {
						t.Fatalf("topics %v, members %+v: %v", topics, members, result)
					}
				}
			}
		}
		least, most := 1<<30, 0
		for i, m := range members {
			if !slices.Contains(m.Topics, a) {
				continue
			}
			n := 0
			for _, p := range result[i] {
				if p.Topic == a {
					n++
				}
			}
			least, most = min(least, n), max(most, n)
		}
		if most > least+1 {
			t.Fatalf("topics %v, members %+v: %v", topics, members, result)
		}
	}
}

// A group of the size that is promised is assigned in a moment, also from a bad start.
func BenchmarkUniform(b *testing.B) {
	for _, uneven := range []bool{false, true} {
		b.Run(fmt.Sprintf("uneven=%v", uneven), func(b *testing.B) {
			topics := make([]int32, 100)
			all := make([]int, len(topics))
			for i := range topics {
				topics[i], all[i] = 100, i
			}
			members := make([]Member, 1000)
			for i := range members {
				members[i] = Member{Name: fmt.Sprintf("m%04d", i), Topics: all}
				if uneven && i > 0 {
					members[i].Topics = all[i%50 : i%50+10]
				}
			}
			for t, n := range topics { // one has all
				for p := range n {
					members[0].Current = append(members[0].Current, Partition{t, p})
				}
			}
			for b.Loop() {
				Uniform(topics, members)
			}
		})
	}
}
