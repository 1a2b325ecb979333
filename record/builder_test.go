package record

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestBuilderReset(t *testing.T) {
	for codec := range codecCount {
		b := NewBuilder(codec)
		if b.Finish(1, 2, 3, false) != nil || b.Len() != 0 || b.Size() != 0 {
			t.Errorf("%v: not empty at first", codec)
		}
		var before []Record
		for range 3 {
			for i := range int64(5) {
				if err := b.Append(now+i, []byte("key"), []byte(strings.Repeat("value ", 30)), nil); err != nil {
					t.Fatal(err)
				}
			}
			if b.Len() != 5 {
				t.Errorf("%v: %d records", codec, b.Len())
			}
			batch := b.Finish(1, 2, 3, false)
			if err := b.Append(now, nil, nil, nil); !errors.Is(err, ErrInvalidRecord) {
				t.Errorf("%v: append after finish: %v", codec, err)
			}
			if again := b.Finish(1, 2, 3, false); !bytes.Equal(again, batch) {
				t.Errorf("%v: finished twice, got another batch", codec)
			}
			got := contentOf(t, Batch(bytes.Clone(batch)))
			if before != nil && !reflect.DeepEqual(got, before) {
				t.Errorf("%v: after reset: got %v, want %v", codec, got, before)
			}
			before = got
			b.Reset()
			if b.Len() != 0 || b.Size() != 0 || b.Finish(1, 2, 3, false) != nil {
				t.Errorf("%v: not empty after reset", codec)
			}
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	b := NewBuilder(CodecNone)
	if err := b.Append(-2, nil, nil, nil); !errors.Is(err, ErrInvalidTimestamp) {
		t.Errorf("timestamp -2: %v", err)
	}
	if err := b.Append(NoTimestamp, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	size := b.Size()
	if err := b.Append(math.MaxInt64, nil, nil, nil); !errors.Is(err, ErrInvalidTimestamp) {
		t.Errorf("distance of 64 bits: %v", err)
	}
	value := make([]byte, 32<<10)
	headers := make([]Header, MaxRecordHeaders) // 2 GiB, all of them the same bytes
	for i := range headers {
		headers[i].Value = value
	}
	if err := b.Append(0, nil, nil, headers); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("2 GiB: %v", err)
	}
	if b.Len() != 1 || b.Size() != size {
		t.Errorf("%d records, %d bytes, want 1, %d", b.Len(), b.Size(), size)
	}
	if _, err := Validate(b.Finish(NoProducerID, NoEpoch, NoSequence, false), Limits{}); err != nil {
		t.Error(err)
	}
}

// What compression would make larger stays as it is, so Size is never exceeded.
func TestBuilderKeepsWhatDoesNotCompress(t *testing.T) {
	noise := make([]byte, 100_000)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for codec := range codecCount {
		for _, value := range [][]byte{nil, []byte("x"), noise} {
			b := NewBuilder(codec)
			if err := b.Append(now, nil, value, nil); err != nil {
				t.Fatal(err)
			}
			batch := b.Finish(1, 0, 0, false)
			if batch.Attributes().Codec() != CodecNone || len(batch) != b.Size() {
				t.Errorf("%v: %d bytes of noise as %v in %d bytes, Size %d", codec, len(value), batch.Attributes().Codec(), len(batch), b.Size())
			}
			if got := contentOf(t, batch); !bytes.Equal(got[0].Value, value) {
				t.Errorf("%v: value differs", codec)
			}
		}
	}
}

// Every level of every codec reads back; out of range means the nearest end.
func TestCompressionLevels(t *testing.T) {
	text := frameText()
	for codec, levels := range map[Codec][]int{
		CodecGzip: {-5, 1, 6, 9, 100}, CodecLZ4: {-5, 1, 9, 100}, CodecZstd: {-5, 1, 3, 9, 22, 100}, CodecSnappy: {1}, CodecNone: {1},
	} {
		for _, level := range levels {
			c := NewCompression(codec, level)
			if c.Codec() != codec {
				t.Errorf("codec %v, want %v", c.Codec(), codec)
			}
			b := c.NewBuilder()
			if err := b.Append(now, nil, text, nil); err != nil {
				t.Fatal(err)
			}
			if got := contentOf(t, b.Finish(1, 0, 0, false)); !bytes.Equal(got[0].Value, text) {
				t.Errorf("%v at level %d: value differs", codec, level)
			}
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a codec that does not exist does not panic")
		}
	}()
	NewCompression(codecCount)
}

// Builders of several goroutines share encoders, also across test bubbles: pools of the process
// hold nothing that belongs to a bubble.
func TestCompressionIsShared(t *testing.T) {
	work := func(t *testing.T) {
		var wg sync.WaitGroup
		for codec := range codecCount {
			c := NewCompression(codec)
			for range 4 {
				wg.Go(func() {
					b := c.NewBuilder()
					if err := b.Append(now, nil, []byte(strings.Repeat("value ", 1000)), nil); err != nil {
						t.Error(err)
					}
					if _, err := Validate(b.Finish(1, 0, 0, false), Limits{}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	}
	synctest.Test(t, work)
	synctest.Test(t, work)
	work(t)
}

func TestRewrite(t *testing.T) {
	for codec := range codecCount {
		b := sample(t, codec)
		want := contentOf(t, Batch(bytes.Clone(b)))
		b.Rewrite(99, 5, math.MaxInt32)
		if b.ProducerID() != 99 || b.ProducerEpoch() != 5 || b.BaseSequence() != math.MaxInt32 || b.LastSequence() != 1 {
			t.Errorf("%v: % x", codec, b[:HeaderSize])
		}
		if _, err := Validate(b, Limits{}); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		if got := contentOf(t, b); !reflect.DeepEqual(got, want) {
			t.Errorf("%v: records changed", codec)
		}
		// P30: base offset and leader epoch are outside the CRC.
		b.SetBaseOffset(12345)
		b.SetLeaderEpoch(7)
		if err := b.CheckCRC(); err != nil || b.BaseOffset() != 12345 || b.LeaderEpoch() != 7 || b.LastOffset() != 12347 {
			t.Errorf("%v: %v", codec, err)
		}
	}
	if err := Batch("short").CheckCRC(); !errors.Is(err, ErrCorruptMessage) {
		t.Error(err)
	}
}

func TestParseTakesOneAfterAnother(t *testing.T) {
	a, b := sample(t, CodecNone), sample(t, CodecZstd)
	rest := append(append(bytes.Clone(a), b...), a[:30]...)
	for _, want := range []Batch{a, b} {
		var got Batch
		var err error
		if got, rest, err = Parse(rest); err != nil || !bytes.Equal(got, want) || cap(got) != len(got) {
			t.Fatalf("%x, %v", []byte(got), err)
		}
	}
	if _, _, err := Parse(rest); !errors.Is(err, ErrInvalidRecord) {
		t.Error(err)
	}
}
