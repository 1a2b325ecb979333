package kafka

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

const (
	// maxQueued bounds the requests of a connection that were read and not begun. Clients have five in flight, as a rule.
	maxQueued = 16
	// maxUnanswered bounds the requests of a connection that wait for their answers. At the bound no other is begun.
	maxUnanswered = 256
)

// conn is one connection.
//
// Its reader (serve) hands requests to queue. While the queue is not empty a goroutine works on it, one request after the other,
// and hands the answers, ready or not, to unanswered; while that is not empty a goroutine writes it, in order.
type conn struct {
	*Server
	net net.Conn
	// advertised is the name under which brokers tell their addresses for clients of this listener.
	advertised string
	// ctx ends when the connection is gone; waiting ends then, and when the server stops.
	ctx, waiting context.Context
	cancel       context.CancelFunc

	// login is what the client has to prove and has proven; nil: nothing. caller is who it is; the worker's.
	login  *login
	caller frontdoor.Caller

	// proven is the size of the largest request that the client has sent, up to provenStep; the reader's.
	proven int
	// told is what members of KIP-848 on this connection have been assigned; the worker's.
	told map[toldKey]coordinator.Assigned

	// mu guards what follows.
	mu         sync.Mutex
	queue      []*request
	unanswered []*answer
	working    bool
	writing    bool
	// whole counts the unanswered that are whole in memory: all but those that wait for a commit.
	whole int
	// moved is closed, and made anew, when something is taken from a list.
	moved chan struct{}
	// over: no more is begun or written.
	over bool
	// finishing: the server stops; what was read is still answered.
	finishing bool
}

// request is one request as it was read.
type request struct {
	endpoint *endpoint
	msg      kmsg.Request
	// frame is what msg was decoded from and refers to.
	frame       []byte
	correlation int32
	clientID    string
	received    time.Time
	// held is what the request has of the budget of requests.
	held frontdoor.Claim
	// raw: it is a SASL token without a header.
	raw bool
}

// answer is what goes back for a request.
type answer struct {
	request *request
	// done is closed when the answer is ready; nil: it is.
	done chan struct{}
	// response is nil where none is sent.
	response kmsg.Response
	// close: the connection ends with this answer, for the reason.
	close string
	// written is called, where not nil, once the bytes have gone or will never go.
	written func()
	// parts are written in place of placeholders of the response (splice.go).
	parts []part
}

func newConn(s *Server, advertised string, accepted net.Conn) *conn {
	c := &conn{Server: s, net: accepted, advertised: advertised, moved: make(chan struct{})}
	var endCtx, endWaiting context.CancelFunc
	c.ctx, endCtx = context.WithCancel(context.Background())
	c.waiting, endWaiting = context.WithCancel(s.stopping)
	c.cancel = func() { endWaiting(); endCtx() }
	return c
}

// serve reads until the client is gone or does what it must not, or the server stops; then it waits for what is under way.
func (c *conn) serve() {
	defer func() { _ = c.net.Close() }() // it has been said what there was to say
	if !c.beginLogin() {
		c.metrics.closed.WithLabelValues("crowded").Inc()
		c.cancel()
		return
	}
	if c.login != nil {
		defer c.login.leave()
	}
	why := c.readAll()
	c.mu.Lock()
	finishing := c.finishing && !c.over
	c.mu.Unlock()
	if !finishing {
		c.end(why)
	}
	c.awaitRest()
	c.cancel()
}

// readAll hands requests on until there are no more; it gives why.
func (c *conn) readAll() (why string) {
	for {
		r, err := c.read()
		if err != nil {
			return c.whyClosed(err)
		}
		if !c.enqueue(r) {
			c.release(r)
			return ""
		}
	}
}

// closing is why the broker closes a connection. Its text is a label of a metric.
type closing struct {
	reason string
	detail string
}

// Error gives the reason.
func (e *closing) Error() string { return e.reason + ": " + e.detail }

// whyClosed sorts and logs the end of reading; empty: the client has gone.
func (c *conn) whyClosed(err error) string {
	var why *closing
	switch {
	case errors.As(err, &why):
		c.noteClosed(why.reason, why.detail)
		return why.reason
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	}
	c.log().Debug("connection broke", "err", err)
	return ""
}

// noteClosed tells the log why the broker closes the connection.
func (c *conn) noteClosed(reason, detail string) {
	c.closings.Tell(c.net.RemoteAddr(), c.advertised, reason, detail)
}

func (c *conn) log() *slog.Logger {
	return c.logger.With("client", c.net.RemoteAddr().String(), "listener", c.advertised)
}

// enqueue hands a request to the worker; false: the connection is over.
func (c *conn) enqueue(r *request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.awaitLocked(func() bool { return len(c.queue) < maxQueued }) {
		return false
	}
	c.queue = append(c.queue, r)
	if !c.working {
		c.working = true
		c.owned.Go(c.work)
	}
	return true
}

// awaitLocked waits until a condition on the lists holds; false: the connection is over. Held: mu, which is let go meanwhile.
func (c *conn) awaitLocked(holds func() bool) bool {
	for !c.over && !holds() {
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-c.ctx.Done():
		}
		c.mu.Lock()
	}
	return !c.over
}

func (c *conn) movedLocked() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// busy says that something is under way.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.working || c.writing
}

// finish lets what was read be answered and ends reading.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishing = true
	_ = c.net.SetReadDeadline(time.Now()) // a connection that cannot be told this is broken
}

// cut ends the connection at once.
func (c *conn) cut() {
	c.end("")
	_ = c.net.Close() // it is over
}

// end lets nothing more begin or be written.
func (c *conn) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	if why != "" {
		c.metrics.closed.WithLabelValues(why).Inc()
	}
	c.cancel()
	c.movedLocked()
	_ = c.net.SetDeadline(time.Now()) // wakes the reader and the writer
}

// awaitRest waits until worker and writer have ended.
func (c *conn) awaitRest() {
	for {
		c.mu.Lock()
		rest, moved := c.working || c.writing, c.moved
		c.mu.Unlock()
		if !rest {
			return
		}
		<-moved
	}
}

// work handles requests until there are none.
func (c *conn) work() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.over {
			for _, r := range c.queue {
				c.release(r)
			}
			c.queue, c.working = nil, false
			c.movedLocked()
			c.mu.Unlock()
			return
		}
		r := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.movedLocked()
		// An answer can be large: no other is made before it has gone, as in Kafka. To produce one need not wait.
		over := r.msg.Key() != keyProduce && !c.awaitLocked(func() bool { return c.whole == 0 })
		c.mu.Unlock()
		if over {
			c.release(r)
			continue
		}
		c.answer(c.handle(r))
	}
}

// handle runs a request's handler. One that panics costs its connection: what it had begun may have happened.
func (c *conn) handle(r *request) (a *answer) {
	defer func() {
		if p := recover(); p != nil {
			c.metrics.panics.Inc()
			c.log().Error("request panicked", "api", r.endpoint.name, "version", r.msg.GetVersion(), "panic", p, "stack", string(debug.Stack()))
			c.release(r) // whatever it had begun holds no more than its own batches
			a = &answer{request: r, close: "panic"}
		}
	}()
	if c.login.expired(r) {
		c.release(r)
		c.noteClosed("session_expired", "of user "+c.caller.User)
		return &answer{request: r, close: "session_expired"}
	}
	a = r.endpoint.handle(c, r)
	a.request = r
	if a.done == nil {
		c.release(r)
	}
	return a
}

// survive keeps a panic of a part of a request, in a goroutine of its own, from ending the broker.
func (c *conn) survive(r *request, failed func()) {
	if p := recover(); p != nil {
		c.metrics.panics.Inc()
		c.log().Error("request panicked", "api", r.endpoint.name, "version", r.msg.GetVersion(), "panic", p, "stack", string(debug.Stack()))
		failed()
	}
}

// release gives back what a request holds.
func (c *conn) release(r *request) {
	r.held.Release()
	r.frame = nil
}

// answer hands an answer to the writer.
func (c *conn) answer(a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.awaitLocked(func() bool { return len(c.unanswered) < maxUnanswered }) {
		a.gone()
		return
	}
	c.unanswered = append(c.unanswered, a)
	if a.done == nil {
		c.whole++
	}
	if !c.writing {
		c.writing = true
		c.owned.Go(c.write)
	}
}

func (a *answer) gone() {
	if a.written != nil {
		a.written()
		a.written = nil
	}
}

// write writes answers, in order, until there are none.
func (c *conn) write() {
	for {
		c.mu.Lock()
		if len(c.unanswered) == 0 || c.over {
			for _, a := range c.unanswered {
				a.gone()
			}
			c.unanswered, c.writing = nil, false
			c.movedLocked()
			c.mu.Unlock()
			return
		}
		a := c.unanswered[0]
		c.mu.Unlock()
		why, ok := c.writeOne(a)
		a.gone()
		c.mu.Lock()
		c.unanswered[0] = nil
		c.unanswered = c.unanswered[1:]
		if a.done == nil {
			c.whole--
		}
		c.movedLocked()
		c.mu.Unlock()
		if !ok {
			c.end(why)
		}
	}
}

// writeOne waits for an answer and writes it; false: the connection is over, for the reason.
func (c *conn) writeOne(a *answer) (why string, ok bool) {
	if a.done != nil {
		select {
		case <-a.done:
		case <-c.ctx.Done():
			return "", false
		}
	}
	name := a.request.endpoint.name
	c.metrics.requests.WithLabelValues(name).Inc()
	c.metrics.seconds.WithLabelValues(name).Observe(time.Since(a.request.received).Seconds())
	if a.response != nil {
		if err := c.send(a); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && c.ctx.Err() == nil {
				c.noteClosed("slow_reader", "answer of "+name)
				return "slow_reader", false
			}
			return "", false
		}
	}
	return a.close, a.close == ""
}
