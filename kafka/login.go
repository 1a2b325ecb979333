package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/sasl"
	"github.com/oncelog/oncelog/internal/secure"
)

// A listener that demands a proof lets a client say nothing else before it. Until then a connection is read one request at a time:
// what comes next is read only when the last has been answered, so that the reader knows what the worker has found.

const (
	keySASLHandshake    = 17
	keySASLAuthenticate = 36
	// maxBeforeLogin bounds a request before the proof.
	maxBeforeLogin = 16 << 10
)

// login is what a connection knows of its client's proof; nil: none is demanded.
type login struct {
	mechanisms []string
	// until is when the proof must have been given.
	until time.Time
	// leave gives up the place among those who have not.
	leave func()
	// proven is set by the worker and read by the reader.
	proven atomic.Bool

	// raw: tokens without a header follow, after a handshake of version 0; the reader's.
	raw bool

	// attempt is under way, after a handshake; the worker's, as what follows.
	attempt *frontdoor.Login
	// expires is when the client has to prove itself again (KIP-368); zero: never.
	expires time.Time
}

// beginLogin finds out what a connection's client has to prove; false: there is no room for it.
func (c *conn) beginLogin() bool {
	user := ""
	if secured, ok := secure.Of(c.net); ok {
		user = secured.User
	}
	c.caller = frontdoor.NewCaller("kafka", user, c.net.RemoteAddr())
	mechanisms := c.c.Guard.Mechanisms("kafka", c.advertised)
	if len(mechanisms) == 0 {
		return true
	}
	leave, ok := c.c.Guard.Enter(c.net.RemoteAddr())
	if !ok {
		return false
	}
	c.login = &login{mechanisms: mechanisms, until: time.Now().Add(frontdoor.LoginTime), leave: leave}
	return true
}

// pending says that a proof is demanded and has not been given.
func (l *login) pending() bool { return l != nil && !l.proven.Load() }

// expired says that a proof is no longer good for a request.
func (l *login) expired(r *request) bool {
	if l == nil || l.expires.IsZero() || r.received.Before(l.expires) {
		return false
	}
	switch r.msg.Key() {
	case keySASLHandshake, keySASLAuthenticate, keyAPIVersions:
		return false
	}
	return true
}

// allowed says whether a request may come before the proof.
func (l *login) allowed(h head) error {
	switch h.key {
	case keySASLHandshake, keySASLAuthenticate, keyAPIVersions:
	default:
		return &closing{"unauthenticated", fmt.Sprintf("key %d before authentication, which this listener demands (SASL %v)%s", h.key, l.mechanisms, hint(h))}
	}
	if h.length > maxBeforeLogin {
		return &closing{"too_large", fmt.Sprintf("request of key %d announces %d bytes, at most %d are allowed before authentication", h.key, h.length, maxBeforeLogin)}
	}
	return nil
}

// awaitAnswered waits until everything that was read has been answered; false: the connection is over.
func (c *conn) awaitAnswered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.awaitLocked(func() bool { return !c.working && !c.writing && len(c.queue) == 0 && len(c.unanswered) == 0 })
}

// errOtherUser: a connection's user cannot change.
var errOtherUser = errors.New("a connection that is renewed belongs to another user")

var rawEndpoint = &endpoint{name: "SaslToken", handle: (*conn).saslAuthenticate}

// readRaw reads a token without a header.
func (c *conn) readRaw() (*request, error) {
	var size [4]byte
	c.readDeadline(c.c.FrameTimeout)
	if _, err := io.ReadFull(c.net, size[:]); err != nil {
		return nil, c.slowLogin(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > sasl.MaxMessage {
		return nil, &closing{"too_large", fmt.Sprintf("a SASL token of %d bytes, at most %d are allowed", n, sasl.MaxMessage)}
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.net, b); err != nil {
		return nil, c.slowLogin(err)
	}
	msg := kmsg.NewPtrSASLAuthenticateRequest()
	msg.SASLAuthBytes = b
	return &request{endpoint: rawEndpoint, msg: msg, received: time.Now(), raw: true}, nil
}

func (c *conn) slowLogin(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.waiting.Err() == nil {
		return &closing{"unauthenticated", fmt.Sprintf("no proof within %v", frontdoor.LoginTime)}
	}
	return err
}

// sendRaw answers a token without a header.
func (c *conn) sendRaw(a *answer) error {
	token := a.response.(*kmsg.SASLAuthenticateResponse).SASLAuthBytes
	b := binary.BigEndian.AppendUint32(nil, uint32(len(token)))
	return c.writeGroup([][]byte{append(b, token...)})
}
