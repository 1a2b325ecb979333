package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

const now = 1_700_000_000_000

// sample is a good batch of three records, timestamps now, now+1, now+2, by producer 7.
func sample(t testing.TB, codec Codec) Batch {
	t.Helper()
	return sampleAt(t, codec, now, now+1, now+2)
}

func sampleAt(t testing.TB, codec Codec, timestamps ...int64) Batch {
	t.Helper()
	b := NewBuilder(codec)
	for i, ts := range timestamps {
		value := []byte(strings.Repeat("value ", 20))
		if err := b.Append(ts, fmt.Appendf(nil, "key%d", i), value, []Header{{"h", []byte("v")}}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Finish(7, 1, 10, false)
}

// altered is a copy of b with a change that the CRC then agrees with.
func altered(b Batch, change func(Batch)) Batch {
	c := Batch(bytes.Clone(b))
	change(c)
	c.seal()
	return c
}

func put16(at int, v uint16) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint16(b[at:], v) }
}

func put32(at int, v int32) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
}

func put64(at int, v int64) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
}

// framed is a batch of the records given as raw bytes, CRC and lengths right.
func framed(count int32, frames ...[]byte) Batch {
	b := Batch(append(make([]byte, HeaderSize), bytes.Join(frames, nil)...))
	b.newHeader(0, count, now, now)
	b.seal()
	return b
}

// framesOf compresses raw records.
func framesOf(codec Codec, count int32, frames []byte) Batch {
	b := Batch(NewCompression(codec).appendTo(make([]byte, HeaderSize), frames))
	b.newHeader(Attributes(codec), count, now, now)
	b.seal()
	return b
}

type refusal struct {
	name    string
	batch   []byte
	limits  Limits
	code    Code
	record  int    // -1: the batch as a whole
	message string // part of it: the field and the limit
}

// Every refusal that the header decides (P28, P29).
func TestValidateRefusesHeaders(t *testing.T) {
	good := sample(t, CodecNone)
	zipped := sample(t, CodecGzip)
	size := len(good)
	for _, tc := range []refusal{
		{"P28 null records", nil, Limits{}, ErrInvalidRecord, -1, "shorter than a batch header (61)"},
		{"P28 short records", good[:HeaderSize-1], Limits{}, ErrInvalidRecord, -1, "shorter than a batch header (61)"},
		{"P28 cut records", good[:size-1], Limits{}, ErrInvalidRecord, -1, "only"},
		{"P28 two batches", append(bytes.Clone(good), good...), Limits{}, ErrInvalidRecord, -1, "exactly one batch"},
		{"P28 trailing byte", append(bytes.Clone(good), 0), Limits{}, ErrInvalidRecord, -1, "1 bytes after the batch"},
		{"P28 length below the header", altered(good, put32(offLength, HeaderSize-lengthPrefix-1)), Limits{}, ErrCorruptMessage, -1, "batch length 48"},
		{"P28 negative length", altered(good, put32(offLength, -1)), Limits{}, ErrCorruptMessage, -1, "batch length -1"},
		{"P28 least length", altered(good, put32(offLength, math.MinInt32)), Limits{}, ErrCorruptMessage, -1, "batch length"},
		{"P28 largest length", altered(good, put32(offLength, math.MaxInt32)), Limits{}, ErrInvalidRecord, -1, "says 2147483659 bytes"},
		{"P28 magic 0", altered(good, func(b Batch) { b[offMagic] = 0 }), Limits{}, ErrInvalidRecord, -1, "magic 0"},
		{"P28 magic 1", altered(good, func(b Batch) { b[offMagic] = 1 })[:20], Limits{}, ErrInvalidRecord, -1, "magic 1"},
		{"P28 magic 3", altered(good, func(b Batch) { b[offMagic] = 3 }), Limits{}, ErrCorruptMessage, -1, "magic 3"},
		{"P28 magic -1", altered(good, func(b Batch) { b[offMagic] = 0xff }), Limits{}, ErrCorruptMessage, -1, "magic -1"},
		{"P28 base offset 1", altered(good, put64(offBaseOffset, 1)), Limits{}, ErrInvalidRecord, -1, "base offset is 1"},
		{"P28 base offset -1", altered(good, put64(offBaseOffset, -1)), Limits{}, ErrInvalidRecord, -1, "base offset is -1"},
		{"P28 bad CRC", change(good, size-1, 1), Limits{}, ErrCorruptMessage, -1, "CRC32C"},
		{"P28 bad CRC field", change(good, offCRC, 1), Limits{}, ErrCorruptMessage, -1, "CRC32C"},
		{"P28 codec 5", altered(good, put16(offAttributes, 5)), Limits{}, ErrUnsupportedCompression, -1, "codec 5"},
		{"P28 codec 5, trusted", altered(good, put16(offAttributes, 5)), Limits{TrustRecords: true}, ErrUnsupportedCompression, -1, "codec 5"},
		{"P28 codec 7", altered(good, put16(offAttributes, 7)), Limits{}, ErrUnsupportedCompression, -1, "codec 7"},
		{"P28 zstd before version 7", sample(t, CodecZstd), Limits{NoZstd: true}, ErrUnsupportedCompression, -1, "version 7"},
		{"P28 count 0", altered(altered(good, put32(offRecordCount, 0)), put32(offLastOffsetDelta, -1)), Limits{}, ErrInvalidRecord, -1, "record count is 0"},
		{"P28 count -1", altered(good, put32(offRecordCount, -1)), Limits{}, ErrInvalidRecord, -1, "record count is -1"},
		{"P28 least count, largest delta", altered(altered(good, put32(offRecordCount, math.MinInt32)), put32(offLastOffsetDelta, math.MaxInt32)), Limits{}, ErrInvalidRecord, -1, "record count"},
		{"P28 delta not count - 1", altered(good, put32(offLastOffsetDelta, 3)), Limits{}, ErrInvalidRecord, -1, "last offset delta is 3, want record count 3 less 1"},
		{"P28 negative delta", altered(good, put32(offLastOffsetDelta, -1)), Limits{}, ErrInvalidRecord, -1, "last offset delta is -1"},
		{"P28 count that cannot fit", altered(altered(good, put32(offRecordCount, 1000)), put32(offLastOffsetDelta, 999)), Limits{}, ErrInvalidRecord, -1, "hold at most"},
		{"P28 compressed count that cannot fit, trusted", altered(altered(zipped, put32(offRecordCount, 1000)), put32(offLastOffsetDelta, 999)), Limits{TrustRecords: true, MaxDecompressedBytes: 6999}, ErrInvalidRecord, -1, "6999 bytes hold at most 999"},
		{"P28 control bit", altered(good, put16(offAttributes, uint16(AttrControl))), Limits{}, ErrInvalidRecord, -1, "control bit"},
		{"P28 marker", ControlBatch(Marker{ProducerID: 7}), Limits{}, ErrInvalidRecord, -1, "control bit"},
		{"P28 base sequence -1 with producer id", altered(good, put32(offBaseSequence, -1)), Limits{}, ErrInvalidRecord, -1, "base sequence is -1"},
		{"P28 base sequence -2 with producer id 0", altered(altered(good, put64(offProducerID, 0)), put32(offBaseSequence, -2)), Limits{}, ErrInvalidRecord, -1, "base sequence is -2"},
		{"producer id -2", altered(good, put64(offProducerID, -2)), Limits{}, ErrInvalidRecord, -1, "producer id is -2"},
		{"transaction without producer id", altered(altered(good, put64(offProducerID, -1)), put16(offAttributes, uint16(AttrTransactional))), Limits{}, ErrInvalidRecord, -1, "transactional bit"},
		{"P28 log append time bit", altered(good, put16(offAttributes, uint16(AttrLogAppendTime))), Limits{LogAppendTime: true}, ErrInvalidTimestamp, -1, "log append time bit"},
		{"P28 log append time bit without timestamp", altered(altered(good, put16(offAttributes, uint16(AttrLogAppendTime))), put64(offMaxTimestamp, -1)), Limits{}, ErrInvalidTimestamp, -1, "log append time bit"},
		{"P29 max.message.bytes", good, Limits{MaxBatchBytes: size - 1}, ErrMessageTooLarge, -1, fmt.Sprintf("%d bytes exceeds max.message.bytes %d", size, size-1)},
		{"P29 segment.bytes", good, Limits{SegmentBytes: size - 1}, ErrRecordListTooLarge, -1, fmt.Sprintf("exceeds segment.bytes %d", size-1)},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t) })
	}
}

func (tc refusal) check(t *testing.T) {
	t.Helper()
	before := bytes.Clone(tc.batch)
	b, err := Validate(tc.batch, tc.limits)
	var e *Error
	if !errors.As(err, &e) || b != nil {
		t.Fatalf("got batch %v, error %v; want an *Error and no batch", b, err)
	}
	if e.Code != tc.code || !errors.Is(err, tc.code) {
		t.Errorf("code %v, want %v (%v)", e.Code, tc.code, err)
	}
	if e.Record != tc.record {
		t.Errorf("record %d, want %d (%v)", e.Record, tc.record, err)
	}
	if !strings.Contains(e.Message, tc.message) {
		t.Errorf("message %q does not say %q", e.Message, tc.message)
	}
	if !bytes.Equal(tc.batch, before) {
		t.Error("Validate changed its input")
	}
}

// Every refusal that the records decide (P28, P29), compressed or not.
func TestValidateRefusesRecords(t *testing.T) {
	ok := []byte{6 << 1, 0, 0, 0, 1, 1, 0}     // null key and value
	second := []byte{6 << 1, 0, 0, 2, 1, 1, 0} // offset delta 1
	with := func(at int, v ...byte) []byte {
		c := append(bytes.Clone(ok[:at]), v...)
		c = append(c, ok[min(at+1, len(ok)):]...)
		c[0] = byte(len(c)-1) << 1
		return c
	}
	overflow := []byte{0xff, 0xff, 0xff, 0xff, 0x1f} // 33 bits
	padded := []byte{0x80 | 6<<1, 0x80, 0x80, 0x80, 0x80, 0x00}
	endless := bytes.Repeat([]byte{0xff}, 10)
	for _, tc := range []struct {
		name    string
		count   int32
		frames  [][]byte
		record  int
		message string
	}{
		{"length above what is there", 1, [][]byte{{14 << 1, 0, 0, 0, 1, 1, 0}}, 0, string(badLength)},
		{"length one above what is there", 1, [][]byte{{7 << 1, 0, 0, 0, 1, 1, 0}}, 0, string(badLength)},
		{"length of the second", 2, [][]byte{ok, {14 << 1, 0, 0, 2, 1, 1, 0}}, 1, string(badLength)},
		{"length below the least", 1, [][]byte{{5 << 1, 0, 0, 0, 1, 1, 0}}, 0, string(badLength)},
		{"negative length", 1, [][]byte{{1, 0, 0, 0, 1, 1, 0}}, 0, string(badLength)},
		{"length of 33 bits", 1, [][]byte{append(overflow, 0, 0, 0, 1, 1, 0)}, 0, string(badLength)},
		{"length of six bytes", 1, [][]byte{append(padded, 0, 0, 0, 1, 1, 0)}, 0, string(badLength)},
		{"endless length", 1, [][]byte{endless}, 0, string(badLength)},
		{"timestamp delta beyond 64 bits", 1, [][]byte{with(2, append(bytes.Repeat([]byte{0xff}, 9), 2)...)}, 0, string(badDelta)},
		{"timestamp delta of eleven bytes", 1, [][]byte{with(2, append(bytes.Repeat([]byte{0x80}, 10), 0)...)}, 0, string(badDelta)},
		{"offset delta beyond 32 bits", 1, [][]byte{with(3, overflow...)}, 0, string(badDelta)},
		{"key length above the record", 1, [][]byte{with(4, 10<<1)}, 0, string(badKey)},
		{"key length one above the record", 1, [][]byte{with(4, 3<<1)}, 0, string(badKey)},
		{"key length into the next record", 2, [][]byte{with(4, 4<<1), second}, 0, string(badKey)},
		{"key length -2", 1, [][]byte{with(4, 3)}, 0, string(badKey)},
		{"key length beyond 32 bits", 1, [][]byte{with(4, overflow...)}, 0, string(badKey)},
		{"value length above the record", 1, [][]byte{with(5, 10<<1)}, 0, string(badValue)},
		{"value length -2", 1, [][]byte{with(5, 3)}, 0, string(badValue)},
		{"value length 2^31 - 1", 1, [][]byte{with(5, 0xfe, 0xff, 0xff, 0xff, 0x0f)}, 0, string(badValue)},
		{"header count -1", 1, [][]byte{with(6, 1)}, 0, string(badHeaders)},
		{"header count above the record", 1, [][]byte{with(6, 1<<1, 0)}, 0, string(badHeaders)},
		{"header count missing", 1, [][]byte{{6 << 1, 0, 0, 0, 1, 0<<1 | 1, 0x80}}, 0, string(badHeaders)},
		{"null header key", 1, [][]byte{with(6, 1<<1, 1, 1)}, 0, string(badHeader)},
		{"header key above the record", 1, [][]byte{with(6, 1<<1, 4<<1, 1)}, 0, string(badHeader)},
		{"header value above the record", 1, [][]byte{with(6, 1<<1, 0, 4<<1)}, 0, string(badHeader)},
		{"header value one above the record", 1, [][]byte{with(6, 1<<1, 0, 1<<1)}, 0, string(badHeader)},
		{"header value -2", 1, [][]byte{with(6, 1<<1, 0, 3)}, 0, string(badHeader)},
		{"bytes after the headers", 1, [][]byte{with(6, 0, 0)}, 0, string(badEnd)},
		{"fewer records than the count", 2, [][]byte{ok, {}}, 1, string(badLength)},
		{"more records than the count", 1, [][]byte{ok, second}, -1, "7 bytes after the last of 1 records"},
		{"trailing byte", 2, [][]byte{ok, second, {0}}, -1, "1 bytes after the last of 2 records"},
		{"P29 null key on a compacted topic", 2, [][]byte{with(4, 1<<1, 'k'), second}, 1, "key is null"},
	} {
		l := Limits{Compacted: true}
		want := refusal{tc.name, nil, l, ErrInvalidRecord, tc.record, tc.message}
		if !strings.HasPrefix(tc.name, "P29") {
			want.limits.Compacted = false
		}
		for _, codec := range []Codec{CodecNone, CodecGzip, CodecSnappy, CodecLZ4, CodecZstd} {
			t.Run(tc.name+"/"+codec.String(), func(t *testing.T) {
				want.batch = framed(tc.count, tc.frames...)
				if codec != CodecNone {
					want.batch = framesOf(codec, tc.count, bytes.Join(tc.frames, nil))
				} else if most := (len(want.batch) - HeaderSize) / minFrame; most < int(tc.count) {
					t.Skip("the header already gives this away")
				}
				want.check(t)
			})
		}
	}
}

func TestValidateRefusesTooManyHeaders(t *testing.T) {
	most := make([]Header, MaxRecordHeaders)
	b := NewBuilder(CodecNone)
	if err := b.Append(now, nil, nil, append(most, Header{})); !errors.Is(err, ErrInvalidRecord) || b.Size() != 0 {
		t.Errorf("Append: %v, size %d", err, b.Size())
	}
	if err := b.Append(now, nil, nil, most); err != nil {
		t.Fatal(err)
	}
	good := b.Finish(NoProducerID, NoEpoch, NoSequence, false)
	if _, err := Validate(good, Limits{}); err != nil {
		t.Fatal(err)
	}
	// One more header, spliced in: two bytes at the end and both counts.
	frames := good[HeaderSize:]
	var f frame
	if p := f.read(frames, 0); p != "" {
		t.Fatal(p)
	}
	body := bytes.Clone(frames[f.headers:])
	many := appendVarint(nil, int32(f.end-f.headers+2+3+6-1)) // attributes to value 5 bytes, count 3
	many = append(many, 0, 0, 0, 1, 1)
	many = append(appendVarint(many, MaxRecordHeaders+1), body...)
	many = append(many, 0, 1)
	refusal{"", framed(1, many), Limits{}, ErrInvalidRecord, 0, "65536"}.check(t)
}

// P29: timestamps, with the bounds included.
func TestValidateTimestamps(t *testing.T) {
	l := Limits{Now: now, TimestampBeforeMax: 1000, TimestampAfterMax: 100}
	off := Limits{Now: now, TimestampBeforeMax: NoTimestampLimit, TimestampAfterMax: NoTimestampLimit}
	appendTime := l
	appendTime.LogAppendTime = true
	for _, tc := range []struct {
		name   string
		ts     int64
		limits Limits
		bad    string // empty: accepted
	}{
		{"at the early end", now - 1000, l, ""},
		{"before the early end", now - 1001, l, "message.timestamp.before.max.ms 1000"},
		{"at the late end", now + 100, l, ""},
		{"after the late end", now + 101, l, "message.timestamp.after.max.ms 100"},
		{"none", NoTimestamp, l, ""},
		{"0", 0, l, "message.timestamp.before.max.ms 1000"},
		{"largest", math.MaxInt64, l, "message.timestamp.after.max.ms 100"},
		{"0 without limits", 0, off, ""},
		{"largest without limits", math.MaxInt64, off, ""},
		{"largest without clock", math.MaxInt64, Limits{}, ""},
		{"LogAppendTime topic", 0, appendTime, ""},
		{"zero width, hit", now, Limits{Now: now}, ""},
		{"zero width, missed", now - 1, Limits{Now: now}, "message.timestamp.before.max.ms 0"},
		{"nearly off", math.MaxInt64, Limits{Now: now, TimestampBeforeMax: math.MaxInt64 - 1, TimestampAfterMax: math.MaxInt64 - 1}, ""},
	} {
		for _, codec := range []Codec{CodecNone, CodecZstd} {
			t.Run(fmt.Sprintf("%s/%v", tc.name, codec), func(t *testing.T) {
				b := sampleAt(t, codec, now, tc.ts)
				if tc.bad != "" {
					refusal{"", b, tc.limits, ErrInvalidTimestamp, 1, tc.bad}.check(t)
					return
				}
				if _, err := Validate(b, tc.limits); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("overflow", func(t *testing.T) {
		b := framed(1, []byte{6 << 1, 0, 2, 0, 1, 1, 0}) // timestamp delta 1
		refusal{"", altered(b, put64(offBaseTimestamp, math.MaxInt64)), Limits{}, ErrInvalidTimestamp, 0, "overflows"}.check(t)
		b = framed(1, []byte{6 << 1, 0, 1, 0, 1, 1, 0}) // -1
		refusal{"", altered(b, put64(offBaseTimestamp, math.MinInt64)), Limits{}, ErrInvalidTimestamp, 0, "overflows"}.check(t)
	})
}

// What TrustRecords still checks of a compressed batch, and what it does not.
func TestValidateTrusted(t *testing.T) {
	l := Limits{TrustRecords: true, Compacted: true, Now: now, TimestampBeforeMax: 10, TimestampAfterMax: 10}
	rotten := altered(sample(t, CodecGzip), func(b Batch) { clear(b[HeaderSize:]) })
	if _, err := Validate(rotten, l); err != nil {
		t.Errorf("the records were looked at: %v", err)
	}
	if _, err := rotten.Records(0); !errors.Is(err, ErrCorruptMessage) {
		t.Errorf("reading it: %v", err)
	}
	refusal{"", sampleAt(t, CodecGzip, now-11, now), l, ErrInvalidTimestamp, -1, "before.max.ms 10"}.check(t)
	refusal{"", sampleAt(t, CodecGzip, now, now+11), l, ErrInvalidTimestamp, -1, "after.max.ms 10"}.check(t)
	refusal{"", change(rotten, offCRC, 1), l, ErrCorruptMessage, -1, "CRC32C"}.check(t)
	// Uncompressed records are checked all the same.
	refusal{"", framed(1, []byte{6 << 1, 0, 0, 0, 1, 1, 0}), l, ErrInvalidRecord, 0, "key is null"}.check(t)

	stamped := altered(sample(t, CodecGzip), put16(offAttributes, uint16(AttrLogAppendTime)|uint16(CodecGzip)))
	b, err := Validate(stamped, l)
	if err != nil || b.Attributes().LogAppendTime() || b.CheckCRC() != nil {
		t.Errorf("log append time bit: %v, attributes %x", err, b.Attributes())
	}
}

func TestValidateRefusesWhatCannotBeDecompressed(t *testing.T) {
	for _, codec := range []Codec{CodecGzip, CodecSnappy, CodecLZ4, CodecZstd} {
		t.Run(codec.String(), func(t *testing.T) {
			good := sample(t, codec)
			content := len(sample(t, CodecNone)) - HeaderSize
			if _, err := Validate(good, Limits{MaxDecompressedBytes: content}); err != nil {
				t.Fatal(err)
			}
			refusal{"", altered(good, func(b Batch) { clear(b[HeaderSize:]) }), Limits{}, ErrCorruptMessage, -1,
				"cannot be decompressed as " + codec.String()}.check(t)
			refusal{"", good, Limits{MaxDecompressedBytes: content - 1}, ErrMessageTooLarge, -1,
				fmt.Sprintf("exceed %d bytes when decompressed", content-1)}.check(t)
			cut := Batch(bytes.Clone(good[:HeaderSize]))
			cut.newHeader(Attributes(codec), 3, now, now+2)
			refusal{"", altered(cut, func(Batch) {}), Limits{}, 0, -1, ""}.checkRefused(t)
		})
	}
}

// checkRefused is for cases in which several codes are right.
func (tc refusal) checkRefused(t *testing.T) {
	t.Helper()
	var e *Error
	if b, err := Validate(tc.batch, tc.limits); !errors.As(err, &e) || b != nil {
		t.Errorf("got batch %v, error %v; want an *Error and no batch", b, err)
	}
}

// P28: what Kafka's broker accepts although it looks odd.
func TestValidateAccepts(t *testing.T) {
	good := sample(t, CodecNone)
	for name, b := range map[string]Batch{
		"epoch -1 with producer id":     altered(good, put16(offProducerEpoch, 0xffff)),
		"attribute bits 0x4c0":          altered(good, put16(offAttributes, 0x4c0)),
		"leader epoch 5":                altered(good, put32(offLeaderEpoch, 5)),
		"sequence 2^31 - 1, then 0, 1":  altered(good, put32(offBaseSequence, math.MaxInt32)),
		"no producer, sequence 5":       altered(good, put64(offProducerID, -1)),
		"transactional":                 altered(good, put16(offAttributes, uint16(AttrTransactional))),
		"varints longer than need be":   framed(1, []byte{11 << 1, 0, 0x80, 0x80, 0, 0x80, 0, 0x81, 0, 1, 0x80, 0}),
		"record attributes are ignored": framed(1, []byte{6 << 1, 0xff, 0, 0, 1, 1, 0}),
	} {
		v, err := Validate(b, Limits{})
		if err != nil || &v[0] != &b[0] {
			t.Errorf("%s: copied or refused: %v", name, err)
		}
	}
	if b := altered(good, put32(offBaseSequence, math.MaxInt32)); b.LastSequence() != 1 {
		t.Errorf("P11: last sequence %d, want 1", b.LastSequence())
	}
}

// P28: what is corrected, as Kafka's broker does, in a copy.
func TestValidateCorrects(t *testing.T) {
	for _, codec := range []Codec{CodecNone, CodecGzip, CodecSnappy, CodecLZ4, CodecZstd} {
		good := sample(t, codec)
		want := contentOf(t, good)
		var frames, middle []byte
		var f frame
		for pos, raw := 0, rawContent(t, good); pos < len(raw); pos = f.end {
			if p := f.read(raw, pos); p != "" {
				t.Fatal(p)
			}
			frames = append(frames, reframe(raw, &f, f.offsetDelta*3-2)...)
			// Only the one in the middle is wrong.
			middle = append(middle, reframe(raw, &f, f.offsetDelta+f.offsetDelta%2)...)
		}
		packed := func(frames []byte) Batch {
			b := framed(3, frames)
			if codec != CodecNone {
				b = framesOf(codec, 3, frames)
			}
			b.setMaxTimestamp(now + 2)
			b.setAttributes(b.Attributes() | AttrTransactional | 0x400)
			b.Rewrite(7, 1, 10)
			return b
		}
		for name, b := range map[string]Batch{
			"log append time bit": altered(good, func(b Batch) { b.setAttributes(b.Attributes() | AttrLogAppendTime) }),
			"max timestamp":       altered(good, put64(offMaxTimestamp, now+5)),
			"odd offset deltas":   packed(frames),
			"one of them odd":     packed(middle),
		} {
			t.Run(fmt.Sprintf("%s/%v", name, codec), func(t *testing.T) {
				before := bytes.Clone(b)
				v, err := Validate(b, Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b, before) || &v[0] == &b[0] {
					t.Error("the input was changed instead of a copy")
				}
				if v.Attributes() != b.Attributes()&^AttrLogAppendTime || v.MaxTimestamp() != now+2 || v.ProducerID() != 7 || v.ProducerEpoch() != 1 || v.BaseSequence() != 10 {
					t.Errorf("header: % x\nfrom    % x", v[:HeaderSize], b[:HeaderSize])
				}
				if got := contentOf(t, v); !reflect.DeepEqual(got, want) {
					t.Errorf("got  %v\nwant %v", got, want)
				}
				again, err := Validate(v, Limits{})
				if err != nil || &again[0] != &v[0] {
					t.Errorf("the corrected batch is not good: %v", err)
				}
			})
		}
	}
	// A correction may make the batch longer than is allowed.
	frames := []byte{6 << 1, 0, 0, 5, 1, 1, 0}
	long := framed(80, bytes.Repeat(frames, 80))
	refusal{"", long, Limits{MaxBatchBytes: len(long)}, ErrMessageTooLarge, -1, "max.message.bytes"}.check(t)
}

// reframe encodes a record again with another offset delta.
func reframe(raw []byte, f *frame, offsetDelta int32) []byte {
	body := appendVarlong([]byte{0}, f.timestampDelta)
	body = appendVarint(body, offsetDelta)
	body = appendBytes(body, bytesAt(raw, f.key, f.keyLen))
	body = appendBytes(body, bytesAt(raw, f.value, f.valueLen))
	body = append(appendVarint(body, f.headerCount), raw[f.headers:f.end]...)
	return append(appendVarint(nil, int32(len(body))), body...)
}

func rawContent(t testing.TB, b Batch) []byte {
	t.Helper()
	raw, err := b.content(new([]byte), 0)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// contentOf reads all records; without Close what they alias stays good.
func contentOf(t testing.TB, b Batch) []Record {
	t.Helper()
	records, err := b.Records(0)
	if err != nil {
		t.Fatal(err)
	}
	var all []Record
	for records.Next() {
		r := *records.Record()
		r.Headers = append([]Header(nil), r.Headers...)
		all = append(all, r)
	}
	if records.Err() != nil {
		t.Fatal(records.Err())
	}
	return all
}

// The produce path of an uncompressed batch allocates nothing.
func TestValidateDoesNotAllocate(t *testing.T) {
	b := sample(t, CodecNone)
	l := Limits{MaxBatchBytes: 1 << 20, SegmentBytes: 1 << 30, Compacted: true, Now: now, TimestampBeforeMax: NoTimestampLimit, TimestampAfterMax: 3600_000}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Validate(b, l); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
