package broker

import (
	"slices"
	"testing"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/partition"
)

// Markers count as written only where a peer says so of each: one that is not answered for is written again.
func TestMarkerAnswersOfAnotherLength(t *testing.T) {
	refused := &peerv1.MarkerResult{Failure: partitionToFailure(&partition.Error{Code: partition.CodeNotLeader})}
	for n, results := range [][]*peerv1.MarkerResult{{}, {{}}, {{}, refused}, {{}, {}, {}}} {
		errs, err := markerFailures(&peerv1.WriteMarkersResponse{Results: results}, 2)
		switch {
		case n != 2 && err == nil:
			t.Errorf("%d results for 2 markers are taken for %v", n, errs)
		case n == 2 && (err != nil || errs[0] != nil || errs[1] == nil || errs[1].Code != partition.CodeNotLeader):
			t.Errorf("read %v, %v", errs, err)
		}
	}
}

// A transaction may have more partitions on one broker than one question takes (limits.max_transaction_partitions): all of them get their
// marker, in parts that a broker takes.
func TestMarkersGoInParts(t *testing.T) {
	list := make([]int, 100_000)
	for i := range list {
		list[i] = i
	}
	for _, n := range []int{0, 1, markersAtOnce, markersAtOnce + 1, len(list)} {
		var written []int
		inParts(list[:n], func(some []int) {
			if len(some) > peer.MaxMarkers {
				t.Errorf("%d at once", len(some))
			}
			written = append(written, some...)
		})
		if !slices.Equal(written, list[:n]) {
			t.Errorf("%d of %d are written", len(written), n)
		}
	}
}
