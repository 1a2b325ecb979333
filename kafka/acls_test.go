package kafka

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

var administers = allowing(onCluster(acl.Alter), onCluster(acl.Describe))

func creationOf(r acl.Rule) kmsg.CreateACLsRequestCreation {
	q := kmsg.NewCreateACLsRequestCreation()
	q.ResourceType, q.ResourceName, q.ResourcePatternType = kmsg.ACLResourceType(r.Type), r.Name, kmsg.ACLResourcePatternType(r.Pattern)
	q.Principal, q.Host, q.Operation, q.PermissionType = r.Principal, r.Host, kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
	return q
}

// Each rule of a request is judged alone, and what is good is added at once.
func TestCreateACLs(t *testing.T) {
	t.Parallel()
	good := acl.Rule{Type: acl.Topic, Name: "orders", Pattern: acl.Prefixed, Principal: "User:alice", Host: "10.0.0.1", Operation: acl.Write, Permission: acl.Allow}
	for version := int16(0); version <= 3; version++ {
		g := newRuledRig(t, true, administers...)
		req := kmsg.NewPtrCreateACLsRequest()
		req.Version = version
		bad := []func(*kmsg.CreateACLsRequestCreation){
			func(q *kmsg.CreateACLsRequestCreation) { q.ResourceType = 1 },
			func(q *kmsg.CreateACLsRequestCreation) { q.ResourceType = 7 },
			func(q *kmsg.CreateACLsRequestCreation) { q.ResourceType = -3 },
			func(q *kmsg.CreateACLsRequestCreation) { q.ResourceName = "" },
			func(q *kmsg.CreateACLsRequestCreation) { q.ResourceType = 4 },
			func(q *kmsg.CreateACLsRequestCreation) { q.Operation = 1 },
			func(q *kmsg.CreateACLsRequestCreation) { q.Operation = -1 },
			func(q *kmsg.CreateACLsRequestCreation) { q.PermissionType = 1 },
			func(q *kmsg.CreateACLsRequestCreation) { q.Principal = "alice" },
			func(q *kmsg.CreateACLsRequestCreation) { q.Host = "nowhere" },
		}
		if version > 0 {
			bad = append(bad, func(q *kmsg.CreateACLsRequestCreation) { q.ResourcePatternType = 2 })
		}
		for _, change := range bad {
			q := creationOf(good)
			change(&q)
			req.Creations = append(req.Creations, q)
		}
		req.Creations = append(req.Creations, creationOf(good))
		resp := g.dial().ask(req).(*kmsg.CreateACLsResponse)
		for i, result := range resp.Results {
			if want := i < len(bad); want != (result.ErrorCode == 42) || want != (result.ErrorMessage != nil) {
				t.Errorf("version %d, rule %d: code %d", version, i, result.ErrorCode)
			}
		}
		want := good
		if version == 0 {
			want.Pattern = acl.Literal
		}
		if len(resp.Results) != len(req.Creations) || len(g.changed) != 1 || !reflect.DeepEqual(g.changed[0].Add, []acl.Rule{want}) {
			t.Errorf("version %d: %d results, changed %+v", version, len(resp.Results), g.changed)
		}
	}
}

// Filters find what kafka-acls expects of them: here, and where rules are deleted.
func TestFindACLs(t *testing.T) {
	t.Parallel()
	rule := func(kind acl.ResourceType, name string, p acl.Pattern, user string) acl.Rule {
		return acl.Rule{Type: kind, Name: name, Pattern: p, Principal: "User:" + user, Host: "*", Operation: acl.Read, Permission: acl.Allow}
	}
	rules := []acl.Rule{
		rule(acl.Topic, "*", acl.Literal, "a"), rule(acl.Topic, "ord", acl.Prefixed, "a"), rule(acl.Topic, "orders", acl.Literal, "a"),
		rule(acl.Topic, "orders", acl.Literal, "b"), rule(acl.Group, "orders", acl.Literal, "a"),
	}
	text := func(s string) *string { return &s }
	for _, c := range []struct {
		what    string
		version int16
		change  func(*kmsg.DeleteACLsRequestFilter)
		want    string
		code    int16
	}{
		{"all topics", 3, nil, "*/3/a ord/4/a orders/3/a orders/3/b", 0},
		{"all of a user", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceType, q.Principal = 1, text("User:b") }, "orders/3/b", 0},
		{"that bear on a name", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceName, q.ResourcePatternType = text("orders"), 2 }, "*/3/a ord/4/a orders/3/a orders/3/b", 0},
		{"of a name", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceName = text("ord") }, "ord/4/a", 0},
		{"prefixed", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourcePatternType = 4 }, "ord/4/a", 0},
		{"version 0", 0, nil, "*/3/a orders/3/a orders/3/b", 0},
		{"of another host", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.Host = text("10.0.0.1") }, "", 0},
		{"of delegation tokens", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceType = 6 }, "", 0},
		{"of no type", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceType = 0 }, "", 42},
		{"of a type that nobody knows", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourceType = 8 }, "", 42},
		{"of no pattern", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.ResourcePatternType = 5 }, "", 42},
		{"of no operation", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.Operation = 99 }, "", 42},
		{"of no permission", 3, func(q *kmsg.DeleteACLsRequestFilter) { q.PermissionType = -1 }, "", 42},
	} {
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourcePatternType, f.Operation, f.PermissionType = 2, 1, 1, 1
		if c.change != nil {
			c.change(&f)
		}
		g := newRuledRig(t, true, append(rules, administers...)...)
		describe := kmsg.NewPtrDescribeACLsRequest()
		describe.Version, describe.ResourceType, describe.ResourceName, describe.ResourcePatternType = c.version, f.ResourceType, f.ResourceName, f.ResourcePatternType
		describe.Principal, describe.Host, describe.Operation, describe.PermissionType = f.Principal, f.Host, f.Operation, f.PermissionType
		shown := g.dial().ask(describe).(*kmsg.DescribeACLsResponse)
		var got []string
		for _, at := range shown.Resources {
			for _, a := range at.ACLs {
				pattern := at.ResourcePatternType
				if c.version == 0 {
					pattern = 3
				}
				got = append(got, fmt.Sprintf("%s/%d/%s", at.ResourceName, pattern, strings.TrimPrefix(a.Principal, "User:")))
			}
		}
		if s := strings.Join(got, " "); s != c.want || shown.ErrorCode != c.code {
			t.Errorf("%s: described %q, code %d", c.what, s, shown.ErrorCode)
		}
		remove := kmsg.NewPtrDeleteACLsRequest()
		remove.Version, remove.Filters = c.version, []kmsg.DeleteACLsRequestFilter{f, f}
		removed := g.dial().ask(remove).(*kmsg.DeleteACLsResponse)
		got = nil
		for _, m := range removed.Results[1].MatchingACLs {
			got = append(got, fmt.Sprintf("%s/%d/%s", m.ResourceName, m.ResourcePatternType, strings.TrimPrefix(m.Principal, "User:")))
		}
		changes := 0
		for _, change := range g.changed {
			changes += len(change.Remove) // each once, though two filters find it
		}
		if s := strings.Join(got, " "); s != c.want || removed.Results[1].ErrorCode != c.code || changes != len(got) {
			t.Errorf("%s: removed %q, code %d, %d changes", c.what, s, removed.Results[1].ErrorCode, changes)
		}
	}
}

// One request can neither change nor find without bound.
func TestACLRequestsAreBounded(t *testing.T) {
	t.Parallel()
	rules := administers
	for i := range maxRulesDeleted/2 + 1 {
		rules = append(rules, allowing(frontdoor.Action{Operation: acl.Read, Type: acl.Topic, Name: fmt.Sprint("t", i)})...)
	}
	g := newRuledRig(t, true, rules...)
	remove := kmsg.NewPtrDeleteACLsRequest()
	remove.Version = 3
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, f.ResourcePatternType, f.Operation, f.PermissionType = 2, 1, 1, 1
	remove.Filters = []kmsg.DeleteACLsRequestFilter{f, f}
	if got := g.dial().ask(remove).(*kmsg.DeleteACLsResponse); got.Results[0].ErrorCode != 0 || got.Results[1].ErrorCode != 42 || len(got.Results[1].MatchingACLs) != 0 {
		t.Errorf("codes %d, %d", got.Results[0].ErrorCode, got.Results[1].ErrorCode)
	}
	create := kmsg.NewPtrCreateACLsRequest()
	create.Version = 3
	for i := range maxRulesChanged + 1 {
		create.Creations = append(create.Creations, creationOf(allowing(frontdoor.Action{Operation: acl.Read, Type: acl.Topic, Name: fmt.Sprint("t", i)})[0]))
	}
	got := g.dial().ask(create).(*kmsg.CreateACLsResponse)
	if n := len(g.changed[1].Add); n != maxRulesChanged || got.Results[0].ErrorCode != 0 || got.Results[maxRulesChanged].ErrorCode != 42 {
		t.Errorf("%d rules added", n)
	}
}

// Where no rules decide there are none to speak of.
func TestACLsWithoutAnAuthorizer(t *testing.T) {
	t.Parallel()
	g := newRuledRig(t, false)
	for _, key := range []int16{29, 30, 31} {
		req := naming(key, -1)
		if d, ok := req.(*kmsg.DescribeACLsRequest); ok {
			d.ResourceType, d.Operation, d.PermissionType = 1, 1, 1
		}
		for _, s := range codesOf(reflect.ValueOf(g.dial().ask(req)), "") {
			if s.code != 54 {
				t.Errorf("key %d: code %d, want SECURITY_DISABLED", key, s.code)
			}
		}
	}
	if len(g.changed) != 0 {
		t.Error("rules changed")
	}
}

// What a client may do is told to who asks, bit by bit: all that there is where no rules decide, nothing where it must not know.
func TestAuthorizedOperations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		enforce               bool
		topic, group, cluster int32
	}{
		{true, 1<<acl.Read | 1<<acl.Describe, 1<<acl.Delete | 1<<acl.Describe, 1<<acl.Alter | 1<<acl.Describe},
		{false, bitsOf(acl.Topic), bitsOf(acl.Group), bitsOf(acl.Cluster)},
	} {
		g := newRuledRig(t, c.enforce, allowing(onTopic(acl.Read), onGroup(acl.Delete), onCluster(acl.Alter))...)
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version, meta.IncludeTopicAuthorizedOperations, meta.IncludeClusterAuthorizedOperations = 10, true, true
		gotMeta := g.dial().ask(meta).(*kmsg.MetadataResponse)
		pages := kmsg.NewPtrDescribeTopicPartitionsRequest()
		gotPages := g.dial().ask(pages).(*kmsg.DescribeTopicPartitionsResponse)
		whole := kmsg.NewPtrDescribeClusterRequest()
		whole.Version, whole.EndpointType, whole.IncludeClusterAuthorizedOperations = 1, 1, true
		gotWhole := g.dial().ask(whole).(*kmsg.DescribeClusterResponse)
		old := kmsg.NewPtrDescribeGroupsRequest()
		old.Version, old.Groups, old.IncludeAuthorizedOperations = 5, []string{"g"}, true
		gotOld := g.dial().ask(old).(*kmsg.DescribeGroupsResponse)
		fresh := kmsg.NewPtrConsumerGroupDescribeRequest()
		fresh.Version, fresh.Groups, fresh.IncludeAuthorizedOperations = 1, []string{"g"}, true
		gotFresh := g.dial().ask(fresh).(*kmsg.ConsumerGroupDescribeResponse)
		for what, pair := range map[string][2]int32{
			"topics":         {gotMeta.Topics[0].AuthorizedOperations, c.topic},
			"pages":          {gotPages.Topics[0].AuthorizedOperations, c.topic},
			"metadata":       {gotMeta.AuthorizedOperations, c.cluster},
			"cluster":        {gotWhole.ClusterAuthorizedOperations, c.cluster},
			"groups":         {gotOld.Groups[0].AuthorizedOperations, c.group},
			"groups KIP-848": {gotFresh.Groups[0].AuthorizedOperations, c.group},
		} {
			if pair[0] != pair[1] {
				t.Errorf("enforced %v, %s: %b, want %b", c.enforce, what, pair[0], pair[1])
			}
		}
	}
}

func bitsOf(t acl.ResourceType) (bits int32) {
	for _, op := range acl.Operations(t) {
		bits |= 1 << op
	}
	return bits
}
