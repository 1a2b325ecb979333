package kafka

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

const (
	// maxGroupsListed of one request: of those that the client may see and asked for, by id, more are left out.
	maxGroupsListed = 100_000
	// maxFilters of one request.
	maxFilters = 100
)

// listGroups lists what this broker coordinates. Kafka knows two types: a group that was only ever a place for offsets is of the
// classic one.
func (c *conn) listGroups(r *request, req *kmsg.ListGroupsRequest, resp *kmsg.ListGroupsResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	if len(req.StatesFilter) > maxFilters || len(req.TypesFilter) > maxFilters {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		return
	}
	all := c.sees(acl.Describe, acl.Cluster, acl.ClusterName)
	f := coordinator.GroupFilter{Pass: func(d group.Description) bool {
		one := listedGroup(&d)
		return oneOf(one.GroupState, req.StatesFilter) && oneOf(one.GroupType, req.TypesFilter) && (all || c.sees(acl.Describe, acl.Group, d.ID))
	}}
	list, _, err := c.c.Groups.List(ctx, f, maxGroupsListed)
	if err != nil {
		resp.ErrorCode = c.failure(r, err).coordinatorCode()
		return
	}
	for i := range list {
		resp.Groups = append(resp.Groups, listedGroup(&list[i]))
	}
}

func listedGroup(d *group.Description) kmsg.ListGroupsResponseGroup {
	one := kmsg.NewListGroupsResponseGroup()
	one.Group, one.GroupState, one.GroupType, one.ProtocolType = d.ID, string(d.Phase), "Classic", d.ProtocolType
	if d.Kind == group.KindConsumer {
		one.GroupType, one.ProtocolType = "Consumer", "consumer"
	}
	return one
}

// oneOf says whether a filter lets a word pass; an empty one lets all.
func oneOf(word string, filter []string) bool {
	for _, f := range filter {
		if strings.EqualFold(word, f) {
			return true
		}
	}
	return len(filter) == 0
}
