package compatpage

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/compatibility.md anew; make compat does")

const page, results = "../../docs/compatibility.md", "../../compat/results.json"

// The page is what the last runs of the suite said.
func TestPage(t *testing.T) {
	list, err := Read(results)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Fill(string(text), Table(list))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Error("docs/compatibility.md is not what compat/results.json and clients.go say; make compat writes it anew, as does: go test ./internal/compatpage -update")
	}
	for _, r := range list {
		if !r.Passed {
			t.Errorf("%s has failed for %s %s", r.Test, r.Client, r.Version)
		}
		if r.What == "" {
			t.Errorf("%s does not say what it ran of %s", r.Test, r.Client)
		}
	}
}

// Every test of the suite was run once at least and left its result, and there are no results of tests that are gone.
func TestEveryTestLeftAResult(t *testing.T) {
	list, err := Read(results)
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, r := range list {
		name, _, _ := strings.Cut(r.Test, "/")
		left[name] = true
	}
	for _, source := range suite(t) {
		for _, found := range test.FindAllSubmatch(source, -1) {
			name := string(found[1])
			if !left[name] {
				t.Errorf("%s has left no result, so the page says nothing of it: make compat ARGS='-run %s'", name, name)
			}
			delete(left, name)
		}
	}
	for name := range left {
		t.Errorf("compat/results.json has a result of %s, which is not in the suite: remove it there", name)
	}
}

var test = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// suite is the source of the tests in compat/, by file.
func suite(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../compat/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests in compat/", err)
	}
	sources := make(map[string][]byte)
	for _, file := range files {
		if sources[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return sources
}

// Every test of the suite says which client it runs, every client of the suite is on the page, and each of the page is run.
func TestEveryClientIsNamed(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	says := regexp.MustCompile(`\bran\(t, "([^"]+)"`)
	run := map[string]bool{}
	for file, source := range suite(t) {
		names := says.FindAllSubmatch(source, -1)
		if test.Match(source) && len(names) == 0 {
			t.Errorf("%s has tests and names no client", file)
		}
		for _, n := range names {
			run[string(n[1])] = true
		}
	}
	for _, c := range Clients {
		if !run[c.Name] {
			t.Errorf("%s is not run by the suite", c.Name)
		}
		delete(run, c.Name)
		if !strings.Contains(string(text), "| "+c.Name+" ("+c.Language+") | ") {
			t.Errorf("%s is not on the page", c.Name)
		}
	}
	for name := range run {
		t.Errorf("the suite runs %q, and clients.go does not know it", name)
	}
}

func TestTable(t *testing.T) {
	old := []Result{{Client: "kcat", Version: "1.6", Test: "TestKcat", Passed: false, Date: "2026-01-01"}, {Client: "sarama", Version: "1", Test: "TestSarama", Passed: true, Date: "2026-01-02"}}
	list := Merge(old, []Result{{Client: "kcat", Version: "1.7", Test: "TestKcat", What: "reading", Passed: true, Date: "2026-02-02"},
		{Client: "kcat", Version: "1.7", Test: "TestOther/kcat", What: "writing", Passed: true, Date: "2026-02-01"},
		{Client: "kafka-clients", Version: "3", What: "all", Passed: true}, {Client: "kafka-clients", Version: "4", What: "all", Passed: true},
		{Client: "kafka-clients", Version: "4", What: "more", Passed: true}, {Client: "sarama", Version: "2", Test: "TestOther", Passed: false, Date: "2026-02-02"}})
	table := Table(list)
	for _, want := range []string{"| kcat (shell) | 1.7 | reading; writing | passed 2026-02-01 |", "| kafka-clients (Java) | 3, 4 | all; more (4) |", "| sarama (Go) | 1, 2 |", "| **failed**: TestOther 2026-01-02 |", "| kafka-go (Go) |  |  | not run |"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in:\n%s", want, table)
		}
	}
	if _, err := Fill("no marks", table); err == nil {
		t.Error("a page without marks is filled")
	}
}
