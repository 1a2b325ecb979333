package client

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// eager is a broker that knows no password and gives a token for the first message.
type eager struct {
	clientv1.UnimplementedAuthServiceServer
}

func (eager) Authenticate(stream clientv1.AuthService_AuthenticateServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	_, nonce, _ := strings.Cut(string(req.GetMessage()), "r=")
	return stream.Send(&clientv1.AuthenticateResponse{Message: []byte("r=" + nonce + "x,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096"), Token: "token", LifetimeMs: 60_000})
}

// A broker that cannot show that it knows the password is not believed, whatever token it gives.
func TestABrokerProvesItselfToo(t *testing.T) {
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	clientv1.RegisterAuthServiceServer(srv, eager{})
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()
	cc, err := grpc.NewClient("passthrough:///broker", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for mechanism, believed := range map[string]bool{SCRAMSHA256: false, SCRAMSHA512: false, PLAIN: true} {
		l := newLogin(Config{SASL: SASL{User: "alice", Password: "secret", Mechanism: mechanism}, RequestTimeout: 10 * time.Second})
		l.cc = cc
		_, err := l.GetRequestMetadata(t.Context(), "https://broker/oncelog.client.v1.LogService")
		if (err == nil) != believed || err != nil && !strings.Contains(err.Error(), "does not prove") {
			t.Errorf("%s: %v", mechanism, err)
		}
	}
}
