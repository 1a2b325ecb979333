package group

import (
	"maps"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// TopicID names a topic for all time; a topic created again under the same name has another.
type TopicID [16]byte

// NoExpiry stands where an offset has no expiry of its own.
const NoExpiry int64 = -1

// Offset is one committed offset, or one that waits for its transaction.
type Offset struct {
	// Offset is the next one to be read. Any number is kept as it came (G21).
	Offset record.Offset
	// LeaderEpoch is that of the last record before it, -1 if it is not known.
	LeaderEpoch int32
	// Metadata is whatever the committer wanted to remember.
	Metadata string
	// TopicID is the topic that was meant. One that was created later under the same name has no offset yet (G27).
	TopicID TopicID
	// CommittedMS is when it was committed, ExpireMS when it expires, both ms since 1970. NoExpiry: the
	// server's retention decides.
	CommittedMS, ExpireMS int64
	// Position is the Raft index of the command that brought it. Of two offsets the later one counts, whether or not it
	// came in a transaction (G24).
	Position uint64
}

// offsetBytes is what an offset counts beside its metadata and the name of its topic: no less than it takes in a snapshot.
const offsetBytes = 96

func (o *Offset) bytes(topic string) int64 { return bytesOf(topic, o.Metadata) }

func bytesOf(topic, metadata string) int64 { return offsetBytes + int64(len(topic)+len(metadata)) }

// token says who may write to something in place. What has another token than the state is shared with a clone, and is
// copied before it is written to.
type token struct{ _ byte }

// offsets holds offsets by topic and partition.
type offsets struct {
	owner  *token
	topics map[string]*topicOffsets
}

// topicOffsets holds offsets of one topic, sorted by partition. It is never empty.
type topicOffsets struct {
	owner *token
	list  []partitionOffset
}

type partitionOffset struct {
	partition int32
	Offset
}

// edit gives offsets that owner may write to: o itself, or a copy.
func (o *offsets) edit(owner *token) *offsets {
	switch {
	case o == nil:
		return &offsets{owner: owner, topics: make(map[string]*topicOffsets)}
	case o.owner == owner:
		return o
	}
	return &offsets{owner: owner, topics: maps.Clone(o.topics)}
}

func (t *topicOffsets) find(partition int32) (int, bool) {
	return slices.BinarySearchFunc(t.list, partition, func(p partitionOffset, n int32) int { return int(p.partition) - int(n) })
}

// get gives the offset of a partition, nil if there is none.
func (o *offsets) get(topic string, partition int32) *Offset {
	if o == nil || o.topics[topic] == nil {
		return nil
	}
	t := o.topics[topic]
	if i, ok := t.find(partition); ok {
		return &t.list[i].Offset
	}
	return nil
}

// put sets the offset of a partition. o must be owner's.
func (o *offsets) put(owner *token, topic string, partition int32, value Offset) {
	t := o.editTopic(owner, topic)
	i, ok := t.find(partition)
	if ok {
		t.list[i].Offset = value
		return
	}
	t.list = slices.Insert(t.list, i, partitionOffset{partition, value})
}

// remove forgets the offset of a partition. o must be owner's.
func (o *offsets) remove(owner *token, topic string, partition int32) {
	if o.get(topic, partition) == nil {
		return
	}
	t := o.editTopic(owner, topic)
	i, _ := t.find(partition)
	if t.list = slices.Delete(t.list, i, i+1); len(t.list) == 0 {
		delete(o.topics, topic)
	}
}

func (o *offsets) editTopic(owner *token, topic string) *topicOffsets {
	t := o.topics[topic]
	switch {
	case t == nil:
		t = &topicOffsets{owner: owner}
		o.topics[topic] = t
	case t.owner != owner:
		t = &topicOffsets{owner: owner, list: slices.Clone(t.list)}
		o.topics[topic] = t
	}
	return t
}

// names lists the topics, sorted.
func (o *offsets) names() []string {
	if o == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(o.topics))
}

// each calls f for every offset, by topic and partition. f must not change them.
func (o *offsets) each(f func(topic string, partition int32, value *Offset)) {
	for _, topic := range o.names() {
		t := o.topics[topic]
		for i := range t.list {
			f(topic, t.list[i].partition, &t.list[i].Offset)
		}
	}
}

// size counts the offsets and their bytes.
func (o *offsets) size() (n int, bytes int64) {
	if o == nil {
		return 0, 0
	}
	for topic, t := range o.topics {
		n += len(t.list)
		for i := range t.list {
			bytes += t.list[i].bytes(topic)
		}
	}
	return n, bytes
}

func (o *offsets) empty() bool { return o == nil || len(o.topics) == 0 }
