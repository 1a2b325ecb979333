package partition

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
)

// flipFirstSegment turns a bit in the middle of the replica's first segment.
func (r *rig) flipFirstSegment() {
	r.t.Helper()
	dir := filepath.Join(r.host.replicaDir(r.spec), logDirName)
	names, err := r.disk.List(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".seg") {
			continue
		}
		content, err := vfs.ReadFile(r.disk, filepath.Join(dir, n))
		if err == nil {
			err = r.disk.FlipBit(filepath.Join(dir, n), int64(len(content)/2), 1)
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return
	}
	r.t.Fatal("no segment")
}

// The only replica of a partition goes on with what it has: nobody else has more. It says so, and what
// is damaged is not served.
func TestDamageOfTheOnlyReplica(t *testing.T) {
	r := newRig(t)
	smallSegments(r)
	r.start()
	r.fill(10)
	p := r.host.replica(testTP)
	if !p.scrub() {
		t.Fatal("the search ended early")
	}
	if g := r.host.Groups()[0]; g.Problem != "" {
		t.Fatalf("an intact replica: %s", g.Problem)
	}
	r.flipFirstSegment()
	p.scrub()
	if g := r.host.Groups()[0]; !strings.Contains(g.Problem, "damaged") {
		t.Errorf("problem is %q", g.Problem)
	}
	r.mustProduce(batch(7, 0, 100, 10), 100)
	if f := r.fetchAt(100); f.Err != nil || f.Bytes == 0 {
		t.Errorf("fetch behind the damage: %+v", f)
	}
}
