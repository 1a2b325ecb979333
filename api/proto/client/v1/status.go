package clientv1

import (
	"maps"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// ErrorDomain is the domain of every google.rpc.ErrorInfo that a broker sends.
const ErrorDomain = "oncelog"

// Keys in the metadata of an ErrorInfo that every client may rely on. Others depend on the reason.
const (
	// MetaOutcome is "DID_NOT_HAPPEN" or "MAY_HAVE_HAPPENED"; always there.
	MetaOutcome = "outcome"
	// MetaRetriable is "true" or "false"; always there.
	MetaRetriable = "retriable"
	// MetaLeaderBroker, MetaLeaderEpoch and MetaLeaderAddress say who leads, where the caller asked
	// the wrong broker and this one knows better.
	MetaLeaderBroker  = "leader_broker"
	MetaLeaderEpoch   = "leader_epoch"
	MetaLeaderAddress = "leader_address"
)

const (
	outcomeDidNotHappen    = "DID_NOT_HAPPEN"
	outcomeMayHaveHappened = "MAY_HAVE_HAPPENED"
)

// ToStatus makes a gRPC status of a failed call: the error as an ErrorInfo, a RetryInfo where
// retryAfter is positive, and the error's TransactionEvent if it has one. ErrorOf gives the error back.
func ToStatus(e *Error, code codes.Code, retryAfter time.Duration) *status.Status {
	meta := maps.Clone(e.GetMetadata())
	if meta == nil {
		meta = make(map[string]string, 5)
	}
	meta[MetaOutcome] = outcomeMayHaveHappened
	if e.GetOutcome() == Outcome_OUTCOME_DID_NOT_HAPPEN {
		meta[MetaOutcome] = outcomeDidNotHappen
	}
	meta[MetaRetriable] = strconv.FormatBool(e.GetRetriable())
	if l := e.GetLeader(); l != nil {
		meta[MetaLeaderBroker] = strconv.Itoa(int(l.BrokerId))
		meta[MetaLeaderEpoch] = strconv.Itoa(int(l.Epoch))
		meta[MetaLeaderAddress] = l.Address
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: e.GetReason(), Domain: ErrorDomain, Metadata: meta}}
	if retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	}
	if e.GetEvent() != nil {
		details = append(details, protoadapt.MessageV1Of(e.Event))
	}
	st := status.New(code, e.GetMessage())
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st // code OK, which no failed call has
}

// MaxRequestBytesHeader is the header in which a Produce stream tells, when it begins, how many bytes one request
// may have. A larger one is not read: it did not happen, and gRPC ends the stream with RESOURCE_EXHAUSTED.
const MaxRequestBytesHeader = "oncelog-max-request-bytes"

// ErrorOf gives what a broker said of a failed call, and how long it asks to wait before a retry
// (0: it does not say). ok is false when the error did not come from a broker of ours: the
// connection broke, the deadline passed, the server is something else. Whether such a call
// happened is unknown, unless it was never sent.
func ErrorOf(err error) (e *Error, retryAfter time.Duration, ok bool) {
	st, isStatus := status.FromError(err)
	if !isStatus || st == nil {
		return nil, 0, false
	}
	var event *TransactionEvent
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *TransactionEvent:
			event = d
		case *errdetails.ErrorInfo:
			if d.Domain == ErrorDomain {
				e = errorOfInfo(d, st.Message())
			}
		case *errdetails.RetryInfo:
			retryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if e == nil {
		return nil, 0, false
	}
	e.Event = event
	return e, max(retryAfter, 0), true
}

func errorOfInfo(info *errdetails.ErrorInfo, message string) *Error {
	meta := maps.Clone(info.Metadata)
	e := &Error{Reason: info.Reason, Message: message, Outcome: Outcome_OUTCOME_MAY_HAVE_HAPPENED}
	if meta[MetaOutcome] == outcomeDidNotHappen {
		e.Outcome = Outcome_OUTCOME_DID_NOT_HAPPEN
	}
	e.Retriable = meta[MetaRetriable] == "true"
	if id, err := strconv.ParseInt(meta[MetaLeaderBroker], 10, 32); err == nil {
		epoch, err := strconv.ParseInt(meta[MetaLeaderEpoch], 10, 32)
		if err != nil {
			epoch = -1
		}
		e.Leader = &Leader{BrokerId: int32(id), Epoch: int32(epoch), Address: meta[MetaLeaderAddress]}
	}
	for _, key := range []string{MetaOutcome, MetaRetriable, MetaLeaderBroker, MetaLeaderEpoch, MetaLeaderAddress} {
		delete(meta, key)
	}
	if len(meta) > 0 {
		e.Metadata = meta
	}
	return e
}
