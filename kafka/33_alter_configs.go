package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// alterConfigs sets the configs of topics to those given, and unsets all others. It is the older form of incrementalAlterConfigs; two
// clients that use it at once undo each other's changes.
func (c *conn) alterConfigs(r *request, req *kmsg.AlterConfigsRequest, resp *kmsg.AlterConfigsResponse) {
	ctx, cancel := c.adminContext(frontdoor.MaxTimeoutMS)
	defer cancel()
	for i, q := range req.Resources {
		at := kmsg.NewAlterConfigsResponseResource()
		at.ResourceType, at.ResourceName = q.ResourceType, q.ResourceName
		var change TopicChange
		var reason, message string
		switch {
		case i >= maxResources:
			reason, message = tooMany("resources", len(req.Resources), maxResources)
		case !c.mayConfigs(r, acl.AlterConfigs, q.ResourceType, q.ResourceName):
			reason, message = c.configsDenial(acl.AlterConfigs, q.ResourceType, q.ResourceName)
		default:
			change, reason, message = c.topicConfigs(q)
		}
		if reason != "" {
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
			resp.Resources = append(resp.Resources, at)
			continue
		}
		change.ValidateOnly = req.ValidateOnly
		if len(change.Set) > 0 || len(change.Unset) > 0 {
			if _, err := c.c.Cluster.AlterTopic(ctx, change); err != nil {
				f := c.failure(r, err)
				at.ErrorCode, at.ErrorMessage = f.code, f.message
			}
		}
		resp.Resources = append(resp.Resources, at)
	}
}

// topicConfigs reads what one topic shall have; a reason refuses it.
func (c *conn) topicConfigs(q kmsg.AlterConfigsRequestResource) (change TopicChange, reason, message string) {
	change = TopicChange{Name: q.ResourceName, Set: make(map[string]string)}
	if q.ResourceType != kmsg.ConfigResourceTypeTopic {
		return change, frontdoor.ReasonInvalidRequest, "only the configs of topics can be altered; those of brokers are in their configuration files"
	}
	t, ok := c.c.Cluster.Image().Topic(q.ResourceName)
	if !ok {
		return change, frontdoor.ReasonUnknownTopic, "there is no such topic"
	}
	for _, config := range q.Configs {
		if _, twice := change.Set[config.Name]; twice {
			return change, frontdoor.ReasonInvalidRequest, "config " + config.Name + " is given twice"
		}
		if config.Value == nil {
			return change, string(metadata.InvalidConfig), "config " + config.Name + " has no value"
		}
		change.Set[config.Name] = *config.Value
	}
	for _, have := range t.Configs {
		if _, kept := change.Set[have.Name]; !kept {
			change.Unset = append(change.Unset, have.Name)
		}
	}
	return change, "", ""
}
