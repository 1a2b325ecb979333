package api

import (
	"context"
	"fmt"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxAccessChanges bounds what one request changes.
const maxAccessChanges = 1000

// tooMany refuses a request that changes nothing, or too much.
func tooMany(field, what string, n int) *clientv1.Error {
	limit := fmt.Sprintf("1 to %d", maxAccessChanges)
	return refused(reasonInvalidRequest, field, limit, "%d %s in one request; %s are allowed", n, what, limit)
}

// AlterUsers sets and deletes credentials.
func (s *service) AlterUsers(ctx context.Context, req *clientv1.AlterUsersRequest) (*clientv1.AlterUsersResponse, error) {
	if n := len(req.GetSet()) + len(req.GetDelete()); n == 0 || n > maxAccessChanges {
		return nil, s.failed(tooMany("set, delete", "credentials", n))
	}
	if refusal := s.refuseCluster(ctx, acl.Alter); refusal != nil {
		return nil, s.failed(refusal)
	}
	var change cluster.AccessChange
	for _, u := range req.GetSet() {
		change.Set = append(change.Set, &metadata.Credential{User: u.GetUser(), Mechanism: metadata.Mechanism(u.GetMechanism()), Salt: u.GetSalt(),
			Iterations: int(u.GetIterations()), StoredKey: u.GetStoredKey(), ServerKey: u.GetServerKey()})
	}
	img := s.c.Cluster.Image()
	for _, u := range req.GetDelete() {
		if _, ok := img.Credential(u.GetUser(), metadata.Mechanism(u.GetMechanism())); !ok {
			return nil, s.failed(refused(frontdoor.ReasonNotFound, "delete", "", "user %q has no credential for %v", u.GetUser(), metadata.Mechanism(u.GetMechanism())))
		}
		change.Delete = append(change.Delete, cluster.CredentialName{User: u.GetUser(), Mechanism: metadata.Mechanism(u.GetMechanism())})
	}
	if err := s.c.Cluster.AlterAccess(ctx, change); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.AlterUsersResponse{}, nil
}

// ListUsers tells which users have which credentials, and nothing of their passwords.
func (s *service) ListUsers(ctx context.Context, _ *clientv1.ListUsersRequest) (*clientv1.ListUsersResponse, error) {
	if refusal := s.refuseCluster(ctx, acl.Describe); refusal != nil {
		return nil, s.failed(refusal)
	}
	resp := new(clientv1.ListUsersResponse)
	for _, c := range s.c.Cluster.Image().Credentials() {
		resp.Credentials = append(resp.Credentials, &clientv1.UserCredential{User: c.User, Mechanism: clientv1.ScramMechanism(c.Mechanism), Iterations: uint32(c.Iterations)})
	}
	return resp, nil
}

// rules says why who calls cannot have to do with rules: it may not, or none decide, as in Kafka; nil: it can.
func (s *service) rules(ctx context.Context, op acl.Operation) error {
	if refusal := s.refuseCluster(ctx, op); refusal != nil {
		return s.failed(refusal)
	}
	if s.c.Guard.Enforces() {
		return nil
	}
	return s.failed(refused(frontdoor.ReasonSecurityDisabled, "", "", "no authorizer is configured: security.authorizer is none"))
}

// CreateAcls adds rules.
func (s *service) CreateAcls(ctx context.Context, req *clientv1.CreateAclsRequest) (*clientv1.CreateAclsResponse, error) {
	if err := s.rules(ctx, acl.Alter); err != nil {
		return nil, err
	}
	if n := len(req.GetRules()); n == 0 || n > maxAccessChanges {
		return nil, s.failed(tooMany("rules", "rules", n))
	}
	var change cluster.AccessChange
	for _, p := range req.GetRules() {
		r := ruleOf(p)
		if field, why := r.Check(); field != "" {
			return nil, s.failed(refused(reasonInvalidRequest, "rules."+field, "", "%s %s", field, why))
		}
		change.Add = append(change.Add, r)
	}
	if err := s.c.Cluster.AlterAccess(ctx, change); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.CreateAclsResponse{}, nil
}

// ListAcls gives the rules that a filter finds.
func (s *service) ListAcls(ctx context.Context, req *clientv1.ListAclsRequest) (*clientv1.ListAclsResponse, error) {
	if err := s.rules(ctx, acl.Describe); err != nil {
		return nil, err
	}
	resp := new(clientv1.ListAclsResponse)
	f := filterOf(req.GetFilter())
	for _, r := range s.c.Cluster.Image().Rules().Rules() {
		if f.Matches(r) {
			resp.Rules = append(resp.Rules, protoRule(r))
		}
	}
	return resp, nil
}

// DeleteAcls removes what filters find.
func (s *service) DeleteAcls(ctx context.Context, req *clientv1.DeleteAclsRequest) (*clientv1.DeleteAclsResponse, error) {
	if err := s.rules(ctx, acl.Alter); err != nil {
		return nil, err
	}
	if n := len(req.GetFilters()); n == 0 || n > maxAccessChanges {
		return nil, s.failed(tooMany("filters", "filters", n))
	}
	resp := new(clientv1.DeleteAclsResponse)
	var change cluster.AccessChange
	for _, r := range s.c.Cluster.Image().Rules().Rules() {
		for _, p := range req.GetFilters() {
			if filterOf(p).Matches(r) {
				change.Remove = append(change.Remove, r)
				resp.Removed = append(resp.Removed, protoRule(r))
				break
			}
		}
	}
	if len(change.Remove) == 0 || req.GetValidateOnly() {
		return resp, nil
	}
	if err := s.c.Cluster.AlterAccess(ctx, change); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return resp, nil
}

func ruleOf(p *clientv1.AclRule) acl.Rule {
	return acl.Rule{Type: acl.ResourceType(small(p.GetResourceType())), Name: p.GetResourceName(), Pattern: acl.Pattern(small(p.GetPattern())),
		Principal: p.GetPrincipal(), Host: p.GetHost(), Operation: acl.Operation(small(p.GetOperation())), Permission: acl.Permission(small(p.GetPermission()))}
}

// small makes numbers that mean nothing of those that no enum has.
func small[T ~int32](n T) uint8 { return uint8(min(max(n, 0), 255)) }

func protoRule(r acl.Rule) *clientv1.AclRule {
	return &clientv1.AclRule{ResourceType: clientv1.AclResourceType(r.Type), ResourceName: r.Name, Pattern: clientv1.AclPattern(r.Pattern),
		Principal: r.Principal, Host: r.Host, Operation: clientv1.AclOperation(r.Operation), Permission: clientv1.AclPermission(r.Permission)}
}

// filterOf reads a rule as a filter: what is empty or unspecified finds all.
func filterOf(p *clientv1.AclRule) acl.Filter {
	r := ruleOf(p)
	f := acl.Filter{Type: max(r.Type, acl.AnyType), Pattern: max(r.Pattern, acl.AnyPattern), Operation: max(r.Operation, acl.AnyOperation),
		Permission: max(r.Permission, acl.AnyPermission)}
	for from, to := range map[*string]**string{&r.Name: &f.Name, &r.Principal: &f.Principal, &r.Host: &f.Host} {
		if *from != "" {
			*to = from
		}
	}
	return f
}
