package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/group"
)

// heartbeat says that a member of the classic protocol is there (G8). While the coordinator is loading, nothing is known against it.
func (c *conn) heartbeat(r *request, req *kmsg.HeartbeatRequest, resp *kmsg.HeartbeatResponse) {
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	err := c.c.Groups.ClassicHeartbeat(ctx, req.Group, group.Committer{MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Epoch: req.Generation})
	if err == nil {
		return
	}
	if f := c.failure(r, err); f.Kind.Reason != "COORDINATOR_LOAD_IN_PROGRESS" {
		resp.ErrorCode = f.groupCode()
	}
}
