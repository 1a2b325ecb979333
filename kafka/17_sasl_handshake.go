package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// saslHandshake begins a proof, the first or, where proofs expire, a new one (KIP-368). After version 0 tokens come without a header
// (KIP-152). A mechanism that is not served ends the connection, as in Kafka, with the list of those that are.
func (c *conn) saslHandshake(r *request) *answer {
	req := r.msg.(*kmsg.SASLHandshakeRequest)
	resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
	a := &answer{response: resp}
	l := c.login
	if l == nil || l.proven.Load() && c.c.Guard.MaxSession() == 0 {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonSaslState)
		return a
	}
	resp.SupportedMechanisms = l.mechanisms
	attempt, err := c.c.Guard.Begin("kafka", c.net.RemoteAddr(), req.Mechanism, l.mechanisms)
	if err != nil {
		c.noteClosed("sasl_mechanism", err.Error())
		resp.ErrorCode, a.close = c.refuse(r, frontdoor.ReasonSaslMechanism), "sasl_mechanism"
		return a
	}
	l.attempt = attempt
	return a
}
