package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// frameText is what every file in testdata/frames holds; they were written by the command line
// tools gzip 1.12, lz4 1.9.4 and zstd 1.5.4.
func frameText() []byte {
	var b bytes.Buffer
	for i := range 6000 {
		fmt.Fprintf(&b, "line %05d of the frame vectors\n", i%37)
	}
	return b.Bytes()
}

func TestDecompressFramesOfOtherTools(t *testing.T) {
	want := frameText()
	for file, codec := range map[string]Codec{
		"named.gz":        CodecGzip,
		"two-members.gz":  CodecGzip,
		"linked.lz4":      CodecLZ4, // blocks refer to the block before
		"independent.lz4": CodecLZ4,
		"checksums.lz4":   CodecLZ4, // linked, block and content checksums, content size
		"plain.lz4":       CodecLZ4, // no checksums
		"sized.zst":       CodecZstd,
		"stream.zst":      CodecZstd, // content size unknown
		"long.zst":        CodecZstd, // window of 128 MiB
		"two-frames.zst":  CodecZstd,
	} {
		t.Run(file, func(t *testing.T) {
			src := readFrame(t, file)
			for _, dst := range [][]byte{nil, make([]byte, 0, 100), make([]byte, 33, 4*len(want))} {
				got, err := decompress(dst, codec, src, len(want))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("into capacity %d: %d bytes, want %d, error %v", cap(dst), len(got), len(want), err)
				}
			}
			if _, err := decompress(nil, codec, src, len(want)-1); !errors.Is(err, errTooLarge) {
				t.Errorf("one byte above the limit: %v", err)
			}
			for n := range len(src) {
				if file == "two-members.gz" || file == "two-frames.zst" {
					break // cut between the parts it is whole
				}
				if got, err := decompress(nil, codec, src[:n], len(want)); err == nil && len(got) == len(want) {
					t.Errorf("cut to %d of %d bytes: no error", n, len(src))
				}
			}
			if _, err := decompress(nil, codec, append(src, "trailing"...), len(want)+100); err == nil {
				t.Error("trailing bytes: no error")
			}
		})
	}
}

func readFrame(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "frames", file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Other Kafka clients cannot read these, so they must not get into a log.
func TestDecompressRefusesDialects(t *testing.T) {
	text := frameText()
	dict := lz4Frame(func(h []byte) []byte { h[4] |= lz4Dictionary; return h })
	// "abcd", four bytes from four back, and four more from the offset before.
	repeats := []byte{12, 3 << 2, 'a', 'b', 'c', 'd', 1, 4, 1, 0}
	if got, err := s2.Decode(nil, repeats); err != nil || string(got) != "abcdabcdabcd" {
		t.Fatalf("not an S2 block: %q, %v", got, err)
	}
	for name, tc := range map[string]struct {
		codec Codec
		src   []byte
	}{
		"lz4 legacy frame":     {CodecLZ4, readFrame(t, "legacy.lz4")},
		"lz4 dictionary":       {CodecLZ4, dict},
		"lz4 skippable frame":  {CodecLZ4, append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, readFrame(t, "plain.lz4")...)},
		"lz4 bare block":       {CodecLZ4, readFrame(t, "plain.lz4")[11:]},
		"s2 block for snappy":  {CodecSnappy, repeats},
		"snappy stream format": {CodecSnappy, append([]byte("\xff\x06\x00\x00sNaPpY"), text...)},
		"codec 5":              {5, text},
	} {
		if _, err := decompress(nil, tc.codec, tc.src, 1<<20); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// lz4Frame is a frame of the block "hello" stored as is; change alters its header of 7 bytes,
// whose checksum is then made right.
func lz4Frame(change func(header []byte) []byte) []byte {
	h := change([]byte{0x04, 0x22, 0x4d, 0x18, lz4Version | lz4Independent, 0x40, 0})
	h[len(h)-1] = byte(xxh32(h[4:len(h)-1]) >> 8)
	h = binary.LittleEndian.AppendUint32(h, 5|lz4Stored)
	h = append(h, "hello"...)
	return binary.LittleEndian.AppendUint32(h, 0)
}

func TestLZ4HeaderFields(t *testing.T) {
	same := func(h []byte) []byte { return h }
	good := lz4Frame(same)
	if got, err := decompress(nil, CodecLZ4, good, 5); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := decompress(nil, CodecLZ4, good, 4); !errors.Is(err, errTooLarge) {
		t.Errorf("stored block above the limit: %v", err)
	}
	sized := func(n uint64) func([]byte) []byte {
		return func(h []byte) []byte {
			h[4] |= lz4ContentSize
			return append(binary.LittleEndian.AppendUint64(h[:6], n), 0)
		}
	}
	if got, err := decompress(nil, CodecLZ4, lz4Frame(sized(5)), 5); err != nil || string(got) != "hello" {
		t.Fatalf("with content size: %q, %v", got, err)
	}
	for name, tc := range map[string]struct {
		frame []byte
		want  error
	}{
		"version 2":         {lz4Frame(func(h []byte) []byte { h[4] ^= 3 << 6; return h }), errLZ4},
		"reserved flag":     {lz4Frame(func(h []byte) []byte { h[4] |= lz4Reserved; return h }), errLZ4},
		"reserved BD bits":  {lz4Frame(func(h []byte) []byte { h[5] |= 1; return h }), errLZ4},
		"block size code 3": {lz4Frame(func(h []byte) []byte { h[5] = 0x30; return h }), errLZ4},
		"content size 4":    {lz4Frame(sized(4)), errLZ4},
		"content size 6":    {lz4Frame(sized(6)), errLZ4},
		"content size 2^63": {lz4Frame(sized(1 << 63)), errLZ4},
		"content size 2^40": {lz4Frame(sized(1 << 40)), errTooLarge},
		"header checksum":   {change(good, 6, 0xff), errLZ4},
		"block above 64 KiB": {slices.Concat(good[:7], binary.LittleEndian.AppendUint32(nil, lz4Stored|(64<<10+1)),
			make([]byte, 64<<10+1), make([]byte, 4)), errLZ4},
	} {
		if _, err := decompress(nil, CodecLZ4, tc.frame, 1<<20); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	// Every single wrong byte of a frame with all checksums is found.
	whole := readFrame(t, "checksums.lz4")
	for i := range whole {
		if _, err := decompress(nil, CodecLZ4, change(whole, i, 0x10), 1<<20); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
	}
}

// change is a copy of b with the bits of one byte flipped.
func change(b []byte, at int, flip byte) []byte {
	c := bytes.Clone(b)
	c[at] ^= flip
	return c
}

func xerial(chunks ...[]byte) []byte {
	b := []byte(xerialMagic + "\x00\x00\x00\x01\x00\x00\x00\x01")
	for _, c := range chunks {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	return b
}

func TestXerial(t *testing.T) {
	block := func(s string) []byte { return snappyEncoder{}.compress(nil, []byte(s)) }
	a, b := block("hello "), block(strings.Repeat("world ", 100))
	want := "hello " + strings.Repeat("world ", 100)
	if got, err := decompress(nil, CodecSnappy, xerial(a, b), len(want)); err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err := decompress(nil, CodecSnappy, xerial(), 0); err != nil || len(got) != 0 {
		t.Fatalf("no chunks: %q, %v", got, err)
	}
	whole := xerial(a, b)
	for n := 8; n < len(whole); n++ {
		if n == xerialHeader || n == xerialHeader+4+len(a) {
			continue // whole chunks
		}
		if got, err := decompress(nil, CodecSnappy, whole[:n], 1<<20); err == nil {
			t.Errorf("cut to %d of %d bytes: %q", n, len(whole), got)
		}
	}
	if _, err := decompress(nil, CodecSnappy, whole, len(want)-1); !errors.Is(err, errTooLarge) {
		t.Errorf("one byte above the limit: %v", err)
	}
	if _, err := decompress(nil, CodecSnappy, change(whole, 11, 1), 1<<20); !errors.Is(err, errSnappy) {
		t.Errorf("version 0: %v", err)
	}
	negative := append(xerial(), 0xff, 0xff, 0xff, 0xff, 0)
	if _, err := decompress(nil, CodecSnappy, negative, 1<<20); !errors.Is(err, errSnappy) {
		t.Errorf("chunk length -1: %v", err)
	}
}

// Bombs: much content from few bytes, and small lies about much content. Neither may make more
// memory than the limit's order, and lies that the size of the data gives away none at all.
func TestDecompressionBombs(t *testing.T) {
	const limit = 1 << 20
	zeros := make([]byte, 16<<20)
	compressed := func(c Codec) []byte { return NewCompression(c).appendTo(nil, zeros) }
	var stream bytes.Buffer
	w, err := zstd.NewWriter(&stream, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Write(zeros[:8<<20]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blocks := make([][]byte, 200)
	for i := range blocks {
		blocks[i] = snappyEncoder{}.compress(nil, zeros[:64<<10])
	}
	zstdClaim := func(n uint64) []byte { // single segment, content size of 8 bytes, one raw block of 1 byte
		return append(binary.LittleEndian.AppendUint64([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, n), 0x09, 0, 0, 'x')
	}
	for _, tc := range []struct {
		name  string
		codec Codec
		src   []byte
		want  error // nil: any
		alloc uint64
	}{
		{"gzip", CodecGzip, compressed(CodecGzip), errTooLarge, 4 * limit},
		{"snappy", CodecSnappy, compressed(CodecSnappy), errTooLarge, 32 << 10},
		{"snappy, xerial", CodecSnappy, xerial(blocks...), errTooLarge, 4 * limit},
		{"snappy, claim", CodecSnappy, binary.AppendUvarint(nil, 1<<32-1), errSnappy, 32 << 10},
		{"snappy, claim within the limit", CodecSnappy, append(binary.AppendUvarint(nil, limit), "xyz"...), errSnappy, 32 << 10},
		{"lz4", CodecLZ4, compressed(CodecLZ4), errTooLarge, 8 * limit},
		{"zstd", CodecZstd, compressed(CodecZstd), errTooLarge, 64 << 10},
		{"zstd, size unknown", CodecZstd, stream.Bytes(), errTooLarge, 8 * limit},
		{"zstd, claim", CodecZstd, zstdClaim(1 << 62), errZstd, 64 << 10},
		{"zstd, claim within the limit", CodecZstd, zstdClaim(limit), errZstd, 64 << 10},
		{"zstd, false blocks", CodecZstd, zstdBlocksOf(1000, 2), nil, 2 * limit},
		{"zstd, claim and trailing bytes", CodecZstd, append(zstdClaim(limit), make([]byte, 100)...), errZstd, 64 << 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			try := func() error { _, err := decompress(nil, tc.codec, tc.src, limit); return err }
			err := try() // pools are warm then
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			if got := allocated(func() { _ = try() }); got > tc.alloc {
				t.Errorf("allocated %d bytes for %d, want at most %d", got, len(tc.src), tc.alloc)
			}
		})
	}
}

// zstdBlocksOf is a frame of n compressed blocks of nonsense, each with so many bytes: none can be
// decoded, but by their number they could hold 128 KiB each.
func zstdBlocksOf(n, size int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x70} // window of 16 MiB
	for i := range n {
		header := size<<3 | zstdCompressedBlock<<1
		if i == n-1 {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16))
		b = append(b, bytes.Repeat([]byte{0xff}, size)...)
	}
	return b
}

// allocated is how many bytes f allocates. Tests that use it do not run in parallel.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestXXH32(t *testing.T) {
	// Reference values of the xxHash project; the last one passes all stages.
	for s, want := range map[string]uint32{
		"":    0x02cc5d05,
		"a":   0x550d7456,
		"abc": 0x32d153ff,
		"Nobody inspects the spammish repetition": 0xe2293b2f,
	} {
		if got := xxh32([]byte(s)); got != want {
			t.Errorf("xxh32(%q) = %08x, want %08x", s, got, want)
		}
	}
}
