package record

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// golden is one batch, byte by byte, as docs/formats/record-batch.md describes it. The CRC was
// computed bit by bit outside this program.
const golden = `
	0000000000000000   base offset 0
	00000048           72 bytes follow
	ffffffff           leader epoch -1
	02                 magic
	8bca85c2           CRC32C
	0010               transactional
	00000001           last offset delta 1
	0000018bcfe56800   base timestamp 1700000000000
	0000018bcfe56805   max timestamp 1700000000005
	0000000000000fa0   producer id 4000
	0002               epoch 2
	7fffffff           base sequence 2^31 - 1
	00000002           2 records

	12                 record 0: 9 bytes follow
	00                 attributes
	0a                 timestamp delta 5
	00                 offset delta 0
	02 6b              key "k"
	04 7676            value "vv"
	00                 no headers

	18                 record 1: 12 bytes follow
	00                 attributes
	00                 timestamp delta 0
	02                 offset delta 1
	01                 key null
	00                 value empty
	04                 2 headers
	02 68 02 31        "h" = "1"
	00 01              "" = null
`

// unhex reads hex digits, up to the comment on each line.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "   ")
		digits.WriteString(strings.ReplaceAll(line, " ", ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenBatch(t *testing.T) {
	want := Batch(unhex(t, golden))
	if _, err := Validate(want, Limits{}); err != nil {
		t.Fatal(err)
	}
	records := []Record{
		{Offset: 0, Timestamp: 1_700_000_000_005, Key: []byte("k"), Value: []byte("vv")},
		{Offset: 1, Timestamp: 1_700_000_000_000, Value: []byte{}, Headers: []Header{{"h", []byte("1")}, {"", nil}}},
	}
	if got := contentOf(t, want); !reflect.DeepEqual(got, records) {
		t.Errorf("got  %v\nwant %v", got, records)
	}
	if want.LastSequence() != 0 || want.LastOffset() != 1 || want.Size() != len(want) || want.Magic() != 2 ||
		want.LeaderEpoch() != -1 || !want.Attributes().Transactional() || want.Attributes().Control() || want.Attributes().LogAppendTime() {
		t.Error("header fields")
	}
	// The builder takes the first timestamp as the base, so its deltas are 0 and -5: of the same size.
	b := NewBuilder(CodecNone)
	for _, r := range records {
		if err := b.Append(r.Timestamp, r.Key, r.Value, r.Headers); err != nil {
			t.Fatal(err)
		}
	}
	got := b.Finish(4000, 2, 0x7fffffff, true)
	put64(offBaseTimestamp, 1_700_000_000_000)(got)
	got[HeaderSize+2], got[HeaderSize+12] = 0x0a, 0x00
	got.seal()
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", []byte(got), []byte(want))
	}
}

// Batches as the Java client 4.1.0 (MemoryRecordsBuilder) and franz-go 1.22.2 wrote them, with the
// same three records: gzip, lz4 frames, plain and xerial snappy, zstd with and without size.
func TestBatchesOfOtherClients(t *testing.T) {
	text := []byte(strings.Repeat("interop vector ", 20))
	want := []Record{
		{Offset: 0, Timestamp: now, Key: []byte("k"), Value: text},
		{Offset: 1, Timestamp: now + 5, Value: text, Headers: []Header{{"h", []byte("v")}, {"n", nil}}},
		{Offset: 2, Timestamp: now - 1000, Key: []byte{}},
	}
	for _, client := range []string{"java", "franz"} {
		for codec := range codecCount {
			t.Run(client+"/"+codec.String(), func(t *testing.T) {
				b := Batch(vector(t, client+"-"+codec.String()))
				v, err := Validate(b, Limits{MaxBatchBytes: len(b), Now: now, TimestampBeforeMax: 1000, TimestampAfterMax: 5})
				if err != nil || &v[0] != &b[0] {
					t.Fatalf("copied or refused: %v", err)
				}
				if got := contentOf(t, b); !reflect.DeepEqual(got, want) || b.Attributes().Codec() != codec {
					t.Errorf("codec %v\ngot  %v\nwant %v", b.Attributes().Codec(), got, want)
				}
			})
		}
	}
	if !bytes.HasPrefix(vector(t, "java-snappy")[HeaderSize:], []byte(xerialMagic)) {
		t.Error("the Java client's snappy vector is not in xerial framing")
	}
}

// L1: a marker is byte for byte what Kafka writes.
func TestMarkersOfKafka(t *testing.T) {
	for name, m := range map[string]Marker{
		"java-commit": {ProducerID: 4000, Epoch: 2, CoordinatorEpoch: 9, Commit: true, Timestamp: now},
		"java-abort":  {ProducerID: 4000, Epoch: 2, CoordinatorEpoch: 9, Commit: false, Timestamp: now},
	} {
		want := Batch(vector(t, name))
		if got := ControlBatch(m); !bytes.Equal(got, want) {
			t.Errorf("%s: got  %x\nwant %x", name, []byte(got), []byte(want))
		}
		if got, ok, err := ParseMarker(want); got != m || !ok || err != nil {
			t.Errorf("%s: %+v, %v, %v", name, got, ok, err)
		}
	}
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	return unhex(t, string(text))
}
