package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// An answer is lost on the network after the batch was written; the resend finds the original.
func TestAckLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		c.topic("t", 1)
		c.onFirst(map[string]fault{"b": {loseAck: true}})
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		res := p.SendSync(bg, rec("b"))
		if res.Outcome != Written || res.Offset != 1 || !res.Duplicate {
			t.Errorf("%v, duplicate %v", res, res.Duplicate)
		}
		c.wantLog(t, "a", "b")
	})
}

// The leader dies after replication and before the answer; the new leader gives the first offset.
func TestLeaderDiesBeforeAck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		c.onFirst(map[string]fault{"b": {loseAck: true, moveTo: 2}})
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		done := make(chan Result, 1)
		go func() { done <- p.SendSync(bg, rec("b")) }()
		res := <-done
		c.brokers[1].kill()
		if res.Outcome != Written || res.Offset != 1 || !res.Duplicate {
			t.Errorf("%v", res)
		}
		if res := p.SendSync(bg, rec("c")); res.Outcome != Written || res.Offset != 2 {
			t.Errorf("%v", res)
		}
		c.wantLog(t, "a", "b", "c")
	})
}

// A broker that could not be reached for long is tried again once a second. When it is back and leads, that is news: it is tried at once.
func TestElectedBrokerIsTriedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		for n := range 5 {
			c.brokers[1].kill()
			late := make(chan Result, 1)
			go func() { late <- p.SendSync(bg, rec("b")) }()
			time.Sleep(time.Second) // it is tried, and cannot be reached
			c.partition("t", 0).move(2)
			if res := <-late; res.Outcome != Written {
				t.Fatalf("while broker 1 is away: %v", res)
			}
			time.Sleep(5*time.Second + time.Duration(n)*170*time.Millisecond) // somewhere between two attempts
			c.brokers[1].start()
			c.partition("t", 0).move(1)
			start := time.Now()
			if res := p.SendSync(bg, rec("c")); res.Outcome != Written || time.Since(start) > 100*time.Millisecond {
				t.Errorf("round %d: %v after %v", n, res, time.Since(start))
			}
		}
	})
}

// A broker that does not lead says who does, and is believed without another question.
func TestLeaderHint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		c.partition("t", 0).move(3)
		start := time.Now()
		if res := p.SendSync(bg, rec("b")); res.Outcome != Written {
			t.Error(res)
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("took %v", d)
		}
		c.wantLog(t, "a", "b")
	})
}

// Metadata from a broker that is behind does not undo what is known of a newer leader (L24).
func TestStaleMetadata(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		cl := c.connect(t)
		p := producer(t, cl, ProducerConfig{})
		p.SendSync(bg, rec("a"))
		c.partition("t", 0).move(3)
		p.SendSync(bg, rec("b"))
		c.mu.Lock()
		for _, b := range c.brokers {
			b.behind = true
		}
		c.seen = nil
		c.mu.Unlock()
		for range 5 {
			cl.meta.refresh()
			time.Sleep(time.Second)
		}
		if _, _, epoch, _ := cl.meta.view.Load().leaderOf(tp(0)); epoch != 2 {
			t.Errorf("leader epoch %d, want 2", epoch)
		}
		if res := p.SendSync(bg, rec("c")); res.Outcome != Written || p.Stats().BatchesRetried != 1 {
			t.Errorf("%v, %+v", res, p.Stats())
		}
	})
}

// The leader is paused with five batches in its sockets, another takes over: the producer finds out
// by itself, long before the request timeout, and what the old one still holds does no harm.
func TestPausedLeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		c.brokers[1].host.pause()
		r := newResults()
		want := []string{"a"}
		for i := range 8 {
			want = append(want, fmt.Sprint(i))
			r.send(t, p, want[i+1])
			time.Sleep(time.Millisecond)
		}
		start := time.Now()
		c.partition("t", 0).move(2)
		flush(t, p)
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("took %v", d)
		}
		c.brokers[1].host.resume()
		time.Sleep(time.Second)
		c.wantLog(t, want...)
	})
}

// A connection that hangs while its broker still leads is given up after RequestTimeout.
func TestRequestTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{RequestTimeout: 4 * time.Second})
		p.SendSync(bg, rec("a"))
		c.brokers[1].host.pause()
		time.AfterFunc(5*time.Second, c.brokers[1].host.resume)
		start := time.Now()
		res := p.SendSync(bg, rec("b"))
		if res.Outcome != Written || time.Since(start) < 5*time.Second || time.Since(start) > 8*time.Second {
			t.Errorf("%v after %v", res, time.Since(start))
		}
		c.wantLog(t, "a", "b")
	})
}

// A batch is refused for good: it is not written, the gap it leaves is healed by a new epoch, and
// the batches that were in flight behind it are written once and in order (KIP-360).
func TestGapAndRecovery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.onFirst(map[string]fault{"b": refused("INVALID_RECORD")})
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		r := newResults()
		for _, v := range []string{"b", "c", "d", "e", "f", "g"} {
			r.send(t, p, v)
			time.Sleep(time.Microsecond)
		}
		flush(t, p)
		r.want(t, "b", NotWritten, "INVALID_RECORD")
		for _, v := range []string{"c", "d", "e", "f", "g"} {
			r.want(t, v, Written, "")
		}
		c.wantLog(t, "a", "c", "d", "e", "f", "g")
		if s := p.Stats(); s.NewIdentities != 1 || s.Contradictions != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A batch that is too large for the topic is cut until it fits.
func TestTooLargeIsSplit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.script = func(req *clientv1.ProduceRequest, _ []string) fault {
			if len(req.Batch) > 400 {
				return refused(ReasonMessageTooLarge)
			}
			return fault{}
		}
		p := producer(t, c.connect(t), ProducerConfig{})
		r := newResults()
		var want []string
		for i := range 100 {
			v := fmt.Sprintf("%0*d", 1+i%100, i)
			if i == 50 {
				v = strings.Repeat("x", 500)
			}
			r.send(t, p, v)
			if i != 50 {
				want = append(want, v)
			}
		}
		flush(t, p)
		for _, v := range want {
			r.want(t, v, Written, "")
		}
		r.want(t, strings.Repeat("x", 500), NotWritten, ReasonMessageTooLarge)
		c.wantLog(t, want...)
		for i, v := range want {
			if r.got[v].Offset != record.Offset(i) {
				t.Errorf("%s: %v, want %d", v, r.got[v], i)
			}
		}
		if s := p.Stats(); s.BufferedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A request above what the broker reads ends the stream. It is cut, or not written, at once, and costs
// the others no more than a retry.
func TestTooLargeToReadIsSplit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 2)
		c.maxRequest = 2000
		begin := time.Now()
		p := producer(t, c.connect(t), ProducerConfig{})
		r := newResults()
		big := strings.Repeat("x", 3000)
		var want []string
		for i := range 100 {
			v := fmt.Sprintf("%0*d", 1+i, i)
			if i == 50 {
				v = big
			}
			r.send(t, p, v)
			if i != 50 {
				want = append(want, v)
			}
		}
		flush(t, p)
		for _, v := range want {
			r.want(t, v, Written, "")
		}
		r.want(t, big, NotWritten, ReasonMessageTooLarge)
		if err := r.got[big].Err; !strings.Contains(err.Error(), "2000") {
			t.Errorf("%v does not name the limit", err)
		}
		c.wantLog(t, want...)
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("it took %v", d)
		}
	})
}

// Before anything was sent, the delivery timeout means not written.
func TestDeliveryTimeoutBeforeSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{DeliveryTimeout: 40 * time.Second})
		p.SendSync(bg, rec("a"))
		c.partition("t", 0).move(-1)
		r := newResults()
		start := time.Now()
		r.send(t, p, "b")
		flush(t, p)
		if d := time.Since(start); d != 40*time.Second {
			t.Errorf("took %v", d)
		}
		// One answered attempt, refused for want of leadership: still certainly not written.
		r.want(t, "b", NotWritten, ReasonDeliveryTimeout)
		r.send(t, p, "c")
		time.Sleep(time.Second)
		c.partition("t", 0).move(2)
		flush(t, p)
		r.want(t, "c", Written, "")
		c.wantLog(t, "a", "c")
	})
}

// No producer id can be had: nothing can be sent, and the error says why.
func TestDeliveryTimeoutWithoutProducerID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.deny = &clientv1.Error{Reason: "COORDINATOR_LOAD_IN_PROGRESS", Message: "still loading", Retriable: true}
		p := producer(t, c.connect(t), ProducerConfig{})
		r := newResults()
		r.send(t, p, "a")
		flush(t, p)
		r.want(t, "a", NotWritten, ReasonDeliveryTimeout)
		if msg := r.got["a"].Err.Error(); !strings.Contains(msg, "still loading") {
			t.Error(msg)
		}
		c.deny = nil
		if res := p.SendSync(bg, rec("b")); res.Outcome != Written {
			t.Error(res)
		}
	})
}

// Who may not write anywhere is refused a producer id, and told so at once. Once that is put right, the next record goes out.
func TestRefusedProducerID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 2)
		c.deny = &clientv1.Error{Reason: "CLUSTER_AUTHORIZATION_FAILED", Message: "no", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		p := producer(t, c.connect(t), ProducerConfig{})
		began := time.Now()
		r := newResults()
		r.send(t, p, "a")
		r.send(t, p, "b")
		flush(t, p)
		r.want(t, "a", NotWritten, "CLUSTER_AUTHORIZATION_FAILED")
		r.want(t, "b", NotWritten, "CLUSTER_AUTHORIZATION_FAILED")
		if took := time.Since(began); took > time.Second {
			t.Errorf("told after %s", took)
		}
		c.deny = nil
		if res := p.SendSync(bg, rec("c")); res.Outcome != Written {
			t.Error(res)
		}
	})
}

// After a send whose answer never came, the delivery timeout means unknown. The batch sits in a
// paused broker and is written later; what follows has a new epoch, so order holds and the
// resumed broker's other copies are refused.
func TestDeliveryTimeoutAfterSend(t *testing.T) {
	for _, written := range []bool{true, false} {
		t.Run(fmt.Sprintf("written=%v", written), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newFakeCluster(t, 2)
				c.topic("t", 1)
				p := producer(t, c.connect(t), ProducerConfig{DeliveryTimeout: 40 * time.Second})
				p.SendSync(bg, rec("a"))
				f := fault{cutBefore: true}
				if written {
					f = fault{loseAck: true}
				}
				c.onFirst(map[string]fault{"b": f})
				r := newResults()
				r.send(t, p, "b")
				time.Sleep(6 * time.Millisecond) // lingered, sent, and cut
				c.brokers[1].host.pause()
				flush(t, p)
				r.want(t, "b", Unknown, ReasonDeliveryTimeout)
				c.brokers[1].host.resume()
				if res := p.SendSync(bg, rec("c")); res.Outcome != Written {
					t.Error(res)
				}
				got := c.partition("t", 0).stored()
				if !slices.Equal(got, []string{"a", "b", "c"}) && (written || !slices.Equal(got, []string{"a", "c"})) {
					t.Errorf("log holds %v", got)
				}
				if s := p.Stats(); s.NewIdentities != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// acks none: nothing is known, and nothing is waited for.
func TestAcksNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Acks: AcksNone})
		r := newResults()
		for i := range 100 {
			r.send(t, p, fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		flush(t, p)
		time.Sleep(time.Second) // a flush only hands them to the network
		for i := range 100 {
			r.want(t, fmt.Sprint(i), Unknown, "")
		}
		// The leader moves: the broker that is asked in vain breaks the stream (P32), what it was
		// sent is lost, and later records find the new leader.
		c.partition("t", 0).move(2)
		r.send(t, p, "lost")
		time.Sleep(time.Second)
		r.send(t, p, "found")
		time.Sleep(time.Second)
		l := firstLane(p)
		l.mu.Lock()
		st := l.stream
		l.mu.Unlock()
		st.mu.Lock()
		if n := len(st.pending); n > 0 {
			t.Errorf("%d answers are waited for", n)
		}
		st.mu.Unlock()
		if err := p.Close(bg); err != nil {
			t.Error(err)
		}
		got := c.partition("t", 0).stored()
		if len(got) != 101 || got[100] != "found" || got[0] != "0" {
			t.Errorf("log holds %v", got)
		}
	})
}

// Without idempotence the same faults do write twice: so the faults bite.
func TestWithoutIdempotenceDuplicates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		c.onFirst(map[string]fault{"a": {loseAck: true}})
		p := producer(t, c.connect(t), ProducerConfig{DisableIdempotence: true})
		if res := p.SendSync(bg, rec("a")); res.Outcome != Written || res.Offset != 1 {
			t.Error(res)
		}
		c.wantLog(t, "a", "a")
	})
}

// A producer that is closed while its broker is out of reach says of each record what is certain.
func TestCloseIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 2)
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		c.brokers[1].host.pause()
		r := newResults()
		for i := range 7 {
			r.send(t, p, fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(bg, 2*time.Second)
		defer cancel()
		start := time.Now()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("Close took %v", d)
		}
		for i := range 5 {
			r.want(t, fmt.Sprint(i), Unknown, ReasonClosed)
		}
		for i := 5; i < 7; i++ {
			r.want(t, fmt.Sprint(i), NotWritten, ReasonClosed)
		}
		if err := p.Close(bg); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// A callback may send, and may be slow, without holding others up.
func TestCallbackMaySend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 2)
		p := producer(t, c.connect(t), ProducerConfig{})
		r := newResults()
		slow := make(chan struct{})
		if err := p.Send(bg, rec("a"), func(res Result) {
			if res := p.SendSync(bg, rec("from the callback")); res.Outcome != Written {
				t.Error(res)
			}
			<-slow
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if res := p.SendSync(bg, Record{Topic: "t", Partition: ToPartition(1)}); res.Outcome != Written {
			t.Error(res)
		}
		r.send(t, p, "b")
		time.Sleep(time.Second)
		if len(r.seq) != 0 {
			t.Error("a callback was overtaken")
		}
		close(slow)
		flush(t, p)
		r.want(t, "b", Written, "")
	})
}

// A call that found no connection was not sent; one whose connection broke may have been.
func TestOutcomeOfBrokenConnections(t *testing.T) {
	for message, want := range map[string]Outcome{
		`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`: NotWritten,
		"error reading from server: EOF": Unknown,
	} {
		if e := fromCall(status.Error(codes.Unavailable, message), "b"); e.Outcome != want || e.Reason != ReasonNetwork || !e.Retriable {
			t.Errorf("%s: %+v, want %v", message, e, want)
		}
	}
}
