package statev1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ErrNewer says that bytes hold a command, a format or a field that this program does not know. Going
// on without it would make replicas differ, so the replica stops.
var ErrNewer = errors.New("written by a newer version")

// ErrDamaged says that bytes are not whole, or that what they hold cannot be. The error that wraps it
// says what is wrong.
var ErrDamaged = errors.New("damaged")

// Format is one kind of snapshot, big endian:
//
//	 0 magic    [4]byte
//	 4 version  uint16
//	 6 reserved uint16  0
//	 8 length   uint32  of the body
//	12 CRC32C   uint32  of bytes 0 to 11 and the body
//	16 body             the message
//
// The messages have no maps and their lists are sorted, so equal state is equal bytes.
type Format struct {
	// Magic has 4 bytes.
	Magic   string
	Version uint16
	// MaxBytes bounds the body.
	MaxBytes int
}

// FormatHeader is the size of what stands before the body.
const FormatHeader = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the snapshot that holds m. Equal messages give equal bytes.
func (f Format) Append(buf []byte, m proto.Message) ([]byte, error) {
	start := len(buf)
	buf = append(buf, make([]byte, FormatHeader)...)
	buf, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(buf, m)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	if n := len(buf) - start - FormatHeader; n > f.MaxBytes {
		return nil, fmt.Errorf("snapshot of %d bytes; at most %d can be read", n, f.MaxBytes)
	}
	f.Seal(buf[start:])
	return buf, nil
}

// Seal writes the header of a frame whose body is complete, whatever it holds.
func (f Format) Seal(frame []byte) {
	body := frame[FormatHeader:]
	copy(frame, f.Magic)
	binary.BigEndian.PutUint16(frame[4:], f.Version)
	binary.BigEndian.PutUint16(frame[6:], 0)
	binary.BigEndian.PutUint32(frame[8:], uint32(len(body)))
	binary.BigEndian.PutUint32(frame[12:], formatCRC(frame[:12], body))
}

// Read reads what Append gives into m. Any other bytes give ErrDamaged or ErrNewer.
func (f Format) Read(b []byte, m proto.Message) error {
	if len(b) < FormatHeader || string(b[:4]) != f.Magic {
		return fmt.Errorf("%w: %d bytes do not begin with %q", ErrDamaged, len(b), f.Magic)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != f.Version {
		return fmt.Errorf("%w: format %d; this program reads %d", ErrNewer, v, f.Version)
	}
	body := b[FormatHeader:]
	if n := binary.BigEndian.Uint32(b[8:]); uint64(n) != uint64(len(body)) {
		return fmt.Errorf("%w: %d bytes of body, header says %d", ErrDamaged, len(body), n)
	}
	if got, want := formatCRC(b[:12], body), binary.BigEndian.Uint32(b[12:]); got != want {
		return fmt.Errorf("%w: CRC is %08x, header says %08x", ErrDamaged, got, want)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if HasUnknown(m.ProtoReflect()) {
		return fmt.Errorf("%w: unknown fields", ErrNewer)
	}
	return nil
}

func formatCRC(header, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(header, castagnoli), castagnoli, body)
}

// HasUnknown tells whether a message holds fields that this program does not know.
func HasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || HasUnknown(v.List().Get(i).Message())
			}
		default:
			found = HasUnknown(v.Message())
		}
		return !found
	})
	return found
}
