// Package tlsout has what is written to a TLS connection at once leave it at once: crypto/tls makes a system call of each record of
// 16 KiB, and wakes who reads up as often.
package tlsout

import (
	"net"
	"sync"
	"sync/atomic"
)

const (
	// recordBytes is what a TLS record holds at most.
	recordBytes = 16 << 10
	// smallBytes: buffers below it share a record with their neighbours, as far as there is room.
	smallBytes = 4 << 10
	// maxHeld is how much is held back at most before it is sent, maxPooled the largest buffer that is used again.
	maxHeld   = 256 << 10
	maxPooled = maxHeld + 4*recordBytes
)

// Below lies below a TLS connection: it is what crypto/tls writes records to.
type Below struct {
	net.Conn
	// flushing: what was held is being sent.
	flushing atomic.Bool

	// mu guards what follows, and is held while what was held is sent: records must not overtake each other.
	mu      sync.Mutex
	holding bool
	held    *[]byte
	err     error // of a send that failed, after which the bytes on the wire may end anywhere
}

// NewBelow makes one of the connection that TLS is to be spoken on.
func NewBelow(raw net.Conn) *Below { return &Below{Conn: raw} }

// Over gives the connection to write to and to close, from the TLS connection that was made of b.
func (b *Below) Over(secure net.Conn) *Conn { return &Conn{Conn: secure, below: b} }

// NetConn gives the connection within.
func (b *Below) NetConn() net.Conn { return b.Conn }

// Write sends bytes, or holds them back while Conn.Write is under way.
func (b *Below) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err != nil:
		return 0, b.err
	case !b.holding:
		n, err := b.Conn.Write(p)
		b.err = err
		return n, err
	}
	*b.held = append(*b.held, p...)
	if len(*b.held) < maxHeld {
		return len(p), nil
	}
	if err := b.send(); err != nil {
		return 0, err
	}
	return len(p), nil
}

var pool = sync.Pool{New: func() any { return new([]byte) }}

// hold begins to hold bytes back.
func (b *Below) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding, b.held = true, pool.Get().(*[]byte)
}

// release sends what was held back, and holds no more.
func (b *Below) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.send()
	if cap(*b.held) <= maxPooled {
		pool.Put(b.held)
	}
	b.holding, b.held = false, nil
	return err
}

// send sends what was held back. b.mu is held.
func (b *Below) send() error {
	if b.err == nil && len(*b.held) > 0 {
		b.flushing.Store(true)
		_, b.err = b.Conn.Write(*b.held)
		b.flushing.Store(false)
	}
	*b.held = (*b.held)[:0]
	return b.err
}

// Conn is a TLS connection whose writes are sent as one. Its methods may be called from many goroutines.
type Conn struct {
	net.Conn
	below *Below
	// writing is held by who writes, below.mu is taken under it.
	writing sync.Mutex
}

// Write writes p. Once it has failed, whatever is written after fails, too.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(p) <= recordBytes { // nothing to gather
		return c.Conn.Write(p)
	}
	c.below.hold()
	n, err := c.Conn.Write(p)
	if failed := c.below.release(); err == nil && failed != nil {
		return 0, failed
	}
	return n, err
}

// WriteBuffers writes buffers as one; small neighbours share a TLS record.
func (c *Conn) WriteBuffers(v *net.Buffers) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.below.hold()
	err := c.writeAll(*v)
	if failed := c.below.release(); err == nil {
		err = failed
	}
	return err
}

func (c *Conn) writeAll(v net.Buffers) error {
	var gathered []byte
	flush := func() error {
		if len(gathered) == 0 {
			return nil
		}
		_, err := c.Conn.Write(gathered)
		gathered = gathered[:0]
		return err
	}
	for _, p := range v {
		if len(p) < smallBytes && len(gathered)+len(p) <= recordBytes {
			gathered = append(gathered, p...)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if _, err := c.Conn.Write(p); err != nil {
			return err
		}
	}
	return flush()
}

// NetConn gives the TLS connection within.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Close closes the connection. A send that is under way is cut, as crypto/tls does with a write: the other end is told nothing then.
func (c *Conn) Close() error {
	if c.below.flushing.Load() {
		return c.below.Conn.Close()
	}
	return c.Conn.Close()
}
