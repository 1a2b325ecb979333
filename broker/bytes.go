package broker

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. As text it is a whole number with a unit: 512MiB, 64 KiB,
// 1GiB, 100B, or a bare number of bytes. Units are powers of 1024 (KiB, MiB,
// GiB, TiB) or of 1000 (kB, MB, GB, TB).
type Bytes int64

// Sizes for building others.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

// byteUnits are the units as written, the largest binary ones first, which
// String tries in this order.
var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// ParseBytes reads a size. Negative sizes and sizes above 2^63-1 are errors.
func ParseBytes(text string) (Bytes, error) {
	s := strings.TrimSpace(text)
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.TrimSpace(s[len(digits):])
	number, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 64MiB", text)
	}
	if unit == "" {
		return Bytes(number), nil
	}
	for _, u := range byteUnits {
		if !strings.EqualFold(u.name, unit) {
			continue
		}
		if number > uint64(math.MaxInt64/u.size) {
			return 0, fmt.Errorf("%q is more than 2^63-1 bytes", text)
		}
		return Bytes(number) * u.size, nil
	}
	return 0, fmt.Errorf("%q has unknown unit %q: use B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB", text, unit)
}

// String writes the size with the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MarshalText writes the size as String does.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what ParseBytes reads.
func (b *Bytes) UnmarshalText(text []byte) error {
	size, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = size
	return nil
}
