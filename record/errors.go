package record

import "fmt"

// Code says why a batch was refused. It is itself an error, so that callers branch with
// errors.Is(err, record.ErrInvalidRecord). Its text is the name of Kafka's error.
type Code uint8

// The reasons for which a batch is refused. All of them mean: did not happen.
const (
	// ErrCorruptMessage: the bytes are damaged: CRC, length, magic, compressed data (P28).
	ErrCorruptMessage Code = iota + 1
	// ErrInvalidRecord: intact, and against the rules: counts, offsets, sequence, control bit, null key (P28, P29).
	ErrInvalidRecord
	// ErrMessageTooLarge: above max.message.bytes, or above the bound when decompressed (P29).
	ErrMessageTooLarge
	// ErrRecordListTooLarge: above segment.bytes (P29).
	ErrRecordListTooLarge
	// ErrInvalidTimestamp: outside the topic's limits, or claiming to be log append time (P28, P29).
	ErrInvalidTimestamp
	// ErrUnsupportedCompression: a codec that does not exist, or not for this request version (P28).
	ErrUnsupportedCompression
)

// String gives the name of Kafka's error, such as INVALID_RECORD.
func (c Code) String() string {
	switch c {
	case ErrCorruptMessage:
		return "CORRUPT_MESSAGE"
	case ErrInvalidRecord:
		return "INVALID_RECORD"
	case ErrMessageTooLarge:
		return "MESSAGE_TOO_LARGE"
	case ErrRecordListTooLarge:
		return "RECORD_LIST_TOO_LARGE"
	case ErrInvalidTimestamp:
		return "INVALID_TIMESTAMP"
	case ErrUnsupportedCompression:
		return "UNSUPPORTED_COMPRESSION_TYPE"
	default:
		return fmt.Sprintf("Code(%d)", uint8(c))
	}
}

// Error gives the name of Kafka's error.
func (c Code) Error() string { return c.String() }

// Error is why a batch was refused or could not be read. errors.Is finds its Code.
type Error struct {
	Code Code
	// Message names the field or the limit, the value found and the value wanted.
	Message string
	// Permanent: the same bytes will be refused however often they are sent. Only ErrCorruptMessage needs it, which else
	// may mean damage on the way.
	Permanent bool
	// Record is the ordinal of the offending record in the batch, from 0; -1 when the batch as
	// a whole is meant.
	Record int
}

// Error gives code, record and message.
func (e *Error) Error() string {
	if e.Record >= 0 {
		return fmt.Sprintf("%s: record %d: %s", e.Code, e.Record, e.Message)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap gives the Code.
func (e *Error) Unwrap() error { return e.Code }

// refuse makes the error for a batch as a whole.
func refuse(c Code, format string, args ...any) error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...), Record: -1}
}

// refuseRecord makes the error for one record of a batch.
func refuseRecord(c Code, ordinal int32, format string, args ...any) error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...), Record: int(ordinal)}
}

// refuseForGood makes the error for a batch that no repetition makes better.
func refuseForGood(c Code, format string, args ...any) error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...), Permanent: true, Record: -1}
}
