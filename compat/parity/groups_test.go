package parity

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// join asks to join a group of the classic protocol.
func (s *scene) join(group string, version int16, change func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupResponse {
	s.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType = version, group, 10_000, 10_000, "consumer"
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: subscription("t")}}
	if change != nil {
		change(req)
	}
	addr := s.coordinator(kindGroup, group)
	var resp *kmsg.JoinGroupResponse
	s.settled(func() int16 {
		resp = ask[*kmsg.JoinGroupResponse](s, addr, req)
		return resp.ErrorCode
	})
	return resp
}

// subscription is what a consumer says of itself: version 0, topics, nothing else.
func subscription(topics ...string) []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Topics = topics
	return m.AppendTo(nil)
}

// enter makes the one member of a group, up to the generation that it leads.
func (s *scene) enter(group string) (member string, generation int32) {
	s.t.Helper()
	first := s.join(group, 5, nil)
	second := s.join(group, 5, func(r *kmsg.JoinGroupRequest) { r.MemberID = first.MemberID })
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.Generation, req.MemberID = 3, group, second.Generation, second.MemberID
	req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: second.MemberID, MemberAssignment: []byte{1}}}
	if got := ask[*kmsg.SyncGroupResponse](s, s.coordinator(kindGroup, group), req); got.ErrorCode != 0 {
		s.t.Fatalf("sync %s: %s", group, code(got.ErrorCode))
	}
	return second.MemberID, second.Generation
}

// Joining, syncing, beating and leaving (G1-G9).
func classicGroups(s *scene) {
	g := s.name
	addr := s.coordinator(kindGroup, g)
	join := func(step, group string, version int16, change func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupResponse {
		resp := s.join(group, version, change)
		s.note(step, "%s generation %d leads %v member %v", code(resp.ErrorCode), resp.Generation, resp.MemberID != "" && resp.MemberID == resp.LeaderID, resp.MemberID != "")
		return resp
	}
	beat := func(step, group, member string, generation int32, instance *string) {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.Generation, req.MemberID, req.InstanceID = 3, group, generation, member, instance
		s.note(step, "%s", code(ask[*kmsg.HeartbeatResponse](s, addr, req).ErrorCode))
	}
	sync := func(step, group, member string, generation int32, protocol string) {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Version, req.Group, req.Generation, req.MemberID = 5, group, generation, member
		req.ProtocolType = ptr("consumer")
		if protocol != "" {
			req.Protocol = &protocol
		}
		req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: member, MemberAssignment: []byte("mine")}}
		got := ask[*kmsg.SyncGroupResponse](s, addr, req)
		s.note(step, "%s %q", code(got.ErrorCode), got.MemberAssignment)
	}
	join("empty group", "", 5, nil)
	join("session too short", g, 5, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 10 })
	join("session too long", g, 5, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 10_000_000 })
	join("a member nobody knows", g, 5, func(r *kmsg.JoinGroupRequest) { r.MemberID = "nobody" })
	join("no protocols", g, 5, func(r *kmsg.JoinGroupRequest) { r.Protocols = nil })
	join("no protocol type", g, 5, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" })
	sync("sync, unknown group", g+"-none", "m", 1, "")
	beat("beat, unknown group", g+"-none", "m", 1, nil)
	first := join("without an id", g, 5, nil)
	beat("beat before joining", g, first.MemberID, -1, nil)
	m := join("with it", g, 5, func(r *kmsg.JoinGroupRequest) { r.MemberID = first.MemberID })
	beat("beat before sync", g, m.MemberID, m.Generation, nil)
	sync("sync, another protocol", g, m.MemberID, m.Generation, "roundrobin")
	sync("sync, a generation before", g, m.MemberID, m.Generation-1, "range")
	sync("sync, another member", g, "nobody", m.Generation, "range")
	sync("sync", g, m.MemberID, m.Generation, "range")
	sync("sync again", g, m.MemberID, m.Generation, "range")
	beat("beat", g, m.MemberID, m.Generation, nil)
	beat("beat, a generation before", g, m.MemberID, m.Generation-1, nil)
	beat("beat, a generation to come", g, m.MemberID, m.Generation+1, nil)
	beat("beat, another member", g, "nobody", m.Generation, nil)
	beat("beat, an instance nobody knows", g, m.MemberID, m.Generation, ptr("i"))
	join("another protocol type", g, 5, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })
	join("no common protocol", g, 5, func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "other" })
	old := join("version 3 needs no id", g+"-old", 3, nil)
	addr = s.coordinator(kindGroup, g+"-old")
	beat("and is in", g+"-old", old.MemberID, old.Generation, nil)
	static := join("static", g+"-static", 5, func(r *kmsg.JoinGroupRequest) { r.InstanceID = ptr("one") })
	again := join("static, started again", g+"-static", 5, func(r *kmsg.JoinGroupRequest) { r.InstanceID = ptr("one") })
	addr = s.coordinator(kindGroup, g+"-static")
	beat("static, the first one", g+"-static", static.MemberID, again.Generation, ptr("one"))
	beat("static, the second one", g+"-static", again.MemberID, again.Generation, ptr("one"))
	addr = s.coordinator(kindGroup, g)
	leave := func(step, group string, members ...string) {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group = 4, group
		for _, id := range members {
			one := kmsg.NewLeaveGroupRequestMember()
			if instance, ok := strings.CutPrefix(id, "instance:"); ok {
				one.InstanceID = &instance
			} else {
				one.MemberID = id
			}
			req.Members = append(req.Members, one)
		}
		got := ask[*kmsg.LeaveGroupResponse](s, s.coordinator(kindGroup, group), req)
		said := code(got.ErrorCode)
		for _, one := range got.Members {
			said += " " + code(one.ErrorCode)
		}
		s.note(step, "%s", said)
	}
	leave("leave, unknown group", g+"-none", "m")
	leave("leave, another member and the member", g, "nobody", m.MemberID)
	leave("leave again", g, m.MemberID)
	leave("static leaves by its name", g+"-static", "instance:one", "instance:two")
	s.describe("described", g)
	s.describe("described, unknown", g+"-none")
}

// describe notes what DescribeGroups says.
func (s *scene) describe(step, group string) {
	s.t.Helper()
	for _, version := range []int16{0, 5, 6} {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups = version, []string{group}
		got := ask[*kmsg.DescribeGroupsResponse](s, s.coordinator(kindGroup, group), req).Groups[0]
		s.note(fmt.Sprintf("%s, version %d", step, version), "%s %s %q %q %d members", code(got.ErrorCode), got.State, got.ProtocolType, got.Protocol, len(got.Members))
	}
}

// commitAt commits one offset.
func (s *scene) commitAt(version int16, group, member string, generation int32, topic string, partition int32, offset int64, metadata *string) string {
	s.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.Generation = version, group, member, generation
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata = partition, offset, metadata
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	addr := s.coordinator(kindGroup, group)
	return code(s.settled(func() int16 {
		resp, err := s.try(addr, req)
		if err != nil {
			s.t.Fatalf("commit: %v", err)
		}
		if got := resp.(*kmsg.OffsetCommitResponse); len(got.Topics) > 0 && len(got.Topics[0].Partitions) > 0 {
			return got.Topics[0].Partitions[0].ErrorCode
		}
		return 9999 // it is not answered
	}))
}

// fetched asks for one offset.
func (s *scene) fetched(version int16, group, topic string, partition int32, stable bool) string {
	s.t.Helper()
	addr := s.coordinator(kindGroup, group)
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = version, stable
	if version >= 8 {
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group, one.MemberEpoch = group, -1
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{partition}}}
		req.Groups = []kmsg.OffsetFetchRequestGroup{one}
	} else {
		req.Group, req.Topics = group, []kmsg.OffsetFetchRequestTopic{{Topic: topic, Partitions: []int32{partition}}}
	}
	resp := ask[*kmsg.OffsetFetchResponse](s, addr, req)
	if version >= 8 {
		at := resp.Groups[0]
		if at.ErrorCode != 0 {
			return "group " + code(at.ErrorCode)
		}
		if len(at.Topics) == 0 || len(at.Topics[0].Partitions) == 0 {
			return silent
		}
		p := at.Topics[0].Partitions[0]
		return fmt.Sprintf("%s %d %q", code(p.ErrorCode), p.Offset, deref(p.Metadata))
	}
	if resp.ErrorCode != 0 {
		return "group " + code(resp.ErrorCode)
	}
	if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
		return silent
	}
	p := resp.Topics[0].Partitions[0]
	return fmt.Sprintf("%s %d %q", code(p.ErrorCode), p.Offset, deref(p.Metadata))
}

func deref(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

// Committing and fetching offsets (G19, G21, G27).
func offsets(s *scene) {
	topic := s.topic("t", 2)
	g := s.name
	s.note("simple", "%s", s.commitAt(7, g+"-simple", "", -1, topic, 0, 5, ptr("note")))
	s.note("simple, no note", "%s", s.commitAt(7, g+"-simple", "", -1, topic, 1, 6, nil))
	s.note("simple, negative", "%s", s.commitAt(7, g+"-negative", "", -1, topic, 0, -7, nil))
	s.note("negative, read", "%s", s.fetched(7, g+"-negative", topic, 0, false))
	s.note("simple, long note", "%s", s.commitAt(7, g+"-simple", "", -1, topic, 0, 5, ptr(longName(4097))))
	s.note("simple, longest note", "%s", s.commitAt(7, g+"-note", "", -1, topic, 0, 5, ptr(longName(4096))))
	s.note("simple, unknown topic", "%s", s.commitAt(7, g+"-simple", "", -1, g+"-none", 0, 5, nil))
	s.note("simple, unknown partition", "%s", s.commitAt(7, g+"-simple", "", -1, topic, 9, 5, nil))
	s.note("no such group, a generation, version 8", "%s", s.commitAt(8, g+"-none", "m", 3, topic, 0, 5, nil))
	s.note("no such group, a generation, version 9", "%s", s.commitAt(9, g+"-none", "m", 3, topic, 0, 5, nil))
	s.note("empty group", "%s", s.commitAt(7, "", "", -1, topic, 0, 5, nil))
	for _, version := range []int16{1, 2, 5, 7, 8, 9} {
		s.note(fmt.Sprintf("read, version %d", version), "%s", s.fetched(version, g+"-simple", topic, 0, false))
		s.note(fmt.Sprintf("read without a note, version %d", version), "%s", s.fetched(version, g+"-simple", topic, 1, false))
		s.note(fmt.Sprintf("read, no such group, version %d", version), "%s", s.fetched(version, g+"-none", topic, 0, false))
		s.note(fmt.Sprintf("read, no such topic, version %d", version), "%s", s.fetched(version, g+"-simple", g+"-none", 0, false))
	}
	member, generation := s.enter(g)
	s.note("member", "%s", s.commitAt(7, g, member, generation, topic, 0, 1, nil))
	s.note("a generation before", "%s", s.commitAt(7, g, member, generation-1, topic, 0, 1, nil))
	s.note("another member", "%s", s.commitAt(7, g, "nobody", generation, topic, 0, 1, nil))
	s.note("nobody, no generation", "%s", s.commitAt(7, g, "", -1, topic, 0, 1, nil))
	s.note("member, no generation", "%s", s.commitAt(7, g, member, -1, topic, 0, 1, nil))
	remove := func(step, group string, names ...string) {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		for _, name := range names {
			req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: name, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}})
		}
		got := ask[*kmsg.OffsetDeleteResponse](s, s.coordinator(kindGroup, group), req)
		var said []string
		for _, t := range got.Topics {
			said = append(said, code(t.Partitions[0].ErrorCode))
		}
		slices.Sort(said) // in no order
		s.note(step, "%s %s", code(got.ErrorCode), strings.Join(said, " "))
	}
	remove("delete offsets", g+"-simple", topic, g+"-none")
	remove("delete offsets, live group, subscribed or not", g, "t", topic)
	remove("delete offsets, unknown group", g+"-none", topic)
	remove("delete offsets, empty group", "", topic)
	drop := func(step string, groups ...string) {
		said := ""
		for _, group := range groups {
			req := kmsg.NewPtrDeleteGroupsRequest()
			req.Version, req.Groups = 2, []string{group}
			said += " " + code(ask[*kmsg.DeleteGroupsResponse](s, s.coordinator(kindGroup, group), req).Groups[0].ErrorCode)
		}
		s.note(step, "%s", said)
	}
	drop("delete: simple, live, unknown, empty", g+"-simple", g, g+"-none", "")
	s.note("read of a deleted group", "%s", s.fetched(7, g+"-simple", topic, 1, false))
}

// txnOffset commits an offset in a transaction.
func (s *scene) txnOffset(version int16, id, group string, pid int64, epoch int16, topic string, offset int64, change func(*kmsg.TxnOffsetCommitRequest)) string {
	s.t.Helper()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = version, id, group, pid, epoch, -1
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Offset = offset
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{p}}}
	if change != nil {
		change(req)
	}
	addr := s.coordinator(kindGroup, group)
	return code(s.settled(func() int16 {
		return ask[*kmsg.TxnOffsetCommitResponse](s, addr, req).Topics[0].Partitions[0].ErrorCode
	}))
}

// Offsets in transactions: who may, when they show, and what waits for them (G22-G26, T15).
func transactionalOffsets(s *scene) {
	topic := s.topic("t", 1)
	id, g := "a-"+s.name, s.name
	pid, epoch := s.begin(id)
	commit := func(step string, version int16, group string, e int16, offset int64, change func(*kmsg.TxnOffsetCommitRequest)) {
		s.note(step, "%s", s.txnOffset(version, id, group, pid, e, topic, offset, change))
	}
	read := func(step string) {
		s.note(step+", stable", "%s", s.fetched(7, g, topic, 0, true))
		s.note(step+", as committed", "%s", s.fetched(7, g, topic, 0, false))
	}
	commit("empty group", 3, "", epoch, 1, nil)
	commit("not added", 3, g, epoch, 1, nil)
	commit("not added, version 4", 4, g, epoch, 1, nil)
	add := func(step, txn, group string, p int64, e int16) {
		req := kmsg.NewPtrAddOffsetsToTxnRequest()
		req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = 3, txn, group, p, e
		addr := s.coordinator(kindTxn, txn)
		s.note(step, "%s", code(s.settled(func() int16 { return ask[*kmsg.AddOffsetsToTxnResponse](s, addr, req).ErrorCode })))
	}
	add("add, empty id", "", g, pid, epoch)
	add("add, unknown id", id+"-none", g, pid, epoch)
	add("add, an epoch to come", id, g, pid, epoch+1)
	add("add, a negative epoch", id, g, pid, -1)
	add("add, no producer", id, g, -1, -1)
	for _, version := range []int16{3, 5} {
		commit(fmt.Sprintf("a negative epoch, version %d", version), version, g, -1, 1, nil)
		s.note(fmt.Sprintf("no producer, version %d", version), "%s", s.txnOffset(version, id, g, -1, -1, topic, 1, nil))
	}
	add("add", id, g, pid, epoch)
	commit("added", 3, g, epoch, 7, nil)
	read("open")
	s.note("plain commit meanwhile", "%s", s.commitAt(7, g, "", -1, topic, 0, 3, nil))
	read("open, and a plain one")
	commit("a generation of a group without members", 3, g, epoch, 8, func(r *kmsg.TxnOffsetCommitRequest) { r.MemberID, r.Generation = "m", 4 })
	s.note("commit", "%s", third(s.end(3, id, pid, epoch, true)))
	s.state(id)
	read("committed")
	commit("TV2 joins by itself", 5, g, epoch, 20, nil)
	read("TV2, open")
	_, next, said := s.end(5, id, pid, epoch, false)
	s.note("TV2 aborts", "%s", said)
	s.state(id)
	read("TV2, aborted")
	commit("TV2, old epoch", 5, g, epoch, 21, nil)
	commit("TV2, unknown producer", 5, g+"-2", next+7, 21, nil)
	member, generation := s.enter(g + "-live")
	for _, c := range []struct {
		step       string
		version    int16
		member     string
		generation int32
	}{
		{"live, the member", 5, member, generation}, {"live, unvalidated", 5, "", -1}, {"live, a generation before", 5, member, generation - 1},
		{"live, another member", 5, "nobody", generation}, {"live, a member without a generation", 5, member, -1},
	} {
		commit(c.step, c.version, g+"-live", next, 1, func(r *kmsg.TxnOffsetCommitRequest) { r.MemberID, r.Generation = c.member, c.generation })
	}
	s.note("unknown topic", "%s", s.txnOffset(5, id, g, pid, next, s.name+"-none", 1, nil))
	_, _, said = s.end(5, id, pid, next, true)
	s.note("TV2 commits", "%s", said)
	s.state(id)
	s.note("live, committed", "%s", s.fetched(7, g+"-live", topic, 0, true))
}

// Groups of KIP-848 (G14, G15, G20).
func newGroups(s *scene) {
	topic := s.topic("t", 2)
	g := s.name
	addr := s.coordinator(kindGroup, g)
	beat := func(step string, change func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, g, "member-1", 0, 30_000
		req.SubscribedTopicNames, req.Topics = []string{topic}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		change(req)
		var got *kmsg.ConsumerGroupHeartbeatResponse
		s.settled(func() int16 {
			got = ask[*kmsg.ConsumerGroupHeartbeatResponse](s, addr, req)
			return got.ErrorCode
		})
		if step != "" {
			s.note(step, "%s epoch %d", code(got.ErrorCode), got.MemberEpoch)
		}
		return got
	}
	beat("empty group", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = "" })
	beat("no member id", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = "" })
	beat("no subscription", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = nil })
	beat("no rebalance timeout", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RebalanceTimeoutMillis = -1 })
	beat("no list of partitions", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = nil })
	beat("empty instance", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("") })
	beat("empty rack", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = ptr("") })
	beat("unknown assignor", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = ptr("mine") })
	beat("bad pattern", func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.SubscribedTopicNames, r.SubscribedTopicRegex = nil, ptr("[")
	})
	beat("unknown group, epoch 3", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = 3 })
	beat("unknown group, leaves", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -1 })
	first := beat("", func(*kmsg.ConsumerGroupHeartbeatRequest) {})
	s.note("joins", "%s", code(first.ErrorCode))
	var epoch int32
	s.until("an assignment", func() bool {
		got := beat("", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = 0 })
		epoch = got.MemberEpoch
		return got.Assignment != nil && len(got.Assignment.Topics) == 1
	})
	beat("an epoch to come", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch, r.Topics = epoch+1, nil })
	beat("another member", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID, r.MemberEpoch = "member-2", epoch })
	step := func(what string) string { return what }
	said := func(what string, version int16, member string, e int32) {
		s.note(step(what), "%s", s.commitAt(version, g, member, e, topic, 0, 5, nil))
	}
	said("commit", 9, "member-1", epoch)
	said("commit, an epoch to come", 9, "member-1", epoch+1)
	said("commit, another member", 9, "member-9", epoch)
	said("commit, no member", 9, "", -1)
	said("commit, version 8", 8, "member-1", epoch)
	said("commit, an epoch to come, version 8", 8, "member-1", epoch+1)
	said("commit, another member, version 8", 8, "member-9", epoch)
	said("commit, no member, version 8", 8, "", -1)
	fetch := func(step string, member *string, e int32, topics ...string) {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version = 9
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group, one.MemberID, one.MemberEpoch = g, member, e
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{0}}}
		req.Groups = []kmsg.OffsetFetchRequestGroup{one}
		got := ask[*kmsg.OffsetFetchResponse](s, addr, req).Groups[0]
		offset := int64(-9)
		if len(got.Topics) > 0 && len(got.Topics[0].Partitions) > 0 {
			offset = got.Topics[0].Partitions[0].Offset
		}
		s.note(step, "%s %d", code(got.ErrorCode), offset)
	}
	fetch("read", ptr("member-1"), epoch)
	fetch("read, an epoch before", ptr("member-1"), epoch-1)
	fetch("read, an epoch to come", ptr("member-1"), epoch+1)
	fetch("read, another member", ptr("member-9"), epoch)
	fetch("read, nobody", nil, -1)
	classic := s.join(g, 5, func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Metadata = subscription(topic) })
	s.note("a member of the classic protocol without an id", "%s", code(classic.ErrorCode))
	s.describe("described as classic", g)
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	for _, group := range []string{g, g + "-none", ""} {
		req.Groups = []string{group}
		got := ask[*kmsg.ConsumerGroupDescribeResponse](s, s.coordinator(kindGroup, group), req).Groups[0]
		s.note("described as "+map[string]string{g: "it is", g + "-none": "unknown", "": "empty"}[group], "%s %s %q %d members", code(got.ErrorCode), got.State, got.AssignorName, len(got.Members))
	}
	beat("leaves", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -1 })
	beat("leaves again", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -1 })
	s.note("commit to the empty group", "%s", s.commitAt(9, g, "", -1, topic, 0, 6, nil))
}
