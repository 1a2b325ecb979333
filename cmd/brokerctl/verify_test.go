package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// soundHistory is one record that was sent, acknowledged and read.
const soundHistory = `{"history":1}
{"event":"send","t":1,"process":1,"topic":"orders","partition":0,"n":0}
{"event":"written","t":2,"process":1,"topic":"orders","partition":0,"n":0,"offset":0}
{"event":"poll","t":3,"process":2,"topic":"orders","partition":0,"records":[[0,1,0]],"end":1}
{"event":"final","t":4,"process":2,"topic":"orders","partition":0,"from":0,"end":1,"high":1}
`

func TestVerifyReadsHistories(t *testing.T) {
	f := startFake(t)
	name := filepath.Join(t.TempDir(), "run.jsonl")
	for _, c := range []struct {
		name, content  string
		code           int
		stdout, stderr string
	}{
		{"sound", soundHistory, exitOK, "ok: nothing lost", ""},
		{
			"lost", strings.Replace(soundHistory, "[[0,1,0]]", "[]", 1), exitCheck,
			"lost in orders/0: 1:0 was acknowledged at offset 0, and is not there\n        0.000  process 1 sends 1:0", "1 finding",
		},
		{"nothing written", `{"history":1}` + "\n", exitCheck, "nothing was written", "proves nothing"},
		{"not read to the end", soundHistory[:strings.Index(soundHistory, `{"event":"final"`)], exitCheck, "not read to the end: orders/0", "proves nothing"},
		{"no history", "", exitUsage, "", "the file is empty"},
		{"another file", "records: 7\n", exitUsage, "", "line 1: no header"},
		{"nonsense in it", soundHistory + "nonsense\n", exitUsage, "", "line 6: "},
		{"a contradiction", soundHistory + `{"event":"send","t":1,"process":1,"topic":"orders","partition":0,"n":0}` + "\n", exitUsage, "", "event 5"},
	} {
		if err := os.WriteFile(name, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := f.run(t, "", "verify", "--history", name)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: exit %d\n%s%s", c.name, code, stdout, stderr)
		}
	}
	if _, _, code := f.run(t, "", "verify", "--history", name+".none"); code != exitUsage {
		t.Errorf("no file: exit %d", code)
	}
	if _, _, code := f.run(t, "", "verify", "--history", name, "--record", name); code != exitUsage {
		t.Errorf("both files: exit %d", code)
	}
	for _, other := range []string{"--history=" + name, "--no-idempotence"} {
		if _, _, code := f.run(t, "", "verify", "--transactions", other); code != exitUsage {
			t.Errorf("--transactions with %s: exit %d", other, code)
		}
	}
}

// A whole run, and one where the broker stores a batch twice.
func TestVerifyRuns(t *testing.T) {
	f := startFake(t)
	name := filepath.Join(t.TempDir(), "run.jsonl")
	args := strings.Fields("verify -d 2s --rate 1000 --partitions 2 -o json --record " + name)
	stdout, stderr, code := f.run(t, "", args...)
	var v verdictJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitOK || !v.OK || v.Written == 0 || v.Written != v.Stored {
		t.Errorf("%v, exit %d, %s%s", err, code, stdout, stderr)
	}
	if again, _, code := f.run(t, "", "verify", "-o", "json", "--history", name); code != exitOK || again != stdout {
		t.Errorf("read again: exit %d, %s", code, again)
	}
	f.mu.Lock()
	if len(f.topics) > 0 {
		t.Errorf("left %d topics behind", len(f.topics))
	}
	f.twice = true
	f.mu.Unlock()
	stdout, stderr, code = f.run(t, "", args...)
	v = verdictJSON{}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitCheck || v.Counts["duplicate"] == 0 || len(v.Findings) == 0 {
		t.Errorf("%v, exit %d, %s%s", err, code, stdout, stderr)
	}
	f.mu.Lock()
	if len(f.topics) != 1 {
		t.Errorf("%d topics, want the one that shows the fault", len(f.topics))
	}
	f.mu.Unlock()
}
