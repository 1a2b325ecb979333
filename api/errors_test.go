package api

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// codesIn finds the values of all constants of a type in a package's source, such as Code or
// metadata.Code.
func codesIn(t *testing.T, dir, typeName string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Type == nil || len(spec.Values) != 1 {
				return true
			}
			var named string
			switch x := spec.Type.(type) {
			case *ast.Ident:
				named = x.Name
			case *ast.SelectorExpr:
				named = fmt.Sprint(x.X, ".", x.Sel.Name)
			}
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && named == typeName && lit.Kind == token.STRING {
				v, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, v)
			}
			return true
		})
	}
	return found
}

// Every reason that a domain can give is in the table.
func TestEveryReasonIsInTheTable(t *testing.T) {
	for _, c := range []struct {
		dir, typeName string
		atLeast       int
	}{
		{"../partition", "Code", 15},
		{"../coordinator", "Code", 12},
		{"../cluster/metadata", "Code", 15},
		{"../cluster", "metadata.Code", 4},
	} {
		found := codesIn(t, c.dir, c.typeName)
		if len(found) < c.atLeast {
			t.Errorf("found only %d codes in %s: %v", len(found), c.dir, found)
		}
		for _, reason := range found {
			if frontdoor.KindOf(reason) == nil {
				t.Errorf("%s gives %s, which the error table does not have", c.dir, reason)
			}
		}
	}
	n := 0
	for code := record.Code(1); !strings.HasPrefix(code.String(), "Code("); code++ {
		n++
		if frontdoor.KindOf(code.String()) == nil {
			t.Errorf("record gives %s, which the error table does not have", code)
		}
	}
	if n < 6 {
		t.Errorf("record gives only %d codes", n)
	}
	// The machine's verdicts reach clients by partition's codes. Those with a name of Kafka's keep it.
	n = 0
	for code := producer.Code(1); !strings.HasPrefix(code.String(), "CODE_") && n < 255; code++ {
		n++
		switch code {
		case producer.Accepted, producer.Duplicate, producer.TooManyProducers, producer.Malformed:
			continue
		}
		if frontdoor.KindOf(code.String()) == nil {
			t.Errorf("producer gives %s, which the error table does not have", code)
		}
	}
	if n < 8 {
		t.Errorf("producer gives only %d codes", n)
	}
}

func TestErrorTableIsSound(t *testing.T) {
	byCode := map[int16]string{}
	for i, k := range frontdoor.Kinds {
		if !regexp.MustCompile(`^[A-Z][A-Z0-9_]{1,62}$`).MatchString(k.Reason) {
			t.Errorf("reason %q is not upper snake of at most 63 characters", k.Reason)
		}
		if frontdoor.KindOf(k.Reason) != &frontdoor.Kinds[i] {
			t.Errorf("%s is there twice", k.Reason)
		}
		if k.GRPC == codes.OK || k.GRPC > codes.Unauthenticated {
			t.Errorf("%s has gRPC code %v", k.Reason, k.GRPC)
		}
		if k.Kafka == 0 {
			t.Errorf("%s has Kafka code 0, which is none", k.Reason)
		}
		if other, taken := byCode[k.Kafka]; taken && !k.Ours {
			t.Errorf("%s and %s have Kafka code %d", k.Reason, other, k.Kafka)
		}
		if !k.Ours {
			byCode[k.Kafka] = k.Reason
		}
		// Only what certainly did not happen may be told to be wrong with the request itself.
		if k.GRPC == codes.InvalidArgument && k.MayHaveHappened {
			t.Errorf("%s blames the request and may have happened", k.Reason)
		}
	}
	for reason, code := range map[string]int16{"UNKNOWN_SERVER_ERROR": -1, "OFFSET_OUT_OF_RANGE": 1, "CORRUPT_MESSAGE": 2,
		"UNKNOWN_TOPIC_OR_PARTITION": 3, "NOT_LEADER_OR_FOLLOWER": 6, "REQUEST_TIMED_OUT": 7, "MESSAGE_TOO_LARGE": 10,
		"OUT_OF_ORDER_SEQUENCE_NUMBER": 45, "INVALID_PRODUCER_EPOCH": 47, "INVALID_TXN_STATE": 48, "TRANSACTION_COORDINATOR_FENCED": 52,
		"KAFKA_STORAGE_ERROR": 56, "INVALID_RECORD": 87} {
		if k := frontdoor.KindOf(reason); k == nil || k.Kafka != code {
			t.Errorf("%s: %+v, want Kafka code %d", reason, k, code)
		}
	}
}

// Every line of the table survives the way from a domain to a client, as the error of a call and
// as the error inside an answer.
func TestEveryErrorReachesTheClient(t *testing.T) {
	r := newRig(t, nil)
	var give error
	r.cluster.nextID = func(context.Context) (record.ProducerID, error) { return 0, give }
	r.log.listOffsets = func(context.Context, record.TopicPartition, int64, bool) (partition.ListedOffset, error) {
		return partition.ListedOffset{}, give
	}
	for _, k := range frontdoor.Kinds {
		for _, outcome := range []raftgroup.Outcome{raftgroup.DidNotHappen, raftgroup.MayHaveHappened} {
			give = fmt.Errorf("wrapped: %w", &partition.Error{Code: partition.Code(k.Reason), Message: "said so \xff", Outcome: outcome})
			_, err := r.client.InitProducerId(r.ctx(), &clientv1.InitProducerIdRequest{})
			e, after, ok := clientv1.ErrorOf(err)
			if !ok || e.Reason != k.Reason || e.Message != "said so ?" || e.Outcome != outcomeOf(outcome) || e.Retriable != (k.Retry != frontdoor.RetryNever) {
				t.Errorf("%s, %v: the call failed with %v (%v)", k.Reason, outcome, err, e)
			}
			if status.Code(err) != k.GRPC || (after > 0) != (k.Retry != frontdoor.RetryNever) {
				t.Errorf("%s: gRPC code %v, retry after %v", k.Reason, status.Code(err), after)
			}
			answer, err := r.client.ListOffsets(r.ctx(), &clientv1.ListOffsetsRequest{Partitions: []*clientv1.ListOffsetsPartition{{Topic: "t"}}})
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.Partitions[0].Error; got.GetReason() != k.Reason || got.Outcome != outcomeOf(outcome) || got.Retriable != e.Retriable {
				t.Errorf("%s, %v: the answer holds %v", k.Reason, outcome, got)
			}
		}
	}
	if got := r.metric(r.server.metrics.unknownErrors); got != 0 {
		t.Errorf("%v of the table's own errors were unknown", got)
	}
}

func TestErrorsOfAllDomains(t *testing.T) {
	r := newRig(t, nil)
	svc := &service{Server: r.server, listener: "default"}
	const no, may = clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED
	for _, c := range []struct {
		err     error
		reason  string
		outcome clientv1.Outcome
	}{
		{&record.Error{Code: record.ErrInvalidTimestamp, Message: "m", Record: 3}, "INVALID_TIMESTAMP", no},
		{&metadata.Error{Code: metadata.InvalidConfig, Message: "m", Field: "f", Limit: "l"}, "INVALID_CONFIG", no},
		{&cluster.Error{Code: cluster.NotController, Message: "m", Outcome: raftgroup.DidNotHappen}, "NOT_CONTROLLER", no},
		{&cluster.Error{Code: cluster.RequestTimedOut, Message: "m", Outcome: raftgroup.MayHaveHappened}, "REQUEST_TIMED_OUT", may},
		{&raftgroup.NotLeaderError{}, reasonNotLeader, no},
		{raftgroup.ErrTransferring, reasonNotLeader, no},
		{raftgroup.ErrBusy, reasonBusy, no},
		{raftgroup.ErrStopped, reasonNotLeader, no},
		{&raftgroup.UncertainError{Cause: raftgroup.ErrStopped}, reasonNotLeader, may},
		{context.DeadlineExceeded, reasonTimedOut, may},
		{context.Canceled, reasonCancelled, may},
		{fmt.Errorf("deep: %w", context.Canceled), reasonCancelled, may},
	} {
		e := svc.ofDomain(c.err)
		if e.Reason != c.reason || e.Outcome != c.outcome || e.Message == "" {
			t.Errorf("%v became %v, want %s, %v", c.err, e, c.reason, c.outcome)
		}
	}
	if e := svc.ofDomain(&record.Error{Code: record.ErrInvalidRecord, Message: "m", Record: 3}); e.Metadata["record"] != "3" {
		t.Errorf("error %v does not name the record", e)
	}
	if e := svc.ofDomain(&metadata.Error{Code: metadata.InvalidConfig, Field: "f", Limit: "l"}); e.Metadata["field"] != "f" || e.Metadata["limit"] != "l" {
		t.Errorf("error %v does not name field and limit", e)
	}
	if r.logged.String() != "" {
		t.Errorf("logged: %s", r.logged)
	}
	// What nobody knows: one code, one line in the log, and the outcome is open.
	for _, err := range []error{errors.New("secret path /x/y"), &partition.Error{Code: "MADE_UP", Message: "secret path /x/y", Outcome: raftgroup.MayHaveHappened}} {
		e := svc.ofDomain(err)
		if e.Reason != reasonUnknown || e.Outcome != may || strings.Contains(e.Message, "secret") {
			t.Errorf("%v became %v", err, e)
		}
	}
	if got := r.metric(r.server.metrics.unknownErrors); got != 2 || strings.Count(r.logged.String(), "secret") != 2 {
		t.Errorf("%v unknown errors counted, log: %s", got, r.logged)
	}
}

func TestUnaryCallsSurviveAPanic(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.nextID = func(context.Context) (record.ProducerID, error) { panic("a bug") }
	_, err := r.client.InitProducerId(r.ctx(), &clientv1.InitProducerIdRequest{})
	if e, _, ok := clientv1.ErrorOf(err); !ok || e.Reason != reasonUnknown || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED || status.Code(err) != codes.Internal {
		t.Errorf("the call failed with %v", err)
	}
	r.log.listOffsets = func(context.Context, record.TopicPartition, int64, bool) (partition.ListedOffset, error) {
		panic("another")
	}
	answer, err := r.client.ListOffsets(r.ctx(), &clientv1.ListOffsetsRequest{Partitions: []*clientv1.ListOffsetsPartition{{Topic: "t"}}})
	if err != nil || answer.Partitions[0].Error.GetReason() != reasonUnknown {
		t.Errorf("ListOffsets gave %v, %v", answer, err)
	}
	if got := r.metric(r.server.metrics.panics); got != 2 {
		t.Errorf("%v panics counted, want 2", got)
	}
}

// P18: a producer is never told that its sequence is a duplicate, which old clients take for success without an offset, nor
// that its id is unknown.
func TestErrorsThatNobodyIsTold(t *testing.T) {
	for _, reason := range []string{"DUPLICATE_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID"} {
		if frontdoor.KindOf(reason) != nil {
			t.Errorf("%s is in the table", reason)
		}
	}
}
