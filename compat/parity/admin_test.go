package parity

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topics: made, changed and removed, and what is refused.
func topics(s *scene) {
	controller := s.controller()
	create := func(step, name string, change func(*kmsg.CreateTopicsRequest, *kmsg.CreateTopicsRequestTopic)) {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 5, 20_000
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, 2, 1
		if change != nil {
			change(req, &t)
		}
		req.Topics = append(req.Topics, t)
		got := ask[*kmsg.CreateTopicsResponse](s, controller, req).Topics
		said := code(got[0].ErrorCode)
		if got[0].ErrorCode == 0 {
			said += fmt.Sprintf(" %d partitions %d replicas", got[0].NumPartitions, got[0].ReplicationFactor)
		}
		s.note(step, "%s", said)
	}
	name := s.name + "-t"
	create("made", name, nil)
	create("again", name, nil)
	create("checked, exists", name, func(r *kmsg.CreateTopicsRequest, _ *kmsg.CreateTopicsRequestTopic) { r.ValidateOnly = true })
	create("checked", s.name+"-checked", func(r *kmsg.CreateTopicsRequest, _ *kmsg.CreateTopicsRequestTopic) { r.ValidateOnly = true })
	create("0 partitions", s.name+"-x", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions = 0 })
	create("-2 partitions", s.name+"-x", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions = -2 })
	create("0 replicas", s.name+"-x", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.ReplicationFactor = 0 })
	create("9 replicas", s.name+"-x", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.ReplicationFactor = 9 })
	create("defaults", s.name+"-defaults", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
		t.NumPartitions, t.ReplicationFactor = -1, -1
	})
	for _, bad := range []string{"", ".", "..", "a b", "a/b", "ü", longName(250)} {
		create(fmt.Sprintf("name %.6q", bad), bad, nil)
	}
	create("like another", strings.ReplaceAll(name, "-", "_"), nil)
	create("longest name", longName(249), nil)
	config := func(name string, value *string) func(*kmsg.CreateTopicsRequest, *kmsg.CreateTopicsRequestTopic) {
		return func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			t.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: name, Value: value}}
		}
	}
	create("unknown config", s.name+"-x", config("no.such.thing", ptr("1")))
	create("bad config", s.name+"-x", config("retention.ms", ptr("soon")))
	create("config out of range", s.name+"-x", config("retention.ms", ptr("-2")))
	create("config without a value", s.name+"-x", config("retention.ms", nil))
	create("two policies", s.name+"-both", config("cleanup.policy", ptr("compact,delete")))
	assign := func(lists ...[]int32) func(*kmsg.CreateTopicsRequest, *kmsg.CreateTopicsRequestTopic) {
		return func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			t.NumPartitions, t.ReplicationFactor = -1, -1
			for i, l := range lists {
				t.ReplicaAssignment = append(t.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: int32(i), Replicas: l})
			}
		}
	}
	create("assigned", s.name+"-assigned", assign([]int32{1}, []int32{1}))
	create("assigned to nobody", s.name+"-x", assign([]int32{77}))
	create("assigned twice to one", s.name+"-x", assign([]int32{1, 1, 1}))
	create("assigned and counted", s.name+"-x", func(r *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
		assign([]int32{1})(r, t)
		t.NumPartitions = 4
	})
	create("named twice", s.name+"-twice", func(r *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { r.Topics = append(r.Topics, *t) })
	grow := func(step, topic string, count int32) {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = 3, 20_000
		req.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: topic, Count: count}}
		s.note(step, "%s", code(ask[*kmsg.CreatePartitionsResponse](s, controller, req).Topics[0].ErrorCode))
	}
	grow("3 partitions", name, 3)
	grow("3 partitions again", name, 3)
	grow("2 partitions", name, 2)
	grow("-1 partitions", name, -1)
	grow("partitions of nothing", s.name+"-none", 2)
	remove := func(step string, names ...string) {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis, req.TopicNames = 5, 20_000, names
		var said []string
		for _, t := range ask[*kmsg.DeleteTopicsResponse](s, controller, req).Topics {
			said = append(said, code(t.ErrorCode))
		}
		slices.Sort(said)
		s.note(step, "%s", strings.Join(said, " "))
	}
	remove("removed, and one that is not there", name, s.name+"-none")
	remove("removed twice", name)
	remove("invalid name", "a/b")
}

// controller is where the tools of Kafka send administration.
func (s *scene) controller() string {
	s.t.Helper()
	addr := ""
	s.until("controller", func() bool {
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.Topics = 12, []kmsg.MetadataRequestTopic{}
		m := ask[*kmsg.MetadataResponse](s, s.seeds[0], req)
		for _, b := range m.Brokers {
			if b.NodeID == m.ControllerID {
				addr = fmt.Sprintf("%s:%d", b.Host, b.Port)
			}
		}
		return addr != ""
	})
	return addr
}

// Configs: their values, where they come from, and changes.
func configs(s *scene) {
	topic := s.topic("t", 1, "retention.ms", "3600000", "cleanup.policy", "delete,compact")
	controller := s.controller()
	show := func(step string, kind kmsg.ConfigResourceType, name string, names ...string) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Version = 4
		one := kmsg.NewDescribeConfigsRequestResource()
		one.ResourceType, one.ResourceName, one.ConfigNames = kind, name, names
		req.Resources = []kmsg.DescribeConfigsRequestResource{one}
		got := ask[*kmsg.DescribeConfigsResponse](s, s.seeds[0], req).Resources[0]
		if got.ErrorCode != 0 || len(names) == 0 {
			s.note(step, "%s", code(got.ErrorCode))
			return
		}
		slices.SortFunc(got.Configs, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return strings.Compare(a.Name, b.Name) })
		for _, c := range got.Configs {
			s.note(step+", "+c.Name, "%s %v %v sensitive %v read only %v", deref(c.Value), c.Source, c.ConfigType, c.IsSensitive, c.ReadOnly)
		}
	}
	show("defaults", kmsg.ConfigResourceTypeTopic, topic, "retention.ms", "cleanup.policy", "max.message.bytes", "segment.bytes", "segment.ms", "retention.bytes",
		"compression.type", "message.timestamp.type", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "min.cleanable.dirty.ratio", "delete.retention.ms",
		"file.delete.delay.ms", "flush.messages", "flush.ms", "index.interval.bytes", "max.compaction.lag.ms", "min.compaction.lag.ms", "preallocate",
		"segment.index.bytes", "segment.jitter.ms", "unclean.leader.election.enable", "no.such.thing", "remote.storage.enable")
	s.topicConfigs(topic)
	s.brokerConfigs()
	show("of a group without a name", kmsg.ConfigResourceTypeGroupConfig, "")
	show("of a group", kmsg.ConfigResourceTypeGroupConfig, s.name, "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms")
	show("unknown topic", kmsg.ConfigResourceTypeTopic, s.name+"-none")
	show("invalid topic", kmsg.ConfigResourceTypeTopic, "a/b")
	show("unknown broker", kmsg.ConfigResourceTypeBroker, "77")
	show("no broker", kmsg.ConfigResourceTypeBroker, "one")
	alter := func(step, name string, kind kmsg.ConfigResourceType, config string, op kmsg.IncrementalAlterConfigOp, value *string) {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Version = 1
		one := kmsg.NewIncrementalAlterConfigsRequestResource()
		one.ResourceType, one.ResourceName = kind, name
		one.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: config, Op: op, Value: value}}
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{one}
		s.note(step, "%s", code(ask[*kmsg.IncrementalAlterConfigsResponse](s, controller, req).Resources[0].ErrorCode))
	}
	const onTopic = kmsg.ConfigResourceTypeTopic
	alter("set", topic, onTopic, "retention.ms", 0, ptr("7200000"))
	alter("unset", topic, onTopic, "retention.ms", 1, nil)
	alter("unset again", topic, onTopic, "retention.ms", 1, nil)
	alter("unset what nobody knows", topic, onTopic, "no.such.thing", 1, nil)
	alter("set what nobody knows", topic, onTopic, "no.such.thing", 0, ptr("1"))
	alter("set badly", topic, onTopic, "retention.ms", 0, ptr("soon"))
	alter("set to nothing", topic, onTopic, "retention.ms", 0, nil)
	alter("take from a list", topic, onTopic, "cleanup.policy", 3, ptr("compact"))
	alter("add to a list", topic, onTopic, "cleanup.policy", 2, ptr("compact"))
	alter("add to what is no list", topic, onTopic, "retention.ms", 2, ptr("1"))
	alter("of an unknown topic", s.name+"-none", onTopic, "retention.ms", 0, ptr("1"))
	alter("of an invalid topic", "a/b", onTopic, "retention.ms", 0, ptr("1"))
	alter("of an unknown kind", topic, 77, "retention.ms", 0, ptr("1"))
	alter("an operation nobody knows", topic, onTopic, "retention.ms", 9, ptr("1"))
	show("after", onTopic, topic, "cleanup.policy", "retention.ms")
}

// topicConfigs notes which configs a topic has beside those that are asked for one by one.
func (s *scene) topicConfigs(topic string) {
	for _, c := range s.configsOf(s.seeds[0], kmsg.ConfigResourceTypeTopic, topic) {
		s.note("has "+c.Name, "%v", c.ConfigType)
	}
}

// brokerConfigs notes what a broker says that clients look at.
func (s *scene) brokerConfigs() {
	for _, c := range s.configsOf(s.seeds[0], kmsg.ConfigResourceTypeBroker, "1", "auto.create.topics.enable", "broker.id", "default.replication.factor", "delete.topic.enable",
		"compression.type", "connections.max.idle.ms", "connections.max.reauth.ms", "group.consumer.heartbeat.interval.ms", "group.consumer.max.size", "group.consumer.session.timeout.ms",
		"group.max.session.timeout.ms", "group.max.size",
		"log.cleanup.policy", "log.cleaner.delete.retention.ms", "log.cleaner.max.compaction.lag.ms", "log.cleaner.min.cleanable.ratio", "log.cleaner.min.compaction.lag.ms",
		"log.message.timestamp.after.max.ms", "log.message.timestamp.before.max.ms", "log.message.timestamp.type", "log.retention.bytes",
		"log.retention.ms", "log.roll.ms", "log.segment.bytes", "max.connections", "message.max.bytes", "node.id", "num.partitions", "offset.metadata.max.bytes",
		"offsets.retention.check.interval.ms", "offsets.retention.minutes", "offsets.topic.replication.factor",
		"producer.id.expiration.ms", "socket.request.max.bytes", "transaction.abort.timed.out.transaction.cleanup.interval.ms", "transaction.max.timeout.ms",
		"transaction.state.log.replication.factor", "transactional.id.expiration.ms", "unclean.leader.election.enable") {
		s.note("broker, "+c.Name, "%s %v %v", deref(c.Value), c.Source, c.ConfigType)
	}
}

// configsOf asks for configs; without names for all.
func (s *scene) configsOf(addr string, kind kmsg.ConfigResourceType, name string, names ...string) []kmsg.DescribeConfigsResponseResourceConfig {
	s.t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	one := kmsg.NewDescribeConfigsRequestResource()
	one.ResourceType, one.ResourceName, one.ConfigNames = kind, name, names
	req.Resources = []kmsg.DescribeConfigsRequestResource{one}
	got := ask[*kmsg.DescribeConfigsResponse](s, addr, req).Resources[0].Configs
	slices.SortFunc(got, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return strings.Compare(a.Name, b.Name) })
	return got
}

// What tools ask of producers, transactions and the cluster (T35).
func debugging(s *scene) {
	topic := s.topic("t", 1)
	id := "a-" + s.name
	pid, epoch := s.begin(id)
	s.pid(pid)
	s.describeTransaction("unknown id", id+"-none")
	s.describeTransaction("empty id", "")
	s.describeTransaction("empty", id)
	producers := func(step, name string, partition int32) {
		s.describeProducers(step, s.leader(topic, 0), name, partition)
	}
	producers("producers of an empty partition", topic, 0)
	producers("producers of no partition", topic, 7)
	producers("producers of no topic", s.name+"-none", 0)
	s.produce(12, topic, id, batch{pid: pid, epoch: epoch, seq: 0, n: 3, txn: true})
	s.describeTransaction("open", id)
	producers("producers while open", topic, 0)
	pid, epoch, _ = s.end(5, id, pid, epoch, true)
	s.state(id)
	s.describeTransaction("committed", id)
	producers("producers then", topic, 0)
	s.listTransactions(id, pid)
	s.logDirs(topic)
	s.elect("elect the preferred leader", 0, topic, 0)
	s.elect("elect anybody", 1, topic, 0)
	s.elect("elect for nothing", 0, topic, 9)
	s.reassign("take back what is not there", topic, 0, nil)
	s.reassign("move nothing", topic, 9, []int32{1})
	s.reassign("move a topic that is not there", s.name+"-none", 0, []int32{1})
	s.reassign("move to nobody", topic, 0, []int32{77, 78, 79})
	s.reassign("move twice to one", topic, 0, []int32{1, 1, 2})
	s.reassign("move to no brokers", topic, 0, []int32{})
}

func (s *scene) describeTransaction(step, id string) {
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	got := ask[*kmsg.DescribeTransactionsResponse](s, s.coordinator(kindTxn, id), req).TransactionStates[0]
	producer := fmt.Sprint(got.ProducerID)
	if got.ErrorCode == 0 { // else it is nobody's
		producer = s.pid(got.ProducerID)
	}
	s.note(step, "%s %s %s/%d timeout %d topics %d started %v", code(got.ErrorCode), got.State, producer, got.ProducerEpoch, got.TimeoutMillis, len(got.Topics), got.StartTimestamp > 0)
}

func (s *scene) describeProducers(step, broker, topic string, partition int32) {
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: topic, Partitions: []int32{partition}}}
	got := ask[*kmsg.DescribeProducersResponse](s, broker, req).Topics[0].Partitions[0]
	said := code(got.ErrorCode)
	for _, p := range got.ActiveProducers {
		said += fmt.Sprintf(" [%s/%d sequence %d since %d coordinated %v]", s.pid(p.ProducerID), p.ProducerEpoch, p.LastSequence, p.CurrentTxnStartOffset, p.CoordinatorEpoch >= 0)
	}
	s.note(step, "%s", said)
}

// listTransactions looks for one that is committed, and its producer, in lists by every filter.
func (s *scene) listTransactions(id string, pid int64) {
	for _, list := range []struct {
		step    string
		version int16
		filter  func(*kmsg.ListTransactionsRequest)
	}{
		{"all", 0, func(*kmsg.ListTransactionsRequest) {}},
		{"committed ones", 0, func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"CompleteCommit"} }},
		{"open ones", 0, func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"Ongoing"} }},
		{"ones of no state", 0, func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"Nonsense"} }},
		{"of a producer", 0, func(r *kmsg.ListTransactionsRequest) { r.ProducerIDFilters = []int64{pid} }},
		{"of another", 0, func(r *kmsg.ListTransactionsRequest) { r.ProducerIDFilters = []int64{pid + 90_000} }},
		{"long ones", 1, func(r *kmsg.ListTransactionsRequest) { r.DurationFilterMillis = 1_000_000 }},
	} {
		req := kmsg.NewPtrListTransactionsRequest()
		req.Version, req.DurationFilterMillis = list.version, -1
		list.filter(req)
		said, err := s.listedAnywhere(id, req)
		if err != nil {
			said = err.Error()
		}
		s.note(list.step, "%s", said)
	}
}

// listedAnywhere asks every broker for its transactions.
func (s *scene) listedAnywhere(id string, req *kmsg.ListTransactionsRequest) (string, error) {
	found, unknown, said := false, []string(nil), ""
	for _, addr := range s.seeds {
		resp, err := s.try(addr, req)
		if err != nil {
			return "", err
		}
		got := resp.(*kmsg.ListTransactionsResponse)
		said, unknown = code(got.ErrorCode), got.UnknownStateFilters
		for _, t := range got.TransactionStates {
			found = found || t.TransactionalID == id
		}
	}
	return fmt.Sprintf("%s found %v unknown %v", said, found, unknown), nil
}

func (s *scene) logDirs(topic string) {
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.Version, req.Topics = 4, []kmsg.DescribeLogDirsRequestTopic{{Topic: topic, Partitions: []int32{0, 5}}}
	for _, d := range ask[*kmsg.DescribeLogDirsResponse](s, s.leader(topic, 0), req).Dirs {
		for _, t := range d.Topics {
			for _, p := range t.Partitions {
				s.note("log dirs", "%s %d filled %v lag %d future %v", code(d.ErrorCode), p.Partition, p.Size > 0, p.OffsetLag, p.IsFuture)
			}
		}
		s.note("log dirs, size told", "%v", d.TotalBytes > 0)
	}
}

func (s *scene) elect(step string, kind int8, topic string, partition int32) {
	req := kmsg.NewPtrElectLeadersRequest()
	req.Version, req.ElectionType, req.TimeoutMillis = 2, kind, 10_000
	req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: topic, Partitions: []int32{partition}}}
	resp := ask[*kmsg.ElectLeadersResponse](s, s.controller(), req)
	said := code(resp.ErrorCode)
	for _, t := range resp.Topics {
		said += " " + code(t.Partitions[0].ErrorCode)
	}
	s.note(step, "%s", said)
}

func (s *scene) reassign(step, topic string, partition int32, replicas []int32) {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.TimeoutMillis = 10_000
	req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: topic, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: partition, Replicas: replicas}}}}
	resp := ask[*kmsg.AlterPartitionAssignmentsResponse](s, s.controller(), req)
	said := code(resp.ErrorCode)
	for _, t := range resp.Topics {
		said += " " + code(t.Partitions[0].ErrorCode)
	}
	s.note(step, "%s", said)
}

// Frames and versions (A4, A5).
func versions(s *scene) {
	for _, c := range []struct {
		key, version int16
	}{{18, 99}, {0, 0}, {0, 2}, {0, 50}, {1, 3}, {2, 0}, {3, 14}, {3, -1}, {4, 0}, {999, 0}, {-1, 0}, {9, 0}, {8, 1}} {
		if s.target == fake && kmsg.RequestForKey(c.key) == nil {
			continue // it panics
		}
		w, err := dial(s.ctx, s.seeds[0])
		if err != nil {
			s.t.Fatal(err)
		}
		b := make([]byte, 15) // the last one is for tags, of a version that has such
		b[3] = 11
		b[4], b[5], b[6], b[7] = byte(c.key>>8), byte(c.key), byte(c.version>>8), byte(c.version)
		b[12], b[13] = 0xff, 0xff
		if err := w.write(b); err != nil {
			s.t.Fatal(err)
		}
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version = 0
		resp, err := w.recv(req)
		said := fmt.Sprint(err)
		if err == nil {
			got := resp.(*kmsg.ApiVersionsResponse)
			said = fmt.Sprintf("%s, %d keys", code(got.ErrorCode), len(got.ApiKeys))
		}
		s.note(fmt.Sprintf("key %d version %d", c.key, c.version), "%s", said)
		_ = w.conn.Close() // its broker has done so, or it is done with
	}
	for _, name := range []string{"ok", "", "-x", "x y", "a.b-c1", "x-"} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, name, "1.0"
		got := ask[*kmsg.ApiVersionsResponse](s, s.seeds[0], req)
		level := int16(-1)
		for _, f := range got.FinalizedFeatures {
			if f.Name == "transaction.version" {
				level = f.MaxVersionLevel
			}
		}
		s.note(fmt.Sprintf("client %q", name), "%s transaction.version %d", code(got.ErrorCode), level)
	}
	find := func(step string, version int16, kind int8, keys ...string) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorType = version, kind
		if version >= 4 {
			req.CoordinatorKeys = keys
		} else {
			req.CoordinatorKey = keys[0]
		}
		resp, err := s.try(s.seeds[0], req)
		if err != nil {
			s.note(step, "%v", err)
			return
		}
		got := resp.(*kmsg.FindCoordinatorResponse)
		if version < 4 {
			s.note(step, "%s", code(got.ErrorCode))
			return
		}
		said := ""
		for _, c := range got.Coordinators {
			said += " " + code(c.ErrorCode)
		}
		s.note(step, "%s", said)
	}
	s.coordinator(kindTxn, "x")
	s.coordinator(kindGroup, "x")
	find("coordinator of an empty group", 3, 0, "")
	find("coordinator of an empty id", 3, 1, "")
	find("coordinators of two", 4, 0, "a", "b")
	find("coordinator of kind 7", 3, 7, "a")
	find("coordinator of kind 7, version 4", 4, 7, "a")
}
