package client

import (
	"context"
	"slices"
	"strings"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// UserCredential is one way for a user to prove who it is.
type UserCredential struct {
	User       string `json:"user"`
	Mechanism  string `json:"mechanism"`
	Iterations int    `json:"iterations"`
}

// DefaultIterations is how often SetPassword hashes a password: 4096 to 16384 are allowed.
const DefaultIterations = 8192

// SetPassword makes a user, or gives it another password, for the mechanisms named; none: both SCRAM mechanisms. Brokers are sent what
// checks the password, not the password. iterations 0: DefaultIterations. Errors: UNACCEPTABLE_CREDENTIAL, CLUSTER_AUTHORIZATION_FAILED.
func (c *Client) SetPassword(ctx context.Context, user, password string, iterations int, mechanisms ...string) error {
	if password == "" {
		return invalid("Password", "is empty")
	}
	if iterations == 0 {
		iterations = DefaultIterations
	}
	if iterations < 1 || iterations > 1<<20 {
		return invalid("iterations", "is %d, want 4096 to 16384", iterations)
	}
	if len(mechanisms) == 0 {
		mechanisms = []string{SCRAMSHA256, SCRAMSHA512}
	}
	req := new(clientv1.AlterUsersRequest)
	for _, m := range mechanisms {
		cred, err := credentialOf(user, password, m, iterations)
		if err != nil {
			return err
		}
		req.Set = append(req.Set, cred)
	}
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.AlterUsers(ctx, req)
		return err
	})
}

// DeleteUser deletes credentials. Connections that the user has go on until they have to be renewed. Errors: RESOURCE_NOT_FOUND.
func (c *Client) DeleteUser(ctx context.Context, creds ...UserCredential) error {
	req := new(clientv1.AlterUsersRequest)
	for _, cred := range creds {
		m := clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_512
		if cred.Mechanism == SCRAMSHA256 {
			m = clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_256
		}
		req.Delete = append(req.Delete, &clientv1.UserCredential{User: cred.User, Mechanism: m})
	}
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.AlterUsers(ctx, req)
		return err
	})
}

// Users lists all credentials, by user.
func (c *Client) Users(ctx context.Context) ([]UserCredential, error) {
	var out []UserCredential
	err := c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		resp, err := admin.ListUsers(ctx, &clientv1.ListUsersRequest{})
		out = nil
		for _, u := range resp.GetCredentials() {
			m := SCRAMSHA512
			if u.GetMechanism() == clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_256 {
				m = SCRAMSHA256
			}
			out = append(out, UserCredential{User: u.GetUser(), Mechanism: m, Iterations: int(u.GetIterations())})
		}
		return err
	})
	return out, err
}

// ACL is a rule that lets a principal do something, or forbids it. As a filter, what is empty finds all.
type ACL struct {
	// ResourceType is topic, group, cluster or transactional_id.
	ResourceType string `json:"resource_type"`
	// Resource is its name; "*" means all. The cluster is called kafka-cluster.
	Resource string `json:"resource"`
	// Pattern is literal or prefixed; in a filter also match: all rules that bear on Resource.
	Pattern string `json:"pattern"`
	// Principal is "User:NAME"; "User:*" means everybody.
	Principal string `json:"principal"`
	// Host is an IP address; "*" means any.
	Host string `json:"host"`
	// Operation is all, read, write, create, delete, alter, describe, cluster_action, describe_configs, alter_configs or idempotent_write.
	Operation string `json:"operation"`
	// Permission is allow or deny.
	Permission string `json:"permission"`
}

// enums of rules, by the names that ACL has for them.
var (
	aclTypes       = enumNames(clientv1.AclResourceType_name, "ACL_RESOURCE_TYPE_")
	aclPatterns    = enumNames(clientv1.AclPattern_name, "ACL_PATTERN_")
	aclOperations  = enumNames(clientv1.AclOperation_name, "ACL_OPERATION_")
	aclPermissions = enumNames(clientv1.AclPermission_name, "ACL_PERMISSION_")
)

func (a ACL) proto() (*clientv1.AclRule, error) {
	p := &clientv1.AclRule{ResourceName: a.Resource, Principal: a.Principal, Host: a.Host}
	for _, f := range []struct {
		field, text string
		names       enum
		set         func(int32)
	}{
		{"ResourceType", a.ResourceType, aclTypes, func(n int32) { p.ResourceType = clientv1.AclResourceType(n) }},
		{"Pattern", a.Pattern, aclPatterns, func(n int32) { p.Pattern = clientv1.AclPattern(n) }},
		{"Operation", a.Operation, aclOperations, func(n int32) { p.Operation = clientv1.AclOperation(n) }},
		{"Permission", a.Permission, aclPermissions, func(n int32) { p.Permission = clientv1.AclPermission(n) }},
	} {
		n, ok := f.names.numbers[f.text]
		if !ok && f.text != "" {
			return nil, invalid(f.field, "is %q, want one of %s", f.text, strings.Join(f.names.sorted, ", "))
		}
		f.set(n)
	}
	return p, nil
}

func aclOf(p *clientv1.AclRule) ACL {
	return ACL{ResourceType: aclTypes.names[int32(p.GetResourceType())], Resource: p.GetResourceName(), Pattern: aclPatterns.names[int32(p.GetPattern())],
		Principal: p.GetPrincipal(), Host: p.GetHost(), Operation: aclOperations.names[int32(p.GetOperation())], Permission: aclPermissions.names[int32(p.GetPermission())]}
}

func protoACLs(list []ACL) ([]*clientv1.AclRule, error) {
	var out []*clientv1.AclRule
	for _, a := range list {
		p, err := a.proto()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// CreateACLs adds rules, all or nothing; those that exist are passed over. Errors: SECURITY_DISABLED, INVALID_REQUEST.
func (c *Client) CreateACLs(ctx context.Context, rules ...ACL) error {
	list, err := protoACLs(rules)
	if err != nil {
		return err
	}
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.CreateAcls(ctx, &clientv1.CreateAclsRequest{Rules: list})
		return err
	})
}

// ACLs gives the rules that a filter finds.
func (c *Client) ACLs(ctx context.Context, filter ACL) ([]ACL, error) {
	p, err := filter.proto()
	if err != nil {
		return nil, err
	}
	var out []ACL
	err = c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		resp, err := admin.ListAcls(ctx, &clientv1.ListAclsRequest{Filter: p})
		out = nil
		for _, r := range resp.GetRules() {
			out = append(out, aclOf(r))
		}
		return err
	})
	return out, err
}

// DeleteACLs removes the rules that any of the filters finds, and gives them; with dryRun it only gives them.
func (c *Client) DeleteACLs(ctx context.Context, dryRun bool, filters ...ACL) ([]ACL, error) {
	list, err := protoACLs(filters)
	if err != nil {
		return nil, err
	}
	var out []ACL
	err = c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		resp, err := admin.DeleteAcls(ctx, &clientv1.DeleteAclsRequest{Filters: list, ValidateOnly: dryRun})
		out = nil
		for _, r := range resp.GetRemoved() {
			out = append(out, aclOf(r))
		}
		return err
	})
	return out, err
}

// enum is the names of a protobuf enum, without its prefix and in lower case.
type enum struct {
	names   map[int32]string
	numbers map[string]int32
	sorted  []string
}

func enumNames(of map[int32]string, prefix string) enum {
	e := enum{names: make(map[int32]string), numbers: make(map[string]int32)}
	for n, name := range of {
		if n == 0 {
			continue
		}
		name = strings.ToLower(strings.TrimPrefix(name, prefix))
		e.names[n], e.numbers[name] = name, n
		e.sorted = append(e.sorted, name)
	}
	slices.Sort(e.sorted)
	return e
}
