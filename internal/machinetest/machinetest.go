// Package machinetest is what the tests of the machines have in common: seeds, bytes that must not change, damage.
package machinetest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// Rand gives a generator whose seed is printed; ONCELOG_SEED sets it.
func Rand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("ONCELOG_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ONCELOG_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Until says when a random test is over; ONCELOG_LONG=10m makes it longer than otherwise.
func Until(t *testing.T, otherwise time.Duration) time.Time {
	t.Helper()
	if s := os.Getenv("ONCELOG_LONG"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return time.Now().Add(d)
	}
	return time.Now().Add(otherwise)
}

// Runs runs random episodes until their time is up and everything wanted has been met, and says so if it was not. An
// episode counts in seen what it has met, and gives the number of its commands.
func Runs(t *testing.T, otherwise time.Duration, wanted []string, episode func(seen map[string]int) int) {
	t.Helper()
	seen := map[string]int{}
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(wanted), func(w string) bool { return seen[w] > 0 })
	}
	const least, most = 10_000, 1_000_000 // however slow the machine
	commands := 0
	for end := Until(t, otherwise); commands < least || len(missing()) > 0 && commands < most || time.Now().Before(end); {
		commands += episode(seen)
	}
	t.Logf("%d commands: %v", commands, seen)
	if never := missing(); len(never) > 0 {
		t.Errorf("%q never happened: the generator is too narrow", never)
	}
}

// Golden compares bytes with those of a file, in hexadecimal. The file is never changed, unless nothing was released with it:
// ONCELOG_WRITE_FORMAT=1 writes it.
func Golden(t *testing.T, path string, b []byte) {
	t.Helper()
	if os.Getenv("ONCELOG_WRITE_FORMAT") != "" {
		if err := os.WriteFile(path, []byte(wrapHex(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("the encoding has changed:\n%s", wrapHex(b))
	}
}

func wrapHex(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		n := min(len(b), 32)
		fmt.Fprintf(&out, "%x\n", b[:n])
		b = b[n:]
	}
	return out.String()
}

// Damage shows that every bit of a snapshot counts: one that is flipped is found, and so is one that is cut off or that a
// newer version has added.
func Damage(t *testing.T, format statev1.Format, b []byte, restore func([]byte) error) {
	t.Helper()
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1 << (i % 8)
		if err := restore(c); !errors.Is(err, statev1.ErrDamaged) && !errors.Is(err, statev1.ErrNewer) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for n := range b {
		if err := restore(b[:n]); !errors.Is(err, statev1.ErrDamaged) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	newer := append(bytes.Clone(b), UnknownField()...)
	format.Seal(newer)
	if err := restore(newer); !errors.Is(err, statev1.ErrNewer) {
		t.Fatal(err)
	}
}

// UnknownField encodes a field of a message that no program knows.
func UnknownField() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1)
}

// Fuzzed says of a fuzzed body of a snapshot whether it was restored. It may be refused, with one of the two errors for that.
func Fuzzed(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, statev1.ErrDamaged) && !errors.Is(err, statev1.ErrNewer) {
		t.Fatal(err)
	}
	return err == nil
}
