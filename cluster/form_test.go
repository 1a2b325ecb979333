package cluster

import (
	"testing"
)

func TestAloneFormsACluster(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a := r.start(1)
		r.ready(a)
		img := a.cluster.Image()
		if img.ClusterID() == "" || img.ClusterID() != a.cluster.ClusterID() || len(img.Brokers()) != 1 {
			t.Fatalf("cluster %q, node %q, %d brokers", img.ClusterID(), a.cluster.ClusterID(), len(img.Brokers()))
		}
	})
}

func TestThreeFormOneCluster(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		for _, n := range []*node{a, b, c} {
			if n.cluster.ClusterID() != a.cluster.ClusterID() {
				t.Fatal("two clusters")
			}
		}
		st, _ := r.controller().cluster.MetadataStatus()
		if len(st.Voters) != 3 || len(st.Learners) != 0 {
			t.Fatalf("voters %v, learners %v", st.Voters, st.Learners)
		}
	})
}
