package kafka

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/record"
)

// What Kafka refuses before it looks at the group; each was compared with it.
func TestHeartbeatsThatNoClientSends(t *testing.T) {
	w := newRig(t, nil).dial()
	for name, change := range map[string]func(*kmsg.ConsumerGroupHeartbeatRequest){
		"no group":                 func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = "" },
		"no member":                func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = "" },
		"no member, version 0, on": func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Version, r.MemberID, r.MemberEpoch = 0, "", 3 },
		"empty instance":           func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = new(string) },
		"empty rack":               func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = new(string) },
		"joins without topics":     func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = nil },
		"joins without a list":     func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = nil },
		"joins and owns a partition": func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.Topics = make([]kmsg.ConsumerGroupHeartbeatRequestTopic, 1)
		},
		"": func(*kmsg.ConsumerGroupHeartbeatRequest) {},
	} {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "m", 1000
		req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		change(req)
		got := w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode
		if (got == 42) != (name != "") {
			t.Errorf("%q: code %d", name, got)
		}
	}
}

// Names that nothing can have.
func TestEmptyAndInvalidNames(t *testing.T) {
	r := newRig(t, nil)
	w := r.dial()
	remove := kmsg.NewPtrOffsetDeleteRequest()
	if got := w.ask(remove).(*kmsg.OffsetDeleteResponse).ErrorCode; got != 24 {
		t.Errorf("offsets of a group without a name: code %d", got)
	}
	describe := kmsg.NewPtrConsumerGroupDescribeRequest()
	describe.Groups = []string{""}
	if got := w.ask(describe).(*kmsg.ConsumerGroupDescribeResponse).Groups[0].ErrorCode; got != 24 {
		t.Errorf("a group without a name: code %d", got)
	}
	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	alter.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "a/b"}}
	if got := w.ask(alter).(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode; got != 17 {
		t.Errorf("configs of a topic that cannot be: code %d", got)
	}
}

// No epoch ends nowhere, in whatever partition.
func TestNoEpochEndsNowhere(t *testing.T) {
	r := newRig(t, nil)
	r.log.end = func(record.TopicPartition, int32, int32) (int32, record.Offset, error) { return 3, 9, nil }
	for epoch, want := range map[int32][2]int64{-1: {-1, -1}, 3: {3, 9}} {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.CurrentLeaderEpoch, p.LeaderEpoch = -1, epoch
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}}}
		got := r.dial().ask(req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
		if [2]int64{int64(got.LeaderEpoch), got.EndOffset} != want {
			t.Errorf("epoch %d: %+v, want %v", epoch, got, want)
		}
	}
}

// What has a text says which field is wrong, what it is and what may be.
func TestRefusalsNameFieldAndLimit(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.image = imageOf(t, "t", 1)
	w := r.dial()
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version = 7
	for i := range maxTopicsChanged + 1 {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = fmt.Sprint("t", i), -2, -1
		create.Topics = append(create.Topics, topic)
	}
	made := w.ask(create).(*kmsg.CreateTopicsResponse).Topics
	grow := kmsg.NewPtrCreatePartitionsRequest()
	grow.Version, grow.Topics = 3, []kmsg.CreatePartitionsRequestTopic{{Topic: "t", Count: -7}}
	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	alter.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Op: 9, Value: new(string)}}}}
	describe := kmsg.NewPtrConsumerGroupDescribeRequest()
	describe.Groups = []string{""}
	for i := range maxGroupsAsked {
		describe.Groups = append(describe.Groups, fmt.Sprint("g", i))
	}
	groups := w.ask(describe).(*kmsg.ConsumerGroupDescribeResponse).Groups
	users := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	users.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{Name: "u", Mechanism: 7}}
	for want, got := range map[string]*string{
		"num_partitions is -2; want 1 or more":                 made[0].ErrorMessage,
		"1001 topics in one request; at most 1000 are allowed": made[maxTopicsChanged].ErrorMessage,
		"count is -7; want more":                               w.ask(grow).(*kmsg.CreatePartitionsResponse).Topics[0].ErrorMessage,
		"config_operation of retention.ms is 9; want 0 (set)":  w.ask(alter).(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorMessage,
		"group_id is empty":                                    groups[0].ErrorMessage,
		"1001 groups in one request; at most 1000 are allowed": groups[maxGroupsAsked].ErrorMessage,
		"mechanism is 7; want 1 (SCRAM-SHA-256)":               w.ask(users).(*kmsg.AlterUserSCRAMCredentialsResponse).Results[0].ErrorMessage,
	} {
		if got == nil || !strings.Contains(*got, want) {
			text := "no text"
			if got != nil {
				text = *got
			}
			t.Errorf("%q, want %q", text, want)
		}
	}
}

// A group that is one too many is told so. One that is missing in the answer looks like one that has committed nothing (G27).
func TestOffsetsOfTooManyGroups(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Groups = seenGroups{} })
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	for i := range maxGroupsAsked + 2 {
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group, one.Topics = fmt.Sprint("g", i), []kmsg.OffsetFetchRequestGroupTopic{}
		req.Groups = append(req.Groups, one)
	}
	got := r.dial().ask(req).(*kmsg.OffsetFetchResponse).Groups
	if len(got) != len(req.Groups) {
		t.Fatalf("%d groups are answered of %d", len(got), len(req.Groups))
	}
	for i, g := range got {
		if (g.ErrorCode == 42) != (i >= maxGroupsAsked) || g.Group != req.Groups[i].Group {
			t.Fatalf("group %d is %q: code %d", i, g.Group, g.ErrorCode)
		}
	}
}
