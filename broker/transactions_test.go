package broker

import (
	"testing"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
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
