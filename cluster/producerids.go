package cluster

import (
	"context"
	"fmt"
	"math"
	"sync"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// producerIDs hands out producer ids from blocks that belong to this broker alone, and to this start
// of it: what is left of a block when the broker stops is never used (I1). While one block is used up
// the next is fetched.
type producerIDs struct {
	// wanted wakes the fetcher, fetched those who wait for an id.
	wanted, fetched signal

	// mu guards what follows.
	mu          sync.Mutex
	block, next idRange
	// seen is the end of the last block that was added. Blocks only go up.
	seen record.ProducerID
}

// idRange is the ids from first up to and without end.
type idRange struct{ first, end record.ProducerID }

func (r idRange) empty() bool { return r.first >= r.end }

func newProducerIDs() *producerIDs { return &producerIDs{} }

// take gives an id; wanted: a block should be fetched.
func (p *producerIDs) take() (id record.ProducerID, ok, wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.block.empty() {
		p.block, p.next = p.next, idRange{}
	}
	if p.block.empty() {
		return record.NoProducerID, false, true
	}
	p.block.first++
	return p.block.first - 1, true, p.next.empty()
}

// wants says whether there is room for a block.
func (p *producerIDs) wants() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.block.empty() || p.next.empty()
}

// add takes a block in. One that is not above all before would give ids twice: it is refused.
func (p *producerIDs) add(first, n int64) error {
	if n < 1 || first < 0 || first > math.MaxInt64-n {
		return fmt.Errorf("a block of %d producer ids from %d on", n, first)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := idRange{record.ProducerID(first), record.ProducerID(first + n)}
	if r.first < p.seen {
		return fmt.Errorf("the block of producer ids %d to %d, after ids up to %d had been given", r.first, r.end-1, p.seen-1)
	}
	p.seen = r.end
	if p.block.empty() {
		p.block = r
	} else {
		p.next = r
	}
	return nil
}

// NextProducerID gives an id that was never given before (I1). Without one at hand within
// Config.ProducerIDWait it answers LoadInProgress: did not happen, ask again.
func (c *Cluster) NextProducerID(ctx context.Context) (record.ProducerID, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.ProducerIDWait)
	defer cancel()
	for {
		fetched := c.ids.fetched.wait()
		id, ok, wanted := c.ids.take()
		if wanted {
			c.ids.wanted.wake()
		}
		if ok {
			return id, nil
		}
		select {
		case <-fetched:
		case <-ctx.Done():
			return record.NoProducerID, &Error{Code: LoadInProgress, Outcome: raftgroup.DidNotHappen, Cause: ctx.Err(),
				Message: "this broker has no producer ids left and waits for a new block"}
		case <-c.ctx.Done():
			return record.NoProducerID, &Error{Code: LoadInProgress, Outcome: raftgroup.DidNotHappen, Message: "this broker is stopping"}
		}
	}
}

// fetchProducerIDs gets blocks as they are wanted, until the context ends.
func (c *Cluster) fetchProducerIDs(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		wanted := c.ids.wanted.wait()
		if !c.ids.wants() {
			select {
			case <-wanted:
			case <-ctx.Done():
			}
			continue
		}
		if err := c.fetchBlock(ctx); err != nil && ctx.Err() == nil {
			c.logger.Warn("no producer ids yet", "err", err)
			sleep(ctx, nil, mostRetry)
		}
	}
	return nil
}

// fetchBlock gets one block. If it fails after a block has been given, that block is never used.
func (c *Cluster) fetchBlock(ctx context.Context) error {
	done, err := c.do(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_AllocateProducerIds{
		AllocateProducerIds: &peerv1.AllocateProducerIds{Command: &statev1.AllocateProducerIds{
			BrokerId: c.config.Broker, NodeIncarnation: c.node.Load().incarnation, Count: uint32(c.config.ProducerIDBlock)}}}})
	if err != nil {
		return err
	}
	if err := c.ids.add(done.GetFirstProducerId(), int64(done.GetProducerIds())); err != nil {
		return err
	}
	c.metrics.producerIDBlocks.Inc()
	c.ids.fetched.wake()
	return nil
}
