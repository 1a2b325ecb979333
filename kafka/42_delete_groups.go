package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// deleteGroups deletes groups without members, with their offsets (G30).
func (c *conn) deleteGroups(r *request, req *kmsg.DeleteGroupsRequest, resp *kmsg.DeleteGroupsResponse) {
	ctx, cancel := context.WithTimeout(c.ctx, groupTimeout)
	defer cancel()
	for i, id := range req.Groups {
		at := kmsg.NewDeleteGroupsResponseGroup()
		at.Group = id
		if i >= maxGroupsAsked {
			at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		} else if !c.may(r, acl.Delete, acl.Group, id) {
			at.ErrorCode, at.ErrorMessage = c.denial(r, acl.Delete, acl.Group, id)
		} else if err := c.c.Groups.Delete(ctx, id); err != nil {
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.coordinatorCode(), f.message
		}
		resp.Groups = append(resp.Groups, at)
	}
}
