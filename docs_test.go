package oncelog

import (
	"go/ast"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every promise of docs/guarantees.md names the tests that hold it, and each of
// them exists.
func TestGuaranteesNameTheirTests(t *testing.T) {
	exists := testNames(t)
	row := regexp.MustCompile(`^\| (E\d+) \| (.+) \| (.+) \|$`)
	name := regexp.MustCompile("`((?:[a-z0-9_/]+\\.)?(?:Test|Fuzz)[A-Za-z0-9_]+)`")
	promises, last := 0, ""
	for _, line := range readLines(t, "docs/guarantees.md") {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		promises++
		id, tests := m[1], name.FindAllStringSubmatch(m[3], -1)
		if id == last {
			t.Errorf("%s stands twice", id)
		}
		last = id
		if len(tests) == 0 {
			t.Errorf("%s names no test", id)
		}
		for _, test := range tests {
			if !exists[test[1]] {
				t.Errorf("%s names %s, which does not exist", id, test[1])
			}
		}
	}
	if promises == 0 {
		t.Error("docs/guarantees.md holds no promise")
	}
}

// A test that a document names exists.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	exists := testNames(t)
	name := regexp.MustCompile("`((?:[a-z0-9_/]+\\.)?(?:Test|Fuzz)[A-Z][A-Za-z0-9_]+)`")
	for _, document := range documents(t) {
		if document == "CHANGELOG.md" {
			continue // what it tells was true then
		}
		for i, line := range readLines(t, document) {
			for _, m := range name.FindAllStringSubmatch(line, -1) {
				if !exists[m[1]] {
					t.Errorf("%s:%d: no test %s", document, i+1, m[1])
				}
			}
		}
	}
}

// testNames gives every test and fuzz target, both as "TestX" and as
// "package/dir.TestX".
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, decl := range s.file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if ok && function.Recv == nil && (strings.HasPrefix(function.Name.Name, "Test") || strings.HasPrefix(function.Name.Name, "Fuzz")) {
				names[function.Name.Name] = true
				names[s.dir+"."+function.Name.Name] = true
			}
		}
	}
	return names
}

// A document that points to a file which is gone is worse than none.
func TestDocumentsPointToWhatExists(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, document := range documents(t) {
		for i, line := range readLines(t, document) {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, err := url.Parse(m[1])
				if err != nil || target.Scheme != "" || target.Path == "" {
					continue
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(document), target.Path)); err != nil {
					t.Errorf("%s:%d: link to %s, which does not exist", document, i+1, m[1])
				}
			}
		}
	}
}

// Make targets that a document tells people to run exist.
func TestDocumentsNameTargetsThatExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	use := regexp.MustCompile("`make ([a-z-]+)[ `]|^ +make ([a-z-]+)")
	for _, document := range documents(t) {
		for i, line := range readLines(t, document) {
			for _, m := range use.FindAllStringSubmatch(line, -1) {
				if target := m[1] + m[2]; !strings.Contains(string(makefile), "\n"+target+":") {
					t.Errorf("%s:%d: no target %q in the Makefile", document, i+1, target)
				}
			}
		}
	}
}

// Each direct dependency is explained.
func TestDependenciesAreExplained(t *testing.T) {
	reasons, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := directDependencies(t)
	for module := range direct {
		if !strings.Contains(string(reasons), "| `"+module+"` |") {
			t.Errorf("docs/dependencies.md does not say why %s is needed", module)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(reasons), -1) {
		if !direct[m[1]] {
			t.Errorf("docs/dependencies.md explains %s, which nothing imports", m[1])
		}
	}
}

// directDependencies gives the modules of go.mod that our code imports.
func directDependencies(t *testing.T) map[string]bool {
	t.Helper()
	var modules []string
	for _, line := range readLines(t, "go.mod") {
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") {
			modules = append(modules, fields[0])
		}
	}
	direct := map[string]bool{}
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			longest := ""
			for _, module := range modules {
				if under(imported, module) && len(module) > len(longest) {
					longest = module
				}
			}
			if longest != "" {
				direct[longest] = true
			}
		}
	}
	return direct
}

func documents(t *testing.T) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipDir(name, entry.Name())
		}
		if strings.HasSuffix(name, ".md") {
			list = append(list, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func readLines(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}
