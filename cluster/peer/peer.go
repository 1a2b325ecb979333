// Package peer is what brokers say to each other: both ends of the internal RPC.
//
// Server and Client know who talks to whom and nothing of what is said: each call carries the
// caller's broker id, node incarnation and cluster id, and, where the caller knows, whom it means to
// reach. A peer of another cluster, or one that has taken over another broker's address, is refused
// before the Handler sees it. An Error says whether the request can have reached the other side.
package peer

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Identity is who a broker is.
type Identity struct {
	Broker int32
	// Incarnation was minted with the broker's data directory.
	Incarnation uint64
	// ClusterID is empty until the broker belongs to a cluster.
	ClusterID string
}

// Target is a broker to be called.
type Target struct {
	// Broker is who should answer; AnyBroker: whoever is at the address.
	Broker int32
	// Address is its peer address, host:port.
	Address string
}

// AnyBroker stands for the broker id of a Target that is not known.
const AnyBroker int32 = -1

// At is whoever is at an address.
func At(address string) Target { return Target{Broker: AnyBroker, Address: address} }

// String names the target for logs and errors.
func (t Target) String() string {
	if t.Broker == AnyBroker {
		return t.Address
	}
	return fmt.Sprintf("broker %d at %s", t.Broker, t.Address)
}

// The reasons of an Error, where Kafka has no name the name is ours.
const (
	// Unreachable: no connection, or it broke, or no answer came in time.
	Unreachable = "BROKER_NOT_AVAILABLE"
	// InconsistentCluster: the other side belongs to another cluster.
	InconsistentCluster = "INCONSISTENT_CLUSTER_ID"
	// WrongBroker: another broker answers at the address.
	WrongBroker = "WRONG_BROKER"
	// DuplicateBroker: the other side has the caller's broker id.
	DuplicateBroker = "DUPLICATE_BROKER_REGISTRATION"
	// Malformed: the call does not say who calls, or the answer cannot be what was asked for.
	Malformed = "INVALID_REQUEST"
	// TooLarge: the request is larger than a message may be.
	TooLarge = "MESSAGE_TOO_LARGE"
	// Failed: the other side's handler failed.
	Failed = "UNKNOWN_SERVER_ERROR"
)

// Error is a call that got no answer from the other side's Handler, or a handler's failure.
type Error struct {
	// Reason is one of the constants above.
	Reason  string
	Message string
	// MayHaveHappened: the request may have reached the other side's Handler. Else it did not, and
	// will not.
	MayHaveHappened bool
	cause           error
}

// Error gives reason and message.
func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Unwrap gives what the transport said.
func (e *Error) Unwrap() error { return e.cause }

// ReasonOf gives the reason of a call's error; empty for nil and for errors of other packages.
func ReasonOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// The keys of a call's metadata.
const (
	keyBroker      = "oncelog-broker"
	keyIncarnation = "oncelog-incarnation"
	keyCluster     = "oncelog-cluster"
	keyTo          = "oncelog-to"
	// keySince is an index of the metadata at which the caller was registered; absent: not known.
	keySince = "oncelog-since"
)

// errorDomain is that of google.rpc.ErrorInfo.
const errorDomain = "oncelog"

func outgoing(ctx context.Context, self Identity, since uint64, to int32) context.Context {
	kv := []string{
		keyBroker, strconv.FormatInt(int64(self.Broker), 10),
		keyIncarnation, strconv.FormatUint(self.Incarnation, 16),
		keyCluster, self.ClusterID,
	}
	if since > 0 {
		kv = append(kv, keySince, strconv.FormatUint(since, 10))
	}
	if to != AnyBroker {
		kv = append(kv, keyTo, strconv.FormatInt(int64(to), 10))
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// sinceOf reads at which index of the metadata the caller was registered; 0: it does not say.
func sinceOf(ctx context.Context) uint64 {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(keySince)
	if len(v) != 1 {
		return 0
	}
	since, err := strconv.ParseUint(v[0], 10, 64)
	if err != nil {
		return 0
	}
	return since
}

// incoming reads who calls, and whom the caller means; AnyBroker: it does not say.
func incoming(ctx context.Context) (caller Identity, to int32, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	one := func(key string) string {
		if v := md.Get(key); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	broker, err := strconv.ParseInt(one(keyBroker), 10, 32)
	if err != nil || broker < 0 {
		return Identity{}, 0, refusal(codes.InvalidArgument, Malformed, "the call does not say which broker it comes from")
	}
	incarnation, err := strconv.ParseUint(one(keyIncarnation), 16, 64)
	if err != nil || incarnation == 0 {
		return Identity{}, 0, refusal(codes.InvalidArgument, Malformed, "the call does not say which node incarnation it comes from")
	}
	to = AnyBroker
	if s := one(keyTo); s != "" {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < 0 {
			return Identity{}, 0, refusal(codes.InvalidArgument, Malformed, "the call is meant for broker %q", s)
		}
		to = int32(n)
	}
	return Identity{Broker: int32(broker), Incarnation: incarnation, ClusterID: one(keyCluster)}, to, nil
}
