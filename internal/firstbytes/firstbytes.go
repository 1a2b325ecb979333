// Package firstbytes is for ports that speak one protocol or two: it tells by its first bytes what a connection wants, so that who is at the wrong
// port hears of the right one.
package firstbytes

import (
	"net"
	"sync"
	"time"
)

// Protocol is what the first bytes of a connection look like.
type Protocol int

// What first bytes can look like.
const (
	Unknown Protocol = iota
	TLS
	HTTP1
	HTTP2
	Kafka
	Raft
)

// Guess looks at the first four bytes.
func Guess(b [4]byte) Protocol {
	switch first := string(b[:]); {
	case b[0] == 0x16 && b[1] == 0x03:
		return TLS
	case first == "PRI ":
		return HTTP2
	case first == "GET ", first == "POST", first == "HEAD", first == "PUT ", first == "OPTI", first == "CONN", first == "DELE", first == "PATC", first == "TRAC":
		return HTTP1
	case first == "OLR1":
		return Raft
	case b[0] == 0:
		return Kafka // a length below 16 MiB
	}
	return Unknown
}

// String completes "it ...".
func (p Protocol) String() string {
	switch p {
	case TLS:
		return "speaks TLS"
	case HTTP1:
		return "looks like a web client"
	case HTTP2:
		return "looks like a gRPC client"
	case Kafka:
		return "looks like a Kafka client"
	case Raft:
		return "looks like a broker of a cluster, which belongs on the port peer.listen"
	}
	return "speaks an unknown protocol"
}

// Replay gives a connection whose first bytes have been read, to be read once more. NetConn gives the one within.
func Replay(conn net.Conn, head []byte) net.Conn { return &replayed{Conn: conn, head: head} }

type replayed struct {
	net.Conn
	head []byte
}

func (c *replayed) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *replayed) NetConn() net.Conn { return c.Conn }

// Throttle lets one refusal in a second be said, and counts the rest. The zero value is ready.
type Throttle struct {
	mu      sync.Mutex
	next    time.Time
	skipped int
}

// Allow says whether a refusal may be said, and how many were not since the last one that was.
func (t *Throttle) Allow(now time.Time) (skipped int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.next) {
		t.skipped++
		return 0, false
	}
	skipped, t.skipped = t.skipped, 0
	t.next = now.Add(time.Second)
	return skipped, true
}
