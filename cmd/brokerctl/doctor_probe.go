package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// dial connects as clients do.
func (p *program) dial(ctx context.Context, addr string) (net.Conn, error) {
	if p.dialer != nil {
		return p.dialer(ctx, addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

// probes are what is said to find out what is spoken, and how the answer is known.
var probes = map[string]struct {
	hello []byte
	known func(answer []byte) bool
}{
	// ApiVersions, version 0, of a client without a name: the answer has the correlation id.
	"kafka": {[]byte{0, 0, 0, 10, 0, 18, 0, 0, 0x6f, 0x6c, 0x6f, 0x67, 0xff, 0xff}, func(b []byte) bool {
		return len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) == 0x6f6c6f67
	}},
	// The preface of HTTP/2 and empty settings: the other side's settings come first.
	"grpc": {append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 0, 0, 0, 4, 0, 0, 0, 0, 0), func(b []byte) bool {
		return len(b) >= 8 && b[0] == 0 && b[3] == 4
	}},
	"http": {[]byte("GET /livez HTTP/1.0\r\n\r\n"), func(b []byte) bool { return strings.HasPrefix(string(b), "HTTP/1") }},
}

// identify says what is spoken at an address: a protocol, or one over TLS as "tls+kafka"; "tls" alone, if the server wants a certificate
// that we do not have; empty: nothing known. The expected one is tried first. An error: it cannot be reached.
func (p *program) identify(ctx context.Context, addr, expected string) (string, error) {
	order := []string{"kafka", "grpc", "http"}
	slices.SortStableFunc(order, func(a, b string) int { return boolInt(b == expected) - boolInt(a == expected) })
	for _, protocol := range order {
		conn, err := p.dial(ctx, addr)
		if err != nil {
			return "", err
		}
		if answers(ctx, conn, protocol) {
			return protocol, nil
		}
	}
	return p.identifyTLS(ctx, addr, order)
}

func (p *program) identifyTLS(ctx context.Context, addr string, order []string) (string, error) {
	found := ""
	for _, protocol := range order {
		raw, err := p.dial(ctx, addr)
		if err != nil {
			return "", err
		}
		// What the certificate says is the client's matter: only the protocol is asked about here.
		conf := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nothing is told to the server
		if protocol == "grpc" {
			conf.NextProtos = []string{"h2"}
		}
		conn := tls.Client(raw, conf)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = raw.Close() // the handshake has failed
			var alert tls.AlertError
			if errors.As(err, &alert) {
				found = "tls"
			}
			continue
		}
		found = "tls"
		if answers(ctx, conn, protocol) {
			return "tls+" + protocol, nil
		}
	}
	return found, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// answers says hello in a protocol and whether the answer is in it. The connection is closed.
func answers(ctx context.Context, conn net.Conn, protocol string) bool {
	defer func() { _ = conn.Close() }()
	deadline, ok := ctx.Deadline()
	if half := time.Now().Add(probeTimeout / 6); !ok || half.Before(deadline) {
		deadline = half // a server that waits for more of what it does not know must not take all the time
	}
	_ = conn.SetDeadline(deadline) // the write fails else
	probe := probes[protocol]
	if _, err := conn.Write(probe.hello); err != nil {
		return false
	}
	answer := make([]byte, 8)
	n, _ := io.ReadFull(conn, answer) // what came is looked at
	return probe.known(answer[:n])
}

// skew asks an HTTP port for the time: how far its clock is ahead of the one here. The answer has whole seconds.
func (p *program) skew(ctx context.Context, addr string) (time.Duration, error) {
	there, half, err := p.date(ctx, "http://"+addr+"/livez")
	if err != nil {
		var other error
		if there, half, other = p.date(ctx, "https://"+addr+"/livez"); other != nil {
			return 0, err
		}
	}
	return there.Add(time.Second / 2).Sub(half), nil // it was cut to seconds
}

// date is the time that a server tells, and the time here in the middle of the question.
func (p *program) date(ctx context.Context, url string) (there, here time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return there, here, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, addr) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // only the time is wanted, for a hint
	began := p.now()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return there, here, err
	}
	_ = resp.Body.Close() // the header is all that is asked for
	if there, err = http.ParseTime(resp.Header.Get("Date")); err != nil {
		return there, here, fmt.Errorf("it tells no time: %w", err)
	}
	return there, began.Add(p.now().Sub(began) / 2), nil
}
