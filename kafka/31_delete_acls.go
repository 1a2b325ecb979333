package kafka

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxRulesDeleted at once, as Kafka's limit of what one request does to its metadata.
const maxRulesDeleted = 10_000

// deleteACLs removes the rules that filters find, all at once. A filter that is wrong fails alone.
func (c *conn) deleteACLs(r *request, req *kmsg.DeleteACLsRequest, resp *kmsg.DeleteACLsResponse) {
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(req.Filters))
	whole, text := c.refuseRules(acl.Alter, c.mayCluster(r, acl.Alter))
	rules, room := c.c.Cluster.Image().Rules().Rules(), maxRulesDeleted
	removed := make(map[acl.Rule]bool)
	var change cluster.AccessChange
	for i, q := range req.Filters {
		f, reason, message := aclFilter(req.Version, q)
		var found []acl.Rule
		switch {
		case whole != "":
			reason, message = whole, text
		case i >= maxRulesChanged:
			reason, message = tooMany("filters", len(req.Filters), maxRulesChanged)
		case reason == "":
			if found = matching(rules, f, room); len(found) > room {
				reason = frontdoor.ReasonInvalidRequest
				message = fmt.Sprintf("more than %d rules would be deleted at once: use narrower filters", maxRulesDeleted)
			}
		}
		if reason != "" {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = c.refuse(r, reason), &message
			continue
		}
		room -= len(found)
		for _, rule := range found {
			resp.Results[i].MatchingACLs = append(resp.Results[i].MatchingACLs, deletedRule(rule))
			if !removed[rule] {
				removed[rule] = true
				change.Remove = append(change.Remove, rule)
			}
		}
	}
	if len(change.Remove) == 0 {
		return
	}
	ctx, cancel := c.adminContext(frontdoor.MaxTimeoutMS)
	defer cancel()
	if err := c.c.Cluster.AlterAccess(ctx, change); err != nil {
		f := c.failure(r, err)
		for i := range resp.Results {
			if len(resp.Results[i].MatchingACLs) > 0 {
				resp.Results[i] = kmsg.DeleteACLsResponseResult{ErrorCode: f.code, ErrorMessage: f.message}
			}
		}
	}
}

// matching are the rules that a filter finds, or one more than there is room for.
func matching(rules []acl.Rule, f acl.Filter, room int) (found []acl.Rule) {
	for _, rule := range rules {
		if f.Matches(rule) {
			if found = append(found, rule); len(found) > room {
				break
			}
		}
	}
	return found
}

func deletedRule(rule acl.Rule) kmsg.DeleteACLsResponseResultMatchingACL {
	m := kmsg.NewDeleteACLsResponseResultMatchingACL()
	m.ResourceType, m.ResourceName, m.ResourcePatternType = kmsg.ACLResourceType(rule.Type), rule.Name, kmsg.ACLResourcePatternType(rule.Pattern)
	m.Principal, m.Host = rule.Principal, rule.Host
	m.Operation, m.PermissionType = kmsg.ACLOperation(rule.Operation), kmsg.ACLPermissionType(rule.Permission)
	return m
}
