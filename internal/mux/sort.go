package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/oncelog/oncelog/internal/firstbytes"
	"github.com/oncelog/oncelog/internal/tlsout"
)

// sort finds out what a connection is and hands it on.
func (m *Mux) sort(raw net.Conn) {
	deadline := time.Now().Add(m.config.Timeout)
	_ = raw.SetDeadline(deadline)
	conn := raw
	if m.config.TLS != nil {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		below := tlsout.NewBelow(raw)
		secure := tls.Server(below, m.config.TLS)
		err := secure.HandshakeContext(ctx)
		cancel()
		if err != nil {
			m.refuseHandshake(raw, err)
			return
		}
		conn = below.Over(secure)
	}
	var prefix [prefixSize]byte
	if n, err := io.ReadFull(conn, prefix[:]); err != nil {
		// Port scanners and health checks of load balancers connect and say nothing.
		m.reject(conn, "silent", "sent nothing that says what it is", "bytes", n, "err", err)
		return
	}
	to := m.peer
	switch string(prefix[:]) {
	case raftPrefix:
		// The prefix is consumed and the connection handed on as it is, so that it
		// keeps its vectored writes.
		to = m.raft
	case http2Prefix:
		conn = firstbytes.Replay(conn, prefix[:])
	default:
		m.refuse(conn, prefix)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if !to.offer(conn, m.closed) {
		m.metrics.rejected.WithLabelValues("closing").Inc()
		_ = conn.Close()
		return
	}
	m.metrics.accepted.WithLabelValues(to.label(m)).Inc()
}

// refuseHandshake deals with a client that failed TLS. One that spoke plain HTTP gets a plain answer.
func (m *Mux) refuseHandshake(raw net.Conn, err error) {
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil && firstbytes.Guess([4]byte(plain.RecordHeader[:4])) == firstbytes.HTTP1 {
		answerHTTP(raw)
		m.reject(raw, "http", "is a web client, and speaks no TLS")
		return
	}
	m.reject(raw, "tls", "failed the TLS handshake", "err", err)
}

// refuse tells off a client that speaks another protocol.
func (m *Mux) refuse(conn net.Conn, prefix [prefixSize]byte) {
	switch firstbytes.Guess(prefix) {
	case firstbytes.HTTP1:
		answerHTTP(conn)
		m.reject(conn, "http", "is a web client")
	case firstbytes.TLS:
		m.reject(conn, "tls", "speaks TLS, which is not configured here")
	case firstbytes.Kafka:
		// Kafka has no message for "wrong port", so that closing is all a client can be told.
		m.reject(conn, "kafka", "looks like a Kafka client")
	default:
		m.reject(conn, "unknown", "speaks an unknown protocol", "first_bytes", strconv.Quote(string(prefix[:])))
	}
}

func (m *Mux) reject(conn net.Conn, kind, what string, args ...any) {
	m.metrics.rejected.WithLabelValues(kind).Inc()
	if n, ok := m.told.Allow(time.Now()); ok {
		args = append([]any{"remote", conn.RemoteAddr().String(), "reason", what, "unreported", n}, args...)
		m.logger.Warn("refused a connection to the port for brokers", args...)
	}
	_ = conn.Close()
}

func answerHTTP(w io.Writer) {
	const body = "This is the port on which oncelog brokers talk to each other. Kafka clients, gRPC clients and browsers have ports of their own (kafka.listen, grpc.listen, http.listen).\n"
	_, _ = io.WriteString(w, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"+body)
}
