package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

// Exit codes, stable.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnknown     = 3
	exitUnreachable = 4
	exitCheck       = 5
	exitInterrupted = 130
)

// exitCodes is what they mean, as the help says it.
const exitCodes = `  0    done
  1    failed, and did not happen: a broker refused, or there is no such thing
  2    wrong usage
  3    outcome unknown: it may have happened; look before you repeat it
  4    no broker could be reached in time
  5    a check failed: the cluster is not well, replicas differ, or the history
       shows lost, doubled or reordered records
  130  interrupted`

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What exit codes mean",
		Long:  "Exit codes are stable:\n\n" + exitCodes,
	}
}

// usageError is the caller's mistake.
type usageError struct{ err error }

// Error gives the text of a configuration's error without its reason, which is for programs.
func (e *usageError) Error() string {
	if c, ok := e.err.(*client.Error); ok {
		return c.Message
	}
	return e.err.Error()
}
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// checkError is a check that has run and whose result is bad. What is wrong has been printed.
type checkError struct{ summary string }

func (e *checkError) Error() string { return e.summary }

// partlyError is a run of many operations of which some did not end well.
type partlyError struct {
	summary string
	outcome client.Outcome // the worst: Unknown before NotWritten
	cause   error          // the first
}

func (e *partlyError) Error() string {
	if e.cause == nil {
		return e.summary
	}
	return e.summary + "; the first: " + e.cause.Error()
}

func (e *partlyError) Unwrap() error { return e.cause }

// report prints an error with the next step, and gives the exit code.
func (p *program) report(err error) int {
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(p.stderr, "brokerctl: %s\n", line)
	}
	if hint := nextStep(err); hint != "" {
		fmt.Fprintf(p.stderr, "  try: %s\n", hint)
	}
	var (
		usage  *usageError
		check  *checkError
		partly *partlyError
		e      *client.Error
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &check):
		return exitCheck
	case errors.As(err, &partly):
		if partly.outcome == client.Unknown {
			return exitUnknown
		}
		return exitFailed
	case !errors.As(err, &e):
		return exitFailed
	case e.Reason == client.ReasonNetwork && (e.Outcome == client.NotWritten || !changes(err)),
		errors.Is(err, context.DeadlineExceeded) && !changes(err):
		return exitUnreachable
	case e.Outcome == client.Unknown && changes(err):
		return exitUnknown
	}
	return exitFailed
}

// changeError marks the failure of something that changes the cluster: there its outcome matters.
type changeError struct{ err error }

func (e *changeError) Error() string { return e.err.Error() }
func (e *changeError) Unwrap() error { return e.err }

func changes(err error) bool {
	var c *changeError
	return errors.As(err, &c)
}

// changing marks an error of a call that changes something.
func changing(err error) error {
	if err == nil {
		return nil
	}
	return &changeError{err}
}

// nextStep says what to do about an error; "" where there is nothing better than its text.
func nextStep(err error) string {
	var (
		e     *client.Error
		usage *usageError
	)
	if !errors.As(err, &e) || errors.As(err, &usage) {
		return ""
	}
	if changes(err) && e.Outcome == client.Unknown {
		return "see whether it has happened before you repeat it; brokerctl cluster health says what keeps brokers from answering"
	}
	switch e.Reason {
	case client.ReasonNetwork, client.ReasonCanceled:
		if strings.Contains(e.Message, "tls: certificate required") {
			return "the listener asks for a certificate: --tls-cert and --tls-key give this client's"
		}
		if strings.Contains(e.Message, "handshake") || strings.Contains(e.Message, "tls: ") {
			return "does the listener speak TLS (grpc.NAME.tls of the brokers), with a certificate that --tls-ca vouches for? Without --tls flags nothing is encrypted"
		}
		if strings.Contains(e.Message, "server preface") || strings.Contains(e.Message, "no broker has answered") {
			return "something is there that does not speak gRPC as this client does. A broker that is starting does not answer yet: brokerd healthcheck says what it waits for. Else: is it the gRPC port (9095), and does it speak TLS (then --tls-ca)?"
		}
		return "is a broker there? --bootstrap wants gRPC addresses (port 9095); brokerd healthcheck asks the broker itself"
	case client.ReasonUnknownTopicOrPartition:
		var meant *meantError
		if errors.As(err, &meant) {
			return fmt.Sprintf("did you mean %s? brokerctl topic list shows what there is", meant.topic)
		}
		return "brokerctl topic list shows what there is; brokerctl topic create NAME makes a topic"
	case "UNAUTHENTICATED":
		return "--user and --password-file say who you are (or BROKERCTL_USER, BROKERCTL_PASSWORD)"
	case "GROUP_ID_NOT_FOUND":
		return "brokerctl group list shows the groups there are"
	case "NON_EMPTY_GROUP", "GROUP_SUBSCRIBED_TO_TOPIC", "UNKNOWN_MEMBER_ID":
		return "brokerctl group describe GROUP shows its members and where they run"
	case "TRANSACTIONAL_ID_NOT_FOUND":
		return "brokerctl txn list shows the transactional ids there are"
	case "BROKER_ID_NOT_REGISTERED":
		return "brokerctl cluster status lists the brokers"
	case "SECURITY_DISABLED":
		return "rules decide, and can be kept, where all brokers have security.authorizer: acl; see docs/security.md"
	case client.ReasonTopicAlreadyExists:
		return "brokerctl topic describe NAME shows it; --if-not-exists makes this no error"
	case client.ReasonNotLeader, client.ReasonLeaderNotAvailable:
		return "brokerctl cluster groups shows which replicas run and who leads"
	case "INVALID_REPLICATION_FACTOR":
		return "brokerctl cluster status shows how many brokers there are"
	case "INVALID_CONFIG":
		return "brokerctl topic describe TOPIC --configs shows every setting with its meaning"
	case client.ReasonMessageTooLarge:
		return "brokerctl topic alter TOPIC --set max.message.bytes=N raises the topic's limit, up to limits.max_message_bytes of the brokers"
	case client.ReasonOffsetOutOfRange:
		if changes(err) {
			return "brokerctl topic describe TOPIC shows the range"
		}
		return "--from beginning or --from end always work; brokerctl topic describe TOPIC shows the range"
	case client.ReasonDeliveryTimeout, client.ReasonBufferExhausted:
		return "brokerctl cluster status shows whether partitions have leaders"
	}
	return ""
}

// writeTo is for output whose failure (a closed pipe) ends the command.
func writeTo(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}
