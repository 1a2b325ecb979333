package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// A Transform from topic to otherTopic that writes "+v" for v, to the same partition.
type transforming struct {
	*worker
	// before is called with the values of each try, before they are written; after, when they were handed over.
	before, after func(values []string)
	stop          func()
	done          chan error
}

// transform starts a process that transforms.
func (s *scenario) transform(name string, before, after func([]string)) *transforming {
	s.t.Helper()
	w := &transforming{worker: &worker{s: s, host: name, cl: s.c.ClientOn(name, client.Config{RequestTimeout: 2 * time.Second})}, before: before, after: after, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(s.ctx)
	var once sync.Once
	w.stop = func() { once.Do(cancel) }
	cfg := client.TransformConfig{
		Group: client.GroupConfig{ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest}, GroupID: testGroup, Topics: []string{topic}},
		// Short, so that those who take over need not wait for long.
		TransactionTimeout: time.Second, CommitInterval: 20 * time.Millisecond,
	}
	go func() { w.done <- w.cl.Transform(ctx, cfg, w.copy) }()
	s.t.Cleanup(w.stop)
	return w
}

// copy is the function.
func (w *transforming) copy(_ context.Context, in []client.Fetched, out *client.Output) error {
	var values []string
	for i := range in {
		for r, err := range in[i].Records() {
			if err != nil {
				return err
			}
			values = append(values, string(r.Value))
		}
	}
	if w.before != nil && len(values) > 0 {
		w.before(values)
	}
	for i := range in {
		for r, err := range in[i].Records() {
			if err != nil {
				return err
			}
			err := out.Send(client.Record{Topic: otherTopic, Partition: client.ToPartition(in[i].Partition), Value: append([]byte("+"), r.Value...)})
			if err != nil {
				return err
			}
		}
	}
	if w.after != nil && len(values) > 0 {
		w.after(values)
	}
	return nil
}

func (w *transforming) mustEnd() {
	w.s.t.Helper()
	w.stop()
	select {
	case err := <-w.done:
		w.s.must("transform", err)
	case <-w.s.ctx.Done():
		w.s.t.Fatal("the transform does not end")
	}
}

var outputs = []record.TopicPartition{{Topic: otherTopic}, {Topic: otherTopic, Partition: 1}, {Topic: otherTopic, Partition: 2}}

// awaitTransformed waits until the output holds each of the inputs, and fails if it holds one of them twice.
func (s *scenario) awaitTransformed(inputs []string) {
	s.t.Helper()
	var want []string
	for _, v := range inputs {
		want = append(want, otherTopic+":+"+v)
	}
	slices.Sort(want)
	var got []string
	s.until(fmt.Sprintf("transform %d records", len(inputs)), func() bool {
		got = s.readUpTo(client.ReadCommitted, outputs...)
		return len(got) >= len(want)
	})
	s.wantValues("output", got, want)
}

// Exactly once: what a worker has written but not committed when it dies is never seen, and another one does it. When it comes back it
// cannot commit any more (compare TestAtLeastOnceRepeatsAfterACrashBeforeTheCommit).
func TestExactlyOnceAfterACrashBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	inputs := s.fill(0, 9)
	hung, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	one := s.transform("one", nil, func([]string) {
		once.Do(func() {
			close(hung)
			<-goOn
		})
	})
	<-hung // it has written and not committed
	one.die()
	two := s.transform("two", nil, nil)
	s.awaitTransformed(inputs)
	one.wake()
	close(goOn) // a zombie
	more := s.fill(9, 30)
	s.awaitTransformed(append(inputs, more...))
	two.mustEnd()
	one.stop()
	if err := <-one.done; err != nil {
		t.Logf("the zombie ends with: %v", err)
	}
	s.awaitTransformed(append(inputs, more...))
}

// A client that is closed while the function is at work, by another goroutine as programs do when they are told to end, does not commit the
// offsets of what the function has not done yet.
func TestExactlyOnceWhenTheClientIsClosed(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	inputs := s.fill(0, 9)
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	one := s.transform("one", func([]string) {
		once.Do(func() {
			close(begun)
			<-goOn
		})
	}, nil)
	<-begun
	short, cancel := context.WithTimeout(s.ctx, 500*time.Millisecond)
	defer cancel()
	if err := one.cl.Close(short); err == nil {
		t.Error("the client is closed although the function is at work")
	}
	close(goOn)
	s.must("transform", <-one.done)
	two := s.transform("two", nil, nil)
	s.awaitTransformed(inputs)
	two.mustEnd()
}

// A crash right after reading, before anything was written: another one takes over at once.
func TestExactlyOnceAfterACrashRightAfterReading(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	inputs := s.fill(0, 9)
	hung, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	one := s.transform("one", func([]string) {
		once.Do(func() {
			close(hung)
			<-goOn
		})
	}, nil)
	<-hung
	one.die()
	two := s.transform("two", nil, nil)
	s.awaitTransformed(inputs)
	close(goOn)
	one.stop()
	two.mustEnd()
	s.awaitTransformed(inputs)
}

// Coordinators of groups and of transactions, and leaders of partitions, die while two workers transform, one of which comes late and one
// of which leaves early: each input is there once, and the offsets of the group agree.
func TestTransformWhileCoordinatorsDie(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.transform("one", nil, nil)
	inputs := s.fill(0, 60)
	for round, id := range []int32{1, 2, 3} {
		s.c.Kill(id)
		inputs = append(inputs, s.fill(len(inputs), 30)...)
		if round == 1 {
			two := s.transform("two", nil, nil)
			defer two.mustEnd()
		}
		s.c.Restart(id)
		inputs = append(inputs, s.fill(len(inputs), 30)...)
	}
	one.mustEnd()
	s.awaitTransformed(inputs)
	found, err := s.cl.GroupOffsets(s.ctx, testGroup, true)
	s.must("offsets", err)
	for _, f := range found {
		if int(f.Offset) != len(inputs)/3 {
			t.Errorf("%v is at %d, want %d", f.TopicPartition, f.Offset, len(inputs)/3)
		}
	}
}

// An error of the function ends the transform. What it has written is not seen, and its inputs are not done.
func TestTransformEndsWithTheErrorOfTheFunction(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	inputs := s.fill(0, 3)
	bad := errors.New("bad")
	cl := s.c.ClientOn("one", client.Config{})
	cfg := client.TransformConfig{Group: client.GroupConfig{ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest}, GroupID: testGroup, Topics: []string{topic}}}
	err := cl.Transform(s.ctx, cfg, func(_ context.Context, in []client.Fetched, out *client.Output) error {
		if err := out.Send(client.Record{Topic: otherTopic, Value: []byte("half")}); err != nil {
			return err
		}
		return bad
	})
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	s.wantRead(client.ReadCommitted, nil, outputs...)
	two := s.transform("two", nil, nil)
	s.awaitTransformed(inputs)
	two.mustEnd()
}
