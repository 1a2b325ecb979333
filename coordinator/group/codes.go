package group

import "fmt"

// Code is what the machine says to a command.
type Code uint8

// The codes.
const (
	// OK: done, or found done.
	OK Code = iota
	// Stale: a decision of the coordinator was about a state that is no more. Nothing happened.
	Stale
	// GroupIDNotFound: there is no such group.
	GroupIDNotFound
	// UnknownMemberID: the group has no such member (G19, G20).
	UnknownMemberID
	// IllegalGeneration: the member shows another generation than the group's (G19).
	IllegalGeneration
	// FencedInstanceID: another member has taken over the instance id (G12).
	FencedInstanceID
	// RebalanceInProgress: the members of this generation do not have their assignments yet (G19).
	RebalanceInProgress
	// StaleMemberEpoch: a commit, or a fetch, with an epoch that is not the member's (G20).
	StaleMemberEpoch
	// FencedMemberEpoch: a heartbeat with an epoch that is not the member's; it has to join again (G15).
	FencedMemberEpoch
	// UnreleasedInstanceID: another member still uses the instance id (G15).
	UnreleasedInstanceID
	// GroupMaxSizeReached: the group has as many members as it may (G3).
	GroupMaxSizeReached
	// InconsistentGroupProtocol: the group's members speak another protocol (G3, G18).
	InconsistentGroupProtocol
	// NonEmptyGroup: the group has members (G30).
	NonEmptyGroup
	// SubscribedToTopic: a member is subscribed to the topic whose offsets were to be deleted (G30).
	SubscribedToTopic
	// InvalidProducerEpoch: a newer epoch of the producer has been seen here (P9, P20).
	InvalidProducerEpoch
	// InvalidTxnState: what the transaction coordinator said has been overtaken by a marker (P8, T10).
	InvalidTxnState
	// CoordinatorFenced: a newer transaction coordinator has written a marker for this producer (P21).
	CoordinatorFenced
	// TooManyGroups, TooManyOffsets, TooManyProducers and TooManyBytes: the shard holds as much as it may.
	TooManyGroups
	TooManyOffsets
	TooManyProducers
	TooManyBytes
	// MemberIDRequired: a new member has to join again with the id that it was given (G2, KIP-394).
	MemberIDRequired
	// InvalidSessionTimeout: a member's session is shorter or longer than allowed (G1).
	InvalidSessionTimeout
)

var codeNames = [...]string{
	"NONE", "STALE", "GROUP_ID_NOT_FOUND", "UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "FENCED_INSTANCE_ID", "REBALANCE_IN_PROGRESS",
	"STALE_MEMBER_EPOCH", "FENCED_MEMBER_EPOCH", "UNRELEASED_INSTANCE_ID", "GROUP_MAX_SIZE_REACHED", "INCONSISTENT_GROUP_PROTOCOL",
	"NON_EMPTY_GROUP", "GROUP_SUBSCRIBED_TO_TOPIC", "INVALID_PRODUCER_EPOCH", "INVALID_TXN_STATE", "TRANSACTION_COORDINATOR_FENCED",
	"TOO_MANY_GROUPS", "TOO_MANY_OFFSETS", "TOO_MANY_PRODUCERS", "TOO_MANY_BYTES", "MEMBER_ID_REQUIRED", "INVALID_SESSION_TIMEOUT",
}

// String is the name of Kafka's error where there is one.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("CODE_%d", uint8(c))
}
