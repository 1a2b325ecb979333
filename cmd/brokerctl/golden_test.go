package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cockroachdb/datadriven"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// TestGolden runs the command lines in testdata against the fake cluster and compares all that they
// print, and their exit codes. go test -rewrite accepts what they print now.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		f := startFake(t)
		dir := t.TempDir()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "ctl":
				d.Input = strings.ReplaceAll(d.Input, "$DIR", dir)
				return strings.ReplaceAll(f.golden(t, d), dir, "$DIR")
			case "log":
				return changeLog(t, dir, d)
			case "cluster":
				return f.set(t, d)
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
				return ""
			}
		})
	})
}

// golden runs the first line of the input as a command; the rest is its stdin.
func (f *fakeCluster) golden(t *testing.T, d *datadriven.TestData) string {
	line, stdin, _ := strings.Cut(d.Input, "\n")
	if stdin != "" {
		stdin += "\n"
	}
	stdout, stderr, code := f.run(t, stdin, split(line)...)
	if !strings.Contains(line, "json") {
		checkWidth(t, d.Pos, stdout)
	}
	var b strings.Builder
	b.WriteString(volatile.ReplaceAllString(stdout, "TIME"))
	if stderr != "" {
		b.WriteString("--- stderr\n" + stderr)
	}
	if code != 0 {
		fmt.Fprintf(&b, "--- exit %d\n", code)
	}
	// datadriven ends output at an empty line.
	return strings.ReplaceAll(b.String(), "\n\n", "\n.\n")
}

// volatile is what differs from run to run.
var volatile = regexp.MustCompile(`"timestamp_ms": ?17\d{11}|"timestamp_ms":1[78]\d{11}|"created":"[^"]*"`)

// checkWidth: what is printed is to fit a terminal of 100 columns, but for damage in logs.
func checkWidth(t *testing.T, pos, stdout string) {
	for line := range strings.SplitSeq(stdout, "\n") {
		if utf8.RuneCountInString(line) > 100 && !strings.HasPrefix(line, "  ! ") && !strings.HasPrefix(line, "  - ") {
			t.Errorf("%s: line of %d columns: %s", pos, utf8.RuneCountInString(line), line)
		}
	}
}

// split cuts a line at spaces, but for those inside quotes.
func split(line string) []string {
	var args []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] == '\'' {
			arg, rest, _ := strings.Cut(line[1:], "'")
			args, line = append(args, arg), rest
			continue
		}
		arg, rest, _ := strings.Cut(line, " ")
		args, line = append(args, arg), rest
	}
	return args
}

// set changes the fake cluster.
func (f *fakeCluster) set(t *testing.T, d *datadriven.TestData) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, arg := range d.CmdArgs {
		switch value := strings.Join(arg.Vals, " "); arg.Key {
		case "dead":
			f.dead[number(t, value)] = true
		case "silent":
			f.silent[brokerNames[number(t, value)]] = true
		case "headless":
			f.topics[value].logs[0].leader = -1
		case "problem":
			f.problem = value
		case "full":
			f.full = true
		case "refuse":
			f.refuse[value] = &clientv1.Error{Reason: "INVALID_RECORD", Message: "no key", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		case "group":
			f.groups[value] = newFakeGroup(value)
		case "pending":
			f.groups[value].pending = fakePending()
		case "member":
			f.groups[value].members = fakeMembers()
		case "transactions":
			f.txns = fakeTxns()
			f.topics[value].openIn()
		case "journal":
			f.topics[value].logs[0].journal(t)
		case "hasty":
			f.hasty = value
		case "producers":
			f.topics[value].logs[0].states = producerStates()
		default:
			d.Fatalf(t, "unknown argument %s", arg.Key)
		}
	}
	return ""
}

func number(t *testing.T, s string) int32 {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

func producerStates() []*clientv1.ProducerState {
	at := int64(1795398578332)
	refused := &clientv1.TransactionEvent{Kind: 5, TimeMs: at + 9, ProducerId: 4711, ProducerEpoch: 3, Topic: "orders", Reason: "OUT_OF_ORDER_SEQUENCE_NUMBER", ExpectedSequence: 0, ReceivedSequence: 7}
	full := &clientv1.ProducerState{ProducerId: 4001, ProducerEpoch: 2, LastSequence: 41, LastTimestampMs: at + 4, CoordinatorEpoch: -1, TxnStartOffset: -1}
	seq := int32(30)
	for i := range int64(5) {
		n := int32(i + 1)
		if i == 4 {
			n = 2
		}
		full.Batches = append(full.Batches, &clientv1.ProducerBatch{
			BaseSequence: seq, LastSequence: seq + n - 1, BaseOffset: 1000 + 10*i, LastOffset: 1000 + 10*i + int64(n) - 1, TimestampMs: at + i,
		})
		seq += n
	}
	return []*clientv1.ProducerState{
		{ProducerId: 1000200, ProducerEpoch: 32766, LastSequence: 2147483647, LastTimestampMs: at, CoordinatorEpoch: -1, TxnStartOffset: 1234567890, Batches: []*clientv1.ProducerBatch{
			{BaseSequence: 2147483640, LastSequence: 2147483647, BaseOffset: 234567890, LastOffset: 234567897, TimestampMs: at},
		}},
		full,
		{ProducerId: 4002, ProducerEpoch: 1, LastSequence: -1, LastTimestampMs: at, CoordinatorEpoch: 3, TxnStartOffset: -1},
		{ProducerId: 4711, ProducerEpoch: 3, LastSequence: -1, LastTimestampMs: at, CoordinatorEpoch: -1, TxnStartOffset: -1, FirstRefused: refused},
	}
}
