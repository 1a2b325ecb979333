package kafka

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group/classic"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// joinGroup lets a member join a group of the classic protocol, and waits for the next generation (G1-G6, G12, G13). Until it is answered no
// other request of its connection is begun, as in Kafka.
func (c *conn) joinGroup(r *request, req *kmsg.JoinGroupRequest, resp *kmsg.JoinGroupResponse) {
	resp.Generation, resp.MemberID = -1, req.MemberID
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	ask := coordinator.JoinRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Client: c.groupClient(r), ProtocolType: req.ProtocolType,
		SessionTimeout: time.Duration(req.SessionTimeoutMillis) * time.Millisecond, RebalanceTimeout: time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		MustKnowID: req.Version >= 4, MaySkip: req.Version >= 9,
	}
	if req.Version < 1 {
		ask.RebalanceTimeout = ask.SessionTimeout
	}
	for _, p := range req.Protocols {
		ask.Protocols = append(ask.Protocols, classic.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	c.release(r) // what is waited with has been copied
	a, err := c.c.Groups.JoinGroup(c.waiting, ask)
	if a.MemberID != "" {
		resp.MemberID = a.MemberID // beside MEMBER_ID_REQUIRED too
	}
	if err != nil {
		resp.ErrorCode = c.failure(r, err).groupCode()
		return
	}
	resp.Generation, resp.LeaderID, resp.SkipAssignment = a.Generation, a.Leader, a.SkipAssignment
	resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
	for _, m := range a.Members {
		one := kmsg.NewJoinGroupResponseMember()
		one.MemberID, one.ProtocolMetadata = m.ID, m.Metadata
		if m.InstanceID != "" {
			one.InstanceID = &m.InstanceID
		}
		resp.Members = append(resp.Members, one)
	}
}

// groupCode is the code of a failure of a group whose members wait: one whose connection or broker ends meanwhile looks for its
// coordinator again.
func (f failure) groupCode() int16 {
	if f.Kind.Reason == frontdoor.ReasonStopping || f.Kind.Reason == frontdoor.ReasonCancelled {
		return frontdoor.KindOf("NOT_COORDINATOR").Kafka
	}
	return f.coordinatorCode()
}
