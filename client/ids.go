package client

import (
	"context"
	"sync"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// ids fetches producer ids. All lanes of a producer begin with one id; a lane that has used its
// identity up gets one for itself.
type ids struct {
	p *Producer

	mu      sync.Mutex // guards what follows
	first   *identity  // what every lane begins with, once known
	waiting []*lane    // for first
	renewed []*lane    // for an id of their own
	running bool       // a goroutine is fetching
	lastErr *Error
}

// ask gets the lane an id, by lane.give. It never calls the lane itself.
func (i *ids) ask(l *lane, renewed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if renewed {
		i.renewed = append(i.renewed, l)
	} else {
		i.waiting = append(i.waiting, l)
	}
	if !i.running {
		i.running = true
		i.p.wg.Go(i.run)
	}
}

// problem says why there is no id yet.
func (i *ids) problem() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.lastErr == nil {
		return "no broker has answered"
	}
	return i.lastErr.Error()
}

// run fetches until nobody waits.
func (i *ids) run() {
	failures := 0
	for {
		lanes, id := i.serve()
		for _, l := range lanes {
			l.give(*id)
		}
		if len(lanes) > 0 {
			continue
		}
		i.mu.Lock()
		if len(i.waiting)+len(i.renewed) == 0 {
			i.running = false
			i.mu.Unlock()
			return
		}
		i.mu.Unlock()
		id, err := i.fetch(i.p.ctx)
		failed := fromCall(err, "")
		i.mu.Lock()
		i.lastErr = failed
		i.mu.Unlock()
		if failed == nil {
			failures = 0
			i.take(*id)
			continue
		}
		if !failed.Retriable && i.p.ctx.Err() == nil {
			i.refused(failed)
			continue
		}
		failures++
		i.p.c.log.Debug("no producer id", "err", err)
		if !sleep(i.p.ctx, i.p.c.backoff(failures)) {
			i.mu.Lock()
			i.waiting, i.renewed, i.running = nil, nil, false
			i.mu.Unlock()
			return
		}
	}
}

// serve gives the lanes that begin with the first id, once there is one.
func (i *ids) serve() ([]*lane, *identity) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.first == nil {
		return nil, nil
	}
	lanes := i.waiting
	i.waiting = nil
	return lanes, i.first
}

// refused gives up for all who wait: asking again would not help. A lane asks anew with its next record.
func (i *ids) refused(err *Error) {
	i.mu.Lock()
	lanes := append(i.waiting, i.renewed...)
	i.waiting, i.renewed = nil, nil
	i.mu.Unlock()
	i.p.c.log.Warn("no producer id", "err", err)
	for _, l := range lanes {
		l.refuse(err)
	}
}

// take uses a fetched id: as the first one, or for one lane.
func (i *ids) take(id identity) {
	i.mu.Lock()
	if i.first == nil && len(i.waiting) > 0 {
		i.first = &id
		i.mu.Unlock()
		i.p.c.log.Info("producer id", "producer", id.pid)
		return
	}
	var l *lane
	if len(i.renewed) > 0 {
		l = i.renewed[0]
		i.renewed = i.renewed[1:]
	}
	i.mu.Unlock()
	if l != nil {
		i.p.c.log.Info("new producer id for a partition", "topic", l.tp.Topic, "partition", l.tp.Partition, "producer", id.pid)
		l.give(id)
	}
}

func (i *ids) fetch(ctx context.Context) (*identity, error) {
	var id *identity
	err := i.p.c.meta.anyBroker(ctx, func(ctx context.Context, addr string) (func(), error) {
		log, _, err := i.p.conns.log(addr)
		if err != nil {
			return nil, err
		}
		r, err := log.InitProducerId(ctx, &clientv1.InitProducerIdRequest{})
		if err != nil {
			return nil, err
		}
		return func() {
			id = &identity{pid: record.ProducerID(r.GetProducerId()), epoch: record.Epoch(r.GetProducerEpoch())}
		}, nil
	})
	return id, err
}
