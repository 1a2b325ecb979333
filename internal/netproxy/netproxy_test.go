package netproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is process 2, which answers all it gets; the tests are process 1.
func echo(t *testing.T) (*Network, string) {
	t.Helper()
	return echoFor(t, func(c *net.TCPConn) (int32, bool) { return Owner(c, map[int32]int{1: os.Getpid()}) })
}

func echoFor(t *testing.T, who func(*net.TCPConn) (int32, bool)) (*Network, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := door.Addr().String()
	door.Close()
	n := New(who, func() float64 { return 0.5 })
	n.Add(1, "", "")
	n.Add(2, address, l.Addr().String())
	if err := n.Up(2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(); l.Close(); <-done })
	return n, address
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends, and gives what comes back within a time.
func ask(t *testing.T, c net.Conn, what string, within time.Duration) (string, error) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		return "", err
	}
	return answer(t, c, len(what), within)
}

func answer(t *testing.T, c net.Conn, n int, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	n, err := io.ReadFull(c, b)
	return string(b[:n]), err
}

const soon, long = 50 * time.Millisecond, 10 * time.Second

// TestOneDirectionIsCut: what is sent is held and comes late, or what is answered; and new connections hang meanwhile.
func TestOneDirectionIsCut(t *testing.T) {
	for _, cut := range []pair{{1, 2}, {2, 1}} {
		n, address := echo(t)
		c := dial(t, address)
		if got, err := ask(t, c, "a", long); err != nil || got != "a" {
			t.Fatal(got, err)
		}
		n.Set(cut.from, cut.to, Rule{Cut: true})
		if got, err := ask(t, c, "b", soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v cut: %q, %v", cut, got, err)
		}
		late := dial(t, address)
		if got, err := ask(t, late, "c", soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v cut, a new connection: %q, %v", cut, got, err)
		}
		if n.Stats().Held == 0 {
			t.Error("nothing was held")
		}
		n.HealAll()
		for _, x := range []struct {
			c    net.Conn
			want string
		}{{c, "b"}, {late, "c"}} {
			if got, err := answer(t, x.c, 1, long); err != nil || got != x.want {
				t.Errorf("%v healed: %q, %v", cut, got, err)
			}
		}
	}
}

// TestResetWhileCut: what was held is lost with its connection.
func TestResetWhileCut(t *testing.T) {
	n, address := echo(t)
	c := dial(t, address)
	if _, err := ask(t, c, "a", long); err != nil {
		t.Fatal(err)
	}
	n.SetTo(1, Rule{Cut: true})
	if _, err := c.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	if broken := n.Reset(2); broken != 1 {
		t.Fatalf("%d connections were reset", broken)
	}
	if _, err := answer(t, c, 1, long); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	n.HealAll()
	if got, err := ask(t, dial(t, address), "d", long); err != nil || got != "d" {
		t.Fatal(got, err)
	}
}

// TestDelayAndSlowness: bytes arrive in order, and no earlier than they may.
func TestDelayAndSlowness(t *testing.T) {
	n, address := echo(t)
	c := dial(t, address)
	n.SetFrom(1, Rule{Delay: 60 * time.Millisecond, Jitter: 40 * time.Millisecond})
	began := time.Now()
	if got, err := ask(t, c, "ab", long); err != nil || got != "ab" {
		t.Fatal(got, err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("delayed by %v", took)
	}
	n.SetFrom(1, Rule{BytesPerSecond: 1 << 20})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
	began = time.Now()
	got, err := ask(t, c, string(sent), long)
	if err != nil || got != string(sent) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("128 KiB took %v", took)
	}
	if s := n.Stats(); s.Delayed == 0 || s.Slowed == 0 {
		t.Errorf("%+v", s)
	}
}

// TestDownRefuses, as the port of a process that does not run.
func TestDownRefuses(t *testing.T) {
	n, address := echo(t)
	n.Down(2)
	if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	if err := n.Up(2); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, dial(t, address), "a", long); err != nil {
		t.Fatal(err)
	}
}

// TestStrangers do not get through: nobody could say which rule is theirs.
func TestStrangers(t *testing.T) {
	_, address := echoFor(t, func(*net.TCPConn) (int32, bool) { return 0, false })
	if _, err := ask(t, dial(t, address), "a", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
}
