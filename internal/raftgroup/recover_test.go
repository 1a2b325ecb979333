package raftgroup

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// TestRecoveryBelievesTheSnapshot: the members are those of the newest configuration, be it in the log or in the snapshot. What the
// log still holds below the snapshot is older than that.
func TestRecoveryBelievesTheSnapshot(t *testing.T) {
	voters := func(ids ...raft.ServerID) []byte {
		var c raft.Configuration
		for _, id := range ids {
			c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
		}
		return raft.EncodeConfiguration(c)
	}
	for _, c := range []struct {
		name           string
		snapshot       record.Index // 0: none
		configurations map[uint64][]byte
		last           uint64
		want           string
		end            record.Index
	}{
		{"no snapshot", 0, map[uint64][]byte{1: voters("1/1", "2/2")}, 9, "[1/1 2/2]", 9},
		{"the newest in the log", 0, map[uint64][]byte{1: voters("1/1"), 5: voters("1/1", "3/3")}, 9, "[1/1 3/3]", 9},
		{"older ones below the snapshot", 7, map[uint64][]byte{1: voters("1/1", "9/9"), 6: voters("9/9")}, 9, "[1/1 2/2 3/3]", 9},
		{"a newer one above it", 7, map[uint64][]byte{6: voters("9/9"), 8: voters("4/4")}, 9, "[4/4]", 9},
		{"a log that ends below it", 20, map[uint64][]byte{6: voters("9/9")}, 9, "[1/1 2/2 3/3]", 20},
	} {
		logs := raft.NewInmemStore()
		for i := uint64(1); i <= c.last; i++ {
			l := &raft.Log{Index: i, Term: 2, Type: raft.LogCommand}
			if data, ok := c.configurations[i]; ok {
				l.Type, l.Data = raft.LogConfiguration, data
			}
			if err := logs.StoreLog(l); err != nil {
				t.Fatal(err)
			}
		}
		out := Recovery{Last: c.snapshot, Term: 2}
		if c.snapshot > 0 {
			out.Voters = []ServerID{"1/1", "2/2", "3/3"}
		}
		if err := lookAtLog(logs, &out); err != nil || fmt.Sprint(out.Voters) != c.want || out.Last != c.end {
			t.Errorf("%s: voters %v, last entry %d (%v), want %s, %d", c.name, out.Voters, out.Last, err, c.want, c.end)
		}
	}
}
