package clientv1

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestStatusCarriesTheWholeError(t *testing.T) {
	for _, e := range []*Error{
		{Reason: "REQUEST_TIMED_OUT", Message: "no commit in 5s", Outcome: Outcome_OUTCOME_MAY_HAVE_HAPPENED, Retriable: true},
		{Reason: "NOT_LEADER_OR_FOLLOWER", Message: "broker 2 leads", Outcome: Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true,
			Leader: &Leader{BrokerId: 2, Epoch: 7, Address: "b2:9095"}},
		{Reason: "INVALID_REQUEST", Message: "partition is -1", Outcome: Outcome_OUTCOME_DID_NOT_HAPPEN,
			Metadata: map[string]string{"field": "partition", "limit": "0"}},
	} {
		given := proto.Clone(e)
		st := ToStatus(e, codes.Unavailable, 250*time.Millisecond)
		if !proto.Equal(e, given) {
			t.Errorf("ToStatus changed the error into %v", e)
		}
		back, after, ok := ErrorOf(st.Err())
		if !ok || after != 250*time.Millisecond || !proto.Equal(back, e) {
			t.Errorf("came back as %v, wait %v, ok %v; want %v", back, after, ok, e)
		}
	}
}

func TestErrorsOfOthersAreNotOurs(t *testing.T) {
	for _, err := range []error{nil, errors.New("cable cut"), status.Error(codes.Unavailable, "no connection"), status.Error(codes.OK, "")} {
		if e, _, ok := ErrorOf(err); ok {
			t.Errorf("ErrorOf(%v) took it for %v", err, e)
		}
	}
}
