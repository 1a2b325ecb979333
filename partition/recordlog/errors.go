package recordlog

import (
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

var (
	// ErrNotFound: the index lies outside the raft window, or outside the log where that is asked for.
	ErrNotFound = errors.New("entry not found")
	// ErrGap: entries must follow the log's last one without a gap. Nothing was written.
	ErrGap = errors.New("entry does not follow the last one")
	// ErrInvalidEntry: an entry breaks a bound or its batches do not hold what it says. Nothing was written.
	ErrInvalidEntry = errors.New("entry is not valid")
	// ErrApplied: the tail to be cut reaches down to applied or snapshotted entries. Nothing was cut.
	ErrApplied = errors.New("entry is applied and cannot be cut off")
	// ErrNotDurable: the entry is appended and not on disk yet.
	ErrNotDurable = errors.New("entry is not on disk yet")
	// ErrCutOff: the entry was cut off before it was on disk.
	ErrCutOff = errors.New("entry was cut off before it was on disk")
	// ErrNoSpace: the disk is full. Nothing was written, the log goes on.
	ErrNoSpace = errors.New("no space left for the record log")
	// ErrNoFiles: too many files are open for another one. Nothing was written, the log goes on.
	ErrNoFiles = errors.New("no file can be opened for the record log")
	// ErrFailed: a write or sync failed earlier, so that nobody knows what is on disk. The log takes
	// no more writes until it is opened again. What was being written may have happened.
	ErrFailed = errors.New("record log has failed")
	// ErrClosed: the log is closed.
	ErrClosed = errors.New("record log is closed")
	// ErrOffsetOutOfRange: the offset lies below the log start or above the log end (L12).
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrBehindSnapshot: the log's intact end lies below the state snapshot, or there is no room
	// between its begin and the snapshot: the snapshot must not be used with this log.
	ErrBehindSnapshot = errors.New("record log ends below the state snapshot")
	// ErrNewerFormat: a newer version of oncelog wrote this. errors.As finds *FormatError.
	ErrNewerFormat = errors.New("newer format")
	// ErrNotRestored: a state snapshot exists, and Restore has not been called yet.
	ErrNotRestored = errors.New("record log waits for its state snapshot")
	// ErrUnexpectedFate: the fates do not fit the entry or the offsets before it. State machine and
	// log disagree, and the replica must stop.
	ErrUnexpectedFate = errors.New("fates do not fit the log")
	// ErrBadLayout: the bytes are no layout.
	ErrBadLayout = errors.New("layout cannot be read")
)

// CorruptionError says that bytes that were on disk are damaged or gone. The replica has lost what
// it acknowledged and must not take part in its group again under its old identity.
type CorruptionError struct {
	// Segment is the file's name in the log's directory.
	Segment string
	// Position is the byte in the file at which the damage was noticed.
	Position int64
	// Index is the entry that should have been there.
	Index record.Index
	// Expected and Found say what differs.
	Expected, Found string
}

// Error names file, position and index.
func (e *CorruptionError) Error() string {
	return fmt.Sprintf("record log is damaged: %s at byte %d, entry %d: expected %s, found %s", e.Segment, e.Position, e.Index, e.Expected, e.Found)
}

// corrupt makes a CorruptionError of what a decoder saw.
func corrupt(segment string, position int64, index record.Index, cause error) *CorruptionError {
	c := &CorruptionError{Segment: segment, Position: position, Index: index, Expected: "an intact frame", Found: cause.Error()}
	var m *mismatch
	if errors.As(cause, &m) {
		c.Expected, c.Found = m.expected, m.found
	}
	return c
}

// FormatError says which version was found and which one this program knows.
type FormatError struct {
	What         string
	Found, Known int
}

// Error names both versions.
func (e *FormatError) Error() string {
	return fmt.Sprintf("%s of the record log has format %d, this program knows up to %d: a newer version wrote it", e.What, e.Found, e.Known)
}

// Is makes errors.Is(err, ErrNewerFormat) true.
func (e *FormatError) Is(target error) bool { return target == ErrNewerFormat }
