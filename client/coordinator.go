package client

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// coordinator is the broker that answers for one transactional id or group: found when it is needed, and found again when it has
// moved. Its methods may be called from many goroutines.
type coordinator struct {
	c     *Client
	conns *conns
	kind  clientv1.CoordinatorType
	key   string

	mu   sync.Mutex // guards addr
	addr string     // empty: not known
}

// lookAgain is how often it is asked whether a coordinator that does not answer is still the coordinator.
const lookAgain = time.Second

// concurrentPause is the wait for markers that are on their way (CONCURRENT_TRANSACTIONS). The broker has waited already.
const concurrentPause = 20 * time.Millisecond

// do asks the coordinator until it answers for good, or ctx ends. lost says that an attempt, an earlier one maybe, may
// have happened although no answer came.
func (k *coordinator) do(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) (lost bool, _ *Error) {
	for failures := 0; ; {
		err := k.attempt(ctx, call)
		if err == nil {
			return lost, nil
		}
		lost = lost || err.Outcome != NotWritten
		pause := concurrentPause
		switch {
		case ctx.Err() != nil:
			e := canceled(ctx, NotWritten, "waiting for the coordinator")
			e.Retriable = true
			if err.Reason != ReasonCanceled {
				e.Message += "; last: " + err.Error()
			}
			return lost, e
		case err.Reason == ReasonConcurrentTransactions:
		case err.Retriable || err.Reason == ReasonCanceled:
			failures++
			pause = k.c.backoff(failures)
		default:
			return lost, err
		}
		k.c.log.Debug("coordinator asked again", "key", k.key, "err", err)
		sleep(ctx, pause)
	}
}

// administer asks for RequestTimeout at most. Its error is Unknown if an attempt may have happened.
func (k *coordinator) administer(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, k.c.cfg.RequestTimeout)
	defer cancel()
	lost, err := k.do(ctx, call)
	if err != nil && lost {
		err.Outcome = Unknown
	}
	return asError(err)
}

// attempt asks once. Its error is that of the coordinator, or of looking for it.
func (k *coordinator) attempt(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) *Error {
	addr, err := k.find(ctx)
	if err != nil {
		e := fromCall(err, "")
		e.Outcome = NotWritten // nothing was asked of a coordinator
		return e
	}
	cc, err := k.conns.get(addr)
	if err != nil {
		return fromCall(err, addr)
	}
	ctx, cancel := context.WithTimeout(ctx, k.c.cfg.RequestTimeout)
	defer cancel()
	watched := make(chan struct{})
	done := make(chan struct{})
	go func() { // ends with the call
		defer close(watched)
		k.watch(ctx, addr, done, cancel)
	}()
	failure := fromCall(call(ctx, cc), addr)
	close(done)
	<-watched
	if failure != nil {
		k.learn(addr, failure)
	}
	return failure
}

// find gives the coordinator's address.
func (k *coordinator) find(ctx context.Context) (string, error) {
	k.mu.Lock()
	addr := k.addr
	k.mu.Unlock()
	if addr != "" {
		return addr, nil
	}
	addr, err := k.ask(ctx)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	k.addr = addr
	k.mu.Unlock()
	return addr, nil
}

// ask asks any broker who coordinates.
func (k *coordinator) ask(ctx context.Context) (addr string, err error) {
	err = k.c.meta.anyBroker(ctx, func(ctx context.Context, broker string) (func(), error) {
		cc, err := k.conns.get(broker)
		if err != nil {
			return nil, err
		}
		r, err := clientv1.NewTransactionServiceClient(cc).FindCoordinator(ctx, &clientv1.FindCoordinatorRequest{Type: k.kind, Key: k.key})
		if err != nil {
			return nil, err
		}
		if r.GetAddress() == "" {
			return nil, &Error{Reason: ReasonCoordinatorNotAvailable, Outcome: NotWritten, Retriable: true, Message: "the coordinator has no address on this listener"}
		}
		return func() { addr = r.GetAddress() }, nil
	})
	return addr, err
}

// watch cancels a call whose coordinator does not answer and is another one by now: a paused broker keeps its connections
// open.
func (k *coordinator) watch(ctx context.Context, addr string, done <-chan struct{}, cancel func()) {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ask, stop := context.WithTimeout(ctx, lookAgain)
		now, err := k.ask(ask)
		stop()
		if err == nil && now != addr {
			k.forget(addr)
			cancel()
			return
		}
	}
}

// learn takes from an error who coordinates now, if it says so, or that the one that was asked does not.
func (k *coordinator) learn(addr string, err *Error) {
	switch {
	case err.Reason == ReasonNotCoordinator && err.Leader != nil && err.Leader.Address != "" && err.Leader.Address != addr:
		k.mu.Lock()
		k.addr = err.Leader.Address
		k.mu.Unlock()
	case err.Reason == ReasonNotCoordinator, err.Reason == ReasonCoordinatorNotAvailable, err.Reason == ReasonNetwork, err.Reason == ReasonCanceled:
		k.forget(addr)
	}
}

func (k *coordinator) forget(addr string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.addr == addr {
		k.addr = ""
	}
}
