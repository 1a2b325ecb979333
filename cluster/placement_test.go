package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
)

// brokers makes a state with brokers, each by its rack; id 1 is the first.
func brokers(t *testing.T, limit uint32, racks ...string) *metadata.State {
	t.Helper()
	s := metadata.NewState()
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "c", FeatureLevel: 1}}})
	for i, rack := range racks {
		b := &metadata.Broker{ID: int32(i + 1), Incarnation: uint64(i + 1), Rack: rack, MinLevel: 1, MaxLevel: 1, MaxReplicas: limit,
			Listeners: []metadata.Listener{{Name: metadata.PeerListener, Address: addressOf(int32(i + 1))}}}
		apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: &statev1.RegisterBroker{
			Broker: metadata.BrokerToProto(b), ClusterId: "c"}}})
	}
	return s
}

func apply(t *testing.T, s *metadata.State, cmd *statev1.MetadataCommand) {
	t.Helper()
	if r, err := s.ApplyCommand(s.Image().Version()+1, cmd); err != nil || r.Err != nil {
		t.Fatalf("%v, %v", err, r.Err)
	}
}

var everyone = func(int32) bool { return true }

// addTopic places a topic and creates it.
func addTopic(t *testing.T, s *metadata.State, n, replication int, alive func(int32) bool) []*statev1.Placement {
	t.Helper()
	placed, err := place(s.Image(), n, replication, alive)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	id[0], id[15] = 1, byte(len(s.Image().AllTopics()))
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		TopicId: id, Name: fmt.Sprintf("t%d", id[15]), Partitions: placed}}})
	return placed
}

// counts gives how many replicas and how many preferred leaders each broker has, as the least and the most.
func counts(img *metadata.Image) (replicas, leaders [2]int) {
	r, l := make(map[int32]int), make(map[int32]int)
	for _, b := range img.Brokers() {
		r[b.ID], l[b.ID] = 0, 0
	}
	for _, t := range img.Topics() {
		for _, p := range t.Partitions {
			l[p.Replicas[0].Broker]++
			for _, replica := range p.Replicas {
				r[replica.Broker]++
			}
		}
	}
	span := func(m map[int32]int) [2]int {
		lo, hi := 1<<30, 0
		for _, n := range m {
			lo, hi = min(lo, n), max(hi, n)
		}
		return [2]int{lo, hi}
	}
	return span(r), span(l)
}

// TestPlacementIsEven: with 1, 3 and 5 replicas, over several topics, no broker holds more than one
// replica, and leads more than two partitions, above another.
func TestPlacementIsEven(t *testing.T) {
	for _, replication := range []int{1, 3, 5} {
		for n := replication; n <= 9; n++ {
			s := brokers(t, 0, make([]string, n)...)
			for topic := range 4 {
				addTopic(t, s, 1+topic*5, replication, everyone)
				r, l := counts(s.Image())
				if r[1]-r[0] > 1 || l[1]-l[0] > 2 {
					t.Fatalf("%d brokers, %d replicas, %d topics: brokers hold %v replicas, lead %v", n, replication, topic+1, r, l)
				}
			}
		}
	}
}

// TestPlacementOverRacks: the replicas of a partition are in as many racks as there are, and no rack has
// two while another has none.
func TestPlacementOverRacks(t *testing.T) {
	for _, racks := range [][]string{{"a", "b", "c"}, {"a", "a", "b", "b", "c", "c"}, {"a", "a", "a", "b", "c"}, {"a", "a", "b", "b"}, {"", "", "a", "b", "b"}} {
		s := brokers(t, 0, racks...)
		distinct := len(slices.Compact(slices.Sorted(slices.Values(racks))))
		for _, replication := range []int{1, 3, 5} {
			if replication > len(racks) {
				continue
			}
			for i, p := range addTopic(t, s, 12, replication, everyone) {
				used := make(map[string]int)
				most := 0
				for _, id := range p.GetBrokerIds() {
					used[racks[id-1]]++
					most = max(most, used[racks[id-1]])
				}
				if len(used) != min(distinct, replication) {
					t.Errorf("racks %v, %d replicas: partition %d is on brokers %v, in %d racks", racks, replication, i, p.GetBrokerIds(), len(used))
				}
			}
		}
	}
}

// TestPlacementAvoidsTheDead: brokers not heard from get a replica only if there are not enough others,
// and are never preferred to lead then.
func TestPlacementAvoidsTheDead(t *testing.T) {
	alive := func(id int32) bool { return id > 2 }
	for _, p := range addTopic(t, brokers(t, 0, "", "", "", "", ""), 20, 3, alive) {
		if slices.Contains(p.GetBrokerIds(), 1) || slices.Contains(p.GetBrokerIds(), 2) {
			t.Fatalf("placed on %v", p.GetBrokerIds())
		}
	}
	for _, p := range addTopic(t, brokers(t, 0, "", "", "", "", ""), 20, 5, alive) {
		if len(p.GetBrokerIds()) != 5 || p.GetBrokerIds()[0] <= 2 {
			t.Fatalf("placed on %v", p.GetBrokerIds())
		}
	}
}

// TestPlacementHasLimits: a broker takes as many replicas as it said, and then the topic is refused as a
// whole.
func TestPlacementHasLimits(t *testing.T) {
	s := brokers(t, 4, "", "", "")
	addTopic(t, s, 4, 3, everyone)
	if r, _ := counts(s.Image()); r != [2]int{4, 4} {
		t.Fatalf("brokers hold %v replicas", r)
	}
	if _, err := place(s.Image(), 1, 1, everyone); !errors.Is(err, &metadata.Error{Code: metadata.PolicyViolation}) {
		t.Fatal(err)
	}
	if _, err := place(brokers(t, 4, "", "", "").Image(), 5, 3, everyone); !errors.Is(err, &metadata.Error{Code: metadata.PolicyViolation}) {
		t.Fatal(err)
	}
}

// TestPlacementIsDecided: the same image and the same liveness give the same placement.
func TestPlacementIsDecided(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 50 {
		racks := make([]string, 3+rng.IntN(6))
		for i := range racks {
			racks[i] = string(rune('a' + rng.IntN(4)))
		}
		s := brokers(t, 0, racks...)
		addTopic(t, s, 1+rng.IntN(7), 3, everyone)
		dead := rng.Int32N(9)
		alive := func(id int32) bool { return id != dead }
		first, _ := place(s.Image(), 8, 3, alive)
		for range 5 {
			if again, _ := place(s.Image(), 8, 3, alive); fmt.Sprint(again) != fmt.Sprint(first) {
				t.Fatalf("%v, then %v", first, again)
			}
		}
	}
}

// activate makes all partitions of a state active, as their groups' first leaders do.
func activateAll(t *testing.T, s *metadata.State) {
	t.Helper()
	cmd := &statev1.ActivatePartitions{}
	for _, topic := range s.Image().AllTopics() {
		for _, p := range topic.Partitions {
			for _, r := range p.Replicas {
				apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
					BrokerId: r.Broker, NodeIncarnation: uint64(r.Broker), Created: []*statev1.ReplicaRef{{GroupId: uint64(p.Group), Incarnation: r.Incarnation}}}}})
			}
			cmd.GroupIds = append(cmd.GroupIds, uint64(p.Group))
		}
	}
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{ActivatePartitions: cmd}})
}

func drain(t *testing.T, s *metadata.State, id int32) {
	t.Helper()
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetDraining{SetDraining: &statev1.SetDraining{
		BrokerId: id, NodeIncarnation: uint64(id), Draining: true}}})
}

// Two brokers are lost for good, and drained one after the other: what waits for the one does not keep a partition from going on.
func TestMovesOffSeveralDeadBrokers(t *testing.T) {
	s := brokers(t, 0, "", "", "", "", "", "")
	addTopic(t, s, 2, 3, func(id int32) bool { return id <= 3 })
	activateAll(t, s)
	alive := func(id int32) bool { return id != 2 && id != 3 }
	at := func(i int) *metadata.Partition { return &s.Image().AllTopics()[0].Partitions[i] }
	// The replica of partition 0 on broker 3 was being rebuilt when that died, too.
	lost, _ := at(0).Replica(3)
	ref := &statev1.ReplicaRef{GroupId: uint64(at(0).Group), Incarnation: lost.Incarnation}
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
		BrokerId: 3, NodeIncarnation: 3, Lost: []*statev1.ReplicaRef{ref}}}})
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: []*statev1.ReplicaRef{ref}}}})
	for _, id := range []int32{2, 3} {
		drain(t, s, id)
		moved := make(map[int]bool)
		for range 2 { // the second look takes nothing back
			for _, m := range movesOff(s.Image(), alive, ledAll) {
				if slices.Contains(m.target, id) || moved[m.partition] {
					t.Errorf("broker %d drains, and partition %d goes to %v", id, m.partition, m.target)
				}
				moved[m.partition] = true
				apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: &statev1.ReassignPartitions{
					TopicId: m.topic.ID[:], Partitions: []*statev1.Reassignment{{Partition: uint32(m.partition), BrokerIds: m.target}}}}})
			}
		}
		if len(moved) != 2 {
			t.Fatalf("broker %d drains, and of the partitions only %v move", id, moved)
		}
		for i := range 2 { // the new replicas are made and filled; nobody removes those of the dead
			caught := &statev1.ReportMembers{BrokerId: 1, NodeIncarnation: 1, Groups: []*statev1.GroupMembers{{GroupId: uint64(at(i).Group)}}}
			for _, r := range at(i).Replicas {
				if r.Joining && alive(r.Broker) {
					ref := &statev1.ReplicaRef{GroupId: uint64(at(i).Group), Incarnation: r.Incarnation}
					apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
						BrokerId: r.Broker, NodeIncarnation: uint64(r.Broker), Created: []*statev1.ReplicaRef{ref}}}})
					caught.Groups[0].CaughtUp = append(caught.Groups[0].CaughtUp, r.Incarnation)
				}
			}
			apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportMembers{ReportMembers: caught}})
		}
	}
	for i := range 2 {
		if p := at(i); p.Target != nil || !p.Holds(1) || len(p.Replicas) != 3 || !p.Survives() {
			t.Errorf("partition %d in the end: %+v", i, *p)
		}
	}
}

// What is on a draining broker moves to the emptiest of the others that live, racks respected, a few
// partitions at a time; where nobody can take it, it stays.
func TestMovesOffDrainingBrokers(t *testing.T) {
	drain := func(s *metadata.State, id int32) { drain(t, s, id) }
	s := brokers(t, 0, "a", "a", "b", "b", "c")
	addTopic(t, s, 30, 3, everyone)
	activateAll(t, s)
	if moves := movesOff(s.Image(), everyone, ledAll); len(moves) != 0 {
		t.Fatalf("moves %v, and nobody drains", moves)
	}
	drain(s, 1)
	moves := movesOff(s.Image(), func(id int32) bool { return id != 5 }, ledAll)
	if len(moves) == 0 || len(moves) > maxMoves {
		t.Fatalf("%d moves at once", len(moves))
	}
	for _, m := range moves {
		before := m.topic.Partitions[m.partition]
		for i, r := range before.Replicas {
			if r.Broker != 1 && m.target[i] != r.Broker {
				t.Errorf("%v becomes %v: a replica that could stay moves", before.Replicas, m.target)
			}
			if r.Broker == 1 && (m.target[i] == 1 || m.target[i] == 5) {
				t.Errorf("%v becomes %v", before.Replicas, m.target)
			}
		}
		racks := make(map[string]int)
		for _, id := range m.target {
			b, _ := s.Image().Broker(id)
			racks[b.Rack]++
		}
		if slices.Contains(m.target, 5) && slices.Contains(m.target, 3) && slices.Contains(m.target, 4) {
			t.Errorf("%v: two replicas in rack b, none in a", m.target)
		}
		apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: &statev1.ReassignPartitions{
			TopicId: m.topic.ID[:], Partitions: []*statev1.Reassignment{{Partition: uint32(m.partition), BrokerIds: m.target}}}}})
	}
	if more := movesOff(s.Image(), everyone, ledAll); len(moves)+len(more) > maxMoves {
		t.Errorf("%d moves are under way, and %d more begin", len(moves), len(more))
	}
	few := brokers(t, 0, "", "", "")
	addTopic(t, few, 4, 3, everyone)
	activateAll(t, few)
	drain(few, 2)
	if moves := movesOff(few.Image(), everyone, ledAll); len(moves) != 0 {
		t.Errorf("three brokers, three replicas: %v", moves)
	}
	if placed, err := place(few.Image(), 1, 3, everyone); err == nil {
		t.Errorf("placed on a draining broker: %v", placed)
	}
}

// Another replication factor keeps what is there, the preferred leader too, and spreads what is added.
func TestResize(t *testing.T) {
	s := brokers(t, 0, "a", "b", "c", "a", "b")
	addTopic(t, s, 10, 1, everyone)
	activateAll(t, s)
	topic := s.Image().AllTopics()[0]
	list, err := resize(s.Image(), topic, 3, everyone)
	if err != nil {
		t.Fatal(err)
	}
	held := make(map[int32]int)
	for i, r := range list {
		if r.Brokers[0] != topic.Partitions[i].Replicas[0].Broker || len(r.Brokers) != 3 {
			t.Errorf("partition %d, %v, becomes %v", i, topic.Partitions[i].Replicas, r.Brokers)
		}
		racks := make(map[string]bool)
		for _, id := range r.Brokers {
			held[id]++
			b, _ := s.Image().Broker(id)
			racks[b.Rack] = true
		}
		if len(racks) != 3 {
			t.Errorf("partition %d on %v: %d racks", i, r.Brokers, len(racks))
		}
	}
	for id, n := range held {
		if n > 10 {
			t.Errorf("broker %d gets %d of 30 replicas", id, n)
		}
	}
	if _, err := resize(s.Image(), topic, 5, everyone); err != nil {
		t.Error(err)
	}
}
