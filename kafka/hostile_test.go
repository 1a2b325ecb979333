package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// What a client can send a little of, to make the broker hold or do much.

// A session remembers what its client named, for as long as there is room. No topic is called by a name so long that a few would fill the memory.
func TestSessionsKeepNoNamesThatNoTopicHas(t *testing.T) {
	r := newRig(t, nil)
	r.log.fetch = (&store{end: map[record.TopicPartition]record.Offset{}}).fetch
	w, long := r.dial(), strings.Repeat("x", 30_000)
	named := func(id, epoch int32, topic string) *kmsg.FetchRequest {
		req := sessionFetch(id, epoch, map[int32]int64{0: 0})
		req.Topics[0].Topic = topic
		return req
	}
	if resp := w.ask(named(0, 0, long)).(*kmsg.FetchResponse); resp.SessionID != 0 || resp.ErrorCode != 0 || len(resp.Topics) != 1 {
		t.Errorf("a session for a name of %d bytes: session %d, code %d, %d topics", len(long), resp.SessionID, resp.ErrorCode, len(resp.Topics))
	}
	id := w.ask(named(0, 0, "t")).(*kmsg.FetchResponse).SessionID
	if resp := w.ask(named(id, 1, long)).(*kmsg.FetchResponse); id == 0 || resp.ErrorCode != 70 {
		t.Errorf("session %d took a name of %d bytes: code %d", id, len(long), resp.ErrorCode)
	}
	if got := r.server.metricOf(r.server.metrics.fetchSessions); got != 0 {
		t.Errorf("%v sessions", got)
	}
}

// A produce request may be large. A tag of it takes five bytes there, and more than ten times as much when it is decoded.
func TestManyTagsAreTooLarge(t *testing.T) {
	many := func(n int) (b []byte) {
		b = binary.AppendUvarint(nil, uint64(n))
		for i := range n {
			b = append(binary.AppendUvarint(b, uint64(i)), 0)
		}
		return b
	}
	for _, n := range []int{0, 1000, 20_000} {
		for place, body := range map[string][]byte{
			"request":   slices.Concat([]byte{0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 1}, many(n)),
			"topic":     slices.Concat([]byte{0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 2, 2, 't', 1}, many(n), []byte{0}),
			"partition": slices.Concat([]byte{0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 2, 2, 't', 2, 0, 0, 0, 0, 1}, many(n), []byte{0, 0}),
		} {
			r := &request{endpoint: endpoints[keyProduce], frame: body}
			err := r.decode(head{int32(len(body) + 8), keyProduce, 9, 1})
			var why *closing
			if refused := errors.As(err, &why) && why.reason == "too_large"; refused != (n == 20_000) || err != nil && !refused {
				t.Errorf("%d tags of a %s: %v", n, place, err)
			}
		}
	}
}

// What a request names again and again is in the answer once: a topic has up to ten thousand partitions, a group megabytes of members and offsets.
func TestWhatIsNamedAgainIsAnsweredOnce(t *testing.T) {
	groups := &countedGroups{}
	r := newRig(t, func(c *Config) { c.Groups = groups })
	r.cluster.image = imageOf(t, "t", 3)
	w := r.dial()

	topics := kmsg.NewPtrMetadataRequest()
	topics.Version = 12
	byName, byID := kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic()
	byName.Topic, byID.TopicID[0] = kmsg.StringPtr("t"), 7
	for range 100 {
		topics.Topics = append(topics.Topics, byName, byID)
	}
	if got := w.ask(topics).(*kmsg.MetadataResponse).Topics; len(got) != 2 || len(got[0].Partitions) != 3 || len(got[1].Partitions) != 3 {
		t.Errorf("metadata: %d topics", len(got))
	}
	offsets := kmsg.NewPtrOffsetFetchRequest()
	offsets.Version, offsets.Groups = 8, slices.Repeat([]kmsg.OffsetFetchRequestGroup{{Group: "g"}}, 100)
	if got := w.ask(offsets).(*kmsg.OffsetFetchResponse).Groups; len(got) != 1 || groups.asked.Swap(0) != 1 {
		t.Errorf("offsets: %d groups", len(got))
	}
	for _, version := range []int16{1, 7, 9} { // what has failed is answered for each partition, too
		r.server.c.Groups = failedGroups{}
		offsets.Version, offsets.Group, offsets.Groups = version, "g", nil
		many := slices.Repeat([]int32{0, 1}, 1000)
		offsets.Topics = slices.Repeat([]kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: many}}, 2)
		if version >= 8 {
			offsets.Topics = nil
			offsets.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g", Topics: slices.Repeat([]kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: many}}, 2)}}
		}
		n := 0
		got := w.ask(offsets).(*kmsg.OffsetFetchResponse)
		for _, t := range got.Topics {
			n += len(t.Partitions)
		}
		if version < 8 && n != 2 || version >= 8 && (len(got.Groups) != 1 || got.Groups[0].ErrorCode == 0 || len(got.Groups[0].Topics) != 0) {
			t.Errorf("offsets, version %d: %d partitions", version, n)
		}
	}
	r.server.c.Groups = groups
	denied := newRuledRig(t, true, allowing(onGroup(acl.Describe))...).dial().ask(offsets).(*kmsg.OffsetFetchResponse).Groups
	if len(denied) != 1 || len(denied[0].Topics) != 1 || len(denied[0].Topics[0].Partitions) != 2 || denied[0].Topics[0].Partitions[0].ErrorCode == 0 {
		t.Errorf("offsets of a topic that the client may not see: %+v", denied)
	}
	classic := kmsg.NewPtrDescribeGroupsRequest()
	classic.Groups = slices.Repeat([]string{"g"}, 100)
	if got := w.ask(classic).(*kmsg.DescribeGroupsResponse).Groups; len(got) != 1 || groups.asked.Swap(0) != 1 {
		t.Errorf("groups: %d", len(got))
	}
	members := kmsg.NewPtrConsumerGroupDescribeRequest()
	members.Groups = slices.Repeat([]string{"g"}, 100)
	if got := w.ask(members).(*kmsg.ConsumerGroupDescribeResponse).Groups; len(got) != 1 || groups.asked.Swap(0) != 1 {
		t.Errorf("groups of members: %d", len(got))
	}
	asked := 0
	r.log.describe = func(record.TopicPartition, int) ([]producer.Description, bool, error) {
		asked++
		return make([]producer.Description, 5), false, nil
	}
	producers := kmsg.NewPtrDescribeProducersRequest()
	producers.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: slices.Repeat([]int32{0}, 100)}}
	got := w.ask(producers).(*kmsg.DescribeProducersResponse).Topics[0].Partitions
	if len(got) != 100 || got[0].ErrorCode != 0 || len(got[0].ActiveProducers) != 5 || got[99].ErrorCode == 0 || asked != 1 {
		t.Errorf("producers: %d partitions, asked for %d times", len(got), asked)
	}
}

// countedGroups counts how often it is asked for a group.
type countedGroups struct {
	fakeGroups
	asked atomic.Int32
}

func (g *countedGroups) FetchOffsets(context.Context, coordinator.FetchRequest) ([]group.Fetched, error) {
	g.asked.Add(1)
	return nil, nil
}

// failedGroups knows no offsets.
type failedGroups struct{ fakeGroups }

func (failedGroups) FetchOffsets(context.Context, coordinator.FetchRequest) ([]group.Fetched, error) {
	return nil, errNoTransactions
}

func (g *countedGroups) Describe(context.Context, string) (group.Description, error) {
	g.asked.Add(1)
	return group.Description{}, errNoTransactions
}

// The partitions of all groups of one request have a bound together.
func TestOffsetsOfManyGroupsAreBounded(t *testing.T) {
	groups := &countedGroups{}
	r := newRig(t, func(c *Config) { c.Groups = groups })
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	for i := range 4 {
		req.Groups = append(req.Groups, kmsg.OffsetFetchRequestGroup{Group: fmt.Sprint(i), Topics: []kmsg.OffsetFetchRequestGroupTopic{
			{Topic: "t", Partitions: make([]int32, maxOffsetsAsked/3)}}})
	}
	got := r.dial().ask(req).(*kmsg.OffsetFetchResponse).Groups
	if len(got) != 4 || got[2].ErrorCode != 0 || got[3].ErrorCode == 0 || groups.asked.Load() != 3 {
		t.Errorf("%d groups, asked for %d", len(got), groups.asked.Load())
	}
}

// Who may not, and who says much, takes no more of the broker's time than reading it does.
func TestManyConfigsTakeNoTime(t *testing.T) {
	g := newRuledRig(t, true)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	configs := make([]kmsg.IncrementalAlterConfigsRequestResourceConfig, 150_000)
	for i := range configs {
		configs[i].Name, configs[i].Value = fmt.Sprintf("%05x", i), kmsg.StringPtr("")
	}
	req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: configs}}
	began := time.Now()
	if got := g.dial().ask(req).(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode; got != 29 {
		t.Errorf("code %d", got)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("%d configs took %v", len(configs), took)
	}
	c := &conn{Server: &Server{c: Config{Cluster: g.cluster}}}
	if change, reason, _ := c.topicChange(req.Resources[0]); reason != "" || len(change.Set) != len(configs) {
		t.Errorf("%d configs, %s", len(change.Set), reason)
	}
	req.Resources[0].Configs = append(configs[:2:2], configs[0])
	if _, reason, _ := c.topicChange(req.Resources[0]); reason != "INVALID_REQUEST" {
		t.Errorf("a config that is there twice: %q", reason)
	}
}

// An answer can be megabytes, and only those of fetches count against a limit: a client that does not read has one made, not hundreds.
func TestAnswersThatNobodyReadsAreNotMade(t *testing.T) {
	r := newRig(t, nil)
	// read counts the answers that the client has begun to read.
	var made, read atomic.Int32
	r.txns.find = func(coordinator.Kind, string) (int32, error) {
		if n := made.Add(1); read.Load() < n-1 {
			t.Errorf("answer %d was made when %d had been read", n, read.Load())
		}
		return 1, nil
	}
	l := &piped{conns: make(chan net.Conn), done: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(testListener, l) }()
	defer func() { _ = l.Close(); <-served }()
	client, server := net.Pipe()
	l.conns <- server
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	w := &wire{t: t, conn: client}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKey = 2, "g"
	const many = 10
	for range many {
		w.send(req)
	}
	produced := make(chan struct{})
	r.log.produce = func(_ partition.ProduceRequest, done func(partition.ProduceResult, error)) {
		close(produced)
		done(partition.ProduceResult{}, nil)
	}
	waitFor(t, func() bool { return made.Load() >= 1 })
	for i := range many {
		read.Add(1)
		w.recv(int32(i+1), req)
	}
	last := w.send(produceOf(9, -1, "t", batchOf("v")))
	<-produced
	w.recv(last, produceOf(9, -1, "t"))
}
