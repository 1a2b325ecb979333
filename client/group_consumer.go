package client

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// GroupConsumer is a member of a consumer group: the members share the partitions of the group's topics, and each goes on where the group has
// committed that it is.
//
//	g, err := c.NewGroupConsumer(client.GroupConfig{GroupID: "billing", Topics: []string{"orders"}})
//	for {
//		got, err := g.Poll(ctx)
//		...                       // process
//		err = g.Commit(ctx)       // at least once: after a crash the same records come again
//	}
//
// Rebalances happen in Poll: partitions are given back when the records that Poll returned before have been dealt with, and
// not under the program's hands. Poll, Commit and Close are for one goroutine; the other methods may be called from many. Client.Close closes the
// member too: with AutoCommit it takes what Poll has returned for done, so the goroutine that polls has to be done by then.
type GroupConsumer struct {
	c   *Client
	cfg GroupConfig
	k   *Consumer
	m   *membership
	// commits goes on while others wait for nothing.
	commits *committer

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex // guards what follows
	// active partitions are read, waiting ones are this member's too, but where to begin is not known yet.
	active  []record.TopicPartition
	waiting []record.TopicPartition
	// committed is what was committed last, as far as it is known here; committing counts the commits whose end is not known, which may
	// still change it.
	committed  Offsets
	committing map[record.TopicPartition]int
	closed     bool

	// asked is when the waiting ones were asked about, autoAt when offsets are to be committed next. Poll's alone.
	asked  time.Time
	autoAt time.Time
}

const (
	// unstablePause is between two questions for offsets that an open transaction may change.
	unstablePause = 50 * time.Millisecond
	// leaveTimeout bounds how long Close waits for the coordinator.
	leaveTimeout = 5 * time.Second
)

// NewGroupConsumer makes a member, which begins to join at once and is told what it has by Poll. The error is that of
// GroupConfig.Validate, or that the client is closed.
func (c *Client) NewGroupConsumer(cfg GroupConfig) (*GroupConsumer, error) {
	return c.newGroupConsumer(cfg, true)
}

// newGroupConsumer makes a member. own: it is closed with the client.
func (c *Client) newGroupConsumer(cfg GroupConfig, own bool) (*GroupConsumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	k, err := c.NewConsumer(cfg.ConsumerConfig)
	if err != nil {
		return nil, err
	}
	coord := &coordinator{c: c, conns: k.conns, kind: clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, key: cfg.GroupID}
	g := &GroupConsumer{c: c, cfg: cfg, k: k, committed: make(Offsets), committing: make(map[record.TopicPartition]int), autoAt: time.Now().Add(cfg.AutoCommitInterval)}
	g.m = &membership{c: c, cfg: cfg, coordinator: coord, id: rand.Text(), news: make(chan struct{}, 1), spoken: make(chan struct{}, 1), polled: time.Now()}
	g.commits = &committer{c: c, coordinator: coord}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	if own {
		if err := c.adopt(g); err != nil {
			g.cancel()
			return nil, errors.Join(err, k.Close(context.Background()))
		}
	}
	c.release(k) // it is closed by this one
	g.wg.Go(func() { g.m.run(g.ctx) })
	return g, nil
}

// Member is this member as it is now, for offsets that are committed in a transaction: those of records that the last Poll returned.
func (g *GroupConsumer) Member() GroupMember { return g.m.member() }

// Assignment lists the partitions that this member reads, sorted.
func (g *GroupConsumer) Assignment() []record.TopicPartition {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.active)
}

// Poll waits for records and returns them; see Consumer.Poll. It also does what the group needs done: see GroupConfig.OnAssigned and
// OnRevoked. An error that the brokers refuse the member for good stays; FENCED_INSTANCE_ID says that another one uses its instance id.
func (g *GroupConsumer) Poll(ctx context.Context) ([]Fetched, error) {
	for {
		if err := g.rebalance(ctx); err != nil {
			return nil, err
		}
		g.autoCommit()
		got, err := g.pollOnce(ctx)
		if len(got) > 0 || err != nil {
			return got, err
		}
	}
}

// pollOnce polls until there is something to return or to do.
func (g *GroupConsumer) pollOnce(ctx context.Context) ([]Fetched, error) {
	// Heard of at least that often.
	bounded, cancel := context.WithTimeout(ctx, g.untilNextLook())
	defer cancel()
	got, err := g.k.poll(bounded, g.m.news)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return got, err
}

func (g *GroupConsumer) untilNextLook() time.Duration {
	g.mu.Lock()
	waiting := len(g.waiting) > 0
	g.mu.Unlock()
	wait := g.cfg.MaxPollInterval / 4
	if g.cfg.AutoCommit {
		wait = min(wait, max(time.Until(g.autoAt), time.Millisecond))
	}
	if waiting {
		wait = min(wait, unstablePause)
	}
	return wait
}

// rebalance does what the coordinator wants done.
func (g *GroupConsumer) rebalance(ctx context.Context) error {
	o, err := g.m.orders()
	switch {
	case err != nil:
		return err
	case o.lost:
		if lost := g.drop(); len(lost) > 0 {
			g.cfg.OnLost(lost)
		}
		g.m.done(order{lost: true})
	case o.pending:
		g.giveBack(ctx, partitionsOf(o.topics))
		g.m.reads(o.topics) // not before what is given back has been committed
		g.take(partitionsOf(o.topics))
		g.m.done(o)
	}
	return g.begin(ctx)
}

// drop forgets all partitions, and gives those that were read.
func (g *GroupConsumer) drop() []record.TopicPartition {
	g.mu.Lock()
	lost := g.active
	g.active, g.waiting, g.committed = nil, nil, make(Offsets)
	g.mu.Unlock()
	_ = g.k.Assign(g.ctx) // nothing: no metadata is asked for
	return lost
}

// giveBack stops reading what the member is not to have any more.
func (g *GroupConsumer) giveBack(ctx context.Context, has []record.TopicPartition) {
	g.mu.Lock()
	kept, revoked := split(g.active, has)
	g.waiting, _ = split(g.waiting, has)
	g.mu.Unlock()
	if len(revoked) == 0 {
		return
	}
	if g.cfg.AutoCommit {
		if err := g.Commit(ctx); err != nil {
			g.c.log.Warn("offsets not committed before partitions are given back", "group", g.cfg.GroupID, "err", err)
		}
	}
	g.cfg.OnRevoked(ctx, revoked)
	g.mu.Lock()
	g.active = kept
	for _, tp := range revoked {
		delete(g.committed, tp)
	}
	g.mu.Unlock()
	_ = g.k.Assign(ctx, kept...) // no broker is asked; a consumer that is closed reads nothing anyway
}

// take puts new partitions among those that wait for their position.
func (g *GroupConsumer) take(has []record.TopicPartition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, tp := range has {
		if !slices.Contains(g.active, tp) && !slices.Contains(g.waiting, tp) {
			g.waiting = append(g.waiting, tp)
		}
	}
	g.asked = time.Time{}
}

func split(list, has []record.TopicPartition) (in, out []record.TopicPartition) {
	for _, tp := range list {
		if slices.Contains(has, tp) {
			in = append(in, tp)
		} else {
			out = append(out, tp)
		}
	}
	return in, out
}

// begin starts to read partitions where the group has committed that it is. Those whose offset an open transaction may yet change wait for
// its end (G26): else what it has done already would be done again.
func (g *GroupConsumer) begin(ctx context.Context) error {
	g.mu.Lock()
	waiting := slices.Clone(g.waiting)
	g.mu.Unlock()
	if len(waiting) == 0 || time.Since(g.asked) < unstablePause {
		return nil
	}
	g.asked = time.Now()
	bounded, cancel := context.WithTimeout(ctx, g.c.cfg.RequestTimeout)
	defer cancel()
	found, err := fetchOffsets(bounded, g.m.coordinator, g.cfg.GroupID, waiting, true)
	if err != nil {
		if ctx.Err() != nil || !isRetriable(err) {
			return err
		}
		g.c.log.Debug("committed offsets not known yet", "group", g.cfg.GroupID, "err", err)
		return nil
	}
	var ready []CommittedOffset
	for _, f := range found {
		if !f.Unstable {
			ready = append(ready, f)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	return g.activate(ctx, ready)
}

// activate reads partitions from their committed offsets.
func (g *GroupConsumer) activate(ctx context.Context, ready []CommittedOffset) error {
	var added []record.TopicPartition
	for _, f := range ready {
		added = append(added, f.TopicPartition)
	}
	all := append(g.Assignment(), added...)
	sortPartitions(all)
	if err := g.k.Assign(ctx, all...); err != nil {
		if ctx.Err() != nil {
			return err
		}
		g.c.log.Debug("assigned partitions are not known yet", "group", g.cfg.GroupID, "err", err)
		return nil // they wait on
	}
	for _, f := range ready {
		if f.Offset == record.NoOffset {
			continue
		}
		if err := g.k.Seek(f.TopicPartition, At(f.Offset)); err != nil {
			return err
		}
	}
	g.activated(all, ready)
	g.cfg.OnAssigned(ctx, added)
	return nil
}

// activated notes that partitions are read, once they have their position: nobody is to commit the one that they had before.
func (g *GroupConsumer) activated(all []record.TopicPartition, ready []CommittedOffset) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active = all
	for _, f := range ready {
		g.waiting, _ = splitOff(g.waiting, []record.TopicPartition{f.TopicPartition})
		if f.Offset != record.NoOffset {
			g.committed[f.TopicPartition] = f.Offset
		}
	}
}

func splitOff(list, gone []record.TopicPartition) (left, found []record.TopicPartition) {
	found, left = split(list, gone)
	return left, found
}

func isRetriable(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Retriable || e.Reason == ReasonCanceled)
}

// autoCommit commits what Poll has returned, if it is time. The next Poll shows that the program has done it.
func (g *GroupConsumer) autoCommit() {
	if !g.cfg.AutoCommit || time.Now().Before(g.autoAt) {
		return
	}
	g.autoAt = time.Now().Add(g.cfg.AutoCommitInterval)
	g.CommitAsync(nil, func(_ Offsets, err error) {
		if err != nil && g.ctx.Err() == nil {
			g.c.log.Warn("offsets not committed", "group", g.cfg.GroupID, "err", err)
		}
	})
}

// Positions are where the next Poll goes on, for all partitions whose position is known and is not, or may not be, what the group has
// committed.
func (g *GroupConsumer) Positions() Offsets {
	at := g.k.positions(g.Assignment())
	g.mu.Lock()
	defer g.mu.Unlock()
	moved := make(Offsets)
	for tp, o := range at {
		if last, ok := g.committed[tp]; !ok || last != o || g.committing[tp] > 0 {
			moved[tp] = o
		}
	}
	return moved
}

// Commit commits everything that Poll has returned, and waits. STALE_MEMBER_EPOCH and UNKNOWN_MEMBER_ID say that partitions have gone to
// others: what was done of their records will be done again.
func (g *GroupConsumer) Commit(ctx context.Context) error { return g.CommitOffsets(ctx, nil) }

// CommitOffsets commits certain offsets, and waits; nil: those of everything that Poll has returned. STALE_MEMBER_EPOCH says that this
// member does not have one of the partitions, or not since it was asked: nothing is committed.
func (g *GroupConsumer) CommitOffsets(ctx context.Context, offsets Offsets) error {
	done := make(chan error, 1)
	g.CommitAsync(offsets, func(_ Offsets, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return canceled(ctx, Unknown, "waiting for a commit of offsets")
	}
}

// CommitAsync commits offsets without waiting; nil: those of everything that Poll has returned. done, which may be nil, is called with what
// came of them, and must not block. Commits are made in the order in which they were asked for.
func (g *GroupConsumer) CommitAsync(offsets Offsets, done func(Offsets, error)) {
	// As the member is now: what it may have lost when the commit goes out is refused there. Before the positions, which it must not
	// outlive.
	by := g.m.member()
	if offsets == nil {
		offsets = g.Positions()
	} else {
		offsets = maps.Clone(offsets) // the caller's may change
	}
	if done == nil {
		done = func(Offsets, error) {}
	}
	if len(offsets) == 0 {
		done(offsets, nil)
		return
	}
	if tp, ok := g.notHeld(offsets); ok {
		done(offsets, refusal(ReasonStaleMemberEpoch, "this member of group %s does not have the partition", g.cfg.GroupID).at(tp))
		return
	}
	g.noteCommitting(offsets)
	g.commits.begin(g.ctx, by, offsets, func(err error) {
		g.noteEnd(offsets, err)
		done(offsets, err)
	})
}

// noteCommitting notes that what the group has committed is about to change.
func (g *GroupConsumer) noteCommitting(offsets Offsets) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for tp := range offsets {
		g.committing[tp]++
	}
}

// noteEnd notes what came of a commit. One that failed may have happened.
func (g *GroupConsumer) noteEnd(offsets Offsets, err error) {
	if err == nil {
		g.noteCommitted(offsets)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for tp := range offsets {
		if g.committing[tp]--; g.committing[tp] == 0 {
			delete(g.committing, tp)
		}
		if err != nil {
			delete(g.committed, tp)
		}
	}
}

// notHeld finds a partition that this member does not have.
func (g *GroupConsumer) notHeld(offsets Offsets) (record.TopicPartition, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for tp := range offsets {
		if !slices.Contains(g.active, tp) && !slices.Contains(g.waiting, tp) {
			return tp, true
		}
	}
	return record.TopicPartition{}, false
}

func (g *GroupConsumer) noteCommitted(offsets Offsets) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for tp, o := range offsets {
		if slices.Contains(g.active, tp) {
			g.committed[tp] = o
		}
	}
}

// Committed gives what the group has committed for partitions.
func (g *GroupConsumer) Committed(ctx context.Context, tps ...record.TopicPartition) ([]CommittedOffset, error) {
	ctx, cancel := context.WithTimeout(ctx, g.c.cfg.RequestTimeout)
	defer cancel()
	return fetchOffsets(ctx, g.m.coordinator, g.cfg.GroupID, tps, false)
}

// Seek moves a partition of Assignment; see Consumer.Seek.
func (g *GroupConsumer) Seek(tp record.TopicPartition, to Position) error { return g.k.Seek(tp, to) }

// Pause stops Poll from returning a partition's records.
func (g *GroupConsumer) Pause(tp record.TopicPartition) error { return g.k.Pause(tp) }

// Resume ends a Pause.
func (g *GroupConsumer) Resume(tp record.TopicPartition) error { return g.k.Resume(tp) }

// Position is the offset from which the next Poll returns records.
func (g *GroupConsumer) Position(tp record.TopicPartition) (record.Offset, bool, error) {
	return g.k.Position(tp)
}

// Close commits if AutoCommit is set, gives the partitions back, leaves the group, and waits for all goroutines.
func (g *GroupConsumer) Close(ctx context.Context) error {
	g.mu.Lock()
	again := g.closed
	g.closed = true
	g.mu.Unlock()
	if again {
		return nil
	}
	var err error
	if g.cfg.AutoCommit {
		err = g.Commit(ctx)
	}
	if has := g.Assignment(); len(has) > 0 {
		g.cfg.OnRevoked(ctx, has)
	}
	g.drop()
	g.m.leave()
	bounded, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	left := make(chan struct{})
	go func() { // ends with cancel
		g.wg.Wait()
		close(left)
	}()
	select {
	case <-left:
	case <-bounded.Done():
	}
	g.cancel()
	g.wg.Wait()
	g.commits.close()
	g.c.release(g)
	return errors.Join(err, g.k.Close(ctx))
}
