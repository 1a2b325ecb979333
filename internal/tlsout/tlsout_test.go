package tlsout

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// counted counts the writes of a connection, and fails them on demand.
type counted struct {
	net.Conn
	writes atomic.Int64
	fail   atomic.Bool
	// stall is closed by a write, which then lasts until Close.
	stall  atomic.Pointer[chan struct{}]
	closed chan struct{}
}

var errBroken = errors.New("broken")

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if s := c.stall.Swap(nil); s != nil {
		close(*s)
		<-c.closed
		return 0, net.ErrClosed
	}
	if c.fail.Load() {
		return len(p) / 2, errBroken
	}
	return c.Conn.Write(p)
}

func (c *counted) Close() error {
	close(c.closed)
	return c.Conn.Close()
}

// pair gives the two ends of a connection with TLS, the writing one and what lies below it.
func pair(t *testing.T) (*Conn, *counted, *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	config, pool := certificate(t)
	reader := tls.Server(accepted, config)
	shaken := make(chan error, 1)
	go func() { shaken <- reader.Handshake() }()
	raw := &counted{Conn: dialed, closed: make(chan struct{})}
	below := NewBelow(raw)
	secure := tls.Client(below, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if err := errors.Join(secure.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	conn := below.Over(secure)
	t.Cleanup(func() { _, _ = dialed.Close(), accepted.Close() })
	return conn, raw, reader
}

// TestOneCallForManyRecords: a mebibyte takes a few system calls and not one for each record, and arrives as it was.
func TestOneCallForManyRecords(t *testing.T) {
	t.Parallel()
	conn, raw, reader := pair(t)
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 7)
	}
	got := make(chan []byte, 1)
	go func() {
		all := make([]byte, 2*len(sent)+3)
		n, _ := io.ReadFull(reader, all)
		got <- all[:n]
	}()
	warm := sent[:200<<10] // crypto/tls begins a connection with small records
	before := raw.writes.Load()
	for _, p := range [][]byte{warm, sent[len(warm):]} {
		if n, err := conn.Write(p); err != nil || n != len(p) {
			t.Fatal(n, err)
		}
	}
	if n := raw.writes.Load() - before; n > 6 {
		t.Errorf("%d writes for a mebibyte", n)
	}
	before = raw.writes.Load()
	buffers := net.Buffers{[]byte("abc"), sent[:100<<10], sent[100<<10 : 200<<10]}
	if err := conn.WriteBuffers(&buffers); err != nil {
		t.Fatal(err)
	}
	if n := raw.writes.Load() - before; n != 1 {
		t.Errorf("%d writes for buffers of 200 KiB", n)
	}
	if _, err := conn.Write(sent[200<<10:]); err != nil {
		t.Fatal(err)
	}
	if want := append(append(bytes.Clone(sent), "abc"...), sent...); !bytes.Equal(<-got, want) {
		t.Error("what arrived is not what was sent")
	}
}

// TestWritersBesideEachOther: each write arrives whole.
func TestWritersBesideEachOther(t *testing.T) {
	t.Parallel()
	conn, _, reader := pair(t)
	const writers, each = 8, 40 << 10
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for range 5 {
				p := bytes.Repeat([]byte{byte(w)}, each)
				var err error
				if w%2 == 0 {
					_, err = conn.Write(p)
				} else {
					err = conn.WriteBuffers(&net.Buffers{p[:10], p[10:]})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	p := make([]byte, each)
	for range writers * 5 {
		if _, err := io.ReadFull(reader, p); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, bytes.Repeat(p[:1], each)) {
			t.Fatal("writes are mixed")
		}
	}
	all.Wait()
}

// TestFailedSend: bytes that were held back and could not be sent fail the write, and all that come after.
func TestFailedSend(t *testing.T) {
	t.Parallel()
	conn, raw, _ := pair(t)
	raw.fail.Store(true)
	if _, err := conn.Write(make([]byte, 100<<10)); !errors.Is(err, errBroken) {
		t.Errorf("a write that was not sent: %v", err)
	}
	raw.fail.Store(false)
	if _, err := conn.Write([]byte("after")); err == nil {
		t.Error("a write after one that failed went through")
	}
	if err := conn.WriteBuffers(&net.Buffers{[]byte("after")}); err == nil {
		t.Error("buffers after a write that failed went through")
	}
}

// TestCloseCutsASend: Close does not wait for a peer that reads nothing.
func TestCloseCutsASend(t *testing.T) {
	t.Parallel()
	conn, raw, _ := pair(t)
	stalled, failed := make(chan struct{}), make(chan error, 1)
	raw.stall.Store(&stalled)
	go func() {
		_, err := conn.Write(make([]byte, 100<<10))
		failed <- err
	}()
	<-stalled
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("what was cut ends with %v", err)
	}
}

// certificate is one for 127.0.0.1, and what trusts it.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, pool
}
