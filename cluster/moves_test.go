package cluster

import (
	"slices"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
)

var ledAll = func(metadata.GroupID) bool { return true }

// movesRig is the metadata of a cluster with one topic, and what operators do to it.
type movesRig struct {
	t *testing.T
	s *metadata.State
}

func newMovesRig(t *testing.T, brokerCount, partitions, replication int, alive func(int32) bool) *movesRig {
	r := &movesRig{t, brokers(t, 0, make([]string, brokerCount)...)}
	addTopic(t, r.s, partitions, replication, alive)
	activateAll(t, r.s)
	return r
}

func (r *movesRig) topic() *metadata.Topic { return r.s.Image().AllTopics()[0] }

func (r *movesRig) drain(id int32) {
	apply(r.t, r.s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetDraining{SetDraining: &statev1.SetDraining{
		BrokerId: id, NodeIncarnation: uint64(id), Draining: true}}})
}

func (r *movesRig) reassign(partition int, to ...int32) {
	apply(r.t, r.s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: &statev1.ReassignPartitions{
		TopicId: r.topic().ID[:], ReplicationFactor: uint32(len(to)), Partitions: []*statev1.Reassignment{{Partition: uint32(partition), BrokerIds: to}}}}})
}

// lose has a broker lose its replica of a partition, which gets a successor.
func (r *movesRig) lose(partition int, broker int32) {
	p := r.topic().Partitions[partition]
	replica, _ := p.Replica(broker)
	refs := []*statev1.ReplicaRef{{GroupId: uint64(p.Group), Incarnation: replica.Incarnation}}
	apply(r.t, r.s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
		BrokerId: broker, NodeIncarnation: uint64(broker), Lost: refs}}})
	apply(r.t, r.s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: refs}}})
}

// A drain does not wait for what may never end: a move to the broker that is drained, and the rebuilding of what it had lost.
func TestDrainedBrokerIsNotWaitedFor(t *testing.T) {
	but := func(dead int32) func(int32) bool { return func(id int32) bool { return id != dead } }
	first := func(id int32) bool { return id < 4 }

	r := newMovesRig(t, 5, 1, 3, first)
	r.reassign(0, 1, 2, 4)
	if moves := movesOff(r.s.Image(), but(4), ledAll); len(moves) != 0 {
		t.Errorf("%v, and nobody drains", moves)
	}
	r.drain(4)
	if moves := movesOff(r.s.Image(), but(4), ledAll); len(moves) != 1 || slices.Contains(moves[0].target, 4) || !slices.Contains(moves[0].target, 1) || !slices.Contains(moves[0].target, 2) {
		t.Errorf("on its way to 1, 2, 4, and 4 is drained: %v", moves)
	} else if r.reassign(0, moves[0].target...); len(movesOff(r.s.Image(), but(4), ledAll)) != 0 {
		t.Error("it is moved again")
	}

	r = newMovesRig(t, 5, 1, 3, first)
	r.lose(0, 3)
	r.drain(3)
	if moves := movesOff(r.s.Image(), but(3), ledAll); len(moves) != 1 || slices.Contains(moves[0].target, 3) {
		t.Errorf("rebuilt on 3, and 3 is drained: %v", moves)
	}
}

// Moves that wait for a dead broker hold up no drain.
func TestDeadTargetsHoldUpNoDrain(t *testing.T) {
	r := newMovesRig(t, 6, maxMoves+1, 1, func(id int32) bool { return id == 1 })
	for p := range maxMoves {
		r.reassign(p, 2)
	}
	r.drain(1)
	if moves := movesOff(r.s.Image(), everyone, ledAll); len(moves) != 0 {
		t.Errorf("%v, and %d are under way", moves, maxMoves)
	}
	if moves := movesOff(r.s.Image(), func(id int32) bool { return id != 2 }, ledAll); len(moves) != 1 || moves[0].partition != maxMoves {
		t.Errorf("%v", moves)
	}
}

// Nor do groups that have lost their majority.
func TestGroupsWithoutLeaderHoldUpNoDrain(t *testing.T) {
	r := newMovesRig(t, 6, 2*maxMoves, 1, func(id int32) bool { return id == 1 })
	r.drain(1)
	last := r.topic().Partitions[2*maxMoves-1].Group
	if moves := movesOff(r.s.Image(), everyone, func(g metadata.GroupID) bool { return g == last }); len(moves) != 1 || moves[0].partition != 2*maxMoves-1 {
		t.Errorf("%v", moves)
	}
	for p := range maxMoves {
		r.reassign(p, 2)
	}
	if moves := movesOff(r.s.Image(), everyone, func(g metadata.GroupID) bool { return g == last }); len(moves) != 1 || moves[0].partition != 2*maxMoves-1 {
		t.Errorf("%v", moves)
	}
}

// Fewer replicas: those that live and have all stay, the preferred leader first.
func TestResizeKeepsTheLiving(t *testing.T) {
	r := newMovesRig(t, 5, 1, 3, func(id int32) bool { return id < 4 })
	was := r.topic().Partitions[0].Replicas
	want := func(n int, alive func(int32) bool, brokers ...int32) {
		t.Helper()
		list, err := resize(r.s.Image(), r.topic(), n, alive)
		if err != nil || !slices.Equal(list[0].Brokers, brokers) {
			t.Errorf("%v, %v, want %v", list, err, brokers)
		}
	}
	dead := func(dead ...int32) func(int32) bool { return func(id int32) bool { return !slices.Contains(dead, id) } }
	a, b, c := was[0].Broker, was[1].Broker, was[2].Broker
	want(1, everyone, a)
	want(1, dead(a), b)
	want(1, dead(a, b), c)
	r.drain(b)
	want(1, dead(a), c)
	want(3, dead(a), a, b, c)
	r.lose(0, c)
	want(1, dead(a), a)

	r = newMovesRig(t, 3, 1, 1, everyone)
	only := r.topic().Partitions[0].Replicas[0].Broker
	r.reassign(0, only, only%3+1, (only+1)%3+1)
	want(1, dead(only), only)
}
