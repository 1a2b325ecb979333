// Package history records what clients did and saw, and decides whether a log could have behaved so.
//
// A history is a list of events in the order in which they happened: producers say what they are
// about to send and what became of it, consumers say what they read and where, replicas say what
// they hold. Check reads a history, from memory or from a file, and reports everything that a log
// that holds each acknowledged record exactly once, in each producer's order, cannot have done.
//
// Every record's value is unique within its partition: the process that sent it and a number that
// this process counts for each partition from 0. The checker therefore needs no search: it follows
// each value once, in time and memory that grow with their number (see Options.MaxBytes).
//
// The rules are those of Jepsen's Kafka workload for sends and polls without transactions; the
// names of the kinds say what is wrong rather than what it is called there. docs/formats/history.md
// describes the file, and keeps room for transactions.
package history

import (
	"fmt"
	"time"
)

// Process is one producer or consumer: one instance of a client, from its start to its end. Each
// has another number; a client that is started again is another process.
type Process uint32

// Key names a partition, as "topic/partition".
type Key string

// Value is what one record carries. It is unique within its key.
type Value struct {
	// Process sent it.
	Process Process
	// N counts what the process has sent to the key, from 0, in the order of sending.
	N uint64
}

// String gives "process:n".
func (v Value) String() string { return fmt.Sprintf("%d:%d", v.Process, v.N) }

// NoOffset stands where an offset is not known.
const NoOffset int64 = -1

// Event is one thing that happened. Which fields count depends on the kind.
type Event struct {
	Kind EventKind
	// At is the time since the history began, by the recorder's clock. It is shown to people; the
	// rules go by the order of events.
	At time.Duration
	// Process that did or saw it; for Checksum the broker's id.
	Process Process
	Key     Key
	// First and Count are the values sent: First, First+1, and so on. For Send, OK, Fail, Info.
	First uint64
	Count uint64
	// Offset of the first value (OK; NoOffset if the client was not told), position (Assign), first
	// offset covered (Final, Checksum).
	Offset int64
	// End is exclusive. For Final and Checksum.
	End int64
	// Records that were read, in the order in which the consumer got them.
	Records []Record
	// CRC and Batches of a replica's stored records from Offset to End. For Checksum.
	CRC     uint32
	Batches int64
	// Text says what was done (Fault), or why it failed (Fail, Info).
	Text string
}

// EventKind is what happened.
type EventKind uint8

const (
	// Send: the process is about to send Count values from First on, as one or more batches. It
	// comes before anything is sent.
	Send EventKind = iota + 1
	// OK: they are written, at Offset and following.
	OK
	// Fail: they are certainly not written, and never will be.
	Fail
	// Info: nobody knows. A Send without any of the three counts as Info.
	Info
	// Read: the process got Records of Key, next in order after what it got before.
	Read
	// Assign: the process will read Key from Offset on. Until then it begins where its first Read does.
	Assign
	// Final: the process has read Key from Offset, where the log starts, up to End, where it ends
	// now that nothing is sent to it any more. Whatever was acknowledged must have been read.
	Final
	// Checksum: the replica on broker Process holds records from Offset to End with this CRC.
	Checksum
	// Fault: somebody did something to the cluster. It is shown with what went wrong around it.
	Fault

	eventKinds
)

var eventNames = [eventKinds]string{Send: "send", OK: "ok", Fail: "fail", Info: "info", Read: "read",
	Assign: "assign", Final: "final", Checksum: "checksum", Fault: "fault"}

// String gives the name that the file uses.
func (k EventKind) String() string {
	if k > 0 && k < eventKinds {
		return eventNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Record is a run of Count records that were read: Value at Offset, the next value of the same
// process at the next offset, and so on. Recorders join what fits.
type Record struct {
	Offset int64
	Value  Value
	Count  uint64
	// Bad says why a record holds no value of ours; Value means nothing then, and Count is 1.
	Bad string
}

// Source gives the events of a history in order, from the first one on each time it is called. It
// ends with yield's error, or with its own.
type Source func(yield func(*Event) error) error

// Events makes a Source of events in memory.
func Events(events []Event) Source {
	return func(yield func(*Event) error) error {
		for i := range events {
			if err := yield(&events[i]); err != nil {
				return err
			}
		}
		return nil
	}
}
