package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/nearest"
)

// helpWidth is how many columns help takes at most.
const helpWidth = 96

// wrapFlags has the flags of every command's help wrapped.
func wrapFlags(root *cobra.Command) {
	cobra.AddTemplateFunc("wrapped", func(f *pflag.FlagSet) string { return f.FlagUsagesWrapped(helpWidth) })
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages ", "Flags | wrapped "))
}

// flagError says of a flag that does not exist which one was nearly meant, and of one whose value cannot be read what it wants, in the user's words and not in Go's.
func flagError(cmd *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return nearest.Flag(unknown, cmd.Flags())
	}
	if !errors.As(err, &bad) {
		return err
	}
	f, value := bad.GetFlag(), bad.GetValue()
	switch f.Value.Type() {
	case "duration":
		return fmt.Errorf("flag --%s: %q, want a number and a unit, such as 500ms, 30s, 5m or 1h", f.Name, value)
	case "int", "int32", "int64":
		return fmt.Errorf("flag --%s: %q is not a whole number that a broker could take", f.Name, value)
	case "uint", "uint64":
		return fmt.Errorf("flag --%s: %q is not a whole number, 0 or more", f.Name, value)
	case "float64":
		return fmt.Errorf("flag --%s: %q is not a number", f.Name, value)
	case "bool":
		return fmt.Errorf("flag --%s: %q, want true or false", f.Name, value)
	}
	return fmt.Errorf("flag --%s: %w", f.Name, bad.Unwrap())
}

// flagOfField is the flag behind each field of the client's that users of this program set.
var flagOfField = map[string]string{
	"Bootstrap": "bootstrap", "RequestTimeout": "timeout", "SASL.Mechanism": "sasl-mechanism", "SASL.User": "user",
	"Operation": "operation", "Pattern": "pattern", "Linger": "linger",
}

// asFlag names the flag where the client refuses the value of a field: a wrong usage, and in words that users of this program know.
func asFlag(err error) error {
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonInvalidConfig {
		return err
	}
	field, rest, _ := strings.Cut(e.Message, " ")
	if flag := flagOfField[field]; flag != "" {
		return usagef("flag --%s %s", flag, rest)
	}
	return err
}

// commaed joins names for a sentence.
func commaed[T ~string](names []T) string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = string(n)
	}
	return strings.Join(all, ", ")
}

// meantError is the failure of asking for a topic that does not exist, where there is one with nearly that name.
type meantError struct {
	err   error
	topic string
}

func (e *meantError) Error() string { return e.err.Error() }
func (e *meantError) Unwrap() error { return e.err }

// quotedTopic is the topic in what brokers say of one that they do not know.
var quotedTopic = regexp.MustCompile(`topic "([^"]+)"`)

// meantTopic looks for the topic that was meant where an error says that there is none of a name.
func meantTopic(c *client.Client, err error) error {
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonUnknownTopicOrPartition {
		return err
	}
	asked := e.TopicPartition.Topic
	if m := quotedTopic.FindStringSubmatch(e.Message); asked == "" && m != nil {
		asked = m[1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	m, failed := c.Metadata(ctx)
	if failed != nil {
		return err
	}
	names := make([]string, 0, len(m.Topics))
	for _, t := range m.Topics {
		if t.Name == asked {
			return err
		}
		names = append(names, t.Name)
	}
	if near := nearest.Of(asked, names); near != "" {
		return &meantError{err, near}
	}
	return err
}
