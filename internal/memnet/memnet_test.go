package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects a client to a listening host.
func pair(t *testing.T, n *Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	client, err = n.Dial(context.Background(), "a", "b:1")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = client.Close(); _ = server.Close() })
	return client, server
}

func TestCutHangsAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		n.Cut("a", "b")
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := server.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read through a cut link: %v", err)
		}
		_ = server.SetReadDeadline(time.Time{})
		go n.Heal("a", "b")
		b := make([]byte, 5)
		if _, err := io.ReadFull(server, b); err != nil || string(b) != "hello" {
			t.Fatalf("after healing: %q, %v", b, err)
		}
		if _, err := n.Dial(context.Background(), "a", "b:2"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial to a closed port: %v", err)
		}
	})
}

func TestDelayCloseAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		n.Delay("a", "b", 50*time.Millisecond)
		start := time.Now()
		_, _ = client.Write([]byte("x"))
		_ = client.Close()
		if b, err := io.ReadAll(server); err != nil || string(b) != "x" || time.Since(start) != 50*time.Millisecond {
			t.Fatalf("read %q, %v after %s", b, err, time.Since(start))
		}
		if _, err := server.Write([]byte("y")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write to a closed peer: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		_, _ = client.Write(make([]byte, connBuffer))
		_ = client.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := client.Write([]byte("z")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write into a full connection: %v", err)
		}
		n.ResetConns("b", "a")
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read after reset: %v", err)
		}
	})
}

// TestClosedBehindACut: that the other end is closed is known to neither direction while nothing comes
// back, and to both at once after that. gRPC, which tries again at once on another stream as long as
// reading says nothing, would else never stop.
func TestClosedBehindACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		n.Delay("b", "a", time.Hour)
		if _, err := server.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		n.Cut("b", "a")
		_ = server.Close()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatalf("write while no answer comes back: %v", err)
		}
		n.Heal("b", "a")
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write to a closed peer: %v", err)
		}
		began := time.Now()
		if _, err := client.Read(make([]byte, 8)); err == nil || time.Since(began) > 0 {
			t.Fatalf("read from a connection that is broken for writing: %v after %s", err, time.Since(began))
		}
	})
}

// TestLatency: what is sent takes its time, and keeps its order.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		n.SetLatency(time.Millisecond, 5*time.Millisecond, 1)
		began := time.Now()
		var sent []byte
		for i := range byte(100) {
			sent = append(sent, i)
			_, _ = client.Write([]byte{i})
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != string(sent) {
			t.Fatalf("read %v, %v", got, err)
		}
		if took := time.Since(began); took < time.Millisecond || took > 5*time.Millisecond {
			t.Fatalf("took %s", took)
		}
	})
}

// TestManyWait: who reads and who writes may be several; an end of the connection is told to each, and what has come for one wakes the
// next, on virtual time and whatever the latency.
func TestManyWait(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := New()
			n.SetLatency(latency, 2*latency, 1)
			client, server := pair(t, n)
			const readers = 4
			got := make(chan int, 2*readers)
			for range readers {
				go func() {
					for {
						k, err := server.Read(make([]byte, 1))
						got <- k
						if err != nil {
							return
						}
					}
				}()
			}
			synctest.Wait()
			if _, err := client.Write([]byte("abc")); err != nil {
				t.Fatal(err)
			}
			sum := 0
			for range 3 {
				sum += <-got
			}
			if sum != 3 {
				t.Errorf("read %d bytes, want 3", sum)
			}
			// Two who write more than there is room for go on when it is read, or when their time is over.
			_ = client.SetWriteDeadline(time.Now().Add(time.Second))
			n.Freeze("b")
			errs := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := client.Write(make([]byte, connBuffer+1))
					errs <- err
				}()
			}
			for range 2 {
				if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("write beyond the deadline: %v", err)
				}
			}
			_ = server.Close()
			for range readers {
				if k := <-got; k != 0 {
					t.Errorf("read %d bytes from what is closed", k)
				}
			}
		})
	}
}

// Who has closed a connection reads nothing more from it, though the other end has not heard of that and writes.
func TestReadsEndWithAnOwnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := pair(t, n)
		n.Cut("a", "b")
		n.Cut("b", "a")
		_ = server.Close()
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 8)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("read from a connection that this end has closed: %v", err)
		}
	})
}
