package api

import (
	"context"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

const (
	// Flow control windows are static: grpc-go's estimator starts at 64 KiB and learns from pings,
	// which costs the first seconds of every connection. One stream may have this many bytes on
	// the way that its handler has not read, one connection this many.
	streamWindowBytes     = 4 << 20
	connectionWindowBytes = 16 << 20
	// readBufferBytes belongs to each connection, writeBufferBytes only to one that writes. With
	// 64 and 128 KiB BenchmarkProduce moves 100 KiB batches a third faster than with gRPC's 32 KiB
	// each; larger ones gain nothing.
	readBufferBytes  = 64 << 10
	writeBufferBytes = 128 << 10
	// maxHeaderBytes bounds the metadata of one call.
	maxHeaderBytes = 16 << 10
)

// options are those of every listener's gRPC server.
func (s *Server) options(listener string) []grpc.ServerOption {
	o := []grpc.ServerOption{
		grpc.ForceServerCodecV2(clientv1.Codec{Alone: &s.decoding}),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connectionWindowBytes),
		grpc.ReadBufferSize(readBufferBytes),
		grpc.WriteBufferSize(writeBufferBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxRecvMsgSize(s.maxRequestBytes()),
		grpc.MaxConcurrentStreams(s.c.MaxStreams),
		grpc.ConnectionTimeout(10 * time.Second),
		// A client that pings more often than MinTime is cut off; grpc-go's own default is five
		// minutes, which well-meant settings run into.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Connections of clients that vanished are found within 40 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.InTapHandle(door{s, listener}.admit),
		grpc.StatsHandler(connections{fetching: s.fetching}),
		grpc.UnaryInterceptor(s.aroundUnary),
		grpc.StreamInterceptor(s.aroundStream),
		grpc.WaitForHandlers(true),
	}
	own := counted{s.credentials(), s, listener}
	if len(s.c.Guard.Mechanisms("grpc", listener)) > 0 {
		return append(o, grpc.Creds(arrivals{own}))
	}
	return append(o, grpc.Creds(own))
}

// credentials are those that connections of clients are wrapped in.
func (s *Server) credentials() credentials.TransportCredentials {
	if s.c.Credentials == nil {
		return insecure.NewCredentials()
	}
	return s.c.Credentials
}

// maxRequestBytes is the largest message that is read at all.
func (s *Server) maxRequestBytes() int { return s.c.MaxMessageBytes + messageSlack }

// aroundUnary counts and times a call, turns its error into a status, survives a panic, and has
// large answers counted until they have left.
func (s *Server) aroundUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	start := time.Now()
	var count *answerCount
	if _, ok := req.(*clientv1.FetchRequest); ok {
		ctx, count = s.counting(ctx)
	}
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, s.panicked(info.FullMethod, p)
		}
		if err != nil && count != nil {
			count.Encoded() // never
		}
		s.metrics.requests.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
		s.metrics.seconds.WithLabelValues(info.FullMethod).Observe(time.Since(start).Seconds())
	}()
	on, _ := ctx.Value(heldKey{}).(*held)
	if on != nil && on.full() {
		return nil, s.unread(clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN)
	}
	if refusal := leftOut(req); refusal != nil {
		return nil, (&service{Server: s}).failed(refusal)
	}
	answer, err = handler(ctx, req)
	if err != nil {
		return nil, err
	}
	if count == nil {
		return s.sendable(on, answer)
	}
	if fetched, ok := answer.(*clientv1.FetchResponse); ok && batchBytes(fetched) >= minCounted {
		return clientv1.Counted{FetchResponse: fetched, Counter: count}, nil
	}
	answer, err = s.sendable(on, answer)
	if err == nil {
		count.Encoded()
	}
	return answer, err
}

// leftOut refuses a message that was not decoded, or not all of it; nil: it was.
func leftOut(m any) *clientv1.Error {
	if m, ok := m.(proto.Message); ok {
		if field, limit, why := clientv1.LeftOut(m); why != "" {
			return refused(reasonInvalidRequest, field, limit, "%s", why)
		}
	}
	return nil
}

// sendable is an answer as it is sent, or why it is not.
func (s *Server) sendable(on *held, answer any) (any, error) {
	m, ok := answer.(proto.Message)
	if on == nil || !ok {
		return answer, nil
	}
	answer, ok, err := on.answer(m)
	if err == nil && !ok {
		err = s.unread(clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED)
	}
	return answer, err
}

// unread refuses a call of a client that does not take what it is answered.
func (s *Server) unread(outcome clientv1.Outcome) error {
	e := refused(reasonBusy, "", "", "answers of more than %d bytes on this connection have not been read by the client", maxUnsent)
	e.Outcome = outcome
	return (&service{Server: s}).failed(e)
}

// batchBytes are those of an answer that are counted while they are sent.
func batchBytes(r *clientv1.FetchResponse) (n int) {
	for _, p := range r.Partitions {
		for _, b := range p.Batches {
			n += len(b)
		}
	}
	return n
}

// aroundStream does the same for streams. All but Produce, which ends in its own way, end with the
// server.
func (s *Server) aroundStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
		s.metrics.requests.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	}()
	if info.FullMethod != clientv1.LogService_Produce_FullMethodName {
		ctx, cancel := s.untilStop(stream.Context())
		defer cancel()
		stream = streamWithContext{stream, ctx, s}
	}
	return handler(srv, stream)
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
	of  *Server
}

// RecvMsg takes a message that was decoded. One that was not ends the call: what came before it on the stream has been dealt with.
func (s streamWithContext) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if refusal := leftOut(m); refusal != nil {
		return (&service{Server: s.of}).failed(refusal)
	}
	return nil
}

// SendMsg sends an answer, counted as that of a call without a stream.
func (s streamWithContext) SendMsg(m any) error {
	on, _ := s.ctx.Value(heldKey{}).(*held)
	out, err := s.of.sendable(on, m)
	if err != nil {
		return err
	}
	return s.ServerStream.SendMsg(out)
}

// Context is that of the call, ended by the end of the server too.
func (s streamWithContext) Context() context.Context { return s.ctx }

// untilStop gives a context that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { detach(); cancel() }
}

// panicked logs a bug and gives the caller's error. What was proposed before it may have happened.
func (s *Server) panicked(method string, p any) error {
	s.metrics.panics.Inc()
	s.logger.Error("call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	return clientv1.ToStatus(&clientv1.Error{Reason: reasonUnknown, Message: "the broker failed on this request; see its log",
		Outcome: clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED}, codes.Internal, 0).Err()
}
