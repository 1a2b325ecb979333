// Package metadata is the cluster's agreed state: commands in, an immutable image out.
//
// It is a machine: pure and deterministic, without clock, I/O or goroutine. State.Apply takes the
// commands of the metadata group's Raft log in order; every broker gets the same image from the same
// log, byte for byte. Times, ids and placements arrive inside the command, stamped by the leader.
// What the machine adds is only what it counts: group ids, incarnations and producer ids, none of
// which is ever given out twice (I1).
//
// The same code answers "would this be accepted" without changing anything: StateOf(image).Apply on
// a scratch state, because states share what they do not change.
package metadata

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// GroupID names a Raft group for all time. Metadata gives it out and never reuses it.
type GroupID uint64

const (
	// MetadataGroup is the group that holds the metadata itself.
	MetadataGroup GroupID = 1
	// firstGroupID is the first id given to a partition. Those below are kept for groups that exist
	// without being created.
	firstGroupID GroupID = 1000
	// firstIncarnation is the first incarnation given to a replica.
	firstIncarnation uint64 = 1
)

// TopicID names a topic for all time, across deletion and creation under the same name.
type TopicID [16]byte

// String gives 32 hexadecimal digits.
func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// ParseTopicID reads what String gives.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return TopicID{}, fmt.Errorf("topic id %q is not 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}

func topicIDFromBytes(b []byte) (TopicID, error) {
	var id TopicID
	if len(b) != len(id) {
		return id, fmt.Errorf("topic id has %d bytes, not %d", len(b), len(id))
	}
	copy(id[:], b)
	if id == (TopicID{}) {
		return id, errors.New("topic id is zero")
	}
	return id, nil
}

// Phase is where a partition is in its life. It only goes forward.
type Phase uint8

const (
	// Creating: replicas make their directories and report them. A replica that is reported may be
	// opened and, while the partition is in this phase, its group may be bootstrapped.
	Creating Phase = 1
	// Active: the group has had a leader. It is never bootstrapped again.
	Active Phase = 2
	// Deleting: replicas remove their directories and report it.
	Deleting Phase = 3
)

// String gives "creating", "active" or "deleting".
func (p Phase) String() string {
	switch p {
	case Creating:
		return "creating"
	case Active:
		return "active"
	case Deleting:
		return "deleting"
	default:
		return fmt.Sprintf("phase(%d)", uint8(p))
	}
}

// Broker is one registered broker. Immutable once in an image.
type Broker struct {
	// ID is the operator's number for it, 0 or more.
	ID int32
	// Incarnation was minted with the broker's data directory. It stays as long as the directory does.
	Incarnation uint64
	// Listeners are its advertised addresses, sorted by name.
	Listeners []Listener
	// Rack is where it stands; empty: not told.
	Rack string
	// Version of the program, for people only.
	Version string
	// MinLevel and MaxLevel are the feature levels it can apply at.
	MinLevel, MaxLevel uint16
	// MaxReplicas is how many replicas it takes; 0: no bound. Placement keeps to it.
	MaxReplicas uint32
	// Draining: it gives its replicas to others, and nothing is placed on it.
	Draining bool
}

// Listener is a named address, as host:port.
type Listener struct{ Name, Address string }

// PeerListener is the name of the listener that brokers use among themselves. Each broker has it.
const PeerListener = "peer"

// Address gives the broker's advertised address on the named listener.
func (b *Broker) Address(listener string) (string, bool) {
	for _, l := range b.Listeners {
		if l.Name == listener {
			return l.Address, true
		}
	}
	return "", false
}

// Topic is one topic. Immutable once in an image.
type Topic struct {
	ID   TopicID
	Name string
	// Configs are those set on the topic, sorted by name. For what holds, defaults included, see Settings.
	Configs []Config
	// Settings are the configs that hold, parsed.
	Settings Settings
	// Partitions by number.
	Partitions []Partition
	// Deleting: the name is free again, and the topic goes once all replicas have been removed.
	Deleting bool
	// CreatedMS is the controller's clock at creation, ms since 1970.
	CreatedMS int64
	// Replication is how many replicas each partition has, or shall have when its reassignment is done.
	Replication int
}

// Partition is one Raft group. Immutable once in an image.
type Partition struct {
	Group GroupID
	Phase Phase
	// Replicas are its voters and those that shall become voters, the preferred leader first. No two are
	// on one broker.
	Replicas []Replica
	// Leaving are replicas that do not belong to it any more: the group removes them, then their brokers
	// remove their directories. None comes back.
	Leaving []Leaving
	// Target is which brokers shall hold it, the preferred leader first; nil: those of Replicas. While it is
	// set, replicas are being added, and those that shall go are still there.
	Target []int32
}

// Replica finds the partition's replica on a broker.
func (p *Partition) Replica(broker int32) (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Broker == broker {
			return r, true
		}
	}
	return Replica{}, false
}

// Created tells whether a majority of the voters has its directory, without which the group cannot
// have had a leader.
func (p *Partition) Created() bool {
	voters, created := 0, 0
	for _, r := range p.Replicas {
		if r.Joining {
			continue
		}
		voters++
		if r.Created {
			created++
		}
	}
	return created > voters/2
}

// Changing tells whether the group's members are not yet what they shall be.
func (p *Partition) Changing() bool {
	return p.Target != nil || len(p.Leaving) > 0 || slices.ContainsFunc(p.Replicas, func(r Replica) bool { return r.Joining })
}

// Replica is one copy of a partition. A copy that lost or may have lost what it acknowledged never
// comes back under the same incarnation.
type Replica struct {
	Broker      int32
	Incarnation uint64
	// Created: its directory is on the broker's disk, and the group may be opened there. A created
	// replica whose directory is missing is damaged; it is not created again.
	Created bool
	// Deleted: its directory is gone. Only while the partition is deleting.
	Deleted bool
	// Joining: it has no vote yet; the group catches it up first.
	Joining bool
	// Added: the reassignment under way has added it, and cancelling takes it away.
	Added bool
	// Lost: what it held is gone or damaged. It does not serve, and is to be replaced.
	Lost bool
}

// Leaving is a replica that does not belong to its partition any more.
type Leaving struct {
	Broker      int32
	Incarnation uint64
	// Removed: it is no member of the group any more, so that its directory may go.
	Removed bool
}

// ReplicaRef names one replica.
type ReplicaRef struct {
	Group       GroupID
	Incarnation uint64
}

// ProducerIDs is a block of producer ids, given out once and never again (I1).
type ProducerIDs struct {
	First record.ProducerID
	Count uint32
}
