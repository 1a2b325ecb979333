package metadata

import (
	"fmt"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"google.golang.org/protobuf/proto"
)

// ErrUnknownCommand: the log holds a command, or a field of one, that this program does not know.
// Going on would make replicas differ, so the replica stops.
var ErrUnknownCommand = statev1.ErrNewer

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
	if c.Command == nil || statev1.HasUnknown(c.ProtoReflect()) {
		return nil, fmt.Errorf("metadata: command: %w", ErrUnknownCommand)
	}
	return c, nil
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
