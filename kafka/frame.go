package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/firstbytes"
)

const (
	// headLen is what each request begins with: length, key, version, correlation id.
	headLen = 12
	// maxPlainBytes bounds every request but produce. Ten thousand partitions take less than a megabyte.
	maxPlainBytes = 2 << 20
	// freeBytes of a request are not counted: each connection may have as many.
	freeBytes = 4 << 10
	// plainWeight is how many bytes one byte of a request that is not produce counts for: decoded it takes that much and more.
	plainWeight = 16
	// largePlain is what is decoded alone: a list that is announced and not there is made before that is found, and takes up to
	// 256 bytes for each byte of the request, which no budget counts.
	largePlain = 64 << 10
	// firstStep is how much is made ready for a request that has been announced. What it is made ready for afterwards is
	// growth times what has come, so that nobody makes the broker hold much by announcing it.
	firstStep = 64 << 10
	growth    = 4
	// provenStep is how much is made ready at once for a client that has sent a request as large: one step more is another buffer to
	// be cleared, and half a batch to be copied.
	provenStep = 1 << 20
)

// keyProduce is the one request that may be large.
const keyProduce = 0

// head is the beginning of a request.
type head struct {
	length       int32 // of what follows the length
	key, version int16
	correlation  int32
}

// read reads one request. What is not one ends the connection, with a *closing that says why.
func (c *conn) read() (*request, error) {
	waiting := c.login.pending()
	if waiting {
		if !c.awaitAnswered() {
			return nil, net.ErrClosed
		}
		if waiting = c.login.pending(); waiting && c.login.raw {
			return c.readRaw()
		}
	}
	h, err := c.readHead()
	if err != nil {
		return nil, err
	}
	received := time.Now()
	if waiting {
		if err := c.login.allowed(h); err != nil {
			return nil, err
		}
	}
	limit := maxPlainBytes
	if h.key == keyProduce {
		limit = c.c.MaxRequestBytes
	}
	switch {
	case h.length < headLen-4:
		return nil, &closing{"bad_frame", fmt.Sprintf("a request of %d bytes; a header has %d or more", h.length, headLen-4)}
	case int(h.length) > limit:
		return nil, &closing{"too_large", fmt.Sprintf("request of key %d announces %d bytes, at most %d are allowed%s", h.key, h.length, limit, hint(h))}
	}
	e, ok := endpoints[h.key]
	if !ok {
		return nil, &closing{"unknown_key", fmt.Sprintf("key %d is not served", h.key)}
	}
	r := &request{endpoint: e, correlation: h.correlation, received: received, held: c.reading.Claim()}
	if err := c.readBody(r, int(h.length)-(headLen-4), h.key == keyProduce); err != nil {
		c.release(r)
		return nil, err
	}
	if h.key != keyProduce && len(r.frame) > largePlain {
		c.decoding.Lock()
		defer c.decoding.Unlock()
	}
	if err := r.decode(h); err != nil {
		c.release(r)
		return nil, err
	}
	if waiting && h.key == keySASLHandshake && h.version == 0 {
		c.login.raw = true
	}
	return r, nil
}

// hint guesses what a client that does not speak the protocol wanted.
func hint(h head) string {
	var first [4]byte
	binary.BigEndian.PutUint32(first[:], uint32(h.length))
	switch what := firstbytes.Guess(first); what {
	case firstbytes.Unknown, firstbytes.Kafka:
		return ""
	case firstbytes.TLS:
		return "; the client speaks TLS, which this listener does not have"
	default:
		return "; the client " + what.String()
	}
}

// readHead waits for the next request.
func (c *conn) readHead() (head, error) {
	var b [headLen]byte
	n := 0
	for n < len(b) {
		wait := c.c.IdleTimeout
		if n > 0 {
			wait = c.c.FrameTimeout
		}
		c.readDeadline(wait)
		m, err := c.net.Read(b[n:])
		n += m
		switch {
		case err == nil || n == len(b):
		case errors.Is(err, os.ErrDeadlineExceeded) && c.waiting.Err() == nil:
			if n == 0 && c.busy() {
				continue
			}
			if c.login.pending() && !time.Now().Before(c.login.until) {
				return head{}, c.slowLogin(err)
			}
			if n > 0 {
				return head{}, &closing{"slow_frame", fmt.Sprintf("%d of %d bytes of a header in %v", n, headLen, wait)}
			}
			return head{}, &closing{"idle", fmt.Sprintf("no request for %v", wait)}
		default:
			return head{}, err
		}
	}
	return head{int32(binary.BigEndian.Uint32(b[:])), int16(binary.BigEndian.Uint16(b[4:])),
		int16(binary.BigEndian.Uint16(b[6:])), int32(binary.BigEndian.Uint32(b[8:]))}, nil
}

// readDeadline gives the client so long, unless the server has begun to stop.
func (c *conn) readDeadline(d time.Duration) {
	if c.login.pending() {
		d = min(d, time.Until(c.login.until))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finishing && !c.over {
		_ = c.net.SetReadDeadline(time.Now().Add(d)) // a connection that cannot be told this is broken
	}
}

// readBody reads the rest of a request, as its bytes come and as there is room for them. Both are waited for for FrameTimeout
// each: time in which there was no room is not the client's.
func (c *conn) readBody(r *request, size int, produce bool) error {
	deadline := time.Now().Add(c.c.FrameTimeout)
	patience := c.c.FrameTimeout
	weight := plainWeight
	if produce {
		weight = 1
	}
	for got := 0; ; {
		ready := size
		if got == 0 {
			ready = min(size, max(firstStep, c.proven))
		} else if growth*got < size {
			ready = growth * got
		}
		before := time.Now()
		if err := c.hold(r, ready, weight, patience); err != nil {
			return err
		}
		waited := time.Since(before)
		patience, deadline = patience-waited, deadline.Add(waited)
		grown := make([]byte, ready)
		copy(grown, r.frame)
		r.frame = grown
		c.readDeadline(time.Until(deadline))
		n, err := io.ReadFull(c.net, r.frame[got:])
		got += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && c.waiting.Err() == nil:
			return &closing{"slow_frame", fmt.Sprintf("%d of %d bytes in %v", got, size, c.c.FrameTimeout)}
		case err != nil:
			return err
		case got == size:
			c.proven = max(c.proven, min(size, provenStep))
			return nil
		}
	}
}

// hold has a request take what it needs of the budget, waiting for room no longer than patience. One that finds none is given
// up with its connection, since what it holds keeps room from others: its client may be gone, which nobody notices who does not
// read. Nothing of the request has been done.
func (c *conn) hold(r *request, bytes, weight int, patience time.Duration) error {
	// Who has proven nothing yet takes nothing from those who have: there are few of them, and what they may say is short (login.allowed).
	if bytes <= freeBytes || c.login.pending() {
		return nil
	}
	switch {
	case r.held.Grow(c.waiting, int64(bytes)*int64(weight), patience, c.metrics.waits.Inc):
		return nil
	case c.waiting.Err() != nil:
		return io.ErrClosedPipe
	}
	return &closing{"no_room", fmt.Sprintf("no room for %d bytes of a request in %v: clients send more than limits.produce_bytes, %d, lets the broker hold",
		bytes, c.c.FrameTimeout, c.reading.Limit())}
}

// decode reads header and body of a request from its frame.
func (r *request) decode(h head) error {
	if h.version < r.endpoint.min || h.version > r.endpoint.max {
		if h.key != keyAPIVersions {
			return &closing{"unsupported_version", fmt.Sprintf("%s version %d; %d to %d are served", r.endpoint.name, h.version, r.endpoint.min, r.endpoint.max)}
		}
		r.msg = &kmsg.ApiVersionsRequest{Version: h.version} // answered without being read (A4)
		return nil
	}
	msg := kmsg.RequestForKey(h.key)
	msg.SetVersion(h.version)
	body, err := r.header(r.frame, msg.IsFlexible())
	if err != nil {
		return err
	}
	if p, ok := msg.(*kmsg.ProduceRequest); ok {
		if err := checkProduceShape(p, body); err != nil {
			return err
		}
	}
	if err := msg.ReadFrom(body); err != nil {
		return &closing{"bad_frame", fmt.Sprintf("%s version %d cannot be decoded: %v", r.endpoint.name, h.version, err)}
	}
	r.msg = msg
	return nil
}

// header reads the client id and, of flexible versions, the tags; the rest is the body.
func (r *request) header(b []byte, flexible bool) (body []byte, err error) {
	bad := &closing{"bad_frame", "the request's header is cut short"}
	if len(b) < 2 {
		return nil, bad
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	b = b[2:]
	if n > 0 {
		if len(b) < n {
			return nil, bad
		}
		if !utf8.Valid(b[:n]) {
			return nil, &closing{"bad_frame", "the client id is not UTF-8"}
		}
		r.clientID = string(b[:n])
		b = b[n:]
	}
	if !flexible {
		return b, nil
	}
	w := walker{b: b}
	w.tags()
	if w.bad {
		return nil, bad
	}
	return w.b, nil
}

// appendHeader begins an answer. That of ApiVersions never has tags, so that a client of any version can read it (A4).
func appendHeader(dst []byte, r *request, response kmsg.Response) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.correlation))
	if response.IsFlexible() && response.Key() != keyAPIVersions {
		dst = append(dst, 0)
	}
	return dst
}
