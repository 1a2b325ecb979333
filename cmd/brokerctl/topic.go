package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) topicCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "topic",
		Aliases: []string{"topics"},
		Short:   "Create, show, change and delete topics",
	})
	cmd.AddCommand(p.topicCreate(), p.topicList(), p.topicDescribe(), p.topicAlter(), p.topicReassign(), p.topicDelete(), p.topicDeleteRecords())
	return cmd
}

func (p *program) topicCreate() *cobra.Command {
	var (
		spec        client.TopicSpec
		configs     []string
		ifNotExists bool
		noWait      bool
	)
	cmd := &cobra.Command{
		Use:   "create TOPIC",
		Short: "Create a topic",
		Long: `Create a topic and wait until every partition can be written to.

Settings have Kafka's names, such as retention.ms or max.message.bytes.`,
		Example: `  brokerctl topic create orders --partitions 8
  brokerctl topic create audit --replication-factor 5 --config retention.ms=-1
  brokerctl topic create orders --partitions 8 --dry-run`,
		Args: exactly("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			var err error
			if spec.Configs, err = parsePairs("config", configs); err != nil {
				return err
			}
			if !noWait && !spec.ValidateOnly {
				spec.WaitReady = p.flags.timeout
			}
			return p.with(func(c *client.Client) error {
				t, err := c.CreateTopic(cmd.Context(), spec)
				if ifNotExists && errors.Is(err, client.ErrTopicAlreadyExists) {
					p.sayf("topic %s is there already", spec.Name)
					return p.printTopic(cmd.Context(), c, spec.Name, false)
				}
				if err != nil {
					return changing(err)
				}
				if spec.ValidateOnly {
					p.sayf("topic %s could be created", spec.Name)
				} else {
					p.sayf("topic %s created", spec.Name)
				}
				return p.show(describedTopic(t), partitionTable(t, nil))
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&spec.Partitions, "partitions", "p", 0, "how many; 0: the broker's default, 1")
	f.Int32VarP(&spec.ReplicationFactor, "replication-factor", "r", 0, "1, 3 or 5; 0: min(3, brokers)")
	f.StringArrayVarP(&configs, "config", "c", nil, "name=value, repeatable; --set is the same")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName { // as topic alter has it
		if name == "set" {
			name = "config"
		}
		return pflag.NormalizedName(name)
	})
	f.BoolVar(&ifNotExists, "if-not-exists", false, "do not fail if there is a topic of that name")
	f.BoolVar(&noWait, "no-wait", false, "do not wait for leaders")
	f.BoolVar(&spec.ValidateOnly, "dry-run", false, "check only")
	return cmd
}

// topicJSON is a topic as -o json shows it.
type topicJSON struct {
	Name       string          `json:"name"`
	ID         string          `json:"id"`
	Partitions []partitionJSON `json:"partitions"`
	Configs    []configJSON    `json:"configs,omitempty"`
}

type partitionJSON struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leader_epoch"`
	Replicas    []int32 `json:"replicas"`
	GroupID     uint64  `json:"group_id"`
	Joining     []int32 `json:"joining,omitempty"`
	Lost        []int32 `json:"lost,omitempty"`
	Leaving     []int32 `json:"leaving,omitempty"`
	Target      []int32 `json:"target,omitempty"`
	LogStart    *int64  `json:"log_start,omitempty"`
	LogEnd      *int64  `json:"log_end,omitempty"`
	Error       string  `json:"error,omitempty"`
	// Compaction is how far each replica of a compacted topic is.
	Compaction []compactionJSON `json:"compaction,omitempty"`
}

type configJSON struct {
	Name          string `json:"name"`
	Value         string `json:"value"`
	Explicit      bool   `json:"explicit"`
	Documentation string `json:"documentation"`
}

func describedTopic(t client.Topic) topicJSON {
	out := topicJSON{Name: t.Name, ID: t.ID, Partitions: []partitionJSON{}}
	for _, p := range t.Partitions {
		out.Partitions = append(out.Partitions, partitionJSON{
			Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, GroupID: p.GroupID,
			Joining: p.Joining, Lost: p.Lost, Leaving: p.Leaving, Target: p.Target,
		})
	}
	return out
}

// ends are the two ends of each partition's log.
type ends map[int32][2]client.ListedOffset

// lookUpEnds asks the leaders.
func lookUpEnds(ctx context.Context, c *client.Client, t client.Topic, isolation client.Isolation) (ends, error) {
	got := make(ends, len(t.Partitions))
	for i, pos := range []client.Position{client.Beginning(), client.End()} {
		at := make(map[record.TopicPartition]client.Position, len(t.Partitions))
		for _, p := range t.Partitions {
			at[record.TopicPartition{Topic: t.Name, Partition: p.Partition}] = pos
		}
		listed, err := c.ListOffsets(ctx, isolation, at)
		if err != nil {
			return nil, err
		}
		for tp, l := range listed {
			pair := got[tp.Partition]
			pair[i] = l
			got[tp.Partition] = pair
		}
	}
	return got, nil
}

// partitionTable shows who holds what. ends may be nil.
func partitionTable(t client.Topic, e ends) *table {
	headers := []string{">PARTITION", ">LEADER", ">EPOCH", "REPLICAS", ">GROUP"}
	if e != nil {
		headers = append(headers, ">START", ">END", ">OFFSETS")
	}
	moving := slices.ContainsFunc(t.Partitions, client.Partition.Changing)
	if moving {
		headers = append(headers, "ON ITS WAY")
	}
	out := newTable(headers...)
	for _, p := range t.Partitions {
		row := []any{p.Partition, dash(p.Leader), dash(p.LeaderEpoch), list(p.Replicas), p.GroupID}
		if e != nil {
			start, end := e[p.Partition][0], e[p.Partition][1]
			span := "-"
			if start.Err == nil && end.Err == nil {
				span = fmt.Sprint(end.Offset - start.Offset)
			}
			row = append(row, dash(start.Offset), dash(end.Offset), span)
		}
		if moving {
			row = append(row, cmp.Or(changesIn(p), "-"))
		}
		out.row(row...)
	}
	return out
}

func (p *program) topicList() *cobra.Command {
	var internal bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List topics",
		Example: `  brokerctl topic list
  brokerctl topic list -o json | jq -r '.[] | select(.without_leader > 0) | .name'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				m, err := c.Metadata(cmd.Context())
				if err != nil {
					return err
				}
				m.Topics = slices.DeleteFunc(m.Topics, func(t client.Topic) bool { return t.Internal && !internal })
				slices.SortFunc(m.Topics, func(a, b client.Topic) int { return strings.Compare(a.Name, b.Name) })
				type line struct {
					Name          string `json:"name"`
					ID            string `json:"id"`
					Partitions    int    `json:"partitions"`
					Replicas      int    `json:"replication_factor"`
					WithoutLeader int    `json:"without_leader"`
				}
				lines := []line{}
				t := newTable("TOPIC", ">PARTITIONS", ">REPLICAS", ">WITHOUT LEADER")
				for _, topic := range m.Topics {
					l := line{Name: topic.Name, ID: topic.ID, Partitions: len(topic.Partitions)}
					for _, part := range topic.Partitions {
						l.Replicas = max(l.Replicas, len(part.Replicas))
						if part.Leader < 0 {
							l.WithoutLeader++
						}
					}
					lines = append(lines, l)
					t.row(l.Name, l.Partitions, l.Replicas, l.WithoutLeader)
				}
				if len(lines) == 0 {
					p.sayf("no topics yet: brokerctl topic create NAME makes one")
				}
				return p.show(lines, t)
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "the brokers' own topics too, whose partitions are the coordinators' shards")
	return cmd
}

func (p *program) topicDescribe() *cobra.Command {
	var configs bool
	cmd := &cobra.Command{
		Use:   "describe TOPIC",
		Short: "Show a topic's partitions, offsets and settings",
		Long: `Show who leads each partition, its replicas, and the range of its offsets, then the
settings that differ from the defaults. OFFSETS is END minus START and not a count
of records: offsets may have holes.

Of a compacted topic each replica is shown, too: below which offset it is compacted,
how much of its log could be and is not, what the last pass made of how much, and
when the next one comes.`,
		Example: `  brokerctl topic describe orders
  brokerctl topic describe orders --configs`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				return p.printTopic(cmd.Context(), c, args[0], configs)
			})
		},
	}
	cmd.Flags().BoolVar(&configs, "configs", false, "show every setting, with its meaning")
	return cmd
}

func (p *program) printTopic(ctx context.Context, c *client.Client, name string, allConfigs bool) error {
	topic, configs, err := c.DescribeTopic(ctx, name)
	if err != nil {
		return err
	}
	e, err := lookUpEnds(ctx, c, topic, client.ReadUncommitted)
	if err != nil {
		return err
	}
	slices.SortFunc(configs, func(a, b client.ConfigEntry) int { return strings.Compare(a.Name, b.Name) })
	compaction, err := lookUpCompaction(ctx, c, topic, configs)
	if err != nil {
		return err
	}
	if p.json() {
		out := describedTopic(topic)
		for i := range out.Partitions {
			out.Partitions[i].Compaction = compaction.of(out.Partitions[i].GroupID)
		}
		for i := range out.Partitions {
			part := &out.Partitions[i]
			start, end := e[part.Partition][0], e[part.Partition][1]
			if start.Err == nil && end.Err == nil {
				part.LogStart, part.LogEnd = (*int64)(&start.Offset), (*int64)(&end.Offset)
			} else {
				part.Error = errors.Join(start.Err, end.Err).Error()
			}
		}
		for _, entry := range configs {
			out.Configs = append(out.Configs, configJSON(entry))
		}
		return p.writeJSON(out)
	}
	if err := writeTo(p.stdout, fmt.Sprintf("topic %s, id %s\n\n", topic.Name, topic.ID)); err != nil {
		return err
	}
	if err := partitionTable(topic, e).write(p.stdout); err != nil {
		return err
	}
	if err := compaction.print(p.stdout, topic); err != nil {
		return err
	}
	return p.printConfigs(configs, allConfigs)
}

// printConfigs shows settings: those set on the topic, or all with what they mean.
func (p *program) printConfigs(configs []client.ConfigEntry, all bool) error {
	if all {
		var b strings.Builder
		for _, entry := range configs {
			from := "default"
			if entry.Explicit {
				from = "set"
			}
			fmt.Fprintf(&b, "\n%s = %s (%s)\n%s\n", entry.Name, entry.Value, from, wrap(entry.Documentation, 78, "    "))
		}
		return writeTo(p.stdout, b.String())
	}
	t := newTable("SETTING", "VALUE")
	for _, entry := range configs {
		if entry.Explicit {
			t.row(entry.Name, entry.Value)
		}
	}
	if len(t.rows) == 0 {
		return writeTo(p.stdout, "\nall settings are the defaults; --configs shows them\n")
	}
	if err := writeTo(p.stdout, "\n"); err != nil {
		return err
	}
	return t.write(p.stdout)
}

// wrap breaks text into lines of at most width, each after indent.
func wrap(text string, width int, indent string) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

func (p *program) topicAlter() *cobra.Command {
	var change client.TopicChange
	var set []string
	cmd := &cobra.Command{
		Use:   "alter TOPIC",
		Short: "Add partitions, change settings",
		Long: `Raise the number of partitions, or set and unset settings.

Records with keys may go to another partition once there are more of them.`,
		Example: `  brokerctl topic alter orders --partitions 16
  brokerctl topic alter orders --set retention.ms=86400000 --unset max.message.bytes`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			change.Name = args[0]
			var err error
			if change.Set, err = parsePairs("set", set); err != nil {
				return err
			}
			if change.Partitions == 0 && len(change.Set) == 0 && len(change.Unset) == 0 {
				return usagef("nothing to change: set --partitions, --set or --unset")
			}
			return p.with(func(c *client.Client) error {
				t, err := c.AlterTopic(cmd.Context(), change)
				if err != nil {
					return changing(err)
				}
				if change.ValidateOnly {
					p.sayf("topic %s could be changed so", change.Name)
					return p.show(describedTopic(t), partitionTable(t, nil))
				}
				p.sayf("topic %s changed: %s", change.Name, strings.Join(changesOf(change), ", "))
				t = p.awaitLeaders(cmd.Context(), c, t)
				return p.show(describedTopic(t), partitionTable(t, nil))
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&change.Partitions, "partitions", "p", 0, "the new number; never lower than now")
	f.StringArrayVar(&set, "set", nil, "name=value, repeatable")
	f.StringArrayVar(&change.Unset, "unset", nil, "name of a setting to return to its default, repeatable")
	f.BoolVar(&change.ValidateOnly, "dry-run", false, "check only")
	return cmd
}

// awaitLeaders gives the topic as it is when all its partitions have leaders, or when the time for one
// request is over: the change itself is done.
func (p *program) awaitLeaders(ctx context.Context, c *client.Client, t client.Topic) client.Topic {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout)
	defer cancel()
	for slices.ContainsFunc(t.Partitions, func(part client.Partition) bool { return part.Leader < 0 }) {
		if !wait(ctx, 50*time.Millisecond) {
			break
		}
		if m, err := c.Metadata(ctx, t.Name); err == nil && m.Topics[0].Err == nil && len(m.Topics[0].Partitions) >= len(t.Partitions) {
			t = m.Topics[0]
		}
	}
	return t
}

func changesOf(c client.TopicChange) []string {
	var s []string
	if c.Partitions > 0 {
		s = append(s, plural(int64(c.Partitions), "partition"))
	}
	for _, k := range slices.Sorted(maps.Keys(c.Set)) {
		s = append(s, k+"="+c.Set[k])
	}
	for _, k := range c.Unset {
		s = append(s, k+" unset")
	}
	return s
}

func (p *program) topicDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:     "delete TOPIC",
		Aliases: []string{"rm"},
		Short:   "Delete a topic with all its records",
		Example: `  brokerctl topic delete old
  brokerctl topic delete old --yes     # for scripts`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				fmt.Fprintf(p.stderr, "This deletes topic %s with all its records, for good. Type its name to go on: ", args[0])
				answer, err := bufio.NewReader(p.stdin).ReadString('\n')
				if strings.TrimSpace(answer) != args[0] {
					fmt.Fprintln(p.stderr)
					if err != nil {
						return usagef("nothing was deleted: nobody answered; --yes deletes without asking")
					}
					return usagef("nothing was deleted")
				}
			}
			return p.with(func(c *client.Client) error {
				if err := c.DeleteTopic(cmd.Context(), args[0]); err != nil {
					return changing(err)
				}
				p.sayf("topic %s deleted", args[0])
				if p.json() {
					return p.writeJSON(map[string]string{"deleted": args[0]})
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// parseTopicPartition reads TOPIC/P.
func parseTopicPartition(s string) (record.TopicPartition, error) {
	i := strings.LastIndexByte(s, '/')
	if i <= 0 {
		return record.TopicPartition{}, usagef("%q is no partition: want TOPIC/PARTITION, such as orders/0", s)
	}
	var n int32
	if _, err := fmt.Sscanf(s[i+1:]+"\n", "%d\n", &n); err != nil || n < 0 || fmt.Sprint(n) != s[i+1:] {
		return record.TopicPartition{}, usagef("%q is no partition: want TOPIC/PARTITION, such as orders/0", s)
	}
	return record.TopicPartition{Topic: s[:i], Partition: n}, nil
}
