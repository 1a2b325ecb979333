package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// scriptedGroups answers as a test says.
type scriptedGroups struct {
	fakeGroups
	join  func(context.Context, coordinator.JoinRequest) (coordinator.JoinAnswer, error)
	sync  func(coordinator.SyncRequest) (coordinator.SyncAnswer, error)
	beat  func(id string, by group.Committer) error
	leave func(id string, members []classic.Leaving) ([]error, error)
	say   func(coordinator.MemberRequest) (coordinator.HeartbeatAnswer, error)
}

func (g *scriptedGroups) JoinGroup(ctx context.Context, r coordinator.JoinRequest) (coordinator.JoinAnswer, error) {
	return g.join(ctx, r)
}
func (g *scriptedGroups) SyncGroup(_ context.Context, r coordinator.SyncRequest) (coordinator.SyncAnswer, error) {
	return g.sync(r)
}
func (g *scriptedGroups) ClassicHeartbeat(_ context.Context, id string, by group.Committer) error {
	return g.beat(id, by)
}
func (g *scriptedGroups) LeaveGroup(_ context.Context, id string, members []classic.Leaving) ([]error, error) {
	return g.leave(id, members)
}

func (g *scriptedGroups) Heartbeat(_ context.Context, r coordinator.MemberRequest) (coordinator.HeartbeatAnswer, error) {
	return g.say(r)
}

func groupError(code coordinator.Code) *coordinator.Error {
	return &coordinator.Error{Code: code, Message: "as the test says"}
}

// G2, G5, KIP-394, KIP-814: what each version asks for, and is told.
func TestJoinGroup(t *testing.T) {
	g := &scriptedGroups{}
	w := newRig(t, func(c *Config) { c.Groups = g }).dial()
	for version := int16(0); version <= 9; version++ {
		var asked coordinator.JoinRequest
		g.join = func(_ context.Context, r coordinator.JoinRequest) (coordinator.JoinAnswer, error) {
			asked = r
			return coordinator.JoinAnswer{MemberID: "m", Generation: 3, ProtocolType: "consumer", Protocol: "range", Leader: "m", SkipAssignment: true,
				Members: []classic.JoinedMember{{ID: "m", InstanceID: "i", Metadata: []byte("meta")}}}, nil
		}
		req := kmsg.NewPtrJoinGroupRequest()
		instance := "i"
		req.Version, req.Group, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType, req.InstanceID = version, "g", 7000, 60000, "consumer", &instance
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("meta")}}
		resp := w.ask(req).(*kmsg.JoinGroupResponse)
		if resp.ErrorCode != 0 || resp.Generation != 3 || resp.MemberID != "m" || resp.LeaderID != "m" || *resp.Protocol != "range" || len(resp.Members) != 1 ||
			string(resp.Members[0].ProtocolMetadata) != "meta" || resp.SkipAssignment != (version >= 9) || version >= 7 && *resp.ProtocolType != "consumer" {
			t.Errorf("version %d: %+v", version, resp)
		}
		rebalance := time.Minute
		if version == 0 {
			rebalance = 7 * time.Second // there was no other
		}
		if asked.Group != "g" || asked.SessionTimeout != 7*time.Second || asked.RebalanceTimeout != rebalance || asked.MustKnowID != (version >= 4) || asked.MaySkip != (version >= 9) ||
			(asked.InstanceID == "i") != (version >= 5) || string(asked.Protocols[0].Metadata) != "meta" || asked.Client.ID != "test" {
			t.Errorf("version %d asks %+v", version, asked)
		}
	}
	for code, want := range map[coordinator.Code]int16{
		coordinator.CodeMemberIDRequired: 79, coordinator.CodeUnknownMemberID: 25, coordinator.CodeInvalidSessionTimeout: 26, coordinator.CodeInconsistentProtocol: 23,
		coordinator.CodeGroupMaxSizeReached: 81, coordinator.CodeFencedInstanceID: 82, coordinator.CodeBusy: 15, coordinator.CodeRequestTimedOut: 15, coordinator.CodeNotCoordinator: 16,
		coordinator.CodeLoading: 14, coordinator.CodeInvalidGroupID: 24,
	} {
		g.join = func(context.Context, coordinator.JoinRequest) (coordinator.JoinAnswer, error) {
			if code == coordinator.CodeMemberIDRequired {
				return coordinator.JoinAnswer{MemberID: "given"}, groupError(code)
			}
			return coordinator.JoinAnswer{}, groupError(code)
		}
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version, req.MemberID = 9, "mine"
		resp := w.ask(req).(*kmsg.JoinGroupResponse)
		id := "mine"
		if code == coordinator.CodeMemberIDRequired {
			id = "given"
		}
		if resp.ErrorCode != want || resp.MemberID != id || resp.Generation != -1 {
			t.Errorf("%s: %+v, want code %d", code, resp, want)
		}
	}
}

// A client that has gone waits no more, and what it said holds nothing of the budget of requests while it waits.
func TestJoinGroupWaits(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	g := &scriptedGroups{join: func(ctx context.Context, _ coordinator.JoinRequest) (coordinator.JoinAnswer, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return coordinator.JoinAnswer{}, ctx.Err()
	}}
	r := newRig(t, func(c *Config) { c.Groups = g })
	w := r.dial()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = 5
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: make([]byte, 1<<20)}}
	w.send(req)
	<-began
	if held := r.server.metricOf(r.server.metrics.readingBytes); held != 0 {
		t.Errorf("%v bytes are held", held)
	}
	_ = w.conn.Close()
	<-ended
}

// G7: the protocol must be said from version 5 on.
func TestSyncGroup(t *testing.T) {
	var asked coordinator.SyncRequest
	g := &scriptedGroups{sync: func(r coordinator.SyncRequest) (coordinator.SyncAnswer, error) {
		asked = r
		return coordinator.SyncAnswer{ProtocolType: "consumer", Protocol: "range", Assignment: []byte("mine")}, nil
	}}
	w := newRig(t, func(c *Config) { c.Groups = g }).dial()
	kind, name, instance := "consumer", "range", "i"
	for version := int16(0); version <= 5; version++ {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Version, req.Group, req.MemberID, req.Generation, req.InstanceID = version, "g", "m", 3, &instance
		req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: "m", MemberAssignment: []byte("mine")}}
		if version >= 5 {
			if resp := w.ask(req).(*kmsg.SyncGroupResponse); resp.ErrorCode != 23 {
				t.Errorf("without a protocol: %+v", resp)
			}
		}
		req.ProtocolType, req.Protocol = &kind, &name
		resp := w.ask(req).(*kmsg.SyncGroupResponse)
		if resp.ErrorCode != 0 || string(resp.MemberAssignment) != "mine" || version >= 5 && (*resp.ProtocolType != kind || *resp.Protocol != name) {
			t.Errorf("version %d: %+v", version, resp)
		}
		if asked.Group != "g" || asked.MemberID != "m" || asked.Generation != 3 || string(asked.Assignments[0].Assignment) != "mine" || (asked.InstanceID == "i") != (version >= 3) ||
			(asked.Protocol == name) != (version >= 5) {
			t.Errorf("version %d asks %+v", version, asked)
		}
	}
	g.sync = func(coordinator.SyncRequest) (coordinator.SyncAnswer, error) {
		return coordinator.SyncAnswer{}, groupError(coordinator.CodeRebalanceInProgress)
	}
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version = 3
	if resp := w.ask(req).(*kmsg.SyncGroupResponse); resp.ErrorCode != 27 {
		t.Errorf("%+v", resp)
	}
}

// G8: a member that is heard while the group is loaded stays.
func TestClassicHeartbeat(t *testing.T) {
	g := &scriptedGroups{}
	w := newRig(t, func(c *Config) { c.Groups = g }).dial()
	for code, want := range map[coordinator.Code]int16{"": 0, coordinator.CodeRebalanceInProgress: 27, coordinator.CodeIllegalGeneration: 22, coordinator.CodeLoading: 0, coordinator.CodeNotCoordinator: 16} {
		g.beat = func(id string, by group.Committer) error {
			if id != "g" || by != (group.Committer{MemberID: "m", InstanceID: "i", Epoch: 3}) {
				t.Errorf("asked for %s of %+v", id, by)
			}
			if code == "" {
				return nil
			}
			return groupError(code)
		}
		req := kmsg.NewPtrHeartbeatRequest()
		instance := "i"
		req.Version, req.Group, req.MemberID, req.Generation, req.InstanceID = 4, "g", "m", 3, &instance
		if resp := w.ask(req).(*kmsg.HeartbeatResponse); resp.ErrorCode != want {
			t.Errorf("%q: %+v, want code %d", code, resp, want)
		}
	}
}

// G9: one member in old versions, many, each with its own code, in newer ones.
func TestLeaveGroup(t *testing.T) {
	var asked []classic.Leaving
	g := &scriptedGroups{leave: func(_ string, members []classic.Leaving) ([]error, error) {
		asked = members
		errs := make([]error, len(members))
		errs[len(errs)-1] = groupError(coordinator.CodeUnknownMemberID)
		return errs, nil
	}}
	w := newRig(t, func(c *Config) { c.Groups = g }).dial()
	for version := int16(0); version <= 5; version++ {
		req := kmsg.NewPtrLeaveGroupRequest()
		instance := "i"
		req.Version, req.Group, req.MemberID = version, "g", "m"
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: "m"}, {InstanceID: &instance}}
		resp := w.ask(req).(*kmsg.LeaveGroupResponse)
		if version < 3 {
			if resp.ErrorCode != 25 || len(asked) != 1 || asked[0] != (classic.Leaving{MemberID: "m"}) {
				t.Errorf("version %d: %+v, asked for %+v", version, resp, asked)
			}
			continue
		}
		if resp.ErrorCode != 0 || len(resp.Members) != 2 || resp.Members[0].ErrorCode != 0 || resp.Members[1].ErrorCode != 25 || *resp.Members[1].InstanceID != "i" ||
			asked[1] != (classic.Leaving{InstanceID: "i"}) {
			t.Errorf("version %d: %+v, asked for %+v", version, resp, asked)
		}
	}
}

// A Java consumer that subscribes to a java.util.regex.Pattern sends the names that match, which may be none.
func TestMembersJoinWithoutTopics(t *testing.T) {
	var asked coordinator.MemberRequest
	g := &scriptedGroups{say: func(r coordinator.MemberRequest) (coordinator.HeartbeatAnswer, error) {
		asked = r
		return coordinator.HeartbeatAnswer{MemberID: r.MemberID, Assigned: coordinator.Assigned{Epoch: 1}}, nil
	}}
	w := newRig(t, func(c *Config) { c.Groups = g }).dial()
	for version := int16(0); version <= 1; version++ {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = version, "g", "m", 1000
		req.SubscribedTopicNames, req.Topics = []string{}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if resp := w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse); resp.ErrorCode != 0 || resp.Assignment == nil {
			t.Errorf("version %d: %+v", version, resp)
		}
		if s := asked.Subscription; s.Topics == nil || len(s.Topics) > 0 || !s.MayBeEmpty {
			t.Errorf("version %d asks for %+v", version, s)
		}
	}
}
