package metadata

import (
	"errors"
	"fmt"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ErrUnknownCommand: the log holds a command, or a field of one, that this program does not know.
// Going on would make replicas differ, so the replica stops.
var ErrUnknownCommand = errors.New("metadata: command of a newer version")

// EncodeCommand gives the bytes that are proposed. Equal commands are equal bytes.
func EncodeCommand(c *statev1.MetadataCommand) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, refuse(InvalidRequest, "", "text that is not UTF-8: %v", err)
	}
	if len(b) > MaxCommandBytes {
		return nil, refuse(PolicyViolation, "", "the change takes %d bytes; at most %d are allowed", len(b), MaxCommandBytes).limit(MaxCommandBytes)
	}
	return b, nil
}

// DecodeCommand reads what EncodeCommand gives.
func DecodeCommand(b []byte) (*statev1.MetadataCommand, error) {
	if len(b) > MaxCommandBytes {
		return nil, fmt.Errorf("metadata: command of %d bytes", len(b))
	}
	c := new(statev1.MetadataCommand)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("metadata: command: %w", err)
	}
	if c.Command == nil || hasUnknown(c.ProtoReflect()) {
		return nil, ErrUnknownCommand
	}
	return c, nil
}

// hasUnknown tells whether a message holds fields that this program does not know.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}

func configsFromProto(in []*statev1.ConfigValue) []Config {
	if len(in) == 0 {
		return nil
	}
	out := make([]Config, len(in))
	for i, c := range in {
		out[i] = Config{Name: c.GetName(), Value: c.GetValue()}
	}
	return out
}

// ConfigsToProto encodes configs in the order given.
func ConfigsToProto(in []Config) []*statev1.ConfigValue {
	var out []*statev1.ConfigValue
	for _, c := range in {
		out = append(out, &statev1.ConfigValue{Name: c.Name, Value: c.Value})
	}
	return out
}
