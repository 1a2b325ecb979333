package peer

import (
	"context"
	"errors"
	"testing"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
)

// What brokers say about transactions arrives as it was sent, and what no broker would say does not arrive.
func TestTransactionCalls(t *testing.T) {
	r := newRig(t)
	r.handler.join = func(_ context.Context, caller Identity, req *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error) {
		if caller.Broker != 1 || req.GetPartition().GetTransactionalId() != "tx" || req.GetVersion() != 2 {
			t.Errorf("broker %d asks %v", caller.Broker, req)
		}
		return &peerv1.JoinTransactionResponse{Failure: &peerv1.Failure{Code: "PRODUCER_FENCED"}}, nil
	}
	r.handler.note = func(_ context.Context, _ Identity, req *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error) {
		return &peerv1.NoteRefusalResponse{}, nil
	}
	results := 2
	r.handler.markers = func(_ context.Context, _ Identity, req *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error) {
		return &peerv1.WriteMarkersResponse{Results: make([]*peerv1.MarkerResult, results)}, nil
	}
	good := &peerv1.TransactionPartition{TransactionalId: "tx", ProducerId: 5, Topic: "t"}
	resp, err := r.client.JoinTransaction(t.Context(), to2, &peerv1.JoinTransactionRequest{Partition: good, Version: 2})
	if err != nil || resp.GetFailure().GetCode() != "PRODUCER_FENCED" {
		t.Error(resp, err)
	}
	if _, err := r.client.NoteRefusal(t.Context(), to2, &peerv1.NoteRefusalRequest{Partition: good}); err != nil {
		t.Error(err)
	}
	two := &peerv1.WriteMarkersRequest{Markers: []*peerv1.Marker{{Topic: "t"}, {Topic: "u"}}}
	if _, err := r.client.WriteMarkers(t.Context(), to2, two); err != nil {
		t.Error(err)
	}
	results = 1
	if _, err := r.client.WriteMarkers(t.Context(), to2, two); ReasonOf(err) != Malformed {
		t.Errorf("one result for two markers: %v", err)
	}
	r.handler.join, r.handler.note, r.handler.markers = nil, nil, nil // not to be reached
	bad := &peerv1.TransactionPartition{TransactionalId: "tx", ProducerEpoch: 1 << 15}
	for what, call := range map[string]func() error{
		"version": func() error {
			_, err := r.client.JoinTransaction(t.Context(), to2, &peerv1.JoinTransactionRequest{Partition: good})
			return err
		},
		"epoch": func() error {
			_, err := r.client.JoinTransaction(t.Context(), to2, &peerv1.JoinTransactionRequest{Partition: bad, Version: 2})
			return err
		},
		"no partition": func() error {
			_, err := r.client.NoteRefusal(t.Context(), to2, &peerv1.NoteRefusalRequest{})
			return err
		},
		"marker": func() error {
			_, err := r.client.WriteMarkers(t.Context(), to2, &peerv1.WriteMarkersRequest{Markers: []*peerv1.Marker{{ProducerId: -1}}})
			return err
		},
		"too many": func() error {
			_, err := r.client.WriteMarkers(t.Context(), to2, &peerv1.WriteMarkersRequest{Markers: make([]*peerv1.Marker, MaxMarkers+1)})
			return err
		},
	} {
		var e *Error
		if err := call(); !errors.As(err, &e) || e.Reason != Malformed || e.MayHaveHappened {
			t.Errorf("%s: %v", what, err)
		}
	}
}
