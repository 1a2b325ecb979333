package kafka

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// imageOf is metadata of four brokers and a topic with partitions on brokers 1, 2 and 3, all active, after some more commands.
func imageOf(t testing.TB, topic string, partitions int, more ...*statev1.MetadataCommand) *metadata.Image {
	t.Helper()
	state, index := metadata.NewState(), uint64(0)
	apply := func(c *statev1.MetadataCommand) {
		index++
		if r, err := state.ApplyCommand(index, c); err != nil || r.Err != nil {
			t.Fatalf("metadata: %v, %v", err, r.Err)
		}
	}
	apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "fake", FeatureLevel: uint32(metadata.CurrentLevel)}}})
	for id := int32(1); id <= 4; id++ {
		apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: &statev1.RegisterBroker{ClusterId: "fake",
			Broker: &statev1.BrokerState{BrokerId: id, NodeIncarnation: uint64(id), Version: "v0", MinFeatureLevel: uint32(metadata.BaseLevel), MaxFeatureLevel: uint32(metadata.CurrentLevel),
				Listeners: []*statev1.Listener{{Name: testListener, Address: fmt.Sprintf("b%d.example:9092", id)}, {Name: metadata.PeerListener, Address: fmt.Sprintf("b%d.example:9093", id)}}}}}})
	}
	id := make([]byte, 16)
	id[0] = 7
	create := &statev1.CreateTopic{TopicId: id, Name: topic}
	for range partitions {
		create.Partitions = append(create.Partitions, &statev1.Placement{BrokerIds: []int32{1, 2, 3}})
	}
	apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: create}})
	made, _ := state.Image().Topic(topic)
	for _, p := range made.Partitions {
		for _, r := range p.Replicas {
			apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{BrokerId: r.Broker, NodeIncarnation: uint64(r.Broker),
				Created: []*statev1.ReplicaRef{{GroupId: uint64(p.Group), Incarnation: r.Incarnation}}}}})
		}
		apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{ActivatePartitions: &statev1.ActivatePartitions{GroupIds: []uint64{uint64(p.Group)}}}})
	}
	for _, c := range more {
		apply(c)
	}
	return state.Image()
}

// moving begins to move partitions of the topic of imageOf.
func moving(to map[uint32][]int32) *statev1.MetadataCommand {
	id := make([]byte, 16)
	id[0] = 7
	cmd := &statev1.ReassignPartitions{TopicId: id}
	for number, brokers := range to {
		cmd.Partitions = append(cmd.Partitions, &statev1.Reassignment{Partition: number, BrokerIds: brokers})
	}
	slices.SortFunc(cmd.Partitions, func(a, b *statev1.Reassignment) int { return int(a.GetPartition()) - int(b.GetPartition()) })
	return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: cmd}}
}

func TestElectLeaders(t *testing.T) {
	img := imageOf(t, "t", 5)
	topic, _ := img.Topic("t")
	leaders := make(map[metadata.GroupID]int32)
	for i, id := range []int32{1, 2, 3, 2} { // partition 4 has none
		leaders[topic.Partitions[i].Group] = id
	}
	for version := int16(0); version <= 2; version++ {
		r := newRig(t, nil)
		r.cluster.image, r.cluster.leaders = img, leaders
		var asked []string
		r.cluster.hand = func(tp record.TopicPartition, from, to int32) error {
			r.server.mu.Lock() // elections run beside each other
			defer r.server.mu.Unlock()
			asked = append(asked, fmt.Sprintf("%v from %d to %d", tp, from, to))
			if tp.Partition == 3 {
				return &partition.Error{Code: partition.Code(cluster.RequestTimedOut), Message: "slow", Outcome: raftgroup.MayHaveHappened}
			}
			return nil
		}
		w := r.dial()
		ask := func(kind int8, topics []kmsg.ElectLeadersRequestTopic) (codes string, top int16) {
			req := kmsg.NewPtrElectLeadersRequest()
			req.Version, req.ElectionType, req.Topics, req.TimeoutMillis = version, kind, topics, 1000
			resp := w.ask(req).(*kmsg.ElectLeadersResponse)
			for _, q := range resp.Topics {
				for _, p := range q.Partitions {
					codes += fmt.Sprintf("%s-%d:%d ", q.Topic, p.Partition, p.ErrorCode)
				}
			}
			return strings.TrimSpace(codes), resp.ErrorCode
		}
		some := []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0, 1, 2, 3, 4, 5}}, {Topic: "none", Partitions: []int32{0}}}
		if got, _ := ask(electPreferred, some); got != "t-0:84 t-1:0 t-2:0 t-3:7 t-4:80 t-5:3 none-0:3" {
			t.Errorf("version %d: %s", version, got)
		}
		slices.Sort(asked)
		if want := []string{"t/1 from 2 to 1", "t/2 from 3 to 1", "t/3 from 2 to 1"}; !reflect.DeepEqual(asked, want) {
			t.Errorf("version %d: asked for %q, want %q", version, asked, want)
		}
		// All: those that are led as they should be are not listed.
		if got, _ := ask(electPreferred, nil); got != "t-1:0 t-2:0 t-3:7 t-4:80" {
			t.Errorf("version %d, all: %s", version, got)
		}
		r.cluster.dead = map[int32]bool{1: true}
		if got, _ := ask(electPreferred, some[:1]); got != "t-0:84 t-1:80 t-2:80 t-3:80 t-4:80 t-5:3" {
			t.Errorf("version %d, preferred leader away: %s", version, got)
		}
		if version == 0 {
			continue // knows no other type
		}
		if got, _ := ask(electUnclean, some[:1]); got != "t-0:84 t-1:84 t-2:84 t-3:84 t-4:83 t-5:3" {
			t.Errorf("version %d, unclean: %s", version, got)
		}
		if got, top := ask(2, some); got != "" || top != 42 {
			t.Errorf("version %d, unknown type: %q, code %d", version, got, top)
		}
	}
}

func TestAlterPartitionReassignments(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.image = imageOf(t, "t", 3, moving(map[uint32][]int32{2: {1, 2, 4}}))
	var asked []string
	bad := &metadata.Error{Code: metadata.InvalidReplicaAssignment, Message: "no"}
	r.cluster.reassign = func(topic string, list []Reassignment, factor int32) error {
		asked = append(asked, fmt.Sprintf("%s%v%d", topic, list, factor))
		if slices.ContainsFunc(list, func(m Reassignment) bool { return slices.Contains(m.Brokers, 9) }) {
			return bad
		}
		return nil
	}
	r.cluster.cancel = func(topic string, partitions []int32) error {
		asked = append(asked, fmt.Sprint(topic, partitions))
		return nil
	}
	w := r.dial()
	ask := func(partitions ...kmsg.AlterPartitionAssignmentsRequestTopicPartition) string {
		t.Helper()
		asked = nil
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: partitions}}
		resp := w.ask(req).(*kmsg.AlterPartitionAssignmentsResponse)
		if resp.ErrorCode != 0 {
			return fmt.Sprint("all:", resp.ErrorCode)
		}
		var codes []int16
		for _, p := range resp.Topics[0].Partitions {
			codes = append(codes, p.ErrorCode)
		}
		return fmt.Sprint(codes, asked)
	}
	to := func(number int32, brokers ...int32) kmsg.AlterPartitionAssignmentsRequestTopicPartition {
		return kmsg.AlterPartitionAssignmentsRequestTopicPartition{Partition: number, Replicas: brokers}
	}
	for _, c := range []struct {
		what, got, want string
	}{
		{"one change for all", ask(to(0, 4, 2, 3), to(1, 1, 2, 4)), "[0 0] [t[{0 [4 2 3]} {1 [1 2 4]}]0]"},
		{"one is wrong, the others go on", ask(to(0, 4, 2, 3), to(1, 1, 2, 9)), "[0 39] [t[{0 [4 2 3]} {1 [1 2 9]}]0 t[{0 [4 2 3]}]0 t[{1 [1 2 9]}]0]"},
		{"no such partition, and one twice", ask(to(7, 1, 2, 3), to(0, 4, 2, 3), to(0, 1, 2, 3)), "[3 0 42] [t[{0 [4 2 3]}]0]"},
		{"cancel what moves and what does not", ask(to(2), to(0)), "[0 85] [t[2]]"},
		{"fewer replicas of all", ask(to(0, 1), to(1, 2), to(2, 3)), "[0 0 0] [t[{0 [1]} {1 [2]} {2 [3]}]1]"},
		{"more replicas, all or none", ask(to(0, 1, 2, 3, 4), to(1, 1, 2, 3, 4), to(2, 1, 2, 3, 9)), "[39 39 39] [t[{0 [1 2 3 4]} {1 [1 2 3 4]} {2 [1 2 3 9]}]4]"},
	} {
		if c.got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, c.got, c.want)
		}
	}
	many := make([]kmsg.AlterPartitionAssignmentsRequestTopicPartition, 10_001)
	if got := ask(many...); got != "all:42" || asked != nil {
		t.Errorf("too many: %s %v", got, asked)
	}
}

func TestListPartitionReassignments(t *testing.T) {
	r := newRig(t, nil)
	before, _ := imageOf(t, "t", 3).Topic("t")
	lost := &statev1.ReplicaRef{GroupId: uint64(before.Partitions[1].Group), Incarnation: before.Partitions[1].Replicas[2].Incarnation}
	r.cluster.image = imageOf(t, "t", 3, moving(map[uint32][]int32{0: {3, 2, 1}, 2: {1, 2, 4}}),
		&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{BrokerId: 3, NodeIncarnation: 3, Lost: []*statev1.ReplicaRef{lost}}}},
		&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: []*statev1.ReplicaRef{lost}}}})
	if now, _ := r.cluster.image.Topic("t"); !now.Partitions[1].Changing() {
		t.Fatal("the lost replica is not being replaced")
	}
	w := r.dial()
	ask := func(topics ...kmsg.ListPartitionReassignmentsRequestTopic) string {
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		req.Topics = topics
		var said []string
		for _, q := range w.ask(req).(*kmsg.ListPartitionReassignmentsResponse).Topics {
			for _, p := range q.Partitions {
				said = append(said, fmt.Sprint(q.Topic, p.Partition, p.Replicas, p.AddingReplicas, p.RemovingReplicas))
			}
		}
		return strings.Join(said, "; ")
	}
	want := "t2 [1 2 3 4] [4] [3]" // another order of the same brokers is no move, and neither is a lost replica that is replaced
	if got := ask(); got != want {
		t.Errorf("all: %s", got)
	}
	if got := ask(kmsg.ListPartitionReassignmentsRequestTopic{Topic: "t", Partitions: []int32{0, 1, 2, 9}}); got != want {
		t.Errorf("named: %s", got)
	}
	if got := ask(kmsg.ListPartitionReassignmentsRequestTopic{Topic: "t", Partitions: []int32{1}}, kmsg.ListPartitionReassignmentsRequestTopic{Topic: "none", Partitions: []int32{0}}); got != "" {
		t.Errorf("others: %s", got)
	}
}
