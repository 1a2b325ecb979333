package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// What requests of the table name: topic "t", which exists, and "u", which does not; groups, transactional ids and users by twos.
var (
	twoTopics = [2]string{"t", "u"}
	twoGroups = [2]string{"g", "h"}
	twoIDs    = [2]string{"x", "y"}
	idOfT     = [16]byte{7}
	idOfU     = [16]byte{9}
)

// naming makes a request that names everything that it can, twice where it can name more than one.
func naming(key, version int16) kmsg.Request {
	req := kmsg.RequestForKey(key)
	if version < 0 {
		version = endpoints[key].max
	}
	defaults(reflect.ValueOf(req))
	req.SetVersion(version)
	nameIn(reflect.ValueOf(req).Elem(), 0)
	return req
}

func defaults(pointer reflect.Value) {
	if d, ok := pointer.Interface().(interface{ Default() }); ok {
		d.Default()
	}
}

func nameIn(v reflect.Value, which int) {
	texts := map[string]string{"Topic": twoTopics[which], "ResourceName": twoTopics[which], "Group": twoGroups[which], "TransactionalID": twoIDs[which],
		"CoordinatorKey": "g", "MemberID": "m", "ProtocolType": "consumer", "Protocol": "range", "Principal": "User:x", "Host": "*",
		"Name": "someone", "Feature": featureTransactions, "ClientSoftwareName": "test", "ClientSoftwareVersion": "1"}
	lists := map[string][]string{"Groups": twoGroups[:], "TransactionalIDs": twoIDs[:], "CoordinatorKeys": twoGroups[:], "SubscribedTopicNames": twoTopics[:]}
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case f.Kind() == reflect.String && texts[name] != "":
			f.SetString(texts[name])
		case f.Type() == reflect.TypeFor[*string]() && name == "Topic":
			f.Set(reflect.ValueOf(&twoTopics[which]))
		case f.Type() == reflect.TypeFor[[]string]() && lists[name] != nil:
			f.Set(reflect.ValueOf(lists[name]))
		case f.Type() == reflect.TypeFor[[]int32]() && name == "Partitions":
			f.Set(reflect.ValueOf([]int32{0}))
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			two := reflect.MakeSlice(f.Type(), 2, 2)
			for k := range 2 {
				defaults(two.Index(k).Addr())
				nameIn(two.Index(k), k)
			}
			f.Set(two)
		}
	}
}

// said is an error of an answer, and of which topic, group or id it is; empty: of the whole.
type said struct {
	of   string
	code int16
}

// codesOf gathers all errors of an answer.
func codesOf(v reflect.Value, of string) (list []said) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return codesOf(v.Elem(), of)
		}
	case reflect.Slice:
		for i := range v.Len() {
			list = append(list, codesOf(v.Index(i), of)...)
		}
	case reflect.Struct:
		for _, name := range []string{"Topic", "Group", "TransactionalID", "ResourceName", "Key"} {
			f := v.FieldByName(name)
			if f.Kind() == reflect.Pointer && !f.IsNil() {
				f = f.Elem()
			}
			if f.Kind() == reflect.String && f.String() != "" {
				of = f.String()
			}
		}
		if id := v.FieldByName("TopicID"); id.IsValid() && id.Interface() == idOfT {
			of = "t"
		} else if id.IsValid() && id.Interface() == idOfU {
			of = "u"
		}
		for i := range v.NumField() {
			if f := v.Field(i); v.Type().Field(i).Name == "ErrorCode" {
				list = append(list, said{of, int16(f.Int())})
			} else {
				list = append(list, codesOf(f, of)...)
			}
		}
	}
	return list
}

func has(list []said, code int16) (of string, ok bool) {
	i := slices.IndexFunc(list, func(s said) bool { return s.code == code })
	if i < 0 {
		return "", false
	}
	return list[i].of, true
}

// allowing are rules that allow actions to everybody.
func allowing(actions ...frontdoor.Action) []acl.Rule {
	var rules []acl.Rule
	for _, a := range actions {
		rules = append(rules, acl.Rule{Type: a.Type, Name: a.Name, Pattern: acl.Literal, Principal: acl.Anybody, Host: acl.AnyHost, Operation: a.Operation, Permission: acl.Allow})
	}
	return rules
}

func onTopic(op acl.Operation) frontdoor.Action {
	return frontdoor.Action{Operation: op, Type: acl.Topic, Name: twoTopics[0]}
}
func onGroup(op acl.Operation) frontdoor.Action {
	return frontdoor.Action{Operation: op, Type: acl.Group, Name: twoGroups[0]}
}
func onID(op acl.Operation) frontdoor.Action {
	return frontdoor.Action{Operation: op, Type: acl.TransactionalID, Name: twoIDs[0]}
}

// noted is a line of the audit log.
type noted struct {
	Outcome, Principal, Address, Door, Call, Operation, Resource string
	ResourceType                                                 string `json:"resource_type"`
}

// guardedRig is a rig whose clients, who are nobody in particular, may do what rules allow.
type guardedRig struct {
	*rig
	audit *lockedBuffer
	// changed are the changes of rules and users that were asked for, touched the topics that came to a log, a group or the metadata.
	changed []cluster.AccessChange
	mu      sync.Mutex
	touched []string
}

func newRuledRig(t testing.TB, enforce bool, rules ...acl.Rule) *guardedRig {
	t.Helper()
	img := imageOf(t, "t", 1).WithAccess(nil, rules)
	g := &guardedRig{audit: new(lockedBuffer)}
	guard := frontdoor.NewGuard(frontdoor.GuardConfig{Image: func() *metadata.Image { return img }, Enforce: enforce, Audit: frontdoor.NewAudit(g.audit)})
	g.rig = newRig(t, func(c *Config) {
		c.Guard, c.Groups, c.Transactions = guard, seenGroups{g: g}, seenTransactions{&fakeTransactions{}}
		c.Cluster = accessCluster{c.Cluster.(*fakeCluster), g}
	})
	g.cluster.image = img
	g.log.produce = func(q partition.ProduceRequest, done func(partition.ProduceResult, error)) {
		g.touch(q.Topic)
		done(partition.ProduceResult{}, errFake)
	}
	g.log.fetch = func(_ context.Context, q partition.FetchRequest) (list []partition.FetchedPartition) {
		for _, p := range q.Partitions {
			g.touch(p.Topic)
			list = append(list, partition.FetchedPartition{TopicPartition: p.TopicPartition, Err: errFake})
		}
		return list
	}
	g.log.list = func(tp record.TopicPartition, _ int64) (partition.ListedOffset, error) {
		g.touch(tp.Topic)
		return partition.ListedOffset{}, errFake
	}
	g.log.end = func(tp record.TopicPartition, _, _ int32) (int32, record.Offset, error) {
		g.touch(tp.Topic)
		return -1, -1, errFake
	}
	return g
}

func (g *guardedRig) touch(topic string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.touched = append(g.touched, topic)
}

func (g *guardedRig) notes() (list []noted) {
	g.t.Helper()
	for line := range bytes.Lines([]byte(g.audit.String())) {
		var n noted
		if err := json.Unmarshal(line, &n); err != nil {
			g.t.Fatalf("%v: %s", err, line)
		}
		list = append(list, n)
	}
	return list
}

// accessCluster takes changes of rules.
type accessCluster struct {
	*fakeCluster
	g *guardedRig
}

func (a accessCluster) AlterAccess(_ context.Context, change cluster.AccessChange) error {
	a.g.changed = append(a.g.changed, change)
	return nil
}

func (a accessCluster) CreateTopic(_ context.Context, n NewTopic) (*metadata.Topic, error) {
	a.g.touch(n.Name)
	t, _ := a.Image().Topic("t")
	return t, nil
}
func (a accessCluster) AlterTopic(_ context.Context, change TopicChange) (*metadata.Topic, error) {
	a.g.touch(change.Name)
	return nil, errNoCluster
}
func (a accessCluster) DeleteTopic(_ context.Context, name string) error {
	a.g.touch(name)
	return errNoCluster
}

// seenGroups has a group "g" with a member that reads "t".
type seenGroups struct {
	fakeGroups
	g *guardedRig
}

var describedGroup = group.Description{ID: "g", Kind: group.KindConsumer, Phase: group.PhaseStable, Topics: map[group.TopicID]string{{7}: "t"},
	Members: []*group.Member{{ID: "m", Target: []group.Partition{{TopicID: group.TopicID{7}}}}}}

func (seenGroups) List(_ context.Context, f coordinator.GroupFilter, _ int) (list []group.Description, truncated bool, err error) {
	for _, id := range []string{"another", "g"} { // an answer has room for one
		d := describedGroup
		if d.ID = id; f.Pass(d) {
			list = append(list, d)
		}
	}
	return list[:min(len(list), 1)], false, nil
}
func (seenGroups) Describe(_ context.Context, id string) (group.Description, error) {
	d := describedGroup
	d.ID = id
	return d, nil
}
func (s seenGroups) DeleteOffsets(_ context.Context, _ string, topics []coordinator.WantedTopic) ([]string, error) {
	for _, t := range topics {
		s.g.touch(t.Topic)
	}
	return nil, nil
}
func (s seenGroups) CommitOffsets(_ context.Context, q coordinator.CommitRequest) ([]coordinator.RefusedOffset, error) {
	for _, o := range q.Offsets {
		s.g.touch(o.Topic)
	}
	return nil, nil
}
func (s seenGroups) CommitInTransaction(_ context.Context, q coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error) {
	for _, o := range q.Offsets {
		s.g.touch(o.Topic)
	}
	return nil, nil
}
func (s seenGroups) FetchOffsets(_ context.Context, q coordinator.FetchRequest) (list []group.Fetched, err error) {
	if q.Topics == nil {
		return []group.Fetched{{Topic: "t"}}, nil
	}
	for _, t := range q.Topics {
		s.g.touch(t.Topic)
		list = append(list, group.Fetched{Topic: t.Topic})
	}
	return list, nil
}

// seenTransactions has a transaction "x" that writes "t".
type seenTransactions struct{ *fakeTransactions }

func (seenTransactions) List(_ context.Context, f coordinator.TransactionFilter, _ int) (list []*txn.Transaction, truncated bool, err error) {
	for _, id := range []string{"another", "x"} { // an answer has room for one
		if t := (&txn.Transaction{ID: id}); f.Pass(t) {
			list = append(list, t)
		}
	}
	return list[:min(len(list), 1)], false, nil
}
func (seenTransactions) Describe(_ context.Context, id string) (*txn.Transaction, error) {
	return &txn.Transaction{ID: id, Partitions: []record.TopicPartition{{Topic: "t"}}}, nil
}

// wants says whether a line of the audit log is the one that an action leaves behind.
func (n noted) wants(call, outcome string, a frontdoor.Action) bool {
	return n == noted{Outcome: outcome, Principal: "User:ANONYMOUS", Address: "127.0.0.1", Door: "kafka", Call: strings.TrimSpace(call),
		Operation: a.Operation.String(), ResourceType: a.Type.String(), Resource: a.Name}
}
