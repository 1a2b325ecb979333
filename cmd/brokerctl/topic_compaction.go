package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/oncelog/oncelog/client"
)

// compactionJSON is a replica's compaction as -o json shows it.
type compactionJSON struct {
	Broker           int32   `json:"broker"`
	CompactedOffset  int64   `json:"compacted_offset"`
	AgreedOffset     int64   `json:"agreed_offset"`
	HorizonOffset    int64   `json:"horizon_offset"`
	CleanBytes       int64   `json:"clean_bytes"`
	DirtyBytes       int64   `json:"dirty_bytes"`
	DirtyRatio       float64 `json:"dirty_ratio"`
	WantedRatio      float64 `json:"min_cleanable_dirty_ratio"`
	Due              bool    `json:"due"`
	Done             bool    `json:"done"`
	Running          bool    `json:"running"`
	ReadBytes        int64   `json:"read_bytes,omitempty"`
	TotalBytes       int64   `json:"total_bytes,omitempty"`
	LastEnded        string  `json:"last_ended,omitempty"`
	LastTookMS       int64   `json:"last_took_ms,omitempty"`
	LastReadBytes    int64   `json:"last_read_bytes,omitempty"`
	LastWrittenBytes int64   `json:"last_written_bytes,omitempty"`
}

// compactionOf is the compaction of a topic's replicas, by Raft group; nil: it is not compacted.
type compactionOf map[uint64][]compactionJSON

// lookUpCompaction asks every broker, if the topic is compacted.
func lookUpCompaction(ctx context.Context, c *client.Client, t client.Topic, configs []client.ConfigEntry) (compactionOf, error) {
	compacted := func(e client.ConfigEntry) bool {
		return e.Name == "cleanup.policy" && slices.Contains(strings.Split(e.Value, ","), "compact")
	}
	if !slices.ContainsFunc(configs, compacted) {
		return nil, nil
	}
	groups, _, err := c.RaftGroups(ctx, t.Name) // who does not answer is missing in the table
	if err != nil {
		return nil, err
	}
	of := compactionOf{}
	for _, g := range groups {
		if k := g.Compaction; k != nil {
			of[g.GroupID] = append(of[g.GroupID], describedCompaction(g.Broker, k))
		}
	}
	return of, nil
}

func describedCompaction(broker int32, k *client.Compaction) compactionJSON {
	out := compactionJSON{Broker: broker, CompactedOffset: int64(k.Compacted), AgreedOffset: int64(k.Agreed), HorizonOffset: int64(k.Horizon),
		CleanBytes: k.CleanBytes, DirtyBytes: k.DirtyBytes, WantedRatio: k.DirtyRatio, Due: k.Due, Done: k.Done, Running: k.Running}
	if all := k.CleanBytes + k.DirtyBytes; all > 0 {
		out.DirtyRatio = float64(k.DirtyBytes) / float64(all)
	}
	if k.Running {
		out.ReadBytes, out.TotalBytes = k.Read, k.Total
	}
	if !k.LastEnded.IsZero() {
		out.LastEnded, out.LastTookMS = k.LastEnded.UTC().Format(time.RFC3339), k.LastTook.Milliseconds()
		out.LastReadBytes, out.LastWrittenBytes = k.LastRead, k.LastWritten
	}
	return out
}

func (of compactionOf) of(group uint64) []compactionJSON { return of[group] }

// print shows a table, if the topic is compacted.
func (of compactionOf) print(w io.Writer, t client.Topic) error {
	if len(of) == 0 {
		return nil
	}
	table := newTable("PARTITION", "BROKER", "COMPACTED TO", "DIRTY", "LAST PASS", "NEXT PASS")
	for _, p := range t.Partitions {
		for _, k := range of[p.GroupID] {
			broker := fmt.Sprint(k.Broker)
			if k.Broker == p.Leader {
				broker += " leads"
			}
			table.row(fmt.Sprint(p.Partition), broker, fmt.Sprint(k.CompactedOffset), k.dirty(), k.last(), k.next(k.Broker == p.Leader))
		}
	}
	if err := writeTo(w, "\n"); err != nil {
		return err
	}
	return table.write(w)
}

func (k *compactionJSON) dirty() string {
	return fmt.Sprintf("%s, %.0f %%", size(k.DirtyBytes), 100*k.DirtyRatio)
}

func (k *compactionJSON) last() string {
	if k.LastEnded == "" {
		return "-"
	}
	return fmt.Sprintf("%s to %s", size(k.LastReadBytes), size(k.LastWrittenBytes))
}

func (k *compactionJSON) next(leads bool) string {
	switch {
	case k.Running && k.TotalBytes > 0:
		return fmt.Sprintf("runs, %d %%", min(99, 100*k.ReadBytes/k.TotalBytes))
	case k.Running:
		return "runs"
	case !k.Done:
		return "soon"
	case !leads:
		return "with the leader"
	case k.Due:
		return "is due"
	}
	return fmt.Sprintf("at %.0f %% dirty", 100*k.WantedRatio)
}
