package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxRulesChanged of one request: more can be neither created nor, as filters, deleted.
const maxRulesChanged = 1000

// createACLs adds rules; those that exist are passed over. What is wrong with one fails for it alone; all others are added at once.
func (c *conn) createACLs(r *request, req *kmsg.CreateACLsRequest, resp *kmsg.CreateACLsResponse) {
	resp.Results = make([]kmsg.CreateACLsResponseResult, len(req.Creations))
	whole, text := c.refuseRules(acl.Alter, c.mayCluster(r, acl.Alter))
	var change cluster.AccessChange
	var added []int
	for i, q := range req.Creations {
		rule, reason, message := ruleOf(req.Version, q)
		switch {
		case whole != "":
			reason, message = whole, text
		case i >= maxRulesChanged:
			reason, message = tooMany("rules", len(req.Creations), maxRulesChanged)
		}
		if reason != "" {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = c.refuse(r, reason), &message
			continue
		}
		change.Add, added = append(change.Add, rule), append(added, i)
	}
	if len(added) == 0 {
		return
	}
	ctx, cancel := c.adminContext(frontdoor.MaxTimeoutMS)
	defer cancel()
	if err := c.c.Cluster.AlterAccess(ctx, change); err != nil {
		f := c.failure(r, err)
		for _, i := range added {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = f.code, f.message
		}
	}
}

// ruleOf reads a rule; a reason refuses it. Version 0 knows literal names alone.
func ruleOf(version int16, q kmsg.CreateACLsRequestCreation) (rule acl.Rule, reason, message string) {
	rule = acl.Rule{Type: acl.ResourceType(number(q.ResourceType)), Name: q.ResourceName, Pattern: acl.Pattern(number(q.ResourcePatternType)),
		Principal: q.Principal, Host: q.Host, Operation: acl.Operation(number(q.Operation)), Permission: acl.Permission(number(q.PermissionType))}
	if version == 0 {
		rule.Pattern = acl.Literal
	}
	if field, why := rule.Check(); field != "" {
		return rule, frontdoor.ReasonInvalidRequest, field + " " + why
	}
	return rule, "", ""
}
