package kafka

import (
	"context"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// free are the keys that whoever comes in may use: they tell what a broker serves, and prove who one is.
var free = []int16{keySASLHandshake, keyAPIVersions, keySASLAuthenticate}

// right is one line of the table: what a client must be allowed to do for a request.
type right struct {
	key  int16
	what string
	// version of the request; 0: the highest.
	version int16
	change  func(kmsg.Request)
	needs   frontdoor.Action
	// also are what the request needs beside, or an action that is as good as the right is left out of.
	also []frontdoor.Action
	// code is what who may not is told; 0: shown is left out of the answer without a word.
	code  int16
	shown func(kmsg.Response) bool
	// noted is what the audit log has of it, if it is not the right itself.
	noted *frontdoor.Action
}

const (
	topicDenied   = 29
	groupDenied   = 30
	clusterDenied = 31
	idDenied      = 53
)

func on[Q any](change func(*Q)) func(kmsg.Request) {
	return func(r kmsg.Request) { change(any(r).(*Q)) }
}

func shows[R any](shown func(*R) bool) func(kmsg.Response) bool {
	return func(r kmsg.Response) bool { return shown(any(r).(*R)) }
}

func onCluster(op acl.Operation) frontdoor.Action { return frontdoor.OnCluster(op) }

func ref(a frontdoor.Action) *frontdoor.Action { return &a }

func transactionalBatch() []byte {
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(1000, nil, []byte("v"), nil); err != nil {
		panic(err)
	}
	return b.Finish(5, 0, 0, true)
}

func withBatches(batch []byte, id *string) func(kmsg.Request) {
	return on(func(q *kmsg.ProduceRequest) {
		q.Acks, q.TransactionID = -1, id
		for i := range q.Topics {
			q.Topics[i].Partitions = q.Topics[i].Partitions[:1]
			q.Topics[i].Partitions[0].Records = batch
		}
	})
}

func configsOf(kind kmsg.ConfigResourceType, name string) func(kmsg.Request) {
	return func(r kmsg.Request) {
		list := reflect.ValueOf(r).Elem().FieldByName("Resources")
		list.SetLen(1)
		list.Index(0).FieldByName("ResourceType").SetInt(int64(kind))
		list.Index(0).FieldByName("ResourceName").SetString(name)
	}
}

var topicIDs = on(func(q *kmsg.FetchRequest) { q.Topics[0].TopicID, q.Topics[1].TopicID = idOfT, idOfU })

// rights is what each key asks for, by what Kafka's brokers and controllers ask.
var rights = []right{
	{key: 0, needs: onTopic(acl.Write), change: withBatches(batchOf("v"), nil), code: topicDenied},
	{key: 0, what: "in a transaction", needs: onTopic(acl.Write), also: []frontdoor.Action{onID(acl.Write)}, change: withBatches(transactionalBatch(), &twoIDs[0]), code: topicDenied},
	{key: 0, what: "by its id", needs: onID(acl.Write), also: []frontdoor.Action{onTopic(acl.Write)}, change: withBatches(transactionalBatch(), &twoIDs[0]), code: idDenied},
	{key: 1, needs: onTopic(acl.Read), change: topicIDs, code: topicDenied},
	{key: 1, what: "by name", version: 11, needs: onTopic(acl.Read), code: topicDenied},
	{key: 2, needs: onTopic(acl.Describe), code: topicDenied},
	{key: 3, needs: onTopic(acl.Describe), code: topicDenied},
	{key: 3, what: "by id", needs: onTopic(acl.Describe), code: topicDenied, change: on(func(q *kmsg.MetadataRequest) {
		q.Topics = q.Topics[:1]
		q.Topics[0].Topic, q.Topics[0].TopicID = nil, idOfT
	})},
	{key: 3, what: "of all", needs: onTopic(acl.Describe), change: on(func(q *kmsg.MetadataRequest) { q.Topics = nil }),
		shown: shows(func(r *kmsg.MetadataResponse) bool { return len(r.Topics) == 1 })},
	{key: 3, what: "what may be done to the cluster", version: 10, needs: onCluster(acl.Describe),
		change: on(func(q *kmsg.MetadataRequest) { q.Topics, q.IncludeClusterAuthorizedOperations = nil, true }),
		shown:  shows(func(r *kmsg.MetadataResponse) bool { return r.AuthorizedOperations == 1<<acl.Describe }), noted: ref(onCluster(acl.Describe))},
	{key: 8, needs: onGroup(acl.Read), also: []frontdoor.Action{onTopic(acl.Read)}, code: groupDenied},
	{key: 8, what: "of topics", needs: onTopic(acl.Read), also: []frontdoor.Action{onGroup(acl.Read)}, code: topicDenied},
	{key: 9, needs: onGroup(acl.Describe), also: []frontdoor.Action{onTopic(acl.Describe)}, code: groupDenied},
	{key: 9, what: "of topics", needs: onTopic(acl.Describe), also: []frontdoor.Action{onGroup(acl.Describe)}, code: topicDenied},
	{key: 9, what: "of all", needs: onTopic(acl.Describe), also: []frontdoor.Action{onGroup(acl.Describe)},
		change: on(func(q *kmsg.OffsetFetchRequest) { q.Groups = q.Groups[:1]; q.Groups[0].Topics = nil }),
		shown:  shows(func(r *kmsg.OffsetFetchResponse) bool { return len(r.Groups[0].Topics) == 1 })},
	{key: 9, what: "of one group", version: 7, needs: onGroup(acl.Describe), also: []frontdoor.Action{onTopic(acl.Describe)}, code: groupDenied},
	{key: 9, what: "of one group's topics", version: 7, needs: onTopic(acl.Describe), also: []frontdoor.Action{onGroup(acl.Describe)}, code: topicDenied},
	{key: 10, needs: onGroup(acl.Describe), code: groupDenied},
	{key: 10, what: "of one", version: 3, needs: onGroup(acl.Describe), code: groupDenied},
	{key: 10, what: "of ids", needs: onID(acl.Describe), code: idDenied, change: on(func(q *kmsg.FindCoordinatorRequest) { q.CoordinatorType, q.CoordinatorKeys = 1, twoIDs[:] })},
	{key: 11, needs: onGroup(acl.Read), code: groupDenied},
	{key: 12, needs: onGroup(acl.Read), code: groupDenied},
	{key: 13, needs: onGroup(acl.Read), code: groupDenied},
	{key: 14, needs: onGroup(acl.Read), code: groupDenied},
	{key: 15, needs: onGroup(acl.Describe), code: groupDenied},
	{key: 16, needs: onGroup(acl.Describe), shown: shows(func(r *kmsg.ListGroupsResponse) bool { return len(r.Groups) == 1 })},
	{key: 16, what: "of the cluster", needs: onCluster(acl.Describe), shown: shows(func(r *kmsg.ListGroupsResponse) bool { return len(r.Groups) == 1 })},
	{key: 19, needs: onTopic(acl.Create), code: topicDenied},
	{key: 19, what: "in the cluster", needs: onCluster(acl.Create), code: topicDenied, noted: ref(onTopic(acl.Create))},
	{key: 20, needs: onTopic(acl.Delete), code: topicDenied},
	{key: 20, what: "in the cluster", needs: onCluster(acl.Delete), code: topicDenied, noted: ref(onTopic(acl.Delete))},
	{key: 20, what: "by id", needs: onTopic(acl.Delete), code: topicDenied, change: on(func(q *kmsg.DeleteTopicsRequest) {
		q.Topics = q.Topics[:1]
		q.Topics[0].Topic, q.Topics[0].TopicID = nil, idOfT
	})},
	{key: 20, what: "by name", version: 3, needs: onTopic(acl.Delete), code: topicDenied, change: on(func(q *kmsg.DeleteTopicsRequest) { q.TopicNames = twoTopics[:] })},
	{key: 21, needs: onTopic(acl.Delete), code: topicDenied},
	{key: 22, needs: onTopic(acl.Write), code: clusterDenied, noted: &frontdoor.Action{Operation: acl.Write, Type: acl.Topic}},
	{key: 22, what: "by the right of before", needs: onCluster(acl.IdempotentWrite), code: clusterDenied, noted: &frontdoor.Action{Operation: acl.Write, Type: acl.Topic}},
	{key: 22, what: "of a transactional id", needs: onID(acl.Write), code: idDenied, change: on(func(q *kmsg.InitProducerIDRequest) { q.TransactionalID = &twoIDs[0] })},
	{key: 23, needs: onTopic(acl.Describe), code: topicDenied},
	{key: 23, what: "as brokers do", needs: onCluster(acl.ClusterAction), code: topicDenied, noted: ref(onTopic(acl.Describe))},
	{key: 24, needs: onID(acl.Write), also: []frontdoor.Action{onTopic(acl.Write)}, code: idDenied},
	{key: 24, what: "of topics", needs: onTopic(acl.Write), also: []frontdoor.Action{onID(acl.Write)}, code: topicDenied},
	{key: 25, needs: onID(acl.Write), also: []frontdoor.Action{onGroup(acl.Read)}, code: idDenied},
	{key: 25, what: "of the group", needs: onGroup(acl.Read), also: []frontdoor.Action{onID(acl.Write)}, code: groupDenied},
	{key: 26, needs: onID(acl.Write), code: idDenied},
	{key: 27, needs: onCluster(acl.ClusterAction), code: clusterDenied},
	{key: 27, what: "as administrators do", needs: onCluster(acl.Alter), code: clusterDenied, noted: ref(onCluster(acl.ClusterAction))},
	{key: 28, needs: onID(acl.Write), also: []frontdoor.Action{onGroup(acl.Read), onTopic(acl.Read)}, code: idDenied},
	{key: 28, what: "of the group", needs: onGroup(acl.Read), also: []frontdoor.Action{onID(acl.Write), onTopic(acl.Read)}, code: groupDenied},
	{key: 28, what: "of topics", needs: onTopic(acl.Read), also: []frontdoor.Action{onID(acl.Write), onGroup(acl.Read)}, code: topicDenied},
	{key: 29, needs: onCluster(acl.Describe), code: clusterDenied},
	{key: 30, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 31, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 32, needs: onTopic(acl.DescribeConfigs), code: topicDenied, change: configsOf(kmsg.ConfigResourceTypeTopic, "t")},
	{key: 32, what: "of a group", needs: onGroup(acl.DescribeConfigs), code: groupDenied, change: configsOf(kmsg.ConfigResourceTypeGroupConfig, "g")},
	{key: 32, what: "of a broker", needs: onCluster(acl.DescribeConfigs), code: clusterDenied, change: configsOf(kmsg.ConfigResourceTypeBroker, "1")},
	{key: 33, needs: onTopic(acl.AlterConfigs), code: topicDenied, change: configsOf(kmsg.ConfigResourceTypeTopic, "t")},
	{key: 33, what: "of a broker", needs: onCluster(acl.AlterConfigs), code: clusterDenied, change: configsOf(kmsg.ConfigResourceTypeBroker, "1")},
	{key: 35, needs: onCluster(acl.Describe), code: clusterDenied},
	{key: 35, what: "where no error is told", version: 1, needs: onCluster(acl.Describe), noted: ref(onCluster(acl.Describe)),
		shown: shows(func(r *kmsg.DescribeLogDirsResponse) bool { return len(r.Dirs) == 1 })},
	{key: 37, needs: onTopic(acl.Alter), code: topicDenied},
	{key: 42, needs: onGroup(acl.Delete), code: groupDenied},
	{key: 43, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 44, needs: onTopic(acl.AlterConfigs), code: topicDenied, change: configsOf(kmsg.ConfigResourceTypeTopic, "t")},
	{key: 44, what: "of a broker", needs: onCluster(acl.AlterConfigs), code: clusterDenied, change: configsOf(kmsg.ConfigResourceTypeBroker, "1")},
	{key: 44, what: "of a group", needs: onGroup(acl.AlterConfigs), code: groupDenied, change: configsOf(kmsg.ConfigResourceTypeGroupConfig, "g")},
	{key: 45, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 46, needs: onCluster(acl.Describe), code: clusterDenied},
	{key: 47, needs: onGroup(acl.Delete), also: []frontdoor.Action{onTopic(acl.Read)}, code: groupDenied},
	{key: 47, what: "of topics", needs: onTopic(acl.Read), also: []frontdoor.Action{onGroup(acl.Delete)}, code: topicDenied},
	{key: 48, needs: onCluster(acl.DescribeConfigs), code: clusterDenied},
	{key: 50, needs: onCluster(acl.Describe), code: clusterDenied},
	{key: 51, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 55, needs: onCluster(acl.Describe), code: clusterDenied},
	{key: 57, needs: onCluster(acl.Alter), code: clusterDenied},
	{key: 60, needs: onCluster(acl.Describe), change: on(func(q *kmsg.DescribeClusterRequest) { q.IncludeClusterAuthorizedOperations, q.EndpointType = true, 1 }),
		shown: shows(func(r *kmsg.DescribeClusterResponse) bool { return r.ClusterAuthorizedOperations == 1<<acl.Describe }), noted: ref(onCluster(acl.Describe))},
	{key: 61, needs: onTopic(acl.Read), code: topicDenied},
	{key: 65, needs: onID(acl.Describe), code: idDenied},
	{key: 65, what: "with topics", needs: onTopic(acl.Describe), also: []frontdoor.Action{onID(acl.Describe)},
		shown: shows(func(r *kmsg.DescribeTransactionsResponse) bool { return len(r.TransactionStates[0].Topics) == 1 })},
	{key: 66, needs: onID(acl.Describe), shown: shows(func(r *kmsg.ListTransactionsResponse) bool { return len(r.TransactionStates) == 1 })},
	{key: 68, needs: onGroup(acl.Read), also: []frontdoor.Action{onTopic(acl.Describe)}, code: groupDenied},
	{key: 68, what: "to topics", needs: onTopic(acl.Describe), also: []frontdoor.Action{onGroup(acl.Read)}, code: topicDenied},
	{key: 69, needs: onGroup(acl.Describe), also: []frontdoor.Action{onTopic(acl.Describe)}, code: groupDenied},
	{key: 69, what: "with topics", needs: onTopic(acl.Describe), also: []frontdoor.Action{onGroup(acl.Describe)}, code: topicDenied},
	{key: 74, needs: onCluster(acl.DescribeConfigs), code: clusterDenied},
	{key: 75, needs: onTopic(acl.Describe), code: topicDenied},
	{key: 75, what: "of all", needs: onTopic(acl.Describe), change: on(func(q *kmsg.DescribeTopicPartitionsRequest) { q.Topics = nil }),
		shown: shows(func(r *kmsg.DescribeTopicPartitionsResponse) bool { return len(r.Topics) == 1 })},
}

// Every key asks for the rights that Kafka asks for, and for no others; who lacks one is told so of that resource alone; and the audit log has
// what was refused and what administrators did.
func TestRights(t *testing.T) {
	t.Parallel()
	for _, key := range keys() {
		listed := slices.ContainsFunc(rights, func(r right) bool { return r.key == key })
		if listed == slices.Contains(free, key) {
			t.Errorf("key %d (%s): a key that is served stands in the table of rights, or among those that are free", key, endpoints[key].name)
		}
	}
	for _, row := range rights {
		name := endpoints[row.key].name
		if row.what != "" {
			name += " " + row.what
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row.with(t)
			row.without(t)
		})
	}
}

// ask sends the request of a line to a broker whose rules allow some things; what else it names is allowed in any case.
func (row right) ask(t *testing.T, allowed ...frontdoor.Action) (*guardedRig, kmsg.Response) {
	t.Helper()
	rules := allowing(allowed...)
	for _, a := range append([]frontdoor.Action{row.needs}, row.also...) {
		if other, named := map[string]string{"t": "u", "g": "h", "x": "y"}[a.Name]; named {
			a.Name = other
			rules = append(rules, allowing(a)...)
		}
	}
	if row.key == 22 { // it asks for a right to any topic
		rules = allowing(allowed...)
	}
	g := newRuledRig(t, true, rules...)
	version := row.version
	if version == 0 {
		version = -1
	}
	req := naming(row.key, version)
	if row.change != nil {
		row.change(req)
	}
	return g, g.dial().ask(req)
}

func (row right) with(t *testing.T) {
	g, resp := row.ask(t, append([]frontdoor.Action{row.needs}, row.also...)...)
	codes := codesOf(reflect.ValueOf(resp), "")
	for _, code := range []int16{topicDenied, groupDenied, clusterDenied, idDenied} {
		if of, ok := has(codes, code); ok {
			t.Errorf("with the right: %q is refused by code %d", of, code)
		}
	}
	if row.shown != nil && !row.shown(resp) {
		t.Errorf("with the right: not shown: %+v", resp)
	}
	administrative := false
	for _, n := range g.notes() {
		if n.Outcome != "allowed" {
			t.Errorf("with the right: the audit log has %+v", n)
		}
		administrative = administrative || n.wants(endpoints[row.key].name, "allowed", row.note())
	}
	switch row.note().Operation {
	case acl.Create, acl.Delete, acl.Alter, acl.AlterConfigs, acl.ClusterAction:
		if !administrative {
			t.Errorf("with the right: the audit log lacks %+v: %s", row.note(), g.audit.String())
		}
	}
}

func (row right) note() frontdoor.Action {
	if row.noted != nil {
		return *row.noted
	}
	return row.needs
}

func (row right) without(t *testing.T) {
	g, resp := row.ask(t, row.also...)
	codes := codesOf(reflect.ValueOf(resp), "")
	if row.code != 0 {
		of, ok := has(codes, row.code)
		if !ok {
			t.Errorf("without the right: code %d is not among %v", row.code, codes)
		}
		if of == "u" || of == "h" || of == "y" {
			t.Errorf("without the right: %q is refused, which is allowed", of)
		}
	}
	if row.shown != nil && row.shown(resp) {
		t.Errorf("without the right: shown: %+v", resp)
	}
	if slices.Contains(g.touched, row.needs.Name) {
		t.Errorf("without the right: what was asked has come to %q", row.needs.Name)
	}
	notes := g.notes()
	if row.code == 0 && row.noted == nil {
		if len(notes) != 0 {
			t.Errorf("what is left out is noted: %+v", notes)
		}
		return
	}
	if !slices.ContainsFunc(notes, func(n noted) bool { return n.wants(endpoints[row.key].name, "denied", row.note()) }) {
		t.Errorf("without the right: the audit log lacks %+v: %s", row.note(), g.audit.String())
	}
}

// Who may see a topic is told its name, and its configs, though it may do no more; who may not is told nothing.
func TestNamesAreNotGivenAway(t *testing.T) {
	t.Parallel()
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version = 6
	remove.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: idOfT}, {Topic: &twoTopics[1]}}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version = 7
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", -1, -1
	create.Topics = []kmsg.CreateTopicsRequestTopic{topic}
	for _, c := range []struct {
		rules        []acl.Rule
		named        bool
		unknown      int16
		configs      bool
		configsError int16
	}{
		{nil, false, topicDenied, false, topicDenied},
		{allowing(onTopic(acl.Describe), onTopic(acl.DescribeConfigs), frontdoor.Action{Operation: acl.Describe, Type: acl.Topic, Name: "u"}), true, 3, true, 0},
	} {
		g := newRuledRig(t, true, append(allowing(onTopic(acl.Create)), c.rules...)...)
		got := g.dial().ask(remove).(*kmsg.DeleteTopicsResponse)
		if named := got.Topics[0].Topic != nil; got.Topics[0].ErrorCode != topicDenied || named != c.named || got.Topics[1].ErrorCode != c.unknown {
			t.Errorf("deleted by id: code %d, named %v; by name: code %d", got.Topics[0].ErrorCode, named, got.Topics[1].ErrorCode)
		}
		made := g.dial().ask(create).(*kmsg.CreateTopicsResponse).Topics[0]
		if made.ErrorCode != 0 || len(made.Configs) > 0 != c.configs || made.ConfigErrorCode != c.configsError || made.NumPartitions > 0 != c.configs {
			t.Errorf("created: code %d, %d configs, %d, %d partitions", made.ErrorCode, len(made.Configs), made.ConfigErrorCode, made.NumPartitions)
		}
	}
}

// A fetch session that was begun with a right does not outlive it.
func TestRightsOfSessionsAreAskedAgain(t *testing.T) {
	t.Parallel()
	var img atomic.Pointer[metadata.Image]
	whole := imageOf(t, "t", 1)
	img.Store(whole.WithAccess(nil, allowing(onTopic(acl.Read))))
	guard := frontdoor.NewGuard(frontdoor.GuardConfig{Image: img.Load, Enforce: true})
	r := newRig(t, func(c *Config) { c.Guard = guard })
	r.cluster.image = whole
	r.log.fetch = func(_ context.Context, q partition.FetchRequest) (list []partition.FetchedPartition) {
		for _, p := range q.Partitions {
			list = append(list, partition.FetchedPartition{TopicPartition: p.TopicPartition})
		}
		return list
	}
	w := r.dial()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.SessionEpoch = 12, 0
	p := kmsg.NewFetchRequestTopicPartition()
	req.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	first := w.ask(req).(*kmsg.FetchResponse)
	if first.SessionID == 0 || first.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", first)
	}
	img.Store(whole)
	req.SessionID, req.SessionEpoch, req.Topics = first.SessionID, 1, nil
	second := w.ask(req).(*kmsg.FetchResponse)
	if len(second.Topics) != 1 || second.Topics[0].Partitions[0].ErrorCode != topicDenied {
		t.Errorf("without the right: %+v", second)
	}
}

// A right that is taken away while a fetch waits is asked for again, of a topic that was asked for beside others too.
func TestRightsOfAFetchThatWaits(t *testing.T) {
	t.Parallel()
	var img atomic.Pointer[metadata.Image]
	whole := imageOf(t, "t", 2)
	img.Store(whole.WithAccess(nil, allowing(onTopic(acl.Read))))
	guard := frontdoor.NewGuard(frontdoor.GuardConfig{Image: img.Load, Enforce: true})
	r := newRig(t, func(c *Config) { c.Guard = guard })
	r.cluster.image = whole
	r.log.fetch = func(_ context.Context, q partition.FetchRequest) (list []partition.FetchedPartition) {
		img.Store(whole)
		for _, p := range q.Partitions {
			batch := batchOf("secret")
			list = append(list, partition.FetchedPartition{TopicPartition: p.TopicPartition, Batches: [][]byte{batch}, Bytes: len(batch), HighWatermark: 1})
		}
		return list
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version = 11
	p, q := kmsg.NewFetchRequestTopicPartition(), kmsg.NewFetchRequestTopicPartition()
	q.Partition = 1
	req.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{p, q}}}
	got := r.dial().ask(req).(*kmsg.FetchResponse)
	for _, p := range got.Topics[0].Partitions {
		if p.ErrorCode != topicDenied || len(p.RecordBatches) > 0 {
			t.Errorf("partition %d: code %d, %d bytes", p.Partition, p.ErrorCode, len(p.RecordBatches))
		}
	}
}

// What is asked on the way of every record costs no memory: not where nobody decides, and not where rules do.
func TestAskingAllocatesNothing(t *testing.T) {
	img := imageOf(t, "t", 1).WithAccess(nil, allowing(onTopic(acl.Write)))
	for what, guard := range map[string]*frontdoor.Guard{
		"nobody decides": nil,
		"rules decide":   frontdoor.NewGuard(frontdoor.GuardConfig{Image: func() *metadata.Image { return img }, Enforce: true}),
	} {
		c := &conn{Server: &Server{c: Config{Guard: guard}}, caller: frontdoor.NewCaller("kafka", "alice", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)})}
		r := &request{endpoint: endpoints[keyProduce]}
		allocated := testing.AllocsPerRun(100, func() {
			topics := c.topics(r, acl.Write)
			for range 10 {
				if !topics.Allow("t") {
					t.Fatal("denied")
				}
			}
		})
		if allocated != 0 {
			t.Errorf("%s: %v allocations", what, allocated)
		}
	}
}

// BenchmarkAsking is what a request that names one topic costs beside what it does, with 1,000 rules.
func BenchmarkAsking(b *testing.B) {
	rules := allowing(onTopic(acl.Write))
	for i := range 1000 {
		rule := allowing(frontdoor.Action{Operation: acl.Write, Type: acl.Topic, Name: fmt.Sprint("topic", i)})[0]
		rule.Principal = fmt.Sprint("User:u", i%50)
		if i%10 == 0 {
			rule.Pattern = acl.Prefixed
		}
		rules = append(rules, rule)
	}
	img := imageOf(b, "t", 1).WithAccess(nil, rules)
	for what, guard := range map[string]*frontdoor.Guard{
		"none": nil,
		"acl":  frontdoor.NewGuard(frontdoor.GuardConfig{Image: func() *metadata.Image { return img }, Enforce: true}),
	} {
		b.Run(what, func(b *testing.B) {
			c := &conn{Server: &Server{c: Config{Guard: guard}}, caller: frontdoor.NewCaller("kafka", "alice", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)})}
			r := &request{endpoint: endpoints[keyProduce]}
			b.ReportAllocs()
			for b.Loop() {
				topics := c.topics(r, acl.Write)
				if !topics.Allow("t") {
					b.Fatal("denied")
				}
			}
		})
	}
}

// The page about rights has a line for each key, with every right of the table.
func TestRightsPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			lines[strings.TrimSpace(cells[1])] = line
		}
	}
	for _, key := range keys() {
		if name := endpoints[key].name; lines[name] == "" {
			t.Errorf("docs/rights.md lacks %s", name)
		}
	}
	for _, row := range rights {
		name, needs := endpoints[row.key].name, fmt.Sprintf("%v on %v", row.needs.Operation, row.needs.Type)
		if !strings.Contains(lines[name], needs) {
			t.Errorf("docs/rights.md does not say that %s needs %s", name, needs)
		}
	}
}
