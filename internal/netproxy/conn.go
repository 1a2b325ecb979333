package netproxy

import (
	"net"
	"sync"
	"time"
)

// conn is one connection that is carried.
type conn struct {
	network  *Network
	from, to int32
	client   *net.TCPConn
	// gone is closed when it is broken or over.
	gone chan struct{}

	// mu guards server and over.
	mu     sync.Mutex
	server *net.TCPConn
	over   bool
}

// connect enters the other end; false: the connection is over already.
func (c *conn) connect(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = server.Close()
		return false
	}
	c.server = server
	return true
}

// reset breaks it, so that both ends see a reset.
func (c *conn) reset() { c.close(true) }

func (c *conn) close(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	close(c.gone)
	for _, end := range []*net.TCPConn{c.client, c.server} {
		if end == nil {
			continue
		}
		if reset {
			_ = end.SetLinger(0)
		}
		_ = end.Close() // it is over, whatever it says
	}
}

const (
	pieceSize = 32 << 10
	// onTheWay bounds the pieces that are delayed in one direction of one connection.
	onTheWay = 256
)

// piece is what was read at once, and when it shall arrive.
type piece struct {
	data []byte
	due  time.Time
}

// pump carries one direction. Bytes are read as they come, as long as there is room on the way, and written when they are due
// and nothing holds them.
func (c *conn) pump(p pair, src, dst *net.TCPConn) {
	way := make(chan piece, onTheWay)
	var reading sync.WaitGroup
	reading.Go(func() { c.read(p, src, way) })
	defer reading.Wait()
	for piece := range way {
		if !c.await(p, piece) {
			break
		}
		if _, err := dst.Write(piece.data); err != nil {
			c.reset()
			break
		}
	}
	select {
	case <-c.gone:
	default:
		_ = dst.CloseWrite() // src has ended its side; if that fails, the other direction notices
	}
	for range way { // so that read ends
	}
}

func (c *conn) read(p pair, src *net.TCPConn, way chan<- piece) {
	defer close(way)
	for {
		data := make([]byte, pieceSize)
		n, err := src.Read(data)
		if n > 0 {
			r, _ := c.network.rule(p)
			due := time.Now().Add(r.Delay + time.Duration(c.network.random()*float64(r.Jitter)))
			if r.Delay > 0 || r.Jitter > 0 {
				c.network.delayed.Add(int64(n))
			}
			select {
			case way <- piece{data[:n], due}:
			case <-c.gone:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// await waits until a piece may arrive; false: the connection is over.
func (c *conn) await(p pair, piece piece) bool {
	noted := false
	for {
		r, changed := c.network.rule(p)
		wait := time.Until(piece.due)
		if r.BytesPerSecond > 0 {
			wait = max(wait, time.Duration(len(piece.data))*time.Second/time.Duration(r.BytesPerSecond))
		}
		if !r.Cut {
			if r.BytesPerSecond > 0 {
				c.network.slowed.Add(int64(len(piece.data)))
			}
			return c.pass(wait)
		}
		if !noted {
			c.network.held.Add(int64(len(piece.data)))
			noted = true
		}
		select {
		case <-changed:
		case <-c.gone:
			return false
		}
	}
}

// pass waits; false: the connection is over.
func (c *conn) pass(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-c.gone:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.gone:
		return false
	}
}
