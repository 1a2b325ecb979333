package client

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// arrivals is a consumer of one partition that asks for nothing by itself, and answers for it.
type arrivals struct {
	t testing.TB
	k *Consumer
	p *part
}

func newArrivals(t *testing.T) *arrivals {
	c := newFakeCluster(t, 1)
	c.topic("t", 1)
	k := consumer(t, c.connect(t), ConsumerConfig{Reset: ResetEarliest})
	if err := k.Assign(bg, tp(0)); err != nil {
		t.Fatal(err)
	}
	if err := k.Pause(tp(0)); err != nil {
		t.Fatal(err)
	}
	k.mustSeek(t, At(0))
	synctest.Wait()
	return &arrivals{t: t, k: k, p: k.parts[tp(0)]}
}

// arrive is an answer to the question that is asked now: one batch of one record, at the next offset.
func (a *arrivals) arrive(intact bool) answer {
	a.t.Helper()
	a.k.mu.Lock()
	fp := &flightPart{p: a.p, seeks: a.p.seeks, from: a.p.next}
	a.k.mu.Unlock()
	bd := record.NewBuilder(record.CodecNone)
	if err := bd.Append(0, nil, []byte{byte(fp.from)}, nil); err != nil {
		a.t.Fatal(err)
	}
	b := bd.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
	b.SetBaseOffset(fp.from)
	if !intact {
		b[len(b)-1] ^= 1
	}
	got, ok := a.k.arrived(fp, &clientv1.FetchedPartition{Topic: "t", Batches: [][]byte{b}})
	if !ok {
		a.t.Fatalf("answer at %d is not wanted", fp.from)
	}
	return got
}

// queued are the offsets that are up for Poll, and the error behind them.
func (a *arrivals) queued() (offsets []record.Offset, err error) {
	a.k.mu.Lock()
	defer a.k.mu.Unlock()
	var bytes int64
	for _, f := range a.p.queue {
		if f.Err != nil {
			err = f.Err
			continue
		}
		if err != nil {
			a.t.Errorf("records at %d behind an error", f.from)
		}
		offsets = append(offsets, f.from)
		bytes += int64(f.bytes)
	}
	if a.p.bytes != bytes+a.p.unchecked || a.k.buffered != a.p.bytes {
		a.t.Errorf("%d bytes are counted, %d buffered; %d are up for Poll and %d not checked", a.p.bytes, a.k.buffered, bytes, a.p.unchecked)
	}
	return offsets, err
}

// The next question can be asked as soon as an answer is there; what comes is up for Poll in order,
// whatever is checked first.
func TestAnswersAreCheckedAside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newArrivals(t)
		first, second, third := a.arrive(true), a.arrive(true), a.arrive(true)
		if a.p.next != 3 {
			t.Fatalf("the next question is from %d, want 3", a.p.next)
		}
		go a.k.check(&third)
		go a.k.check(&second)
		synctest.Wait()
		if got, _ := a.queued(); len(got) != 0 {
			t.Errorf("%v are up before the first", got)
		}
		a.k.check(&first)
		synctest.Wait()
		if got, err := a.queued(); !slices.Equal(got, []record.Offset{0, 1, 2}) || err != nil {
			t.Errorf("%v are up, %v", got, err)
		}
	})
}

// Nothing that was asked for beyond a batch that cannot be read is given, whether it came before
// that was found out or comes later.
func TestNothingIsGivenBeyondABadBatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newArrivals(t)
		good, bad, beyond := a.arrive(true), a.arrive(false), a.arrive(true)
		late := flightPart{p: a.p, seeks: a.p.seeks, from: a.p.next}
		go a.k.check(&beyond)
		synctest.Wait()
		a.k.check(&good)
		a.k.check(&bad)
		synctest.Wait()
		got, err := a.queued()
		if !slices.Equal(got, []record.Offset{0}) || !errors.Is(err, &Error{Reason: ReasonCorruptMessage}) {
			t.Errorf("%v are up, %v", got, err)
		}
		if _, ok := a.k.arrived(&late, &clientv1.FetchedPartition{Topic: "t"}); ok {
			t.Error("an answer from beyond the bad batch is taken")
		}
		if a.p.next != 1 {
			t.Errorf("the position is %d, want that of the bad batch, 1", a.p.next)
		}
	})
}

// An error comes behind what was fetched before it, checked or not.
func TestErrorsComeBehindRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newArrivals(t)
		first := a.arrive(true)
		a.k.mu.Lock()
		a.k.fail(a.p, errors.New("no more"))
		a.k.mu.Unlock()
		if got, err := a.queued(); len(got) != 0 || err != nil {
			t.Errorf("%v are up, %v", got, err)
		}
		a.k.check(&first)
		if got, err := a.queued(); len(got) != 1 || err == nil {
			t.Errorf("%v are up, %v", got, err)
		}
	})
}

// A Seek drops what is being checked, and its bytes are counted once.
func TestSeekDropsWhatIsBeingChecked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newArrivals(t)
		first, second := a.arrive(true), a.arrive(true)
		a.k.mustSeek(t, At(7))
		third := a.arrive(true)
		go a.k.check(&second)
		a.k.check(&third)
		a.k.check(&first)
		synctest.Wait()
		if got, err := a.queued(); !slices.Equal(got, []record.Offset{7}) || err != nil {
			t.Errorf("%v are up, %v", got, err)
		}
	})
}
