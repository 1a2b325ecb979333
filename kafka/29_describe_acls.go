package kafka

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// describeACLs shows the rules that a filter finds, those about one resource together.
func (c *conn) describeACLs(r *request, req *kmsg.DescribeACLsRequest, resp *kmsg.DescribeACLsResponse) {
	f, reason, message := aclFilter(req.Version, kmsg.DeleteACLsRequestFilter{ResourceType: req.ResourceType, ResourceName: req.ResourceName,
		ResourcePatternType: req.ResourcePatternType, Principal: req.Principal, Host: req.Host, Operation: req.Operation, PermissionType: req.PermissionType})
	if refusal, text := c.refuseRules(acl.Describe, c.mayCluster(r, acl.Describe)); refusal != "" {
		reason, message = refusal, text
	}
	if reason != "" {
		resp.ErrorCode, resp.ErrorMessage = c.refuse(r, reason), &message
		return
	}
	for _, rule := range c.c.Cluster.Image().Rules().Rules() { // sorted by resource
		if !f.Matches(rule) {
			continue
		}
		if n := len(resp.Resources); n == 0 || !about(&resp.Resources[n-1], rule) {
			resp.Resources = append(resp.Resources, kmsg.DescribeACLsResponseResource{ResourceType: kmsg.ACLResourceType(rule.Type),
				ResourceName: rule.Name, ResourcePatternType: kmsg.ACLResourcePatternType(rule.Pattern)})
		}
		at := &resp.Resources[len(resp.Resources)-1]
		at.ACLs = append(at.ACLs, kmsg.DescribeACLsResponseResourceACL{Principal: rule.Principal, Host: rule.Host,
			Operation: kmsg.ACLOperation(rule.Operation), PermissionType: kmsg.ACLPermissionType(rule.Permission)})
	}
}

func about(at *kmsg.DescribeACLsResponseResource, rule acl.Rule) bool {
	return at.ResourceType == kmsg.ACLResourceType(rule.Type) && at.ResourceName == rule.Name && at.ResourcePatternType == kmsg.ACLResourcePatternType(rule.Pattern)
}

// refuseRules gives the reason for which a client cannot have to do with rules: it must not, or none decide; empty: it can.
func (c *conn) refuseRules(op acl.Operation, may bool) (reason, message string) {
	switch {
	case !may:
		return frontdoor.ReasonClusterDenied, frontdoor.DenialText(c.caller, op, acl.Cluster, acl.ClusterName)
	case !c.c.Guard.Enforces():
		return frontdoor.ReasonSecurityDisabled, "no authorizer is configured: security.authorizer is none"
	}
	return "", ""
}

// aclFilter reads a filter; a reason refuses it. Version 0 knows literal names alone, and means all of those.
func aclFilter(version int16, q kmsg.DeleteACLsRequestFilter) (f acl.Filter, reason, message string) {
	f = acl.Filter{Type: acl.ResourceType(number(q.ResourceType)), Name: q.ResourceName, Pattern: acl.Pattern(number(q.ResourcePatternType)),
		Principal: q.Principal, Host: q.Host, Operation: acl.Operation(number(q.Operation)), Permission: acl.Permission(number(q.PermissionType))}
	if version == 0 {
		f.Pattern = acl.Literal
	}
	switch {
	case f.Type < acl.AnyType || f.Type > lastResourceType:
		message = fmt.Sprintf("resource_type is %d, which does not exist", q.ResourceType)
	case f.Pattern < acl.AnyPattern || f.Pattern > acl.Prefixed:
		message = fmt.Sprintf("pattern_type is %d, which does not exist", q.ResourcePatternType)
	case f.Operation < acl.AnyOperation || f.Operation > acl.TwoPhaseCommit:
		message = fmt.Sprintf("operation is %d, which does not exist", q.Operation)
	case f.Permission < acl.AnyPermission || f.Permission > acl.Allow:
		message = fmt.Sprintf("permission_type is %d, which does not exist", q.PermissionType)
	default:
		return f, "", ""
	}
	return f, frontdoor.ReasonInvalidRequest, message
}

// lastResourceType is the highest that Kafka has: users, of which there are no rules here.
const lastResourceType acl.ResourceType = 7

// number is a code of the protocol as rules have it; one that no rule can have becomes 0, which means nothing.
func number[T ~int8](n T) uint8 { return uint8(max(n, 0)) }
