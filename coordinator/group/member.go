package group

import (
	"cmp"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// Partition is one partition of a topic that may have had other ones of its name before it.
type Partition struct {
	TopicID TopicID
	Number  int32
}

// Held is a partition that a member has, and the member epoch at which it was given (KIP-1251).
type Held struct {
	Partition
	Epoch int32
}

func comparePartitions(a, b Partition) int {
	return cmp.Or(slices.Compare(a.TopicID[:], b.TopicID[:]), cmp.Compare(a.Number, b.Number))
}

func compareHeld(a, b Held) int { return comparePartitions(a.Partition, b.Partition) }

// Status is how far a member is on its way to its target (G16). The numbers are those that are written.
type Status uint8

// The states of a member.
const (
	// Stable: it has all that it is to have at its epoch.
	Stable Status = 1
	// Revoking: it has been told to give partitions back, and has not done so yet. Kafka's UNREVOKED_PARTITIONS.
	Revoking Status = 2
	// Waiting: others still have some of what it is to have. Kafka's UNRELEASED_PARTITIONS.
	Waiting Status = 3
)

var statusNames = [...]string{"", "Stable", "Revoking", "Waiting"}

// String names the state.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "Unknown"
}

// The member epochs with a meaning of their own (G14).
const (
	JoinEpoch        int32 = 0
	LeaveEpoch       int32 = -1
	LeaveStaticEpoch int32 = -2
)

// Member is a member of a group of KIP-848. It never changes once it is in a State: a change replaces it. What it holds is
// shared and must not be written to.
type Member struct {
	ID string
	// InstanceID outlives the process; empty: a dynamic member.
	InstanceID string
	Subscription
	Client Client
	// Epoch is the member's. The group's offsets and partitions are for those who show it. LeaveStaticEpoch: a static
	// member that has left for a while; JoinEpoch: one that waits for the first targets of the group with it.
	Epoch int32
	// PreviousEpoch is the one before it: whoever shows that has not got the last answer (G15).
	PreviousEpoch int32
	Status        Status
	// Assigned is what it has, Revoking what it had and has to give back: nobody else has any of these. Both sorted.
	Assigned, Revoking []Held
	// Target is what it is to have in the end, sorted.
	Target []Partition
	// Version is the Raft index of the command that last changed it. Another target is no change of the member.
	Version uint64
	// JoinedMS is when it was first heard of, ms since 1970.
	JoinedMS int64
}

// Subscription is what a member wants to read, and how it wants to be treated.
type Subscription struct {
	// Topics are sorted.
	Topics []string
	// Pattern matches names of topics, in the syntax of RE2; empty: none.
	Pattern string
	// Assignor is the one it would like; empty: the server's.
	Assignor string
	// RebalanceTimeoutMS is how long it may take to give partitions back.
	RebalanceTimeoutMS int32
	Rack               string
}

// Client is a client as its connection and its requests show it.
type Client struct {
	// ID is what it calls itself, Address where it comes from.
	ID, Address string
}

func clientOf(c *statev1.ClientRef) Client {
	return Client{ID: c.GetClientId(), Address: c.GetAddress()}
}

func subscriptionOf(c *statev1.ConsumerSubscription) Subscription {
	return Subscription{
		Topics: slices.Clone(c.GetTopics()), Pattern: c.GetPattern(), Assignor: c.GetAssignor(),
		RebalanceTimeoutMS: c.GetRebalanceTimeoutMs(), Rack: c.GetRack(),
	}
}

// assignedAlike: whoever computes targets sees no difference.
func (s *Subscription) assignedAlike(other *Subscription) bool {
	return slices.Equal(s.Topics, other.Topics) && s.Pattern == other.Pattern && s.Assignor == other.Assignor
}

func (s *Subscription) equal(other *Subscription) bool {
	return s.assignedAlike(other) && s.RebalanceTimeoutMS == other.RebalanceTimeoutMS && s.Rack == other.Rack
}

// What a member, a partition of a target and a topic of an assignment count in MaxBytes.
const (
	memberBytes          = 256
	targetPartitionBytes = 96
	assignedTopicBytes   = 64
)

func (m *Member) bytes() int64 {
	n := memberBytes + len(m.ID) + len(m.InstanceID) + len(m.Client.ID) + len(m.Client.Address) +
		len(m.Pattern) + len(m.Assignor) + len(m.Rack) + targetPartitionBytes*len(m.Target)
	for _, t := range m.Topics {
		n += 8 + len(t)
	}
	return int64(n)
}

// same: nothing but the version and the target differ.
func (m *Member) same(other *Member) bool {
	return m.ID == other.ID && m.InstanceID == other.InstanceID && m.Subscription.equal(&other.Subscription) && m.Client == other.Client &&
		m.Epoch == other.Epoch && m.PreviousEpoch == other.PreviousEpoch && m.Status == other.Status &&
		slices.Equal(m.Assigned, other.Assigned) && slices.Equal(m.Revoking, other.Revoking) && m.JoinedMS == other.JoinedMS
}

// holding gives the partition as the member has it, or has to give it back.
func (m *Member) holding(p Partition) (Held, bool) {
	for _, list := range [][]Held{m.Assigned, m.Revoking} {
		if i, ok := findHeld(list, p); ok {
			return list[i], true
		}
	}
	return Held{}, false
}

func findHeld(list []Held, p Partition) (int, bool) {
	return slices.BinarySearchFunc(list, p, func(h Held, p Partition) int { return comparePartitions(h.Partition, p) })
}

func hasPartition(list []Partition, p Partition) bool {
	_, ok := slices.BinarySearchFunc(list, p, comparePartitions)
	return ok
}

// owned is what a member says that it reads; nil: it does not say.
type owned struct{ list []Partition }

func ownedOf(c *statev1.OwnedPartitions) *owned {
	if c == nil {
		return nil
	}
	return &owned{partitionsOf(c.GetTopics())}
}

func partitionsOf(topics []*statev1.TopicIdPartitions) []Partition {
	var list []Partition
	for _, t := range topics {
		for _, n := range t.GetPartitions() {
			list = append(list, Partition{TopicID(t.GetTopicId()), n})
		}
	}
	return list
}

// any: it reads one of these, or does not say.
func (o *owned) any(list []Held) bool {
	return o == nil || slices.ContainsFunc(o.list, func(p Partition) bool { _, ok := findHeld(list, p); return ok })
}

// within: it says that it reads nothing else than what the member has, or has to give back.
func (o *owned) within(m *Member) bool {
	return o != nil && !slices.ContainsFunc(o.list, func(p Partition) bool { _, ok := m.holding(p); return !ok })
}
