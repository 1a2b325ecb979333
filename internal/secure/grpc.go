package secure

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// GRPC tells a gRPC server about the TLS that a Listener has already spoken.
type GRPC struct{}

// AuthInfo is what a call can learn of its connection (peer.FromContext).
type AuthInfo struct {
	credentials.CommonAuthInfo
	// TLS: the connection is encrypted. User is the name that the client's certificate stands for, empty without one.
	TLS  bool
	User string
}

// AuthType is credentials.AuthInfo's.
func (AuthInfo) AuthType() string { return "oncelog" }

// ServerHandshake looks at a connection whose handshake is done.
func (GRPC) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := AuthInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
	if c, ok := Of(conn); ok {
		info.TLS, info.User, info.SecurityLevel = true, c.User, credentials.PrivacyAndIntegrity
	}
	return conn, info, nil
}

// ClientHandshake is not for servers.
func (GRPC) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("secure: no credentials of a client")
}

// Info is credentials.TransportCredentials'.
func (GRPC) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{SecurityProtocol: "tls"} }

// Clone is credentials.TransportCredentials'.
func (g GRPC) Clone() credentials.TransportCredentials { return g }

// OverrideServerName is credentials.TransportCredentials'.
func (GRPC) OverrideServerName(string) error { return nil }
