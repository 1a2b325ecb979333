package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// saslAuthenticate takes the next token of a proof. One that is wrong ends the connection.
func (c *conn) saslAuthenticate(r *request) *answer {
	req := r.msg.(*kmsg.SASLAuthenticateRequest)
	resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	a := &answer{response: resp}
	l := c.login
	if l == nil || l.attempt == nil {
		message := "no handshake came before"
		resp.ErrorCode, resp.ErrorMessage = c.refuse(r, frontdoor.ReasonSaslState), &message
		if l.pending() {
			a.close = "unauthenticated"
		}
		return a
	}
	token, caller, done, err := l.attempt.Next(c.waiting, req.SASLAuthBytes)
	if err == nil && done && l.proven.Load() && caller.User != c.caller.User {
		err = errOtherUser
	}
	if err != nil {
		l.attempt = nil
		message := "Authentication failed: wrong user, password or message"
		resp.ErrorCode, resp.ErrorMessage, a.close = c.refuse(r, frontdoor.ReasonSaslFailed), &message, "authentication_failed"
		c.noteClosed(a.close, err.Error())
		if r.raw {
			a.response = nil // nothing can be said
		}
		return a
	}
	resp.SASLAuthBytes = token
	if !done {
		return a
	}
	l.attempt, c.caller = nil, caller
	if session := c.c.Guard.MaxSession(); session > 0 {
		l.expires = time.Now().Add(session)
		resp.SessionLifetimeMillis = session.Milliseconds()
	}
	l.leave()
	l.proven.Store(true)
	return a
}
