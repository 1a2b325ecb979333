package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
)

// holding makes Forward wait until its context ends or the channel is closed, and tells when it waits.
func (r *rig) holding() (waits <-chan struct{}, release chan struct{}) {
	w, release := make(chan struct{}, 16), make(chan struct{})
	r.handler.forward = func(ctx context.Context, _ Identity, _ *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
		w <- struct{}{}
		defer r.ended.Add(1)
		select {
		case <-release:
			return &peerv1.ForwardResponse{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return w, release
}

// TestCancelledBeforeItWasSent: nobody answers the dial, so that it did not happen.
func TestCancelledBeforeItWasSent(t *testing.T) {
	for _, m := range methods {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.net.Isolate("b1", "b2")
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Second, cancel)
				want(t, m.call(ctx, r.client, to2), Unreachable, false)
			})
		})
	}
}

// TestCancelledWhileTheHandlerRuns may have happened, and the handler's context ends too.
func TestCancelledWhileTheHandlerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		waits, _ := r.holding()
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-waits; cancel() }()
		_, err := r.client.Forward(ctx, to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Fatal(ctx.Err())
		}
		synctest.Wait()
		if r.ended.Load() != 1 {
			t.Fatal("the handler goes on")
		}
	})
}

// TestDeadline is that of the caller, and reaches the handler.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		had := make(chan time.Duration, 1)
		r.handler.forward = func(ctx context.Context, _ Identity, _ *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
			at, ok := ctx.Deadline()
			if !ok {
				t.Error("no deadline")
			}
			had <- time.Until(at)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, err := r.client.Forward(r.context(3*time.Second), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		left := <-had
		if took := time.Since(start); took != 3*time.Second || left <= 2*time.Second || left > 3*time.Second {
			t.Fatalf("it took %v, the handler had %v", took, left)
		}
	})
}

// TestServerGone: refused before it was sent, did not happen; broken in the middle, may have. A server
// that comes back is found again by itself.
func TestServerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		waits, release := r.holding()
		go func() { <-waits; r.die() }()
		_, err := r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		synctest.Wait() // die has ended.
		for range 20 {
			_, err := r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{})
			want(t, err, Unreachable, false)
			time.Sleep(time.Second)
		}
		r.serve()
		close(release)
		start := time.Now()
		for {
			_, err := r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{})
			if err == nil {
				break
			}
			want(t, err, Unreachable, false)
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("found again after %v", took)
		}
	})
}

// TestStoppedServer: a server that closes in order breaks no promise either.
func TestStoppedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		waits, _ := r.holding()
		go func() { <-waits; r.stop() }()
		_, err := r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		synctest.Wait()
		_, err = r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, false)
	})
}

// TestCloseWaitsForHandlers: what a handler uses can be taken down after Close.
func TestCloseWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		running, release := make(chan struct{}), make(chan struct{})
		var ended atomic.Bool
		r.handler.forward = func(context.Context, Identity, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
			close(running)
			<-release // It does not listen to its context.
			ended.Store(true)
			return &peerv1.ForwardResponse{}, nil
		}
		go func() { _, _ = r.client.Forward(r.context(time.Minute), to2, &peerv1.ForwardRequest{}) }()
		<-running
		time.AfterFunc(time.Second, func() { close(release) })
		r.stop()
		if !ended.Load() {
			t.Fatal("Close has returned before the handler")
		}
	})
}

// TestSilentConnection: a connection that died without a word is noticed, and what waits on it fails.
func TestSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		waits, _ := r.holding()
		go func() { <-waits; r.net.Isolate("b1", "b2") }()
		start := time.Now()
		_, err := r.client.Forward(r.context(time.Hour), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		if took := time.Since(start); took > 2*(pingAfter+pingTimeout) {
			t.Fatalf("noticed after %v", took)
		}
		// The server lets go of its end as well.
		time.Sleep(3 * (pingAfter + pingTimeout))
		synctest.Wait()
		if r.ended.Load() != 1 {
			t.Fatal("the handler goes on")
		}
	})
}

// TestClientCloses: calls under way end at once, later ones did not happen.
func TestClientCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		waits, _ := r.holding()
		go func() { <-waits; r.client.Close() }()
		_, err := r.client.Forward(context.Background(), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		for _, m := range methods {
			want(t, m.call(context.Background(), r.client, to2), Unreachable, false)
		}
	})
}

// TestStreamsOfOnePeerAreBounded: beyond the bound calls wait at the caller's, and did not happen if it
// gives up.
func TestStreamsOfOnePeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		var running, most atomic.Int64
		r.handler.forward = func(context.Context, Identity, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			running.Add(-1)
			return &peerv1.ForwardResponse{}, nil
		}
		// The bound is known to the client once it has heard from the server.
		r.handler.hello = func(context.Context, Identity, *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
			return &peerv1.HelloResponse{}, nil
		}
		if _, err := r.client.Hello(r.context(time.Second), to2, &peerv1.HelloRequest{}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range maxStreams {
			wg.Go(func() {
				if _, err := r.client.Forward(context.Background(), to2, &peerv1.ForwardRequest{}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := r.client.Forward(r.context(time.Second), to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, false)
		close(release)
		wg.Wait()
		if most.Load() != maxStreams {
			t.Fatalf("%d handlers at once, want %d", most.Load(), maxStreams)
		}
	})
}

// TestConnectionsAreBounded: the one that has not been used for longest goes.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientConfig{
			Self: func() Identity { return Identity{1, 11, "c"} },
			Dial: func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		})
		defer c.Close()
		ask := func(i int) {
			_, err := c.Hello(context.Background(), At(fmt.Sprintf("b%d:1", i)), &peerv1.HelloRequest{})
			want(t, err, Unreachable, false)
		}
		for i := range maxConns {
			ask(i)
		}
		ask(0) // Now 1 is the oldest.
		ask(maxConns)
		if n := len(c.conns); n != maxConns || c.conns["b0:1"] == nil || c.conns["b1:1"] != nil {
			t.Fatalf("%d connections; of 0: %v, of 1: %v", n, c.conns["b0:1"] != nil, c.conns["b1:1"] != nil)
		}
		for _, cn := range c.conns {
			cn.calls++ // All are in use.
		}
		_, err := c.Hello(context.Background(), At("b9999:1"), &peerv1.HelloRequest{})
		want(t, err, Unreachable, false)
	})
}
