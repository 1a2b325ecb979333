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
	// maxGroupsListed of one request; more are left out.
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
	list, _, err := c.c.Groups.List(ctx, coordinator.GroupFilter{}, maxGroupsListed)
	if err != nil {
		resp.ErrorCode = c.failure(r, err).coordinatorCode()
		return
	}
	all := c.sees(acl.Describe, acl.Cluster, acl.ClusterName)
	for i := range list {
		d := &list[i]
		one := kmsg.NewListGroupsResponseGroup()
		one.Group, one.GroupState, one.GroupType, one.ProtocolType = d.ID, string(d.Phase), "Classic", d.ProtocolType
		if d.Kind == group.KindConsumer {
			one.GroupType, one.ProtocolType = "Consumer", "consumer"
		}
		if oneOf(one.GroupState, req.StatesFilter) && oneOf(one.GroupType, req.TypesFilter) && (all || c.sees(acl.Describe, acl.Group, d.ID)) {
			resp.Groups = append(resp.Groups, one)
		}
	}
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
