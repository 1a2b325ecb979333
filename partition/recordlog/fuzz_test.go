package recordlog

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// Whatever is in a segment file, scanning ends without a panic, and what it takes for frames is
// chained, in order and within the file.
func FuzzScan(f *testing.F) {
	s := newSegment(1, 5, 99)
	header := segmentHeader{generation: 1, salt: 99, first: 5}
	good := header.encode()
	s.header, s.chained = header.crc, header.crc
	b := encode(s, 4, []Entry{plainEntry(5, 1, "five"), plainEntry(6, 1, "six"), plainEntry(7, 2, "seven")}, true)
	for _, p := range b.buffers {
		good = append(good, p...)
	}
	f.Add(good)
	f.Add(good[:len(good)-20])
	f.Add(good[:64])
	f.Add(append(bytes.Clone(good), make([]byte, 200)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := scan(bytes.NewReader(b), s, int64(len(b)), 100, scanLimits{chained: s.header})
		if err != nil {
			return
		}
		if out.bad == nil && len(b) > segmentHeaderSize && len(bytes.Trim(b[out.size:], "\x00")) > 0 {
			t.Fatalf("ends at %d of %d without a reason", out.size, len(b))
		}
		if out.last < s.first-1 || out.size > max(int64(len(b)), segmentHeaderSize) {
			t.Fatalf("%+v", out.summary)
		}
		if out.claimed > math.MaxUint64-1 {
			t.Fatalf("claims %d", out.claimed)
		}
	})
}

func FuzzFrameHeader(f *testing.F) {
	h := frameHeader{length: 80, kind: kindEntry, index: 3, term: 2, synced: 2, ext: 4, padding: 4}
	b := make([]byte, frameHeaderSize)
	h.put(b, 7)
	f.Add(b, uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, seed uint32) {
		b = withSum(b, 64, seed)
		h, err := decodeFrameHeader(b, seed)
		if err != nil {
			return
		}
		again := make([]byte, frameHeaderSize)
		h.put(again, seed)
		if !bytes.Equal(again[:11], b[:11]) || !bytes.Equal(again[12:64], b[12:64]) {
			t.Fatalf("% x\n% x", b, again)
		}
		if h.dataLen() < 0 || frameHeaderSize+h.ext+h.dataLen()+h.padding != h.length {
			t.Fatalf("%+v", h)
		}
	})
}

func FuzzSidecar(f *testing.F) {
	s := newSegment(1, 5, 99)
	s.summary = summary{last: 9, size: 900, records: 7, maxTimestamp: 3}
	f.Add(encodeSidecar(s, &s.summary, []block{{index: 5, position: segmentHeaderSize}, {index: 7, position: 300, records: 3, maxTimestamp: 3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sidecarHeaderSize {
			b = bytes.Clone(b)
			binary.BigEndian.PutUint64(b[16:], 99)
			binary.BigEndian.PutUint32(b[80:], sum(seedOf(99), b[sidecarHeaderSize:]))
			b = withSum(b, 84, seedOf(99))
		}
		h, err := decodeSidecarHeader(b, 99)
		if err != nil {
			return
		}
		blocks, err := decodeBlocks(b[sidecarHeaderSize:], &h)
		if err != nil {
			return
		}
		for i := record.Index(5); i <= h.last; i++ {
			x := sparse{blocks: blocks}
			if k := x.holding(i); x.at(k).index > i {
				t.Fatalf("entry %d is in block %d", i, k)
			}
			if i > 100 {
				break
			}
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add(decision{generation: 1, sequence: 2, begin: 3}.encode())
	var m [markSize]byte
	f.Add(mark{sequence: 2, synced: 3, window: 1}.encode(&m))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = withSum(b, 32, 0)
		d, err := decodeDecision(b)
		if err == nil && !bytes.Equal(d.encode()[12:32], b[12:32]) {
			t.Fatalf("%+v", d)
		}
		if k := decodeMark(withSum(b, 24, 0), decision{sequence: 2}); k.sequence != 0 && k.sequence != 2 {
			t.Fatalf("%+v", k)
		}
	})
}

func FuzzLayout(f *testing.F) {
	f.Add(Layout{StartIndex: 1}.AppendTo(nil))
	f.Add(Layout{Index: 9, EndOffset: 30, StartOffset: 4, StartIndex: 3, StartBase: 2,
		Refused: []Refusal{{Index: 3, Ordinal: 1, Records: 2}, {Index: 5, Records: 1}}}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		// With a CRC that fits, so that the rest is tried too.
		if len(b) > layoutHeaderSize+4 {
			b = appendSum(bytes.Clone(b[:len(b)-4]))
		}
		y, err := DecodeLayout(b)
		if err != nil {
			return
		}
		if again := y.AppendTo(nil); !bytes.Equal(again[4:], b[4:]) && b[2] == 0 && b[3] == 0 {
			t.Fatalf("% x\n% x", b, again)
		}
	})
}

// withSum makes the CRC at a position fit what is before it, so that the rest is tried too.
func withSum(b []byte, at int, seed uint32) []byte {
	if len(b) < at+4 {
		return b
	}
	b = bytes.Clone(b)
	binary.BigEndian.PutUint32(b[at:], sum(seed, b[:at]))
	return b
}

func appendSum(b []byte) []byte {
	s := sum(0, b)
	return append(b, byte(s>>24), byte(s>>16), byte(s>>8), byte(s))
}

func FuzzSegmentName(f *testing.F) {
	f.Add(segmentName(1, 5, 99))
	f.Add("meta")
	f.Fuzz(func(t *testing.T, name string) {
		if g, first, salt, ok := parseSegmentName(name); ok && segmentName(g, first, salt) != name {
			t.Fatalf("%q is %d %d %d", name, g, first, salt)
		}
	})
}
