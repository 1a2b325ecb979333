package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// client keeps a number of batches in flight on each partition.
type client struct {
	streams   []*stream
	measuring atomic.Bool
	wg        sync.WaitGroup
	failed    chan error // the first failure of any stream
}

// stream is the client's side of one partition.
type stream struct {
	client *client
	conn   net.Conn
	free   chan int // slots whose batch was acknowledged
	slots  []slot
	frame  int // bytes of one frame

	// Of the goroutine that reads the answers.
	latencies []time.Duration // of the batches acknowledged while measuring
	mu        sync.Mutex      // guards latencies, which measured reads
}

// slot is one batch in flight. Each has its bytes, as a real client's would.
type slot struct {
	bytes []byte
	sent  time.Time
}

func dialLeader(address string, opts options) (*client, error) {
	c := &client{failed: make(chan error, 1)}
	for number := range opts.partitions {
		s, err := dialStream(c, address, number, opts)
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		c.streams = append(c.streams, s)
	}
	return c, nil
}

func dialStream(c *client, address string, number int, opts options) (*stream, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	var hello [4]byte
	binary.BigEndian.PutUint32(hello[:], uint32(number))
	if _, err := conn.Write(hello[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for partition %d: %w", number, err), conn.Close())
	}
	s := &stream{
		client: c, conn: conn, frame: lengthBytes + opts.batchBytes,
		free: make(chan int, opts.inFlight), slots: make([]slot, opts.inFlight),
	}
	// Not compressible, and the same in every run.
	source := rand.NewChaCha8([32]byte{byte(number)})
	for i := range s.slots {
		bytes := make([]byte, s.frame)
		_, _ = source.Read(bytes) // Never fails.
		binary.BigEndian.PutUint32(bytes, uint32(opts.batchBytes))
		s.slots[i].bytes = bytes
		s.free <- i
	}
	return s, nil
}

// start begins to send.
func (c *client) start() {
	for _, s := range c.streams {
		order := make(chan int, len(s.slots)) // slots in the order they were sent
		c.wg.Go(func() { c.fail(s.send(order)) })
		c.wg.Go(func() { c.fail(s.receive(order)) })
	}
}

func (c *client) fail(err error) {
	if err == nil {
		return
	}
	select {
	case c.failed <- err:
	default: // Another was first.
	}
}

// wait lets the streams run for a while, or until one fails.
func (c *client) wait(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-c.failed:
		return err
	case <-timer.C:
		return nil
	}
}

// mark begins the measurement.
func (c *client) mark() { c.measuring.Store(true) }

// measured ends the measurement and gives the latency of each batch that was
// acknowledged in it.
func (c *client) measured() []time.Duration {
	c.measuring.Store(false)
	var all []time.Duration
	for _, s := range c.streams {
		s.mu.Lock()
		all = append(all, s.latencies...)
		s.mu.Unlock()
	}
	return all
}

// stop ends all streams.
func (c *client) stop() error {
	var errs []error
	for _, s := range c.streams {
		errs = append(errs, s.conn.Close())
	}
	c.wg.Wait()
	return errors.Join(errs...)
}

// send writes a batch whenever one was acknowledged; several free slots go out
// in one write.
func (s *stream) send(order chan<- int) error {
	defer close(order)
	var vectors net.Buffers
	number := uint64(0)
	for {
		slot, ok := <-s.free
		vectors = vectors[:0]
		for now := time.Now(); ok; {
			batch := &s.slots[slot]
			binary.BigEndian.PutUint64(batch.bytes[lengthBytes:], number)
			number++
			batch.sent = now
			vectors = append(vectors, batch.bytes)
			order <- slot
			select {
			case slot, ok = <-s.free:
			default:
				ok = false
			}
		}
		if len(vectors) == 0 {
			return nil // receive has ended.
		}
		buffers := vectors // WriteTo eats it.
		if _, err := buffers.WriteTo(s.conn); err != nil {
			return ignoreClosed(err)
		}
	}
}

// receive reads how many bytes are durable and frees the slots of their batches.
func (s *stream) receive(order <-chan int) error {
	defer close(s.free)
	var answer [8]byte
	var done int64
	for {
		if _, err := io.ReadFull(s.conn, answer[:]); err != nil {
			return ignoreClosed(err)
		}
		now := time.Now()
		measuring := s.client.measuring.Load()
		safe := int64(binary.BigEndian.Uint64(answer[:]))
		s.mu.Lock()
		for done+int64(s.frame) <= safe {
			slot, ok := <-order
			if !ok {
				s.mu.Unlock()
				return nil // send has ended.
			}
			if measuring {
				s.latencies = append(s.latencies, now.Sub(s.slots[slot].sent))
			}
			done += int64(s.frame)
			s.free <- slot
		}
		s.mu.Unlock()
	}
}
