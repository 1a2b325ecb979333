package parity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// wire is one connection to one broker, and one request at a time.
type wire struct {
	conn net.Conn
	next int32
}

// patience is how long an answer may take.
const patience = 20 * time.Second

func dial(ctx context.Context, addr string) (*wire, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn}, nil
}

// errClosed: the broker has ended the connection.
var errClosed = errors.New("closed")

// send writes a request, whatever its version.
func (w *wire) send(req kmsg.Request) error {
	w.next++
	return w.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("parity")).AppendRequest(nil, req, w.next))
}

func (w *wire) write(frame []byte) error {
	_ = w.conn.SetDeadline(time.Now().Add(patience)) // the write fails else
	_, err := w.conn.Write(frame)
	return err
}

// recv reads the answer to a request.
func (w *wire) recv(req kmsg.Request) (kmsg.Response, error) {
	var size [4]byte
	if _, err := io.ReadFull(w.conn, size[:]); err != nil {
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			return nil, err
		}
		return nil, errClosed
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w.conn, b); err != nil {
		return nil, err
	}
	b = b[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != 18 {
		b = b[1:]
	}
	return resp, resp.ReadFrom(b)
}

func (w *wire) ask(req kmsg.Request) (kmsg.Response, error) {
	if err := w.send(req); err != nil {
		return nil, err
	}
	return w.recv(req)
}

// code is an error's name.
func code(c int16) string {
	if c == 0 {
		return "NONE"
	}
	var e *kerr.Error
	if errors.As(kerr.ErrorForCode(c), &e) {
		return e.Message
	}
	return fmt.Sprint(c)
}
