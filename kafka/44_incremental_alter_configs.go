package kafka

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// incrementalAlterConfigs sets and unsets configs of topics. Those of brokers are in their files.
func (c *conn) incrementalAlterConfigs(r *request, req *kmsg.IncrementalAlterConfigsRequest, resp *kmsg.IncrementalAlterConfigsResponse) {
	ctx, cancel := c.adminContext(frontdoor.MaxTimeoutMS)
	defer cancel()
	for i, q := range req.Resources {
		at := kmsg.NewIncrementalAlterConfigsResponseResource()
		at.ResourceType, at.ResourceName = q.ResourceType, q.ResourceName
		var change TopicChange
		var reason, message string
		switch {
		case i >= maxResources:
			reason, message = tooMany("resources", len(req.Resources), maxResources)
		case !c.mayConfigs(r, acl.AlterConfigs, q.ResourceType, q.ResourceName):
			reason, message = c.configsDenial(acl.AlterConfigs, q.ResourceType, q.ResourceName)
		case onlyUnset(q):
			resp.Resources = append(resp.Resources, at)
			continue
		default:
			change, reason, message = c.topicChange(q)
		}
		if reason != "" {
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
			resp.Resources = append(resp.Resources, at)
			continue
		}
		change.ValidateOnly = req.ValidateOnly
		if _, err := c.c.Cluster.AlterTopic(ctx, change); err != nil {
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.code, f.message
		}
		resp.Resources = append(resp.Resources, at)
	}
}

// onlyUnset says of a change to a broker that it takes away what cannot have been set: nothing is to be done. Tools that end a
// reassignment take the throttles of brokers away, whether there were any or not.
func onlyUnset(q kmsg.IncrementalAlterConfigsRequestResource) bool {
	return q.ResourceType == kmsg.ConfigResourceTypeBroker && len(q.Configs) > 0 &&
		!slices.ContainsFunc(q.Configs, func(o kmsg.IncrementalAlterConfigsRequestResourceConfig) bool {
			return o.Op != kmsg.IncrementalAlterConfigOpDelete
		})
}

// topicChange reads one resource's changes; a reason refuses them.
func (c *conn) topicChange(q kmsg.IncrementalAlterConfigsRequestResource) (change TopicChange, reason, message string) {
	change = TopicChange{Name: q.ResourceName, Set: make(map[string]string)}
	if q.ResourceType != kmsg.ConfigResourceTypeTopic {
		return change, frontdoor.ReasonInvalidRequest, "only the configs of topics can be altered; those of brokers are in their configuration files"
	}
	if err := metadata.CheckTopicName(q.ResourceName); err != nil {
		return change, string(err.Code), err.Message
	}
	t, ok := c.c.Cluster.Image().Topic(q.ResourceName)
	if !ok {
		return change, frontdoor.ReasonUnknownTopic, "there is no such topic"
	}
	named := make(once[string])
	for _, config := range q.Configs {
		if !named.first(config.Name) {
			return change, frontdoor.ReasonInvalidRequest, "config " + config.Name + " is given twice"
		}
		if config.Op != kmsg.IncrementalAlterConfigOpDelete && config.Value == nil {
			return change, frontdoor.ReasonInvalidRequest, "config " + config.Name + " has no value"
		}
		switch config.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			change.Set[config.Name] = *config.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			// What no topic can have is not set: as with brokers, nothing is to be done.
			if _, known := metadata.LookupConfig(config.Name); known {
				change.Unset = append(change.Unset, config.Name)
			}
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			value, ok := c.listChanged(t, config)
			if !ok {
				return change, string(metadata.InvalidConfig), "config " + config.Name + " is not a list"
			}
			change.Set[config.Name] = value
		default:
			return change, frontdoor.ReasonInvalidRequest, fmt.Sprintf("config_operation of %s is %d; want 0 (set), 1 (delete), 2 (append) or 3 (subtract)", config.Name, config.Op)
		}
	}
	return change, "", ""
}

// listChanged adds to, or takes from, a config that is a list.
func (c *conn) listChanged(t *metadata.Topic, config kmsg.IncrementalAlterConfigsRequestResourceConfig) (value string, ok bool) {
	for _, held := range c.c.Cluster.Image().ConfigsOf(t) {
		if held.Def.Name != config.Name || held.Def.Kind != metadata.Choices {
			continue
		}
		words := strings.Split(held.Value, ",")
		for _, w := range strings.Split(*config.Value, ",") {
			w = strings.TrimSpace(w)
			words = slices.DeleteFunc(words, func(have string) bool { return have == w })
			if config.Op == kmsg.IncrementalAlterConfigOpAppend {
				words = append(words, w)
			}
		}
		return strings.Join(words, ","), true
	}
	return "", false
}
