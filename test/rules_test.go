package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// bothDoors is a cluster where rules decide, with a user who has none yet.
type bothDoors struct {
	*scenario
	audit string
	said  *lockedLog
	admin *client.Client
	alice *client.Client
	// producing is alice's; once it could write it has a producer id, and keeps it.
	producing *client.Producer
}

func beginBothDoors(t *testing.T) *bothDoors {
	t.Helper()
	r := &bothDoors{audit: filepath.Join(t.TempDir(), "audit"), said: new(lockedLog)}
	c, _ := guarded(t, brokertest.Options{Log: r.said, LogLevel: slog.LevelDebug}, func(c *broker.Config) {
		c.Security.Authorizer, c.Security.AuditLog = broker.AuthorizerACL, fmt.Sprint(r.audit, c.BrokerID)
		c.Transactions.Shards, c.Groups.Shards = 2, 2
		c.Groups.HeartbeatInterval, c.Groups.Settle = 200*time.Millisecond, 20*time.Millisecond
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	patient := func(user, password string) *client.Client { // nobody dies here, but a machine may be busy
		return c.ClientWith(client.Config{RequestTimeout: 20 * time.Second, SASL: client.SASL{User: user, Password: password}})
	}
	r.admin, r.alice = patient("admin", adminPassword), patient("alice", alicesPassword)
	r.scenario = &scenario{t: t, ctx: ctx, c: c, cl: r.admin}
	var err error
	r.producing, err = r.alice.NewProducer(client.ProducerConfig{Linger: client.NoLinger})
	r.must("producer", err)
	r.until("the first user to exist", func() bool { _, err := r.admin.Users(ctx); return err == nil })
	r.must("make alice", r.admin.SetPassword(ctx, "alice", alicesPassword, 4096))
	for _, name := range []string{topic, otherTopic} {
		_, err := r.admin.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: 1, ReplicationFactor: 3})
		r.must("create", err)
		r.must("wait for", r.admin.WaitReady(ctx, name))
	}
	return r
}

// kafka is a connection of a user to a broker.
func (r *bothDoors) kafka(addr, user, password string) (w *kafkaWire) {
	r.t.Helper()
	r.until(user+" to come in at "+addr, func() bool {
		var code int16
		w, code = loginKafka(r.t, r.c, addr, user, password)
		return code == 0
	})
	return w
}

// everywhere waits until every broker has so many rules.
func (r *bothDoors) everywhere(rules int) {
	r.t.Helper()
	for _, addr := range r.c.KafkaAddrs() {
		w := r.kafka(addr, "admin", adminPassword)
		r.until(fmt.Sprintf("%d rules at %s", rules, addr), func() bool {
			n := 0
			for _, about := range r.describeRules(w).Resources {
				n += len(about.ACLs)
			}
			return n == rules
		})
	}
}

func (r *bothDoors) describeRules(w *kafkaWire) *kmsg.DescribeACLsResponse {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.Version = 3
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	return w.ask(req).(*kmsg.DescribeACLsResponse)
}

func createRule(kind kmsg.ACLResourceType, name string, op kmsg.ACLOperation) *kmsg.CreateACLsRequest {
	req := kmsg.NewPtrCreateACLsRequest()
	req.Version = 3
	req.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: kind, ResourceName: name, ResourcePatternType: kmsg.ACLResourcePatternTypeLiteral,
		Principal: "User:alice", Host: "*", Operation: op, PermissionType: kmsg.ACLPermissionTypeAllow}}
	return req
}

const (
	ruledGroup = "readers"
	ruledID    = "mover"
)

// A cluster that lets in only whom it should: without rules a user can do nothing, by neither door and on no broker; with rules it can do just
// that by both, whichever of them the rules came in by; and without them nothing again. Brokers go on among each other all the while, and
// the audit log has what was refused and what administrators did.
func TestRulesDecideAtBothDoors(t *testing.T) {
	t.Parallel()
	r := beginBothDoors(t)
	r.refusedEverything("without rules")

	// Half of the rules come in by each door.
	w := r.kafka("b1:9092", "admin", adminPassword)
	for _, req := range []*kmsg.CreateACLsRequest{createRule(kmsg.ACLResourceTypeTopic, topic, kmsg.ACLOperationWrite),
		createRule(kmsg.ACLResourceTypeGroup, ruledGroup, kmsg.ACLOperationRead)} {
		if made := w.ask(req).(*kmsg.CreateACLsResponse); made.Results[0].ErrorCode != 0 {
			t.Fatalf("create a rule by Kafka: %+v", made)
		}
	}
	rule := func(kind, name, op string) client.ACL {
		return client.ACL{ResourceType: kind, Resource: name, Pattern: "literal", Principal: "User:alice", Host: "*", Operation: op, Permission: "allow"}
	}
	r.must("create rules by gRPC", r.admin.CreateACLs(r.ctx, rule("topic", topic, "read"), rule("transactional_id", ruledID, "write")))
	r.everywhere(4)
	r.allowedByGRPC()
	r.allowedByKafka()
	r.refusedBeside()

	// A denial beats what is allowed, and what is taken away is gone.
	denial := rule("topic", topic, "write")
	denial.Permission = "deny"
	r.must("deny", r.admin.CreateACLs(r.ctx, denial))
	r.everywhere(5)
	if code := r.produceByKafka(topic); code != 29 {
		t.Errorf("produce against a denial: code %d", code)
	}
	filter := kmsg.NewPtrDeleteACLsRequest()
	filter.Version = 3
	principal := "User:alice"
	filter.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: kmsg.ACLResourceTypeAny, ResourcePatternType: kmsg.ACLResourcePatternTypeAny,
		Principal: &principal, Operation: kmsg.ACLOperationAny, PermissionType: kmsg.ACLPermissionTypeAny}}
	if gone := w.ask(filter).(*kmsg.DeleteACLsResponse); len(gone.Results[0].MatchingACLs) != 5 {
		t.Fatalf("delete the rules: %+v", gone)
	}
	r.everywhere(0)
	r.refusedEverything("after the rules are gone")
	r.wantAudited()
}

// produceByKafka is alice's attempt, at the leader.
func (r *bothDoors) produceByKafka(name string) int16 {
	r.t.Helper()
	w := r.kafka(fmt.Sprintf("b%d:9092", r.leaderOfPartition(record.TopicPartition{Topic: name})), "alice", alicesPassword)
	return w.ask(kafkaProduce(name, oneBatch(r.t, -1, -1, "by Kafka"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
}

// refusedEverything asks for what rules could allow, by both doors and on every broker.
func (r *bothDoors) refusedEverything(when string) {
	r.t.Helper()
	r.wantReason(when+": produce", "TOPIC_AUTHORIZATION_FAILED", r.send(topic))
	r.wantReason(when+": read", "TOPIC_AUTHORIZATION_FAILED", r.read())
	r.wantReason(when+": join", "GROUP_AUTHORIZATION_FAILED", r.join(ruledGroup))
	r.wantReason(when+": transact", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", r.transact(ruledID))
	r.wantReason(when+": make rules", "CLUSTER_AUTHORIZATION_FAILED", r.alice.CreateACLs(r.ctx, client.ACL{ResourceType: "topic", Resource: "*",
		Pattern: "literal", Principal: "User:alice", Host: "*", Operation: "all", Permission: "allow"}))
	r.wantReason(when+": make users", "CLUSTER_AUTHORIZATION_FAILED", r.alice.SetPassword(r.ctx, "bob", "x", 4096))
	if m, err := r.alice.Metadata(r.ctx); err != nil || len(m.Topics) != 0 {
		r.t.Errorf("%s: alice sees %+v, %v", when, m.Topics, err)
	}
	for _, addr := range r.c.KafkaAddrs() {
		w := r.kafka(addr, "alice", alicesPassword)
		for what, ask := range map[string]func() (code, want int16){
			"produce": func() (int16, int16) {
				resp := w.ask(kafkaProduce(topic, oneBatch(r.t, -1, -1, "refused"))).(*kmsg.ProduceResponse)
				return resp.Topics[0].Partitions[0].ErrorCode, 29
			},
			"metadata": func() (int16, int16) { return kafkaMetadata(w, topic).Topics[0].ErrorCode, 29 },
			"find the group": func() (int16, int16) {
				req := kmsg.NewPtrFindCoordinatorRequest()
				req.Version, req.CoordinatorKeys = 4, []string{ruledGroup}
				return w.ask(req).(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode, 30
			},
			"begin transactions": func() (int16, int16) { return initProducer(w, ruledID).ErrorCode, 53 },
			"a producer id":      func() (int16, int16) { return initProducer(w, "").ErrorCode, 31 },
			"make a rule": func() (int16, int16) {
				made := w.ask(createRule(kmsg.ACLResourceTypeTopic, topic, kmsg.ACLOperationAll)).(*kmsg.CreateACLsResponse)
				return made.Results[0].ErrorCode, 31
			},
			"list rules": func() (int16, int16) { return r.describeRules(w).ErrorCode, 31 },
			"write markers": func() (int16, int16) {
				req := kmsg.NewPtrWriteTxnMarkersRequest()
				req.Version = 1
				req.Markers = []kmsg.WriteTxnMarkersRequestMarker{{ProducerID: 1, Topics: []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: topic, Partitions: []int32{0}}}}}
				return w.ask(req).(*kmsg.WriteTxnMarkersResponse).Markers[0].Topics[0].Partitions[0].ErrorCode, 31
			},
		} {
			if code, want := ask(); code != want {
				r.t.Errorf("%s: %s at %s: code %d, want %d", when, what, addr, code, want)
			}
		}
	}
}

func initProducer(w *kafkaWire, id string) *kmsg.InitProducerIDResponse {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 5, 10_000, -1, -1
	if id != "" {
		req.TransactionalID = &id
	}
	return w.ask(req).(*kmsg.InitProducerIDResponse)
}

func (r *bothDoors) wantReason(what, want string, err error) {
	r.t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != want {
		r.t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// send is a record of alice's by gRPC.
func (r *bothDoors) send(name string) error {
	return r.producing.SendSync(r.ctx, client.Record{Topic: name, Partition: client.ToPartition(0), Value: []byte("by gRPC")}).Err
}

// read is a fetch of alice's by gRPC.
func (r *bothDoors) read() error {
	k, err := r.alice.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest})
	r.must("consumer", err)
	defer func() { _ = k.Close(r.ctx) }()
	if err := k.Assign(r.ctx, only); err != nil {
		return err
	}
	for {
		got, err := k.Poll(r.ctx)
		if err != nil {
			return err
		}
		for i := range got {
			if got[i].Err != nil {
				return got[i].Err
			}
		}
		if len(got) > 0 {
			return nil
		}
	}
}

// join makes alice a member of a group until it has read something.
func (r *bothDoors) join(group string) error {
	g, err := r.alice.NewGroupConsumer(client.GroupConfig{ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest}, GroupID: group, Topics: []string{topic}})
	if err != nil {
		return err
	}
	defer func() { _ = g.Close(r.ctx) }()
	for {
		got, err := g.Poll(r.ctx)
		if err != nil {
			return err
		}
		if len(got) > 0 {
			return g.Commit(r.ctx)
		}
	}
}

// transact writes a record and a group's offset in a transaction of alice's.
func (r *bothDoors) transact(id string) error {
	p, err := r.alice.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: id})
	r.must("producer", err)
	defer func() { _ = p.Close(r.ctx) }()
	if err := p.InitTransactions(r.ctx); err != nil {
		return err
	}
	r.must("begin", p.Begin())
	if res := p.SendSync(r.ctx, rec("in a transaction")); res.Err != nil {
		return res.Err
	}
	return p.Commit(r.ctx)
}

func (r *bothDoors) allowedByGRPC() {
	r.t.Helper()
	r.must("produce by gRPC", r.send(topic))
	r.must("read by gRPC", r.read())
	r.must("read as a group by gRPC", r.join(ruledGroup))
	r.must("transact by gRPC", r.transact(ruledID))
	if m, err := r.alice.Metadata(r.ctx); err != nil || len(m.Topics) != 1 || m.Topics[0].Name != topic {
		r.t.Errorf("alice sees %+v, %v", m.Topics, err)
	}
	// The markers went out though alice may not write any: brokers need no rights among each other.
	r.until("the transaction to be seen", func() bool { return slices.Contains(r.readUpTo(client.ReadCommitted, only), topic+":in a transaction") })
}

func (r *bothDoors) allowedByKafka() {
	r.t.Helper()
	if code := r.produceByKafka(topic); code != 0 {
		r.t.Fatalf("produce by Kafka: code %d", code)
	}
	w := r.kafka(fmt.Sprintf("b%d:9092", r.leader()), "alice", alicesPassword)
	fetched := w.ask(kafkaFetch(kafkaMetadata(w, topic).Topics[0].TopicID, 0, 1000)).(*kmsg.FetchResponse)
	if p := fetched.Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		r.t.Fatalf("fetch by Kafka: %+v", fetched)
	}
	find := func(kind int8, key string) *kafkaWire {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorType, req.CoordinatorKeys = 4, kind, []string{key}
		found := w.ask(req).(*kmsg.FindCoordinatorResponse).Coordinators[0]
		if found.ErrorCode != 0 {
			r.t.Fatalf("find the coordinator of %s by Kafka: %+v", key, found)
		}
		return r.kafka(fmt.Sprintf("b%d:9092", found.NodeID), "alice", alicesPassword)
	}
	r.transactByKafka(w, find(1, ruledID))
	offsets := kmsg.NewPtrOffsetFetchRequest()
	offsets.Version = 9
	offsets.Groups = []kmsg.OffsetFetchRequestGroup{{Group: ruledGroup, MemberEpoch: -1, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{0}}}}}
	has := find(0, ruledGroup).ask(offsets).(*kmsg.OffsetFetchResponse).Groups[0]
	if has.ErrorCode != 0 || has.Topics[0].Partitions[0].ErrorCode != 0 || has.Topics[0].Partitions[0].Offset <= 0 {
		r.t.Errorf("what the group has committed, by Kafka: %+v", has)
	}
}

// transactByKafka writes a batch in a transaction at the leader, and commits it at the coordinator.
func (r *bothDoors) transactByKafka(leader, coordinator *kafkaWire) {
	r.t.Helper()
	began := initProducer(coordinator, ruledID)
	if began.ErrorCode != 0 {
		r.t.Fatalf("begin transactions by Kafka: %+v", began)
	}
	b := record.NewBuilder(record.CodecNone)
	r.must("append", b.Append(time.Now().UnixMilli(), nil, []byte("in Kafka's transaction"), nil))
	id := ruledID
	req := kafkaProduce(topic, b.Finish(record.ProducerID(began.ProducerID), record.Epoch(began.ProducerEpoch), 0, true))
	req.Version, req.TransactionID = 12, &id
	if done := leader.ask(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; done.ErrorCode != 0 {
		r.t.Fatalf("produce in a transaction by Kafka: %+v", done)
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.Version, end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = 5, id, began.ProducerID, began.ProducerEpoch, true
	if code := coordinator.ask(end).(*kmsg.EndTxnResponse).ErrorCode; code != 0 {
		r.t.Fatalf("commit by Kafka: code %d", code)
	}
	r.until("Kafka's transaction to be seen", func() bool {
		return slices.Contains(r.readUpTo(client.ReadCommitted, only), topic+":in Kafka's transaction")
	})
}

// refusedBeside asks for what alice has no rule for, while it has others.
func (r *bothDoors) refusedBeside() {
	r.t.Helper()
	r.wantReason("produce elsewhere", "TOPIC_AUTHORIZATION_FAILED", r.send(otherTopic))
	r.wantReason("join another group", "GROUP_AUTHORIZATION_FAILED", r.join("others"))
	r.wantReason("another transactional id", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", r.transact("another"))
	if code := r.produceByKafka(otherTopic); code != 29 {
		r.t.Errorf("produce elsewhere by Kafka: code %d", code)
	}
	w := r.kafka("b2:9092", "alice", alicesPassword)
	if code := initProducer(w, "another").ErrorCode; code != 53 {
		r.t.Errorf("another transactional id by Kafka: code %d", code)
	}
	if err := r.alice.DeleteTopic(r.ctx, topic); reasonOf(err) != "TOPIC_AUTHORIZATION_FAILED" {
		r.t.Errorf("delete the topic: %v", err)
	}
}

// wantAudited reads what the brokers wrote down of all this.
func (r *bothDoors) wantAudited() {
	r.t.Helper()
	audit := ""
	for id := int32(1); id <= 3; id++ {
		lines, err := os.ReadFile(fmt.Sprint(r.audit, id))
		r.must("read the audit log", err)
		audit += string(lines)
	}
	for _, line := range []string{
		`"outcome":"denied","principal":"User:alice","address":"client","door":"kafka","call":"Produce","operation":"write","resource_type":"topic","resource":"` + topic + `"`,
		`"outcome":"denied","principal":"User:alice","address":"client","door":"kafka","call":"CreateACLs","operation":"alter","resource_type":"cluster"`,
		`"outcome":"denied","principal":"User:alice","address":"client","door":"grpc","call":"Produce","operation":"write","resource_type":"topic","resource":"` + topic + `"`,
		`"outcome":"allowed","principal":"User:admin","address":"client","door":"kafka","call":"CreateACLs","operation":"alter","resource_type":"cluster"`,
		`"outcome":"allowed","principal":"User:admin","address":"client","door":"grpc","call":"CreateAcls","operation":"alter","resource_type":"cluster"`,
	} {
		if !strings.Contains(audit, line) {
			r.t.Errorf("no audit log holds %s", line)
		}
	}
	for _, secret := range []string{adminPassword, alicesPassword, "Bearer ", "stored_key"} {
		if strings.Contains(r.said.String(), secret) || strings.Contains(audit, secret) {
			r.t.Errorf("a log holds %q", secret)
		}
	}
}
