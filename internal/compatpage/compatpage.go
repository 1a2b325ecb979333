// Package compatpage makes the table of clients in docs/compatibility.md: of which clients the suite in compat/ runs, and of what its last
// runs said. What a test runs is part of what it said, so that the page claims nothing that was not run.
package compatpage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Result is what one test of the suite said of one client.
type Result struct {
	Client  string `json:"client"`
	Version string `json:"version"`
	Test    string `json:"test"`
	// What was run, in a few words. "Through a kill": a broker that leads is killed in the middle of the job and started again.
	What   string `json:"what"`
	Passed bool   `json:"passed"`
	// Date is when, as 2006-01-02.
	Date string `json:"date"`
	// Seconds is how long it took.
	Seconds int `json:"seconds"`
}

// Read reads results; none, if there is no such file.
func Read(path string) ([]Result, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Result
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// Write writes results, sorted.
func Write(path string, list []Result) error {
	list = slices.SortedFunc(slices.Values(list), func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Test, b.Test))
	})
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Merge puts the results of a run in the place of older ones of the same tests, whatever their subtests were called.
func Merge(older, newer []Result) []Result {
	same := func(a, b Result) bool {
		one, _, _ := strings.Cut(a.Test, "/")
		other, _, _ := strings.Cut(b.Test, "/")
		return a.Client == b.Client && one == other
	}
	kept := slices.DeleteFunc(slices.Clone(older), func(o Result) bool {
		return slices.ContainsFunc(newer, func(n Result) bool { return same(o, n) })
	})
	return append(kept, newer...)
}

// Table is the table of the page. A client of which nothing is known was not run.
func Table(results []Result) string {
	var b strings.Builder
	b.WriteString("| client | version | what is run | result | known of it |\n|---|---|---|---|---|\n")
	for _, c := range Clients {
		var versions, what []string
		by := make(map[string][]string) // the versions that did what was run
		said, date := "not run", ""
		for _, r := range results {
			if r.Client != c.Name {
				continue
			}
			if !slices.Contains(versions, r.Version) {
				versions = append(versions, r.Version)
			}
			if !slices.Contains(what, r.What) {
				what = append(what, r.What)
			}
			if !slices.Contains(by[r.What], r.Version) {
				by[r.What] = append(by[r.What], r.Version)
			}
			switch {
			case !r.Passed:
				said = "**failed**: " + r.Test
			case said == "not run":
				said = "passed"
			}
			if date == "" || r.Date < date { // what is older than the others is not claimed to be as new
				date = r.Date
			}
		}
		slices.Sort(versions)
		for i, w := range what {
			if len(by[w]) < len(versions) {
				what[i] += " (" + strings.Join(by[w], ", ") + ")"
			}
		}
		fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s | %s |\n", c.Name, c.Language, strings.Join(versions, ", "), strings.Join(what, "; "), strings.TrimSpace(said+" "+date), cmp.Or(c.Known, "-"))
	}
	return b.String()
}

const begin, end = "<!-- made by `make compat`: begin -->\n", "<!-- end -->\n"

// Fill puts a table between the marks of a page.
func Fill(page, table string) (string, error) {
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("the page has no marks %q and %q", begin, end)
	}
	return before + begin + table + end + after, nil
}
