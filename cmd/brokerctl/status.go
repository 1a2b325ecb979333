package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) clusterCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cluster",
		Short: "Show brokers, Raft groups and replicas, and what is wrong; move leaders; drain brokers",
	})
	cmd.AddCommand(p.clusterStatus(), p.clusterHealth(), p.clusterGroups(), p.clusterChecksums(), p.clusterTransfer(), p.clusterCanRestart(),
		p.clusterDrain(), p.clusterUnregister(), p.clusterSetFeatureLevel())
	return cmd
}

// statusJSON is the cluster as -o json shows it.
type statusJSON struct {
	ClusterID    string       `json:"cluster_id"`
	Controller   int32        `json:"controller"`
	FeatureLevel uint32       `json:"feature_level"`
	Topics       int          `json:"topics"`
	Partitions   int          `json:"partitions"`
	Healthy      bool         `json:"healthy"`
	Problems     []string     `json:"problems"`
	Brokers      []brokerJSON `json:"brokers"`
	// Copying are replicas that are being filled.
	Copying []copyJSON `json:"copying"`
}

type brokerJSON struct {
	ID       int32  `json:"id"`
	Address  string `json:"address"`
	Peer     string `json:"peer_address"`
	HTTP     string `json:"http_address"`
	Rack     string `json:"rack"`
	Version  string `json:"version"`
	Alive    bool   `json:"alive"`
	Leads    int    `json:"leads"`
	Replicas int    `json:"replicas"`
	Answers  bool   `json:"answers"`
	Draining bool   `json:"draining,omitempty"`
}

func (p *program) clusterStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say whether the cluster is well, and show its brokers",
		Long: `Ask every broker and say whether the cluster is well: every broker alive and answering,
every partition led, no replica stopped or quarantined. If it is not, the exit code
is 5 and the problems are listed. Replicas that are being filled are shown with how
much is copied, how fast, and how long it will take.`,
		Example: `  brokerctl cluster status
  brokerctl cluster status -o json | jq .problems`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				s, err := p.status(cmd.Context(), c)
				if err != nil {
					return err
				}
				if err := p.printStatus(s); err != nil {
					return err
				}
				if !s.Healthy {
					return &checkError{fmt.Sprintf("the cluster is not well: %s", plural(int64(len(s.Problems)), "problem"))}
				}
				return nil
			})
		},
	}
}

func (p *program) status(ctx context.Context, c *client.Client) (statusJSON, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return statusJSON{}, err
	}
	groups, failed, err := c.RaftGroups(ctx, "")
	if err != nil {
		return statusJSON{}, err
	}
	s := statusJSON{ClusterID: m.ClusterID, Controller: m.Controller, FeatureLevel: m.FeatureLevel, Topics: len(m.Topics), Problems: []string{}}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	leads, replicas := map[int32]int{}, map[int32]int{}
	var headless []string
	for _, t := range m.Topics {
		for _, part := range t.Partitions {
			s.Partitions++
			if part.Leader < 0 {
				headless = append(headless, fmt.Sprintf("%s/%d", t.Name, part.Partition))
			} else {
				leads[part.Leader]++
			}
			for _, b := range part.Replicas {
				replicas[b]++
			}
		}
	}
	silent := map[int32]error{}
	for _, f := range failed {
		silent[f.Broker] = f.Err
	}
	slices.SortFunc(m.Brokers, func(a, b client.Broker) int { return int(a.ID - b.ID) })
	for _, b := range m.Brokers {
		s.Brokers = append(s.Brokers, brokerJSON{ID: b.ID, Address: b.Address, Peer: b.PeerAddress, HTTP: b.HTTPAddress, Rack: b.Rack,
			Version: b.Version, Alive: b.Alive, Leads: leads[b.ID], Replicas: replicas[b.ID], Answers: silent[b.ID] == nil, Draining: b.Draining})
		switch err := silent[b.ID]; {
		case !b.Alive:
			problem("broker %d is not alive, as far as the others know", b.ID)
		case err != nil:
			problem("broker %d does not answer at %s: %s", b.ID, b.Address, unreached(err, b.Address))
		}
	}
	if m.Controller < 0 {
		problem("nobody leads the metadata: topics cannot be created or changed")
	}
	if len(headless) > 0 {
		problem("no leader: %s", shorten(headless, 8))
	}
	for _, g := range groups {
		if g.Problem != "" || g.Role == "stopped" || g.Role == "quarantined" {
			problem("%s on broker %d is %s: %s", g.Name, g.Broker, g.Role, g.Problem)
		}
	}
	s.Healthy = len(s.Problems) == 0
	if s.Copying = p.copies(ctx, c, groups); s.Copying == nil {
		s.Copying = []copyJSON{}
	}
	return s, nil
}

// shorten lists the first n.
func shorten(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

func (p *program) printStatus(s statusJSON) error {
	if p.json() {
		return p.writeJSON(s)
	}
	verdict := "healthy"
	if !s.Healthy {
		verdict = "NOT WELL"
	}
	head := fmt.Sprintf("cluster %s: %s\n%s, %s, controller %s, feature level %d\n\n", s.ClusterID, verdict,
		plural(int64(s.Topics), "topic"), plural(int64(s.Partitions), "partition"), dash(s.Controller), s.FeatureLevel)
	const most = 10
	for _, problem := range s.Problems[:min(len(s.Problems), most)] {
		head += bullet("  ! ", problem)
	}
	if n := len(s.Problems) - most; n > 0 {
		head += bullet("  ! ", fmt.Sprintf("and %d more, which brokerctl cluster health tells together", n))
	}
	if len(s.Problems) > 0 {
		head += "\n"
	}
	if err := writeTo(p.stdout, head); err != nil {
		return err
	}
	t := newTable(">BROKER", "GRPC", "STATE", ">LEADS", ">REPLICAS", "RACK", "VERSION")
	for _, b := range s.Brokers {
		state := "up"
		switch {
		case !b.Alive:
			state = "dead"
		case !b.Answers:
			state = "silent"
		}
		if b.Draining {
			state += ", draining"
		}
		rack := b.Rack
		if rack == "" {
			rack = "-"
		}
		t.row(b.ID, b.Address, state, b.Leads, b.Replicas, rack, b.Version)
	}
	if err := t.write(p.stdout); err != nil || len(s.Copying) == 0 {
		return err
	}
	if err := writeTo(p.stdout, "\n"); err != nil {
		return err
	}
	return copyTable(s.Copying).write(p.stdout)
}

// groupJSON is one replica as -o json shows it.
type groupJSON struct {
	Broker        int32         `json:"broker"`
	GroupID       uint64        `json:"group_id"`
	Name          string        `json:"name"`
	Role          string        `json:"role"`
	Ready         bool          `json:"ready"`
	Term          uint64        `json:"term"`
	CommitIndex   record.Index  `json:"commit_index"`
	AppliedIndex  record.Index  `json:"applied_index"`
	FirstIndex    record.Index  `json:"first_index"`
	LastIndex     record.Index  `json:"last_index"`
	SnapshotIndex record.Index  `json:"snapshot_index"`
	Leader        string        `json:"leader"`
	Voters        []string      `json:"voters"`
	Learners      []string      `json:"learners"`
	LogStart      record.Offset `json:"log_start"`
	HighWatermark record.Offset `json:"high_watermark"`
	LastStable    record.Offset `json:"last_stable"`
	LogBytes      int64         `json:"log_bytes"`
	Producers     uint32        `json:"producers"`
	Problem       string        `json:"problem,omitempty"`
}

func (p *program) clusterGroups() *cobra.Command {
	return &cobra.Command{
		Use:   "groups [TOPIC]",
		Short: "Show every replica of every Raft group, as its own broker sees it",
		Long: `Ask every broker for its Raft groups: that of the metadata and its replicas of
partitions. A replica whose APPLIED stays behind is slow or cut off; a leader that is
not ready has not applied its own first entry and serves nobody yet.`,
		Example: `  brokerctl cluster groups
  brokerctl cluster groups orders -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("unexpected argument %q", args[1])
			}
			return nil
		},
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic := strings.Join(args, "")
			return p.with(func(c *client.Client) error {
				groups, failed, err := c.RaftGroups(cmd.Context(), topic)
				if err != nil {
					return err
				}
				for _, f := range failed {
					p.sayf("broker %d at %s: %v", f.Broker, f.Address, f.Err)
				}
				if len(groups) == 0 && len(failed) > 0 {
					return failed[0].Err
				}
				return p.printGroups(groups)
			})
		},
	}
}

func (p *program) printGroups(groups []client.RaftGroup) error {
	t := newTable("GROUP", ">BROKER", "ROLE", ">TERM", ">APPLIED", ">COMMIT", ">OFFSETS END", ">BYTES", ">PRODUCERS")
	out := []groupJSON{}
	var problems []string
	for _, g := range groups {
		out = append(out, groupJSON{
			Broker: g.Broker, GroupID: g.GroupID, Name: g.Name, Role: g.Role, Ready: g.Ready, Term: g.Term, CommitIndex: g.CommitIndex,
			AppliedIndex: g.AppliedIndex, FirstIndex: g.FirstIndex, LastIndex: g.LastIndex, SnapshotIndex: g.SnapshotIndex, Leader: g.Leader,
			Voters: append([]string{}, g.Voters...), Learners: append([]string{}, g.Learners...), LogStart: g.LogStart, HighWatermark: g.HighWatermark,
			LastStable: g.LastStable, LogBytes: g.LogBytes, Producers: g.Producers, Problem: g.Problem,
		})
		role := g.Role
		if role == "leader" && !g.Ready {
			role = "leader, not ready"
		}
		bytes := "-"
		if g.HighWatermark >= 0 {
			bytes = size(g.LogBytes)
		}
		t.row(g.Name, g.Broker, role, g.Term, g.AppliedIndex, g.CommitIndex, dash(g.HighWatermark), bytes, g.Producers)
		if g.Problem != "" {
			problems = append(problems, bullet("  ! ", fmt.Sprintf("%s on broker %d: %s", g.Name, g.Broker, g.Problem)))
		}
	}
	if err := p.show(out, t); err != nil || p.json() || len(problems) == 0 {
		return err
	}
	return writeTo(p.stdout, "\n"+strings.Join(problems, ""))
}

// checksumJSON is one replica's checksum as -o json shows it.
type checksumJSON struct {
	Partition int32         `json:"partition"`
	Broker    int32         `json:"broker"`
	From      record.Offset `json:"from"`
	UpTo      record.Offset `json:"up_to"`
	CRC32C    string        `json:"crc32c"`
	Batches   int64         `json:"batches"`
	Error     string        `json:"error,omitempty"`
}

func (p *program) clusterChecksums() *cobra.Command {
	return &cobra.Command{
		Use:   "checksums TOPIC[/PARTITION,...]",
		Short: "Compare the replicas of partitions by checksum",
		Long: `Ask every replica for a checksum over its records and compare, up to what the one that
is furthest behind has if it does not catch up within two seconds. Replicas that differ
hold different records: exit code 5.`,
		Example: `  brokerctl cluster checksums orders
  brokerctl cluster checksums orders/0,3`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, parts, err := parsePartitions(args[0])
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				sums, differ, err := compareReplicas(cmd.Context(), c, topic, parts)
				if err != nil {
					return err
				}
				t := newTable(">PARTITION", ">BROKER", ">FROM", ">UP TO", "CRC32C", ">BATCHES", "")
				for _, s := range sums {
					remark := s.Error
					if slices.Contains(differ, s.Partition) {
						remark = strings.TrimSpace("DIFFERS " + remark)
					}
					t.row(s.Partition, s.Broker, dash(s.From), dash(s.UpTo), s.CRC32C, s.Batches, remark)
				}
				if err := p.show(sums, t); err != nil {
					return err
				}
				if len(differ) > 0 {
					return &checkError{fmt.Sprintf("replicas of %s differ: partition %s", topic, list(differ))}
				}
				return nil
			})
		},
	}
}

// compareReplicas takes checksums of every replica up to where all of them are, and says which
// partitions' replicas differ.
func compareReplicas(ctx context.Context, c *client.Client, topic string, parts []int32) (sums []checksumJSON, differ []int32, err error) {
	if len(parts) == 0 {
		m, err := c.Metadata(ctx, topic)
		if err != nil {
			return nil, nil, err
		}
		if m.Topics[0].Err != nil {
			return nil, nil, m.Topics[0].Err
		}
		for _, part := range m.Topics[0].Partitions {
			parts = append(parts, part.Partition)
		}
	}
	for _, n := range parts {
		tp := record.TopicPartition{Topic: topic, Partition: n}
		got, failed, err := c.Checksums(ctx, tp, record.NoOffset)
		if err != nil {
			return nil, nil, err
		}
		for range catchUpTries { // followers learn what is committed a moment later
			if !uneven(got) || !wait(ctx, catchUpPause) {
				break
			}
			if got, failed, err = c.Checksums(ctx, tp, record.NoOffset); err != nil {
				return nil, nil, err
			}
		}
		if uneven(got) { // then up to what the slowest one has
			least := slices.MinFunc(got, func(a, b client.Checksum) int { return int(a.UpTo - b.UpTo) })
			if got, failed, err = c.Checksums(ctx, tp, least.UpTo); err != nil {
				return nil, nil, err
			}
		}
		for _, s := range got {
			sums = append(sums, checksumJSON{Partition: n, Broker: s.Broker, From: s.From, UpTo: s.UpTo, CRC32C: fmt.Sprintf("%08x", s.CRC32C), Batches: s.Batches})
			if s.From == got[0].From && s.UpTo == got[0].UpTo && s.CRC32C != got[0].CRC32C && !slices.Contains(differ, n) {
				differ = append(differ, n)
			}
		}
		for _, f := range failed {
			sums = append(sums, checksumJSON{Partition: n, Broker: f.Broker, From: -1, UpTo: -1, CRC32C: "-", Error: unreached(f.Err, f.Address)})
		}
	}
	return sums, differ, nil
}

// How long compareReplicas waits for followers to be where the leader is.
const (
	catchUpTries = 20
	catchUpPause = 100 * time.Millisecond
)

// wait waits; false: ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func uneven(sums []client.Checksum) bool {
	for _, s := range sums {
		if s.UpTo != sums[0].UpTo {
			return true
		}
	}
	return false
}

func (p *program) clusterTransfer() *cobra.Command {
	var to int32
	cmd := &cobra.Command{
		Use:   "transfer TOPIC/PARTITION",
		Short: "Make another replica lead a partition",
		Example: `  brokerctl cluster transfer orders/0
  brokerctl cluster transfer orders/0 --to 2`,
		Args:              exactly("TOPIC/PARTITION"),
		ValidArgsFunction: p.completePartitions,
		RunE: func(cmd *cobra.Command, args []string) error {
			tp, err := parseTopicPartition(args[0])
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				if err := c.TransferLeadership(cmd.Context(), tp, to); err != nil {
					return changing(err)
				}
				if to < 0 {
					p.sayf("%v is led by another broker now", tp)
				} else {
					p.sayf("%v is led by broker %d now", tp, to)
				}
				if p.json() {
					return p.writeJSON(map[string]any{"topic": tp.Topic, "partition": tp.Partition, "transferred": true})
				}
				return nil
			})
		},
	}
	cmd.Flags().Int32Var(&to, "to", -1, "broker that should lead; -1: any other")
	_ = cmd.RegisterFlagCompletionFunc("to", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return p.completeBrokers(cmd, nil, typed)
	}) // the flag is there
	return cmd
}
