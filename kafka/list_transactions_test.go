package kafka

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/coordinator/txn"
)

// T35: the filter by duration asks when the latest transaction of an id began, whatever has become of it. An id that never had one passes.
func TestListTransactionsByDuration(t *testing.T) {
	r := newRig(t, nil)
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }
	r.txns.listed = []*txn.Transaction{
		{ID: "empty", Status: txn.Empty, StartMS: -1},
		{ID: "done long ago", Status: txn.CompleteCommit, StartMS: ago(time.Hour)},
		{ID: "done", Status: txn.CompleteAbort, StartMS: ago(0)},
		{ID: "open long", Status: txn.Ongoing, StartMS: ago(time.Hour)},
		{ID: "open", Status: txn.Ongoing, StartMS: ago(0)},
	}
	for _, c := range []struct {
		ms   int64
		want []string
	}{
		{-1, []string{"empty", "done long ago", "done", "open long", "open"}},
		{60_000, []string{"empty", "done long ago", "open long"}},
		{1_000_000_000, []string{"empty"}},
		{1<<63 - 1, nil},
	} {
		req := kmsg.NewPtrListTransactionsRequest()
		req.Version, req.DurationFilterMillis = 1, c.ms
		var got []string
		for _, one := range r.dial().ask(req).(*kmsg.ListTransactionsResponse).TransactionStates {
			got = append(got, one.TransactionalID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("for longer than %d ms: %q, want %q", c.ms, got, c.want)
		}
	}
}

// A pattern matches whole ids (KIP-1152). What is a pattern only between the parentheses that are put around it is none.
func TestListTransactionsByPattern(t *testing.T) {
	r := newRig(t, nil)
	r.txns.listed = []*txn.Transaction{{ID: "a"}, {ID: "ab"}, {ID: "bb"}}
	for _, c := range []struct {
		pattern string
		want    []string
		code    int16
	}{
		{"a|bb", []string{"a", "bb"}, 0}, {"[", nil, 128}, {"a)|(bb", nil, 128},
	} {
		req := kmsg.NewPtrListTransactionsRequest()
		req.Version, req.TransactionalIDPattern = 2, &c.pattern
		resp := r.dial().ask(req).(*kmsg.ListTransactionsResponse)
		var got []string
		for _, one := range resp.TransactionStates {
			got = append(got, one.TransactionalID)
		}
		if resp.ErrorCode != c.code || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q and code %d, want %q and %d", c.pattern, got, resp.ErrorCode, c.want, c.code)
		}
	}
}
