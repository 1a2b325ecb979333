package clientv1

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Where a codec gives an error gRPC ends the call at once, with a status of its own that does not say that nothing has happened. So
// a server's codec (Codec.Alone) leaves out what it does not decode, marks the message, and whoever would serve it refuses it.

// The marks stand in place of fields that nobody knows. They are told by their addresses: nothing that a client sends is one.
var tooLarge, manyRecords, noMessage = []byte{0}, []byte{0}, []byte{0}

func leaveOut(m proto.Message, mark []byte) { m.ProtoReflect().SetUnknown(mark) }

// LeftOut says what a server's codec has left out of a message, because of which limit, and why. Why is empty if that is nothing.
func LeftOut(m proto.Message) (field, limit, why string) {
	u := m.ProtoReflect().GetUnknown()
	if len(u) != 1 {
		return "", "", ""
	}
	switch &u[0] {
	case &tooLarge[0]:
		return "request", fmt.Sprintf("%d bytes", maxPlain),
			fmt.Sprintf("the request has more than %d bytes, which only one to produce may have", maxPlain)
	case &manyRecords[0]:
		return "records", fmt.Sprintf("%d", largePlain),
			fmt.Sprintf("there are more than %d records and headers, with less than %d bytes each: send fewer at once, or an encoded batch", largePlain, minRecord)
	case &noMessage[0]:
		return "request", "", "the request is not encoded as the protobuf message that it should be"
	}
	return "", "", ""
}
