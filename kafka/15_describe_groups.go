package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// describeGroups shows groups of the classic protocol. To this request every other group is dead: up to version 5 without an error,
// from 6 on with one (G18).
func (c *conn) describeGroups(r *request, req *kmsg.DescribeGroupsRequest, resp *kmsg.DescribeGroupsResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	answered := make(once[string])
	for i, id := range req.Groups {
		if !answered.first(id) {
			continue
		}
		at := kmsg.NewDescribeGroupsResponseGroup()
		at.Group, at.AuthorizedOperations = id, noOperations
		if i >= maxGroupsAsked {
			reason, message := tooMany("groups", len(req.Groups), maxGroupsAsked)
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
			resp.Groups = append(resp.Groups, at)
			continue
		}
		if !c.may(r, acl.Describe, acl.Group, id) {
			at.ErrorCode, at.ErrorMessage = c.denial(r, acl.Describe, acl.Group, id)
			resp.Groups = append(resp.Groups, at)
			continue
		}
		d, err := c.c.Groups.Describe(ctx, id)
		dead := err == nil && d.Kind == group.KindConsumer
		if err != nil {
			f := c.failure(r, err)
			if dead = f.Kind.Reason == "GROUP_ID_NOT_FOUND"; !dead {
				at.ErrorCode, at.ErrorMessage = f.coordinatorCode(), f.message
			}
		}
		switch {
		case dead && req.Version >= 6:
			at.State, at.ErrorCode = "Dead", frontdoor.KindOf("GROUP_ID_NOT_FOUND").Kafka
		case dead:
			at.State = "Dead"
		case err == nil:
			describeClassic(&at, &d)
		}
		if req.IncludeAuthorizedOperations && at.ErrorCode == 0 {
			at.AuthorizedOperations = c.operations(acl.Group, id)
		}
		resp.Groups = append(resp.Groups, at)
	}
}

// describeClassic shows members with what they said and were given; as long as the group is not stable nobody has anything.
func describeClassic(at *kmsg.DescribeGroupsResponseGroup, d *group.Description) {
	at.State, at.ProtocolType = string(d.Phase), d.ProtocolType
	stable := d.Phase == group.PhaseStable
	if stable {
		at.Protocol = d.Protocol
	}
	for _, m := range d.Classic {
		one := kmsg.NewDescribeGroupsResponseGroupMember()
		one.MemberID, one.ClientID, one.ClientHost = m.ID, m.Client.ID, "/"+m.Client.Address
		one.ProtocolMetadata, one.MemberAssignment = []byte{}, []byte{}
		if m.InstanceID != "" {
			one.InstanceID = &m.InstanceID
		}
		if stable {
			one.ProtocolMetadata, one.MemberAssignment = m.Metadata, m.Assignment
		}
		at.Members = append(at.Members, one)
	}
}
