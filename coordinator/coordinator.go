// Package coordinator runs the coordinators this broker leads: it carries transactions to their end and groups through
// their rebalances.
//
// Transactional ids, and groups, are spread over shards by the hash of their names. Each shard is a Raft group whose state
// is a machine (package txn, package group). [Host] holds this broker's replicas of shards of both kinds and knows nothing
// of what they are for; [Transactions] answers what concerns transactional ids, on the broker that leads the id's shard.
//
// DESIGN.md tells how a shard is opened, led and lost, and what another kind of shard has to bring.
package coordinator

import (
	"context"
	"fmt"
	"math"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// Kind says what a shard looks after.
type Kind uint8

// The kinds. Their names in metadata are those of Kafka's internal topics; each partition of these is a shard.
const (
	KindTransactions Kind = 1
	KindGroups       Kind = 2
)

// Topic is the name under which the metadata keeps the shards of a kind.
func (k Kind) Topic() string {
	switch k {
	case KindTransactions:
		return record.TransactionsTopic
	case KindGroups:
		return record.GroupsTopic
	}
	panic(fmt.Sprintf("coordinator: no kind %d", k))
}

// KindOf gives the kind whose shards have that name.
func KindOf(topic string) (Kind, bool) {
	for _, k := range []Kind{KindTransactions, KindGroups} {
		if k.Topic() == topic {
			return k, true
		}
	}
	return 0, false
}

// Spec says which replica of which shard this broker holds.
type Spec struct {
	Kind   Kind
	Number int32
	// TopicID is that of the internal topic.
	TopicID [16]byte
	Group   raftgroup.GroupID
	// Self is this replica's identity: broker and incarnation.
	Self raftgroup.ServerID
	// Voters are the members the group begins with; used once, when the group has no state.
	Voters []raftgroup.Server
}

// String names the shard as the metadata does.
func (s Spec) String() string {
	return record.TopicPartition{Topic: s.Kind.Topic(), Partition: s.Number}.String()
}

// Directory is what the cluster knows of shards. Its methods may be called from any goroutine; all but Create
// answer at once, from what this broker has heard.
type Directory interface {
	// Shards is how many shards there are of a kind, 0 as long as they have not been created. It never changes
	// afterwards.
	Shards(Kind) int
	// Create has the shards of a kind created. It returns when that is agreed; they have no leaders yet then.
	Create(ctx context.Context, k Kind) error
	// Leader is the broker that leads a shard and is ready, as far as this broker has heard.
	Leader(k Kind, number int32) (broker int32, ok bool)
}

// ShardOf gives the shard of a name, among n: the absolute value of Java's hash of the string, modulo n, as in
// Kafka (I4).
func ShardOf(name string, n int) int32 {
	var hash int32
	step := func(unit uint16) { hash = 31*hash + int32(unit) }
	for _, r := range name { // Java hashes UTF-16
		if r > math.MaxUint16 {
			r -= 0x10000
			step(uint16(0xd800 + r>>10))
			step(uint16(0xdc00 + r&0x3ff))
			continue
		}
		step(uint16(r))
	}
	switch {
	case hash == math.MinInt32:
		hash = 0
	case hash < 0:
		hash = -hash
	}
	return hash % int32(n)
}
