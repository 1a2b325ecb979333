package kafka

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// syncGroup takes the leader's assignment and gives each member its own, once it is committed (G7). From version 5 on a member must say
// which protocol it speaks.
func (c *conn) syncGroup(r *request, req *kmsg.SyncGroupRequest, resp *kmsg.SyncGroupResponse) {
	resp.MemberAssignment = []byte{}
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	if req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil) {
		resp.ErrorCode = c.refuse(r, "INCONSISTENT_GROUP_PROTOCOL")
		return
	}
	ask := coordinator.SyncRequest{Group: req.Group, MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Generation: req.Generation,
		ProtocolType: textOf(req.ProtocolType), Protocol: textOf(req.Protocol)}
	for _, a := range req.GroupAssignment {
		ask.Assignments = append(ask.Assignments, classic.Assignment{MemberID: a.MemberID, Assignment: bytes.Clone(a.MemberAssignment)})
	}
	c.release(r) // what is waited with has been copied
	a, err := c.c.Groups.SyncGroup(c.waiting, ask)
	if err != nil {
		resp.ErrorCode = c.failure(r, err).groupCode()
		return
	}
	resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
	if a.Assignment != nil {
		resp.MemberAssignment = a.Assignment
	}
}
