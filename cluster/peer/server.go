package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/internal/firstbytes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Handler is what a peer may ask of us. Its methods run concurrently, also for one caller. The caller
// is of our cluster, save in Form, where either side may be without one, and in Hello, which is there
// to find that out. A returned error reaches the caller as Failed, as something that may have happened.
type Handler interface {
	// Hello answers always, also before there is a cluster, and also brokers of another one.
	Hello(ctx context.Context, caller Identity, req *peerv1.HelloRequest) (*peerv1.HelloResponse, error)
	// Form may accept only when it is on disk that this broker belongs to the cluster.
	Form(ctx context.Context, caller Identity, req *peerv1.FormRequest) (*peerv1.FormResponse, error)
	// Forward proposes to the metadata group if this broker leads it.
	Forward(ctx context.Context, caller Identity, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error)
	// ReportStatus must not block.
	ReportStatus(ctx context.Context, caller Identity, req *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error)
	// PullEntries sends the entries asked for, in order, by any number of calls of send. What it sends
	// may be reused after send returns. An entry can have any size.
	PullEntries(ctx context.Context, caller Identity, req PullRequest, send func([]Entry) error) error
	// SumEntries sums committed entries of the local replica.
	SumEntries(ctx context.Context, caller Identity, req *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error)
	// CondemnReplica makes the local replica stop for good.
	CondemnReplica(ctx context.Context, caller Identity, req *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error)
	// JoinTransaction answers as the coordinator of the transaction, or says who is.
	JoinTransaction(ctx context.Context, caller Identity, req *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error)
	// NoteRefusal enters a refused batch into the history of a transactional id.
	NoteRefusal(ctx context.Context, caller Identity, req *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error)
	// WriteMarkers answers for each marker once it is committed, or says why it is not.
	WriteMarkers(ctx context.Context, caller Identity, req *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error)
	// TransferLeadership hands a partition that this broker leads to another.
	TransferLeadership(ctx context.Context, caller Identity, req *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error)
	// DescribeQuorum answers if this broker leads the metadata group.
	DescribeQuorum(ctx context.Context, caller Identity, req *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error)
}

// The timings and bounds of the protocol, equal on all brokers.
const (
	// maxMessageBytes bounds one message in either direction.
	maxMessageBytes = 8 << 20
	// maxStreams bounds the calls of one peer at once.
	maxStreams = 1024
	// pingAfter and pingTimeout find a connection that died in silence.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Self is who we are, asked at each call: the cluster id is learned on the way.
	Self func() Identity
	// Replaced says whether another directory was registered in the place of a caller's, which was registered at an index of the
	// metadata (0: it does not say). Nil: of none.
	Replaced func(caller Identity, since uint64) bool
	Handler  Handler
	Logger   *slog.Logger
}

// Server serves the peer RPC.
type Server struct {
	c    ServerConfig
	grpc *grpc.Server
	// told is of callers of other clusters, who may call as often as they like.
	told firstbytes.Throttle
}

// NewServer makes a server; Serve starts it.
func NewServer(c ServerConfig) *Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{c: c}
	s.grpc = grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
	)
	peerv1.RegisterPeerServiceServer(s.grpc, service{s: s})
	return s
}

// Serve accepts connections until Close; then it returns nil. TLS, where configured, is the listener's.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("peer server: %w", err)
	}
	return nil
}

// Close ends all calls and connections and waits for the handlers to return.
func (s *Server) Close() { s.grpc.Stop() }

// callers says from whom a call is admitted.
type callers int

const (
	// fromMembers admits no caller whose directory was replaced.
	fromMembers callers = iota
	// fromCluster admits those as well: what they ask is how they learn of it.
	fromCluster
	// fromClusterless admits callers and answers while either side belongs to no cluster.
	fromClusterless
	fromAnyone
)

// admit decides whether the call comes from one of ours and was meant for us.
func (s *Server) admit(ctx context.Context, from callers) (Identity, error) {
	caller, to, err := incoming(ctx)
	if err != nil {
		return Identity{}, err
	}
	self := s.c.Self()
	same := caller.ClusterID == self.ClusterID || from == fromAnyone ||
		from == fromClusterless && (caller.ClusterID == "" || self.ClusterID == "")
	if !same {
		if caller.ClusterID != "" && self.ClusterID != "" { // else one of them is about to join
			if n, ok := s.told.Allow(time.Now()); ok {
				s.c.Logger.Warn("refused a peer of another cluster", "peer", caller.Broker, "peer_cluster", fmt.Sprintf("%.100s", caller.ClusterID),
					"cluster", self.ClusterID, "unreported", n)
			}
		}
		return Identity{}, refusal(codes.FailedPrecondition, InconsistentCluster, "broker %d belongs to cluster %q, not to %q", self.Broker, self.ClusterID, caller.ClusterID)
	}
	if to != AnyBroker && to != self.Broker {
		return Identity{}, refusal(codes.FailedPrecondition, WrongBroker, "this is broker %d, not %d", self.Broker, to)
	}
	if (from == fromMembers || from == fromCluster) && caller.Broker == self.Broker && caller.Incarnation != self.Incarnation {
		return Identity{}, refusal(codes.FailedPrecondition, DuplicateBroker, "broker id %d is that of this broker, node incarnation %x, and of the caller, %x", self.Broker, self.Incarnation, caller.Incarnation)
	}
	if from == fromMembers && s.c.Replaced != nil && s.c.Replaced(caller, sinceOf(ctx)) {
		return Identity{}, refusal(codes.FailedPrecondition, DuplicateBroker, "broker id %d is that of another directory than the caller's, node incarnation %x, which was replaced", caller.Broker, caller.Incarnation)
	}
	return caller, nil
}

// refusal is a status that tells the caller that the handler has not been reached.
func refusal(code codes.Code, reason, format string, args ...any) error {
	st := status.New(code, fmt.Sprintf(format, args...))
	with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain})
	if err != nil {
		return st.Err()
	}
	return with.Err()
}

// failure is the status of a handler's error: always Unknown, and without details. An error that the
// handler was given by another peer may wrap that one's refusal, which would tell the caller that the
// handler had not been reached.
func failure(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.Unknown, err.Error())
}

// service hides the RPC methods from Server's own.
type service struct {
	peerv1.UnimplementedPeerServiceServer
	s *Server
}

func (v service) Hello(ctx context.Context, req *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	caller, err := v.s.admit(ctx, fromAnyone)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.Hello(ctx, caller, req)
	return resp, failure(err)
}

func (v service) Form(ctx context.Context, req *peerv1.FormRequest) (*peerv1.FormResponse, error) {
	caller, err := v.s.admit(ctx, fromClusterless)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.Form(ctx, caller, req)
	return resp, failure(err)
}

func (v service) Forward(ctx context.Context, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	caller, err := v.s.admit(ctx, fromCluster)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.Forward(ctx, caller, req)
	return resp, failure(err)
}

func (v service) ReportStatus(ctx context.Context, req *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error) {
	caller, err := v.s.admit(ctx, fromCluster)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.ReportStatus(ctx, caller, req)
	return resp, failure(err)
}

func (v service) PullEntries(req *peerv1.PullEntriesRequest, stream grpc.ServerStreamingServer[peerv1.PullEntriesResponse]) error {
	caller, err := v.s.admit(stream.Context(), fromMembers)
	if err != nil {
		return err
	}
	p, err := pullRequestFromProto(req)
	if err != nil {
		return err
	}
	w := &entryWriter{send: stream.Send}
	if err := v.s.c.Handler.PullEntries(stream.Context(), caller, p, w.write); err != nil {
		return failure(err)
	}
	return failure(w.flush())
}
