package txn

import (
	"fmt"
	"strings"
	"testing"
)

// TestLastEpoch goes through every epoch that there is, by transactions of TV2: 32,766 of them, and then on with a new
// producer id (T20). No epoch is left out, and none is given twice.
func TestLastEpoch(t *testing.T) {
	p := newPlayer(t)
	p.run("apply", "init a")
	for epoch := range int(lastEpoch) {
		p.run("apply", fmt.Sprintf("add a 100/%d t/0", epoch))
		if out := p.run("apply", fmt.Sprintf("end a 100/%d commit", epoch)); !strings.Contains(out, fmt.Sprintf("gives 100/%d *", epoch+1)) {
			t.Fatal(out)
		}
		p.run("apply", "complete a")
	}
	p.run("apply", "add a 100/32766 t/0")
	if out := p.run("apply", "end a 100/32766 commit"); !strings.Contains(out, "gives 101/0 *") || p.s.Find("a").Epoch != fencingEpoch {
		t.Fatal(out)
	}
	p.run("apply", "complete a")
	p.run("apply", "add a 101/0 t/0")
	if out := p.run("apply", "end a 101/0 commit"); !strings.Contains(out, "gives 101/1 *") {
		t.Fatal(out)
	}
}
