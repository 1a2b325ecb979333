package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) groupCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "group",
		Aliases: []string{"groups"},
		Short:   "Show, reset and delete consumer groups",
	})
	cmd.AddCommand(p.groupList(), p.groupDescribe(), p.groupLag(), p.groupReset(), p.groupDelete())
	return cmd
}

// consumerGroupJSON is a group as -o json shows it.
type consumerGroupJSON struct {
	ID              string            `json:"id"`
	State           client.GroupState `json:"state"`
	Kind            string            `json:"kind"`
	Epoch           int32             `json:"epoch"`
	AssignmentEpoch int32             `json:"assignment_epoch"`
	Offsets         int               `json:"offsets"`
	Transactions    int               `json:"transactions"`
	Coordinator     int32             `json:"coordinator"`
	Members         []groupMemberJSON `json:"members,omitempty"`
}

type groupMemberJSON struct {
	ID         string   `json:"id"`
	InstanceID string   `json:"instance_id,omitempty"`
	Epoch      int32    `json:"epoch"`
	ClientID   string   `json:"client_id"`
	Address    string   `json:"address"`
	Topics     []string `json:"topics"`
	Pattern    string   `json:"pattern,omitempty"`
	Assignor   string   `json:"assignor,omitempty"`
	Assigned   []string `json:"assigned"`
	Target     []string `json:"target"`
}

func describedGroup(g client.Group) consumerGroupJSON {
	out := consumerGroupJSON{ID: g.ID, State: g.State, Kind: g.Kind, Epoch: g.Epoch, AssignmentEpoch: g.AssignmentEpoch, Offsets: g.Offsets,
		Transactions: g.Transactions, Coordinator: g.Coordinator}
	for _, m := range g.Members {
		out.Members = append(out.Members, groupMemberJSON{ID: m.MemberID, InstanceID: m.InstanceID, Epoch: m.Epoch, ClientID: m.ClientID, Address: m.ClientAddress,
			Topics: m.Topics, Pattern: m.Pattern, Assignor: m.Assignor, Assigned: names(m.Assigned), Target: names(m.Target)})
	}
	return out
}

func names(list []record.TopicPartition) []string {
	out := make([]string, len(list))
	for i, tp := range list {
		out[i] = tp.String()
	}
	return out
}

// shortPartitions is "orders/0,2 logs/1".
func shortPartitions(list []record.TopicPartition) string {
	var b strings.Builder
	last := ""
	for _, tp := range list { // sorted
		switch {
		case tp.Topic == last:
			fmt.Fprintf(&b, ",%d", tp.Partition)
		case last == "":
			b.WriteString(tp.String())
		default:
			b.WriteString(" " + tp.String())
		}
		last = tp.Topic
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func (p *program) groupList() *cobra.Command {
	var f client.GroupFilter
	var states []string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List consumer groups",
		Example: `  brokerctl group list
  brokerctl group list --state Empty -o json | jq -r '.[].id'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range states {
				i := slices.IndexFunc(client.GroupStates, func(known client.GroupState) bool { return strings.EqualFold(string(known), s) })
				if i < 0 {
					return usagef("flag --state: %q is unknown: use one of %s", s, commaed(client.GroupStates))
				}
				f.States = append(f.States, client.GroupStates[i])
			}
			return p.with(func(c *client.Client) error {
				list, truncated, err := c.ListGroups(cmd.Context(), f)
				if err != nil {
					return err
				}
				if truncated {
					p.sayf("there are more groups than brokers tell at once: name some with --prefix")
				}
				if len(list) == 0 {
					p.sayf("there are no such groups: one begins when somebody joins it, or commits offsets for it")
				}
				t := newTable("GROUP", "STATE", "KIND", ">EPOCH", ">OFFSETS", ">TXNS", ">COORDINATOR")
				out := []consumerGroupJSON{}
				for _, g := range list {
					out = append(out, describedGroup(g))
					t.row(g.ID, g.State, g.Kind, g.Epoch, g.Offsets, g.Transactions, g.Coordinator)
				}
				return p.show(out, t)
			})
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only groups in these states")
	cmd.Flags().StringVar(&f.Prefix, "prefix", "", "only groups whose id begins so")
	return cmd
}

func (p *program) groupDescribe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe GROUP",
		Short: "Show a group and its members",
		Long: `Show a group and its members: what each has, and, where that differs, what it is to
have in the end. brokerctl group lag shows how far the group has come.`,
		Example: `  brokerctl group describe billing
  brokerctl group describe billing -o json | jq -r '.members[].address'`,
		Args:              exactly("GROUP"),
		ValidArgsFunction: p.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				g, err := c.DescribeGroup(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				p.sayf("group %s is %s, at epoch %d (%s, coordinated by broker %d)", g.ID, g.State, g.Epoch, g.Kind, g.Coordinator)
				return p.show(describedGroup(g), memberTable(g))
			})
		},
	}
}

// memberTable has a line for each member, and one more for what it is to have if that is something else.
func memberTable(g client.Group) *table {
	t := newTable("MEMBER", "INSTANCE", ">EPOCH", "CLIENT", "HAS")
	for _, m := range g.Members {
		epoch := fmt.Sprint(m.Epoch)
		if m.Epoch == -2 {
			epoch = "away"
		}
		t.row(clipped(m.MemberID, 26), clipped(cmp.Or(m.InstanceID, "-"), 16), epoch, clipped(m.ClientAddress, 21), shortPartitions(m.Assigned))
		if !slices.Equal(m.Assigned, m.Target) {
			t.row("", "", "", "to have:", shortPartitions(m.Target))
		}
	}
	return t
}

func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-2] + ".."
}

func (p *program) groupDelete() *cobra.Command {
	var topics []string
	cmd := &cobra.Command{
		Use:   "delete GROUP",
		Short: "Delete a group that has no members, or some of its offsets",
		Long: `Delete a group with all its offsets. Whoever joins it later begins anew. It is
refused while the group has members.

With --topic only the offsets of these topics are deleted. It is refused for topics
that members are subscribed to.`,
		Example: `  brokerctl group delete billing
  brokerctl group delete billing --topic orders --topic returns/0,1`,
		Args:              exactly("GROUP"),
		ValidArgsFunction: p.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				if len(topics) == 0 {
					if err := c.DeleteGroup(cmd.Context(), args[0]); err != nil {
						return changing(err)
					}
					p.sayf("group %s deleted", args[0])
					return nil
				}
				return p.deleteOffsets(cmd, c, args[0], topics)
			})
		},
	}
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "only the offsets of TOPIC or TOPIC/0,2, repeatable")
	return cmd
}

func (p *program) deleteOffsets(cmd *cobra.Command, c *client.Client, id string, topics []string) error {
	have, err := c.GroupOffsets(cmd.Context(), id, false)
	if err != nil {
		return err
	}
	var gone []record.TopicPartition
	for _, arg := range topics {
		topic, partitions, err := parsePartitions(arg)
		if err != nil {
			return err
		}
		for _, o := range have {
			if o.Topic == topic && (partitions == nil || slices.Contains(partitions, o.Partition)) {
				gone = append(gone, o.TopicPartition)
			}
		}
	}
	if len(gone) == 0 {
		p.sayf("group %s has no offsets there", id)
		return nil
	}
	subscribed, err := c.DeleteGroupOffsets(cmd.Context(), id, gone...)
	switch {
	case err != nil:
		return changing(err)
	case len(subscribed) > 0:
		return &client.Error{Reason: "GROUP_SUBSCRIBED_TO_TOPIC", Outcome: client.NotWritten,
			Message: fmt.Sprintf("members of %s are subscribed to %s: these offsets stay", id, strings.Join(subscribed, ", "))}
	}
	p.sayf("%s deleted", plural(int64(len(gone)), "offset"))
	return nil
}
