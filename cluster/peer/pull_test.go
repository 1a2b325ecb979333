package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/record"
)

// randomEntries makes n entries from an index on, some of them larger than a message.
func randomEntries(rng *rand.Rand, from record.Index, n int) []Entry {
	list := make([]Entry, n)
	for i := range list {
		size := rng.IntN(300)
		switch rng.IntN(20) {
		case 0:
			size = chunkBytes - entryOverhead - rng.IntN(3)
		case 1:
			size = rng.IntN(3 * chunkBytes)
		case 2:
			size = 0
		}
		e := Entry{
			Index: from + record.Index(i), Term: record.Term(rng.Uint64N(9)), Type: uint8(rng.IntN(256)), AppendedAt: rng.Int64() - rng.Int64(),
			Records: rng.Int32N(1000), MaxTimestamp: rng.Int64() - rng.Int64(), Data: randomBytes(rng, size),
		}
		if rng.IntN(3) == 0 {
			e.Ext = randomBytes(rng, rng.IntN(maxExtBytes+1))
		}
		list[i] = e
	}
	return list
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := rng.Uint64()
		for k := i; k < min(n, i+8); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

func sameEntry(a, b *Entry) bool {
	x, y := *a, *b
	x.Ext, x.Data, y.Ext, y.Data = nil, nil, nil, nil
	return fmt.Sprint(x) == fmt.Sprint(y) && bytes.Equal(a.Ext, b.Ext) && bytes.Equal(a.Data, b.Data)
}

// TestEntriesTravel: entries of any size, in portions of any size, arrive as they were.
func TestEntriesTravel(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			sent := randomEntries(rng, 100, 1+rng.IntN(60))
			r := newRig(t)
			r.handler.pull = func(_ context.Context, _ Identity, _ PullRequest, send func([]Entry) error) error {
				for rest := sent; len(rest) > 0; {
					n := 1 + rng.IntN(len(rest))
					part := make([]Entry, n)
					for i := range part { // The sender may use its buffers again.
						part[i] = rest[i]
						part[i].Data, part[i].Ext = bytes.Clone(rest[i].Data), bytes.Clone(rest[i].Ext)
					}
					if err := send(part); err != nil {
						return err
					}
					for i := range part {
						clear(part[i].Data)
						clear(part[i].Ext)
					}
					rest = rest[n:]
				}
				return nil
			}
			var got []Entry
			err := r.client.PullEntries(r.context(time.Minute), to2, PullRequest{Group: 1, From: 100, Through: 99 + record.Index(len(sent))},
				func(e []Entry) error { got = append(got, e...); return nil })
			if err != nil || len(got) != len(sent) {
				t.Fatalf("seed %d: %d of %d entries, %v", seed, len(got), len(sent), err)
			}
			for i := range got {
				if !sameEntry(&got[i], &sent[i]) {
					t.Fatalf("seed %d: entry %d differs", seed, i)
				}
			}
		})
	}
}

// TestMessagesAreBounded: no message is above the chunk by more than what cannot be split.
func TestMessagesAreBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	w := entryWriter{send: func(m *peerv1.PullEntriesResponse) error {
		if n := proto.Size(m); n > chunkBytes+maxExtBytes || len(m.GetEntries()) == 0 {
			t.Errorf("message of %d bytes, %d entries", n, len(m.GetEntries()))
		}
		return nil
	}}
	for range 20 {
		if err := w.write(randomEntries(rng, 1, 50)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.write([]Entry{{Index: 1, Ext: make([]byte, maxExtBytes+1)}}); err == nil {
		t.Fatal("an entry with too much beside its data was sent")
	}
}

// TestPullResumes: what yield has had need not be asked for again.
func TestPullResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		sent := randomEntries(rand.New(rand.NewPCG(3, 3)), 1, 100)
		var asked atomic.Int64
		r.handler.pull = func(_ context.Context, _ Identity, req PullRequest, send func([]Entry) error) error {
			if n := asked.Add(1); n <= 5 {
				if err := send(sent[req.From-1 : req.From+9]); err != nil {
					return err
				}
				if n%2 == 0 {
					go r.net.ResetConns("b1", "b2")
				}
				return errors.New("out of sorts")
			}
			return send(sent[req.From-1 : req.Through])
		}
		next, tries := record.Index(1), 0
		for ; next <= 100; tries++ {
			err := r.client.PullEntries(r.context(time.Minute), to2, PullRequest{Group: 1, From: next, Through: 100}, func(e []Entry) error {
				for i := range e {
					if e[i].Index != next || !sameEntry(&e[i], &sent[next-1]) {
						t.Fatalf("entry %d came, want %d", e[i].Index, next)
					}
					next++
				}
				return nil
			})
			if err == nil && next <= 100 {
				t.Fatalf("nil before entry %d", next)
			}
			if err != nil {
				time.Sleep(time.Second) // Connections come back.
			}
		}
		if tries < 6 {
			t.Fatalf("%d tries", tries)
		}
	})
}

// TestPullEndsWithYield: an error of yield ends the call, comes back as it is, and ends the sender.
func TestPullEndsWithYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ended := make(chan error, 1)
		r.handler.pull = func(ctx context.Context, _ Identity, req PullRequest, send func([]Entry) error) error {
			for i := req.From; ; i++ {
				if err := send([]Entry{{Index: i, Data: make([]byte, 1000)}}); err != nil {
					ended <- err
					return err
				}
			}
		}
		enough := errors.New("enough")
		err := r.client.PullEntries(context.Background(), to2, PullRequest{Group: 1, From: 1, Through: 1 << 40}, func([]Entry) error { return enough })
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
		<-ended
	})
}

// TestPullIsHeldBack: a sender is at most some windows ahead of a receiver that does not read.
func TestPullIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const size = 64 << 10
		var ahead atomic.Int64
		r.handler.pull = func(ctx context.Context, _ Identity, req PullRequest, send func([]Entry) error) error {
			for i := req.From; ; i++ {
				if err := send([]Entry{{Index: i, Data: make([]byte, size)}}); err != nil {
					return err
				}
				ahead.Add(size)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		err := r.client.PullEntries(ctx, to2, PullRequest{Group: 1, From: 1, Through: 1 << 40}, func([]Entry) error {
			synctest.Wait() // Everything that could move has moved.
			if n := ahead.Load(); n > 4<<20 || n == 0 {
				t.Errorf("the sender is %d bytes ahead", n)
			}
			cancel()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// TestPullIsChecked: what was not asked for is refused; nothing of it reaches yield.
func TestPullIsChecked(t *testing.T) {
	good := func(i uint64) *peerv1.Entry { return &peerv1.Entry{Index: i, Term: 1} }
	cases := map[string][]*peerv1.Entry{
		"too few":            {good(5)},
		"none":               nil,
		"begins late":        {good(6), good(7)},
		"begins early":       {good(4), good(5), good(6)},
		"gap":                {good(5), good(7)},
		"twice":              {good(5), good(5), good(6)},
		"too many":           {good(5), good(6), good(7)},
		"type":               {{Index: 5, Type: 256}, good(6)},
		"records":            {{Index: 5, Records: -1}, good(6)},
		"never ends":         {good(5), {Index: 6, Continues: true}},
		"another inside":     {{Index: 5, Continues: true, Data: []byte("x")}, good(6)},
		"empty continuation": {{Index: 5, Continues: true, Data: []byte("x")}, good(5), good(6)},
		"continues for ever": {{Index: 5, Continues: true}, {Index: 5, Continues: true}},
		"another continues":  {{Index: 5, Continues: true, Data: []byte("x")}, {Index: 6, Data: []byte("y")}, good(6)},
	}
	for name, entries := range cases {
		t.Run(name, func(t *testing.T) {
			r := entryReader{next: 5, through: 6}
			got, err := r.read(&peerv1.PullEntriesResponse{Entries: entries})
			for i := range got {
				if got[i].Index > 6 {
					t.Fatalf("entry %d was let pass", got[i].Index)
				}
			}
			if err == nil {
				err = r.done()
			} else if got != nil {
				t.Fatalf("entries %v beside %v", got, err)
			}
			if err == nil {
				t.Fatal("nothing was found")
			}
		})
	}
	later := entryReader{next: 3, through: 6}
	if got, err := later.read(&peerv1.PullEntriesResponse{Entries: []*peerv1.Entry{good(5), good(6)}}); err != nil || len(got) != 2 || later.done() != nil {
		t.Errorf("a log that begins with 5, asked for 3 to 6: %v, %v, %v", got, err, later.done())
	}
	r := entryReader{next: 5, through: 5}
	part := make([]byte, 64<<20)
	m := &peerv1.PullEntriesResponse{Entries: []*peerv1.Entry{{Index: 5, Continues: true, Data: part}}}
	for range maxPulledEntryBytes/len(part) + 1 {
		if _, err := r.read(m); err != nil {
			return
		}
	}
	t.Fatalf("an entry above %d bytes was put together", maxPulledEntryBytes)
}

// TestMalformedPulls: what is asked for is checked before the handler, what comes before yield.
func TestMalformedPulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, q := range []PullRequest{{Group: 1, From: 0, Through: 5}, {Group: 1, From: 6, Through: 5}} {
			want(t, r.client.PullEntries(r.context(time.Second), to2, q, nothing), Malformed, false)
		}
		r.handler.pull = func(_ context.Context, _ Identity, _ PullRequest, send func([]Entry) error) error {
			return send([]Entry{{Index: 7}})
		}
		err := r.client.PullEntries(r.context(time.Second), to2, PullRequest{Group: 1, From: 5, Through: 6}, func([]Entry) error {
			t.Error("yield was called")
			return nil
		})
		want(t, err, Malformed, true)
	})
}

// FuzzEntryReader: whatever a peer sends, the reader gives entries that were asked for, in order, or
// an error.
func FuzzEntryReader(f *testing.F) {
	w := entryWriter{send: func(m *peerv1.PullEntriesResponse) error {
		b, err := proto.Marshal(m)
		f.Add(b, uint64(1), uint64(3))
		return err
	}}
	if err := w.write([]Entry{{Index: 1, Term: 1, Ext: []byte("e"), Data: []byte("one")}, {Index: 2, Records: 3}, {Index: 3}}); err != nil {
		f.Fatal(err)
	}
	parts := &peerv1.PullEntriesResponse{Entries: []*peerv1.Entry{{Index: 1, Data: []byte("a"), Continues: true}, {Index: 1, Data: []byte("b")}}}
	b, err := proto.Marshal(parts)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint64(1), uint64(2))
	f.Add([]byte{}, uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, next, through uint64) {
		m := new(peerv1.PullEntriesResponse)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		r := entryReader{next: record.Index(next), through: record.Index(through)}
		at := r.next
		for range 2 {
			entries, err := r.read(m)
			if err != nil {
				return
			}
			for i := range entries {
				if entries[i].Index != at || at > r.through {
					t.Fatalf("entry %d, want %d of at most %d", entries[i].Index, at, r.through)
				}
				at++
			}
		}
		if r.done() == nil && at != r.through+1 {
			t.Fatal("done too early")
		}
	})
}
