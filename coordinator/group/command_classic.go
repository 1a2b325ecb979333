package group

import (
	"errors"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// The bounds of a generation of the classic protocol.
const (
	// MaxOpaque is how long one member's metadata, and its assignment, may be.
	MaxOpaque = 1 << 20
	// MaxGenerationBytes is what all members of a generation may write together, their metadata and ids or their assignments, so
	// that it fits into a command. It bounds commands, not the state: members that replace others may add to it.
	MaxGenerationBytes = 3 << 20
)

func checkBegin(c *statev1.BeginGeneration) error {
	bytes := 0
	for _, m := range c.GetMembers() {
		bytes += GenerationBytes(classicMemberOf(m))
	}
	if bytes > MaxGenerationBytes {
		return invalid("%d bytes of members, at most %d are allowed", bytes, MaxGenerationBytes)
	}
	return checkGeneration(c)
}

// checkGeneration is for generations in commands and in snapshots.
func checkGeneration(c *statev1.BeginGeneration) error {
	if c.GetPrevious() < 0 {
		return invalid("generation %d", c.GetPrevious())
	}
	if err := errors.Join(checkText("protocol type", c.GetProtocolType()), checkText("protocol", c.GetProtocol())); err != nil {
		return err
	}
	if c.GetProtocolType() == "" || (c.GetProtocol() == "") != (len(c.GetMembers()) == 0) {
		return invalid("a generation of %d members that speak %q of type %q", len(c.GetMembers()), c.GetProtocol(), c.GetProtocolType())
	}
	leads, instances := len(c.GetMembers()) == 0 && c.GetLeader() == "", make(map[string]bool)
	for i, m := range c.GetMembers() {
		if err := checkClassicMember(m); err != nil {
			return err
		}
		if i > 0 && c.GetMembers()[i-1].GetMemberId() >= m.GetMemberId() {
			return invalid("members are not sorted")
		}
		if m.GetInstanceId() != "" && instances[m.GetInstanceId()] {
			return invalid("two members have the instance id %q", m.GetInstanceId())
		}
		instances[m.GetInstanceId()] = true
		leads = leads || m.GetMemberId() == c.GetLeader()
	}
	if !leads {
		return invalid("the leader is no member")
	}
	return nil
}

// GenerationBytes is what a member counts in MaxGenerationBytes.
func GenerationBytes(m *ClassicMember) int {
	return classicMemberBytes + len(m.ID) + len(m.InstanceID) + len(m.Client.ID) + len(m.Client.Address) + len(m.Metadata)
}

func checkClassicMember(m *statev1.ClassicMember) error {
	if len(m.GetMetadata()) > MaxOpaque {
		return invalid("metadata of %d bytes, at most %d are allowed", len(m.GetMetadata()), MaxOpaque)
	}
	if m.GetSessionTimeoutMs() <= 0 || m.GetRebalanceTimeoutMs() <= 0 {
		return invalid("timeouts of %d and %d ms", m.GetSessionTimeoutMs(), m.GetRebalanceTimeoutMs())
	}
	return errors.Join(checkMember(m.GetMemberId()), checkID("instance id", m.GetInstanceId()), checkClient(m.GetClient()))
}

func checkAssignGeneration(c *statev1.AssignGeneration) error {
	bytes := 0
	for _, a := range c.GetAssignments() {
		bytes += AssignmentBytes(a.GetMemberId(), a.GetAssignment())
	}
	if bytes > MaxGenerationBytes {
		return invalid("%d bytes of assignments, at most %d are allowed", bytes, MaxGenerationBytes)
	}
	return checkAssignments(c.GetAssignments())
}

// checkAssignments is for assignments in commands and in snapshots.
func checkAssignments(list []*statev1.ClassicAssignment) error {
	for i, a := range list {
		if err := checkMember(a.GetMemberId()); err != nil {
			return err
		}
		if i > 0 && list[i-1].GetMemberId() >= a.GetMemberId() {
			return invalid("members are not sorted")
		}
		if len(a.GetAssignment()) > MaxOpaque {
			return invalid("an assignment of %d bytes, at most %d are allowed", len(a.GetAssignment()), MaxOpaque)
		}
	}
	return nil
}

// AssignmentBytes is what a member's assignment counts in MaxGenerationBytes.
func AssignmentBytes(id string, assignment []byte) int { return 16 + len(id) + len(assignment) }

func checkLeave(c *statev1.LeaveGeneration) error {
	for i, id := range c.GetMemberIds() {
		if err := checkMember(id); err != nil {
			return err
		}
		if i > 0 && c.GetMemberIds()[i-1] >= id {
			return invalid("members are not sorted")
		}
	}
	if len(c.GetMemberIds()) == 0 {
		return invalid("nobody leaves")
	}
	return nil
}

func checkReplace(c *statev1.ReplaceClassicMember) error {
	if c.GetMember().GetInstanceId() == "" {
		return invalid("a dynamic member that replaces one")
	}
	return errors.Join(checkMember(c.GetOldId()), checkClassicMember(c.GetMember()))
}
