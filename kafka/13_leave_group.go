package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// leaveGroup has members of the classic protocol leave: one up to version 2, many afterwards, each with an error of its own (G9).
func (c *conn) leaveGroup(r *request, req *kmsg.LeaveGroupRequest, resp *kmsg.LeaveGroupResponse) {
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, groupTimeout)
	defer cancel()
	leaving := []classic.Leaving{{MemberID: req.MemberID}}
	if req.Version >= 3 {
		leaving = leaving[:0]
		for _, m := range req.Members {
			leaving = append(leaving, classic.Leaving{MemberID: m.MemberID, InstanceID: textOf(m.InstanceID)})
		}
	}
	errs, err := c.c.Groups.LeaveGroup(ctx, req.Group, leaving)
	switch {
	case err != nil:
		resp.ErrorCode = c.failure(r, err).groupCode()
		return
	case req.Version < 3:
		if errs[0] != nil {
			resp.ErrorCode = c.failure(r, errs[0]).groupCode()
		}
		return
	}
	for i, m := range req.Members {
		one := kmsg.NewLeaveGroupResponseMember()
		one.MemberID, one.InstanceID = m.MemberID, m.InstanceID
		if errs[i] != nil {
			one.ErrorCode = c.failure(r, errs[i]).groupCode()
		}
		resp.Members = append(resp.Members, one)
	}
}
