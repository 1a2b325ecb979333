package broker

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
)

// A broker warns of addresses that it advertises and cannot reach, and of nothing else.
func TestUnreachableAdvertisedAddresses(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Peer.Advertise = "peer.example:9093"
	cfg.GRPC = map[string]ListenerConfig{"default": {Listen: ":9095"}}
	cfg.Kafka = map[string]ListenerConfig{"default": {Listen: ":9092", Advertise: "good.example:9092"}, "lan": {Listen: ":9192", Advertise: "bad.example:9192"}, "wan": {Listen: ":9292", Advertise: "0.0.0.0:9292"}}
	var (
		mu    sync.Mutex
		tried []string
		said  bytes.Buffer
	)
	warnOfUnreachable(t.Context(), cfg.advertisedAddresses(), func(_ context.Context, _, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		tried = append(tried, addr)
		if strings.HasPrefix(addr, "bad") {
			return nil, errors.New("no route to host")
		}
		here, there := net.Pipe()
		_ = there.Close()
		return here, nil
	}, slog.New(slog.NewTextHandler(&said, nil)))
	if len(tried) != 3 {
		t.Errorf("tried %q", tried)
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if len(lines) != 2 || !strings.Contains(said.String(), "setting=kafka.lan.advertise") || !strings.Contains(said.String(), "no route to host") || !strings.Contains(said.String(), "setting=kafka.wan.advertise") {
		t.Errorf("said:\n%s", said.String())
	}
}

// A broker that stops meanwhile says nothing.
func TestUnreachableWhileStopping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var said bytes.Buffer
	warnOfUnreachable(ctx, []advertisedAddress{{"peer.advertise", "peer.example:9093"}}, func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}, slog.New(slog.NewTextHandler(&said, nil)))
	if said.Len() > 0 {
		t.Errorf("said:\n%s", said.String())
	}
}
