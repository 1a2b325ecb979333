package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// sound is a history without fault: two producers, two partitions, every outcome.
func sound() *history {
	h := &history{}
	send := func(producer int, n int64, partition int32, outcome string, offset record.Offset) {
		h.add(event{Type: "send", Producer: producer, N: n, Partition: partition, Value: fmt.Sprintf("%d-%d", producer, n), Outcome: outcome, Offset: offset})
	}
	read := func(value string, partition int32, offset record.Offset) {
		h.add(event{Type: "read", Reader: 1, Partition: partition, Value: value, Offset: offset})
		h.add(event{Type: "final", Partition: partition, Value: value, Offset: offset})
	}
	send(1, 1, 0, "written", 0)
	send(1, 2, 0, "written", 2)
	send(1, 3, 0, "not written", -1)
	send(1, 4, 0, "unknown", -1)
	send(1, 5, 0, "unknown", -1)
	send(1, 6, 0, "written", -1) // acknowledged without an offset
	send(2, 1, 0, "written", 1)
	send(2, 2, 1, "written", 0)
	read("1-1", 0, 0)
	read("2-1", 0, 1)
	read("1-2", 0, 2)
	read("1-4", 0, 3)
	read("1-6", 0, 4)
	read("2-2", 1, 0)
	for broker := range int32(3) {
		h.add(event{Type: "replica", Broker: broker + 1, Partition: 0, Offset: 5, CRC32C: "00c0ffee"})
	}
	return h
}

// Each rule finds the fault that is planted for it, and nothing else.
func TestCheckFindsPlantedFaults(t *testing.T) {
	if found := sound().check(); len(found) > 0 {
		t.Fatalf("a sound history: %+v", found)
	}
	without := func(h *history, typ, value string) {
		kept := h.events[:0]
		for _, e := range h.events {
			if e.Type != typ || e.Value != value {
				kept = append(kept, e)
			}
		}
		h.events = kept
	}
	final := func(h *history, value string, partition int32, offset record.Offset) {
		h.add(event{Type: "final", Partition: partition, Value: value, Offset: offset})
	}
	move := func(h *history, value string, to record.Offset) {
		for i := range h.events {
			if h.events[i].Value == value {
				h.events[i].Offset = to
			}
		}
	}
	for kind, plant := range map[string]func(h *history){
		"lost":                func(h *history) { without(h, "final", "1-2") },
		"duplicate":           func(h *history) { final(h, "1-2", 0, 9) },
		"refused but written": func(h *history) { final(h, "1-3", 0, 9) },
		"misplaced":           func(h *history) { without(h, "final", "2-2"); final(h, "2-2", 1, 7) },
		"reordered":           func(h *history) { move(h, "1-1", 9) },
		"phantom":             func(h *history) { final(h, "9-9", 0, 9) },
		"inconsistent":        func(h *history) { h.add(event{Type: "read", Reader: 2, Value: "2-1", Offset: 0}) },
		"replicas differ":     func(h *history) { h.add(event{Type: "replica", Broker: 4, Offset: 5, CRC32C: "deadbeef"}) },
	} {
		h := sound()
		plant(h)
		found := h.check()
		if len(found) != 1 || found[0].Kind != kind || len(found[0].Events) == 0 {
			t.Errorf("%s: found %+v", kind, found)
		}
	}
}

func TestHistoryFile(t *testing.T) {
	var b bytes.Buffer
	if err := sound().write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	h, err := readHistory(&b)
	if err != nil || fmt.Sprint(h.events) != fmt.Sprint(sound().events) {
		t.Errorf("%v, %v", h, err)
	}
	f := startFake(t)
	name := filepath.Join(t.TempDir(), "run.jsonl")
	check := func(content string) (string, string, int) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return f.run(t, "", "verify", "--check", name)
	}
	if stdout, stderr, code := check(text); code != exitOK || !strings.Contains(stdout, "ok: nothing lost") {
		t.Errorf("sound: exit %d, %s%s", code, stdout, stderr)
	}
	lost := strings.Replace(text, `{"type":"final","partition":0,"value":"1-2","offset":2}`+"\n", "", 1)
	if stdout, stderr, code := check(lost); code != exitCheck || !strings.Contains(stdout, `lost: "1-2" was acknowledged`) || !strings.Contains(stderr, "1 anomaly") {
		t.Errorf("lost: exit %d, %s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := check(""); code != exitCheck || strings.Contains(stdout, "ok") || !strings.Contains(stderr, "proves nothing") {
		t.Errorf("empty: exit %d, %s%s", code, stdout, stderr)
	}
	if _, stderr, code := check("{\"type\":\"send\"}\nnonsense"); code != exitUsage || !strings.Contains(stderr, "event 2") {
		t.Errorf("nonsense: exit %d, %s", code, stderr)
	}
	if _, _, code := f.run(t, "", "verify", "--check", name+".none"); code != exitUsage {
		t.Errorf("no file: exit %d", code)
	}
}

// A whole run, and one where the broker stores a batch twice.
func TestVerifyRuns(t *testing.T) {
	f := startFake(t)
	name := filepath.Join(t.TempDir(), "run.jsonl")
	args := strings.Fields("verify -d 2s --rate 1000 --partitions 2 -o json --history " + name)
	stdout, stderr, code := f.run(t, "", args...)
	var v verdictJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitOK || !v.OK || v.Written == 0 || v.Written != v.Read {
		t.Errorf("%v, exit %d, %s%s", err, code, stdout, stderr)
	}
	f.mu.Lock()
	if len(f.topics) > 0 {
		t.Errorf("left %d topics behind", len(f.topics))
	}
	f.twice = true
	f.mu.Unlock()
	stdout, stderr, code = f.run(t, "", args...)
	v = verdictJSON{}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitCheck || v.Anomalies["duplicate"] == 0 || len(v.Shown) == 0 {
		t.Errorf("%v, exit %d, %s%s", err, code, stdout, stderr)
	}
	f.mu.Lock()
	if len(f.topics) != 1 {
		t.Errorf("%d topics, want the one that shows the fault", len(f.topics))
	}
	f.mu.Unlock()
}
