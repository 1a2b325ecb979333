// Package client is the Go client: producer, transactional producer, consumer, consumer groups, admin.
//
// A Client knows the cluster; producers and consumers are made from it:
//
//	c, err := client.New(client.Config{Bootstrap: []string{"localhost:9095"}})
//	p, err := c.NewProducer(client.ProducerConfig{})
//	res := p.SendSync(ctx, client.Record{Topic: "orders", Key: k, Value: v})
//
// Programs that read, and write what they make of it, exactly once, need little more than a function: Client.Transform.
//
// What a program has to know about each record is one of three things: it was written, at an
// offset; it was not written; or it is unknown whether it was (Outcome). DESIGN.md tells how the
// producer keeps these apart and what it does about duplicates, order and gaps.
package client

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Client is a connection to a cluster: where its brokers are and who leads what. It is safe for
// use by many goroutines, and one per process and cluster is enough.
type Client struct {
	cfg   Config
	log   *slog.Logger
	conns *conns
	meta  *metadata

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	parts  map[closer]struct{}
	groups map[string]*coordinator // by group id: what administrators ask (group_admin.go)
	closed bool
}

// closer is a producer or consumer that ends with its client.
type closer interface {
	Close(ctx context.Context) error
}

// New makes a client. It does not wait for a broker; the first call that needs one does.
// The error is that of Config.Validate.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Client{cfg: cfg, log: cfg.Logger, conns: newConns(cfg), parts: make(map[closer]struct{}), groups: make(map[string]*coordinator)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.meta = newMetadata(c)
	c.wg.Go(c.meta.run)
	return c, nil
}

// Close closes what was made from the client, each as by its own Close, then the connections,
// and waits for every goroutine. ctx bounds how long producers may go on delivering; after it,
// records that are still undecided are reported as they stand.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	parts := make([]closer, 0, len(c.parts))
	for p := range c.parts {
		parts = append(parts, p)
	}
	c.mu.Unlock()
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() { errs[i] = p.Close(ctx) })
	}
	wg.Wait()
	c.cancel()
	c.wg.Wait()
	c.conns.close()
	return firstError(errs...)
}

// adopt registers a producer or consumer; it fails on a closed client.
func (c *Client) adopt(p closer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return refusal(ReasonClosed, "client is closed")
	}
	c.parts[p] = struct{}{}
	return nil
}

func (c *Client) release(p closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.parts, p)
}

// backoff is the wait before retry n, counted from 1: doubling, bounded, spread by a fifth so that
// clients which failed together do not come back together.
func (c *Client) backoff(n int) time.Duration {
	d := c.cfg.RetryBackoff
	for ; n > 1 && d < c.cfg.RetryBackoffMax; n-- {
		d *= 2
	}
	d = min(d, c.cfg.RetryBackoffMax)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// sleep waits, and says whether the whole time has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
