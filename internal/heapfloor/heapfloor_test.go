package heapfloor

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

var garbage []byte

// The collector waits for about the floor's worth of garbage, and the floor itself takes no memory.
func TestTheCollectorWaits(t *testing.T) {
	collections := func() uint32 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range 1000 { // 100 MB
			garbage = make([]byte, 100<<10)
		}
		runtime.ReadMemStats(&after)
		return after.NumGC - before.NumGC
	}
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	without := collections()
	resident := residentBytes(t)
	Set(128 << 20)
	defer Set(0)
	if grown := residentBytes(t) - resident; grown > 128<<20 {
		t.Errorf("the floor takes %d bytes of memory", grown)
	}
	if with := collections(); with > 1 || without < 5 {
		t.Errorf("%d collections with the floor, %d without", with, without)
	}
}

func residentBytes(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
