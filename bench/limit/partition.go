package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// partition carries the frames of one connection to the file and to the
// followers, all at the same time, and answers with how far they are durable.
type partition struct {
	from  net.Conn // the client; for a follower the leader
	file  *logFile
	peers []net.Conn
	queue *queue // writer 0 is the file, then the peers

	mu    sync.Mutex
	acks  sync.Mutex // held while an answer is written; taken before mu
	local int64      // bytes durable here
	peer  []int64    // bytes durable at each peer
	acked int64      // bytes answered as durable
}

func newPartition(from net.Conn, file *logFile, peers []net.Conn) *partition {
	return &partition{from: from, file: file, peers: peers, queue: newQueue(1 + len(peers)), peer: make([]int64, len(peers))}
}

// run ends when the connection ends, or at the first failure.
func (p *partition) run() error {
	var wg sync.WaitGroup
	failed := make(chan error, 2*(1+len(p.peers)))
	start := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failed <- err
				p.abandon()
			}
		})
	}
	start(p.store)
	for i := range p.peers {
		start(func() error { return p.send(i) })
		start(func() error { return p.listen(i) })
	}
	err := p.read()
	p.abandon()
	wg.Wait()
	close(failed)
	for failure := range failed {
		err = errors.Join(err, failure)
	}
	return err
}

// abandon ends every goroutine of the partition.
func (p *partition) abandon() {
	p.queue.close()
	_ = p.from.Close() // Ends read.
	for _, peer := range p.peers {
		_ = peer.Close() // Ends send and listen.
	}
}

// read takes frames off the connection.
func (p *partition) read() error {
	frames := newFrameReader(p.from, chunkBytes)
	defer frames.close()
	for {
		s, err := frames.next()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if !p.queue.put(s) {
			return nil
		}
	}
}

// store writes to the file, all that has gathered at a time.
func (p *partition) store() error {
	var spans []span
	var vectors [][]byte
	for {
		var ok bool
		if spans, ok = p.queue.take(0, spans); !ok {
			return nil
		}
		var total int
		vectors, total = gather(vectors[:0], spans)
		if err := p.file.append(vectors, total); err != nil {
			return err
		}
		releaseAll(spans)
		if err := p.durable(func() { p.local += int64(total) }); err != nil {
			return err
		}
	}
}

// send carries frames to one peer, all that have gathered at a time.
func (p *partition) send(peer int) error {
	var spans []span
	var vectors net.Buffers
	for {
		var ok bool
		if spans, ok = p.queue.take(1+peer, spans); !ok {
			return nil
		}
		vectors, _ = gather(vectors[:0], spans)
		buffers := vectors // WriteTo eats it.
		if _, err := buffers.WriteTo(p.peers[peer]); err != nil {
			return ignoreClosed(err)
		}
		releaseAll(spans)
	}
}

// listen takes a peer's answers: how many bytes it has on disk.
func (p *partition) listen(peer int) error {
	var answer [8]byte
	for {
		if _, err := io.ReadFull(p.peers[peer], answer[:]); err != nil {
			return ignoreClosed(err)
		}
		position := int64(binary.BigEndian.Uint64(answer[:]))
		if err := p.durable(func() { p.peer[peer] = position }); err != nil {
			return err
		}
	}
}

// durable notes progress and answers when more bytes are safe than was said.
// The newest answer stands for all before it, so that one write may acknowledge
// many batches.
func (p *partition) durable(note func()) error {
	p.mu.Lock()
	note()
	p.mu.Unlock()

	p.acks.Lock()
	defer p.acks.Unlock()
	p.mu.Lock()
	safe := safeThrough(p.local, p.peer)
	news := safe > p.acked
	p.acked = max(p.acked, safe)
	p.mu.Unlock()
	if !news {
		return nil
	}
	var answer [8]byte
	binary.BigEndian.PutUint64(answer[:], uint64(safe))
	_, err := p.from.Write(answer[:])
	return ignoreClosed(err)
}

// safeThrough is how many bytes a majority has on disk: those that are here and
// at the fastest peer. A follower, which has no peers, speaks for itself.
func safeThrough(local int64, peers []int64) int64 {
	if len(peers) == 0 {
		return local
	}
	fastest := int64(0)
	for _, position := range peers {
		fastest = max(fastest, position)
	}
	return min(local, fastest)
}

// ignoreClosed drops the errors of a connection that was closed on purpose or by
// the other side's end.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
