package api

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// A request that is too large to be decoded, or is none, is refused like any other that did nothing: a client that could not tell would ask again
// and again.
func TestRequestsThatAreNotDecodedAreRefused(t *testing.T) {
	r := newRig(t, nil)
	raw := grpc.ForceCodecV2(rawCodec{clientv1.Codec{}})
	text := func(field protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), s)
	}
	tooLarge := bytes.Repeat(text(1, strings.Repeat("x", 1000)), 4000)
	for _, x := range []struct {
		name, method string
		message      []byte
		stream       bool
		field, limit string
	}{
		{"a large request", clientv1.AdminService_GetMetadata_FullMethodName, tooLarge, false, "request", "3145728 bytes"},
		{"no request", clientv1.AdminService_GetMetadata_FullMethodName, []byte{0xff, 0xff, 0xff}, false, "request", ""},
		{"a name that is not UTF-8", clientv1.AdminService_GetMetadata_FullMethodName, text(1, "\xff"), false, "request", ""},
		{"a large message of a stream", clientv1.GroupService_JoinGroup_FullMethodName, tooLarge, true, "request", "3145728 bytes"},
		{"no message of a stream", clientv1.GroupService_JoinGroup_FullMethodName, []byte{0xff, 0xff, 0xff}, true, "request", ""},
	} {
		var err error
		if x.stream {
			var s grpc.ClientStream
			if s, err = r.conn.NewStream(r.ctx(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, x.method, raw); err == nil {
				if err = s.SendMsg(x.message); err == nil {
					err = s.RecvMsg(&clientv1.GetMetadataResponse{})
				}
			}
		} else {
			err = r.conn.Invoke(r.ctx(), x.method, x.message, &clientv1.GetMetadataResponse{}, raw)
		}
		e, _, ok := clientv1.ErrorOf(err)
		if !ok || status.Code(err) != codes.InvalidArgument || e.Reason != reasonInvalidRequest || e.Retriable ||
			e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN || e.Metadata["field"] != x.field || e.Metadata["limit"] != x.limit {
			t.Errorf("%s: %v, %v", x.name, err, e)
		}
	}
	if got := r.metric(r.server.metrics.panics); got != 0 {
		t.Errorf("%v panics", got)
	}
}

// Records that take many times their size when they are decoded are refused alone: the stream goes on.
func TestProduceRefusesRecordsThatAreNotDecoded(t *testing.T) {
	r := newRig(t, nil)
	s, err := r.conn.NewStream(r.ctx(), &clientv1.LogService_ServiceDesc.Streams[0], clientv1.LogService_Produce_FullMethodName,
		grpc.ForceCodecV2(rawCodec{clientv1.Codec{}}))
	if err != nil {
		t.Fatal(err)
	}
	rest, err := proto.Marshal(&clientv1.ProduceRequest{RequestId: 7, Topic: "t", Partition: 0})
	if err != nil {
		t.Fatal(err)
	}
	records := protowire.AppendString(protowire.AppendTag(nil, 8, protowire.BytesType), strings.Repeat("\x0a\x00", 200_000))
	good, err := proto.Marshal(request(8, "t", "good"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][]byte{append(records, rest...), good} {
		if err := s.SendMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	answers := map[uint64]*clientv1.ProduceResponse{}
	for range 2 {
		a := &clientv1.ProduceResponse{}
		if err := s.RecvMsg(a); err != nil {
			t.Fatal(err)
		}
		answers[a.RequestId] = a
	}
	e := answers[7].GetError()
	if e.GetReason() != reasonInvalidRequest || e.GetRetriable() || e.GetOutcome() != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN ||
		e.GetMetadata()["field"] != "records" || answers[7].GetTopic() != "t" {
		t.Errorf("answer %v", answers[7])
	}
	if answers[8] == nil || answers[8].Error != nil || len(r.log.produced()) != 1 {
		t.Errorf("answer %v to a good request, %d proposals", answers[8], len(r.log.produced()))
	}
}
