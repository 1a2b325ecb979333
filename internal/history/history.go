// Package history records what clients did and saw, and decides whether a log could have behaved so.
//
// A history is a list of events in the order in which they happened: producers say what they are about
// to send and what became of it, transactions begin and end, consumers say what they read and where,
// groups commit offsets, replicas say what they hold. Check reads a history, from memory or from a
// file, and reports everything that a log which holds each record exactly once cannot have done, each
// with the shortest part of the history that shows it.
//
// Every record's value is unique within its partition: the process that sent it and a number that
// rises with each send. The checker therefore needs no search; it follows each value once. DESIGN.md
// says how, and docs/formats/history.md describes the file.
package history

import (
	"fmt"
	"iter"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Process is one producer or consumer: one instance of a client, from its start to its end. A client
// that is started again is another process.
type Process uint32

// Value is what one record carries. It is unique within its partition.
type Value struct {
	// Process sent it.
	Process Process
	// N rises with each value that the process sends to the partition.
	N uint32
}

// String gives "process:n".
func (v Value) String() string { return fmt.Sprintf("%d:%d", v.Process, v.N) }

// Event is one thing that happened. Which fields count depends on the kind; see Kind.
type Event struct {
	Kind Kind
	// At is the time since the history began. It is for people: the rules go by the order of events.
	At time.Duration
	// Process did or saw it.
	Process Process
	// Txn is the number of the process's transaction, from 1; 0: none.
	Txn uint64
	Key record.TopicPartition
	N   uint32
	// Source and SourceOffset are the record that the value was made of, for Group; no topic: none.
	Source       record.TopicPartition
	SourceOffset record.Offset
	// Offset of the value (NoOffset if the client was not told), position, or committed offset.
	Offset record.Offset
	// From and End are a range of offsets; End is exclusive. High is where the log itself ends.
	From, End, High record.Offset
	// Records that were read, in the order in which the consumer got them.
	Records []Record
	// Uncommitted says that the reader reads uncommitted data.
	Uncommitted bool
	// Duplicate says that an earlier attempt had written it.
	Duplicate bool
	// Reset says that an offset is committed in order to go back or to skip.
	Reset bool
	// Group whose offset it is.
	Group string
	// Broker whose replica it is, and the CRC32C of its records from From to End.
	Broker int32
	CRC    uint32
	// Text says what was done, or why it failed.
	Text string
}

// Value is the value that a Send, Written, NotWritten or Unknown is about.
func (e *Event) Value() Value { return Value{e.Process, e.N} }

// Kind is what happened.
type Kind uint8

const (
	// Send: the process is about to send value N to Key, in transaction Txn if that is not 0. It comes
	// before anything is sent. N rises with each Send of a process to a Key. If it is made of the record at
	// SourceOffset of Source, then by a job of Group that makes one of each.
	Send Kind = iota + 1
	// Written: the process was told that the value is written at Offset; in a transaction that is not
	// yet its end. Duplicate: by an earlier attempt.
	Written
	// NotWritten: the value is certainly not written and never will be.
	NotWritten
	// Unknown: nobody knows. A Send without any of the three counts as Unknown.
	Unknown

	// Begin: the process begins transaction Txn; its numbers rise.
	Begin
	// Commit: the process is about to ask that Txn be committed.
	Commit
	// Abort: the process is about to ask that Txn be aborted.
	Abort
	// Committed: Txn is committed; comes after Commit.
	Committed
	// Aborted: Txn certainly is not committed and never will be.
	Aborted
	// Undecided: nobody knows how Txn ends. One without an end counts as Undecided.
	Undecided

	// Assign: the process will read Key from Offset on; NoOffset: from where its next Poll begins.
	Assign
	// Revoke: the process reads Key no longer.
	Revoke
	// Poll: the process got Records of Key, the next ones after what it got before. If End is not 0 it
	// has been moved to there, over markers and aborted records.
	Poll
	// Final: the process has read Key from From, where the log starts, up to End, and nothing is sent
	// to Key any more. High is where the log ends; a reader of committed data may end before it.
	Final

	// OffsetCommit: the process is about to commit Offset of Key for Group; in a transaction that
	// carries it, if Txn is not 0. Reset: someone moves the group on purpose.
	OffsetCommit
	// OffsetCommitted: an OffsetCommit of the process outside of transactions has been done. One without
	// an outcome may have been done.
	OffsetCommitted
	// OffsetRefused: it certainly has not.
	OffsetRefused
	// OffsetAsked: the process is about to ask for the committed offset of Key for Group.
	OffsetAsked
	// OffsetTold: the answer to that is Offset; NoOffset: none is committed. It must be one that waits
	// for offsets of transactions that are being ended (a "stable" one).
	OffsetTold

	// Checksum: the replica of Key on Broker holds records from From to End with this CRC.
	Checksum
	// Fault: somebody did something to the cluster. It is shown beside what went wrong around it.
	Fault

	kindCount
)

// String gives the name that the file uses.
func (k Kind) String() string {
	if k > 0 && k < kindCount {
		return shapes[k].name
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Record is a run of Count records that were read: Value at Offset, the next value of the same process
// at the next offset, and so on.
type Record struct {
	Offset record.Offset
	Value  Value
	Count  uint32
	// Bad says why a record holds no value of ours; Value means nothing then, and Count is 1.
	Bad string
}

// end is the offset after the run.
func (r *Record) end() record.Offset { return r.Offset + record.Offset(r.Count) }

// Source gives the events of a history in order, from the first one on each time it is ranged over. An
// error ends it. The event is only valid until the next one.
type Source iter.Seq2[*Event, error]

// Events makes a Source of events in memory.
func Events(events []Event) Source {
	return func(yield func(*Event, error) bool) {
		for i := range events {
			if !yield(&events[i], nil) {
				return
			}
		}
	}
}
