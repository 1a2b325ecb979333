package oncelog

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/oncelog/oncelog"

// mayImport says for each package which others of this module it may import, by
// prefix. A package that is missing here fails TestImports: say first where it
// stands. Leaves import nothing of ours.
var mayImport = map[string][]string{
	".": {},

	// Leaves.
	"record":               {},
	"api/proto/client/v1":  {},
	"api/proto/peer/v1":    {"api/proto/state"},
	"api/proto/state/v1":   {},
	"internal/vfs":         {},
	"internal/watermark":   {},
	"internal/lifecycle":   {},
	"internal/memnet":      {},
	"internal/timeofday":   {},
	"internal/sasl":        {},
	"internal/tlsout":      {},
	"internal/firstbytes":  {},
	"internal/mux":         {"internal/tlsout", "internal/firstbytes"},
	"internal/secure":      {"internal/tlsout", "internal/firstbytes"},
	"internal/buildinfo":   {},
	"internal/heapfloor":   {},
	"internal/nearest":     {},
	"internal/netproxy":    {},
	"internal/brokerproc":  {"internal/netproxy"},
	"internal/compatpage":  {},
	"internal/history":     {"record"},
	"internal/machinetest": {"api/proto/state"},
	"internal/workload":    {"record", "client", "internal/history"},

	// Machines: pure and deterministic.
	"partition/producer":        {"record", "api/proto/state"},
	"partition/compaction":      {"record"},
	"cluster/metadata":          {"record", "api/proto/state", "cluster/metadata/acl", "internal/nearest"},
	"cluster/metadata/acl":      {},
	"coordinator/txn":           {"record", "api/proto/state"},
	"coordinator/group":         {"record", "api/proto/state"},
	"coordinator/group/assign":  {},
	"coordinator/group/session": {"api/proto/state", "coordinator/group"},
	"coordinator/group/classic": {"api/proto/state", "coordinator/group"},

	// The log, and what makes machines replicated. raftgroup adapts recordlog to
	// Raft's store (docs/decisions/0002).
	"partition/recordlog": {"record", "internal/vfs"},
	"internal/raftgroup":  {"record", "partition/recordlog", "internal/mux", "internal/firstbytes", "internal/vfs", "internal/watermark", "internal/lifecycle"},

	// Domains never import each other.
	"partition":    {"record", "api/proto/state", "partition/producer", "partition/compaction", "partition/recordlog", "internal"},
	"cluster/peer": {"record", "api/proto/peer", "api/proto/state", "internal"},
	"coordinator":  {"record", "api/proto/state", "coordinator/txn", "coordinator/group", "internal"},
	"cluster":      {"record", "api/proto/peer", "api/proto/state", "cluster/metadata", "cluster/peer", "internal"},

	// What the listeners decide alike.
	"internal/frontdoor": {"record", "partition", "coordinator", "cluster", "internal"},

	// Listeners: decode, call a domain, encode.
	"api": {"record", "api/proto/client", "partition", "coordinator", "cluster", "internal"},

	"kafka": {"record", "partition", "coordinator", "cluster", "internal"},

	"broker": {"record", "api", "kafka", "partition", "coordinator", "cluster", "internal"},

	// Outside of the broker.
	"client":                 {"record", "api/proto/client", "internal/sasl", "internal/tlsout"},
	"brokertest":             {"broker", "client", "record", "api/proto/client", "partition", "cluster", "internal"},
	"cmd/brokerd":            {"internal/nearest", "broker", "internal/buildinfo", "internal/heapfloor"},
	"cmd/brokerctl":          {"internal/nearest", "client", "record", "api/proto/client", "partition", "internal/secure", "internal/raftgroup", "internal/vfs", "internal/buildinfo", "internal/heapfloor", "internal/history", "internal/workload"},
	"examples/job":           {"client", "record"},
	"examples/at-most-once":  {"client", "examples/job"},
	"examples/at-least-once": {"client", "examples/job"},
	"examples/exactly-once":  {"client", "examples/job"},
}

// testsMayImport is what only the tests of a package may import beside.
var testsMayImport = map[string][]string{
	"cmd/brokerd": {"client", "internal/brokerproc"}, // a process is looked at from outside
}

// whole are the trees that may import everything: they test, measure or check
// the system from outside.
var whole = []string{"test", "bench"}

// machines decide for all replicas alike: the same command in the same state
// must give the same answer on every machine, for ever.
var machines = []string{"partition/producer", "partition/compaction", "cluster/metadata", "cluster/metadata/acl", "coordinator/txn", "coordinator/group", "coordinator/group/assign", "coordinator/group/session", "coordinator/group/classic"}

// notForMachines are where differences come from: clocks, disks, networks,
// chance, schedulers.
var notForMachines = []string{
	"time", "os", "net", "math/rand", "context", "sync", "log", "runtime", "unsafe", "crypto/rand",
	"github.com/hashicorp/raft", "github.com/prometheus",
}

// importedOnlyBy are packages that one package of ours keeps for itself.
var importedOnlyBy = map[string]string{
	"github.com/hashicorp/raft":        "internal/raftgroup",
	"github.com/hashicorp/raft-boltdb": "internal/raftgroup",
	"go.etcd.io/bbolt":                 "internal/raftgroup",
}

// source is one Go file of the module.
type source struct {
	path      string // slash-separated, from the root
	dir       string
	test      bool
	generated bool
	lines     int
	file      *ast.File
}

var positions = token.NewFileSet()

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipDir(name, entry.Name())
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(positions, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(name)
		all = append(all, source{
			path: slash, dir: path.Dir(slash), test: strings.HasSuffix(name, "_test.go"),
			generated: ast.IsGenerated(file), lines: bytes.Count(text, []byte("\n")), file: file,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// skipDir leaves out what is not ours: hidden directories, test data, and the
// modules of the tools, of the compatibility suite and of an example.
func skipDir(name, base string) error {
	if name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || name == "tools" || name == "compat" || name == "examples/postgres") {
		return filepath.SkipDir
	}
	return nil
}

func (s source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

func under(dir string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool {
		return dir == tree || strings.HasPrefix(dir, tree+"/")
	})
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if under(s.dir, whole...) {
			continue
		}
		allowed, ok := mayImport[s.dir]
		if !ok {
			t.Errorf("%s: package %s has no place in the table of arch_test.go", s.path, s.dir)
			continue
		}
		if s.test {
			allowed = append(slices.Clip(allowed), s.dir, "brokertest", "internal/vfs", "internal/machinetest", "record", "api/proto/state")
			allowed = append(allowed, testsMayImport[s.dir]...)
		}
		for _, imported := range s.imports() {
			ours, ok := strings.CutPrefix(imported, module+"/")
			if ok && !under(ours, allowed...) {
				t.Errorf("%s: %s may not import %s", s.path, s.dir, ours)
			}
		}
	}
}

func TestDomainsDoNotMeetInTests(t *testing.T) {
	domains := []string{"partition", "cluster", "coordinator"}
	for _, s := range sources(t) {
		for _, own := range domains {
			for _, imported := range s.imports() {
				ours := strings.TrimPrefix(imported, module+"/")
				for _, other := range domains {
					if own != other && under(s.dir, own) && under(ours, other) {
						t.Errorf("%s imports %s: the domains meet only in package broker", s.path, ours)
					}
				}
			}
		}
	}
}

func TestMachinesArePure(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !slices.Contains(machines, s.dir) {
			continue
		}
		for _, imported := range s.imports() {
			if under(imported, notForMachines...) && imported != "net/netip" { // addresses as values
				t.Errorf("%s: a machine may not import %s", s.path, imported)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a machine starts no goroutine", positions.Position(n.Pos()))
			}
			return true
		})
	}
}

func TestLibrariesWithOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			for library, owner := range importedOnlyBy {
				if s.dir != owner && under(imported, library) {
					t.Errorf("%s: only %s may import %s", s.path, owner, imported)
				}
			}
		}
	}
}

// Planted bugs are for tests: a broker outside of them keeps its promises.
func TestOnlyTestsSabotage(t *testing.T) {
	passedOn := []string{"partition", "coordinator", "broker", "brokertest", "test/sim"} // from test to apply
	for _, s := range sources(t) {
		if s.test || slices.Contains(passedOn, s.dir) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && id.Name == "Sabotage" {
				t.Errorf("%s: sabotage outside of tests", positions.Position(id.Pos()))
			}
			return true
		})
	}
}

func TestOnePackageComment(t *testing.T) {
	comments := map[string][]string{} // package to files
	names := map[string]string{}
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		names[s.dir] = s.file.Name.Name
		if s.file.Doc == nil {
			continue
		}
		comments[s.dir] = append(comments[s.dir], s.path)
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command " + path.Base(s.dir) + " "
		}
		if text := s.file.Doc.Text(); !strings.HasPrefix(text, want) {
			first, _, _ := strings.Cut(text, "\n")
			t.Errorf("%s: the package comment starts %q, want %q", s.path, first, want)
		}
	}
	for dir := range names {
		if files := comments[dir]; len(files) != 1 {
			t.Errorf("package %s has %d package comments %v, want 1", dir, len(files), files)
		}
	}
}

// Limits of size. What is longer wants another file, or a name for a decision.
const (
	maxFileLines     = 600
	maxTestFileLines = 900 // a table of cases, or of stories, may be long
	maxFunctionLines = 90
)

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		limit := maxFileLines
		if s.test {
			limit = maxTestFileLines
		}
		if s.lines > limit {
			t.Errorf("%s has %d lines, at most %d", s.path, s.lines, limit)
		}
		for _, decl := range s.file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok || s.test {
				continue // A table of cases may be long.
			}
			first, last := positions.Position(function.Pos()).Line, positions.Position(function.End()).Line
			if lines := last - first + 1; lines > maxFunctionLines {
				t.Errorf("%s:%d: %s has %d lines, at most %d", s.path, first, function.Name.Name, lines, maxFunctionLines)
			}
		}
	}
}

// A test waits for the thing itself. Sleeping is for virtual time, and for
// polling other processes in test/.
func TestNoSleepInTests(t *testing.T) {
	all := sources(t)
	virtual := map[string]bool{} // packages with tests on virtual time
	for _, s := range all {
		if slices.Contains(s.imports(), "testing/synctest") {
			virtual[s.dir] = true
		}
	}
	for _, s := range all {
		if !s.test || virtual[s.dir] || under(s.dir, whole...) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && call.Sel.Name == "Sleep" && fmt.Sprint(call.X) == "time" {
				t.Errorf("%s: time.Sleep in a test", positions.Position(n.Pos()))
			}
			return true
		})
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, mark := range marks {
				if slices.Contains(strings.FieldsFunc(group.Text(), notLetter), mark) {
					t.Errorf("%s: %s in a comment", positions.Position(group.Pos()), mark)
				}
			}
		}
	}
}

func notLetter(r rune) bool { return r < 'A' || r > 'Z' && r < 'a' || r > 'z' }
