package record

import "fmt"

// Codec is how a batch's records are compressed, as attribute bits 0 to 2 say it (L3).
type Codec uint8

// The codecs of batch v2.
const (
	CodecNone Codec = iota
	CodecGzip
	CodecSnappy
	CodecLZ4
	CodecZstd

	codecCount
)

var codecNames = [codecCount]string{"none", "gzip", "snappy", "lz4", "zstd"}

// String gives the name that compression.type uses: none, gzip, snappy, lz4, zstd.
func (c Codec) String() string {
	if c < codecCount {
		return codecNames[c]
	}
	return fmt.Sprintf("Codec(%d)", uint8(c))
}

// ParseCodec is the inverse of String for the five codecs.
func ParseCodec(name string) (Codec, error) {
	for c, n := range codecNames {
		if n == name {
			return Codec(c), nil
		}
	}
	return CodecNone, fmt.Errorf("unknown compression %q, want none, gzip, snappy, lz4 or zstd", name)
}
