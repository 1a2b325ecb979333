package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// Serve takes down what other processes note by Dial, until l is closed. A process that dies leaves at most half a line, which is
// dropped. told, if not nil, is called with each event that came in, from many goroutines; the event is only valid meanwhile.
func (r *Recorder) Serve(l net.Listener, told func(*Event)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go r.serve(c, told)
	}
}

func (r *Recorder) serve(c net.Conn, told func(*Event)) {
	defer func() { _ = c.Close() }() // the other side sees it
	lines := bufio.NewReaderSize(c, 1<<16)
	var p parser
	var long []byte
	for {
		text, whole, err := readLine(lines, &long)
		if err != nil || !whole {
			return
		}
		var e Event
		if err := p.event(text, &e); err != nil {
			r.fail(fmt.Errorf("%w: from another process: %w", ErrFormat, err))
			return
		}
		r.add(e)
		if told != nil {
			told(&e)
		}
		if _, err := c.Write([]byte{'\n'}); err != nil {
			return // it has died
		}
	}
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

// Dial gives a recorder whose events another process takes down: that of a Recorder that serves at the other end. A call returns when the event has
// been taken down, so that the order of events is right over all processes. first is the number of the first producer or consumer here; no other
// process may use the numbers from there on. If the other end goes away, broken is called.
func Dial(network, address string, first Process, broken func(error)) (*Recorder, error) {
	c, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	r := NewRecorder()
	r.next, r.remote, r.broken = first, c, broken
	return r, nil
}

// tell hands an event to the other end and waits until it has it. Held: mu.
func (r *Recorder) tell(e *Event) {
	text, err := json.Marshal(e.line())
	if err == nil {
		_, err = r.remote.Write(append(text, '\n'))
	}
	if err == nil {
		var got [1]byte
		_, err = io.ReadFull(r.remote, got[:])
	}
	if err != nil {
		r.broken(fmt.Errorf("the history is not taken down: %w", err))
	}
}
