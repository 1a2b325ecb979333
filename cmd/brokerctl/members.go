package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

func (p *program) topicReassign() *cobra.Command {
	var (
		r      client.Reassignment
		to     []string
		cancel bool
		noWait bool
	)
	cmd := &cobra.Command{
		Use:   "reassign TOPIC",
		Short: "Move partitions to other brokers, change the replication factor",
		Long: `Move partitions to other brokers while producers and consumers go on.

New replicas first copy what is there, then get their votes; then the old ones go.
Without --no-wait the command waits for that. Interrupting it stops the waiting, not
the move; --cancel calls the move off and takes back what it has added.`,
		Example: `  brokerctl topic reassign orders --to 0=2,3,4 --to 1=3,4,2
  brokerctl topic reassign orders --replication-factor 3
  brokerctl topic reassign orders --cancel`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Topic = args[0]
			var err error
			if r.Partitions, err = parseTargets(to); err != nil {
				return err
			}
			if cancel == (len(to) > 0 || r.ReplicationFactor != 0) {
				return usagef("say where to go with --to or --replication-factor, or call a move off with --cancel")
			}
			return p.with(func(c *client.Client) error { return p.reassign(cmd.Context(), c, r, cancel, noWait) })
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&to, "to", nil, "PARTITION=BROKER,BROKER,... the preferred leader first; repeatable")
	f.Int32VarP(&r.ReplicationFactor, "replication-factor", "r", 0, "1, 3 or 5; without --to the cluster chooses the brokers")
	f.BoolVar(&cancel, "cancel", false, "call off what is under way")
	f.BoolVar(&noWait, "no-wait", false, "return when the move has begun")
	f.BoolVar(&r.ValidateOnly, "dry-run", false, "check only")
	return cmd
}

// parseTargets reads PARTITION=BROKER,BROKER.
func parseTargets(list []string) (map[int32][]int32, error) {
	targets := make(map[int32][]int32)
	for _, s := range list {
		left, right, ok := strings.Cut(s, "=")
		partition, err := strconv.ParseInt(left, 10, 32)
		if !ok || err != nil || partition < 0 {
			return nil, usagef("--to is %q: want PARTITION=BROKER,BROKER,...", s)
		}
		if _, twice := targets[int32(partition)]; twice {
			return nil, usagef("--to names partition %d twice", partition)
		}
		var brokers []int32
		for _, b := range strings.Split(right, ",") {
			id, err := strconv.ParseInt(b, 10, 32)
			if err != nil || id < 0 {
				return nil, usagef("--to is %q: %q is no broker id", s, b)
			}
			brokers = append(brokers, int32(id))
		}
		targets[int32(partition)] = brokers
	}
	return targets, nil
}

func (p *program) reassign(ctx context.Context, c *client.Client, r client.Reassignment, cancel, noWait bool) error {
	var t client.Topic
	var err error
	if cancel {
		t, err = c.CancelReassignments(ctx, r.Topic)
	} else {
		t, err = c.Reassign(ctx, r)
	}
	if err != nil {
		return changing(err)
	}
	switch {
	case r.ValidateOnly:
		p.sayf("topic %s could be moved so", r.Topic)
	case noWait:
		p.sayf("topic %s is on its way: brokerctl topic describe %s shows how far", r.Topic, r.Topic)
	default:
		if t, err = p.awaitMoved(ctx, c, t); err != nil {
			return err
		}
		p.sayf("topic %s is where it shall be", r.Topic)
	}
	return p.show(describedTopic(t), partitionTable(t, nil))
}

// moveLook is how often a move is looked at.
const moveLook = 200 * time.Millisecond

// awaitMoved waits until nothing of a topic is on its way any more, and shows how far it is.
func (p *program) awaitMoved(ctx context.Context, c *client.Client, t client.Topic) (client.Topic, error) {
	var left atomic.Int64
	left.Store(int64(len(t.Partitions)))
	var copied atomic.Value
	copied.Store("")
	var pace copyPace
	g := p.startProgress(func() string {
		return fmt.Sprintf("%s: %s on the way%s", t.Name, plural(left.Load(), "partition"), copied.Load())
	})
	defer g.stop()
	for look := 0; ; look++ {
		if look%10 == 0 && !p.flags.quiet {
			copied.Store(copiedOf(ctx, c, t, &pace))
		}
		if !wait(ctx, moveLook) {
			return t, fmt.Errorf("not waiting any more: %w; the move goes on, brokerctl topic describe %s shows how far", context.Cause(ctx), t.Name)
		}
		m, err := c.Metadata(ctx, t.Name)
		if err != nil {
			continue
		}
		if m.Topics[0].Err != nil {
			return t, m.Topics[0].Err
		}
		t = m.Topics[0]
		n := 0
		late := map[int32]bool{}
		for _, part := range t.Partitions {
			if waitsOnlyForDead(part, m.Brokers) {
				for _, b := range part.Leaving {
					late[b] = true
				}
			} else if part.Changing() {
				n++
			}
		}
		if left.Store(int64(n)); n == 0 {
			for _, b := range slices.Sorted(maps.Keys(late)) {
				p.sayf("what broker %d had is left to it, which is dead: it goes when the broker is back, or unregistered", b)
			}
			return t, nil
		}
	}
}

// waitsOnlyForDead tells whether all that a partition waits for is that dead brokers remove what they had of it.
func waitsOnlyForDead(q client.Partition, brokers []client.Broker) bool {
	return len(q.Leaving) > 0 && len(q.Joining)+len(q.Lost)+len(q.Target) == 0 &&
		!slices.ContainsFunc(brokers, func(b client.Broker) bool { return b.Alive && slices.Contains(q.Leaving, b.ID) })
}

// copiedOf says how much of what new replicas are to get is there, and how fast it comes; "" where nothing is copied or nobody answers.
func copiedOf(ctx context.Context, c *client.Client, t client.Topic, pace *copyPace) string {
	groups, _, err := c.RaftGroups(ctx, t.Name)
	if err != nil {
		return ""
	}
	have, want := copying(groups, func(g client.RaftGroup, b int32) bool {
		return slices.ContainsFunc(t.Partitions, func(p client.Partition) bool {
			return p.GroupID == g.GroupID && slices.Contains(p.Joining, b)
		})
	})
	if want == 0 {
		return ""
	}
	return "; " + pace.words(time.Now(), have, want)
}

// copying adds up what the replicas that are joining have, and what they are to get.
func copying(groups []client.RaftGroup, joining func(g client.RaftGroup, broker int32) bool) (have, want int64) {
	for _, g := range groups {
		if g.Role == "leader" || !joining(g, g.Broker) {
			continue
		}
		i := slices.IndexFunc(groups, func(l client.RaftGroup) bool { return l.GroupID == g.GroupID && l.Role == "leader" })
		if i < 0 {
			continue
		}
		have += min(g.LogBytes, groups[i].LogBytes)
		want += groups[i].LogBytes
	}
	return have, want
}

// changesIn says what is on its way in a partition; empty: nothing.
func changesIn(q client.Partition) string {
	var s []string
	for _, c := range []struct {
		what    string
		brokers []int32
	}{{"to", q.Target}, {"copying to", q.Joining}, {"lost on", q.Lost}, {"leaving", q.Leaving}} {
		if len(c.brokers) > 0 {
			s = append(s, c.what+" "+list(c.brokers))
		}
	}
	return strings.Join(s, "; ")
}

func (p *program) clusterDrain() *cobra.Command {
	var cancel, noWait bool
	cmd := &cobra.Command{
		Use:   "drain BROKER",
		Short: "Move everything off a broker, which may be dead",
		Long: `Make a broker give all its replicas to others, and keep new ones off it.

It may be dead: what it had is copied from the other replicas. When it holds nothing
any more, "cluster unregister" makes the cluster forget it. The other brokers must be
enough for every topic's replication factor; what cannot move stays and is named.`,
		Example: `  brokerctl cluster drain 3
  brokerctl cluster drain 3 --cancel`,
		Args:              exactly("BROKER"),
		ValidArgsFunction: p.completeBrokers,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseBroker(args[0])
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				if err := c.DrainBroker(cmd.Context(), id, !cancel); err != nil {
					return changing(err)
				}
				if cancel {
					p.sayf("broker %d keeps what it has", id)
				} else if !noWait {
					if err := p.awaitDrained(cmd.Context(), c, id); err != nil {
						return err
					}
					p.sayf("broker %d holds nothing: brokerctl cluster unregister %d makes the cluster forget it", id, id)
				}
				if p.json() {
					return p.writeJSON(map[string]any{"broker": id, "draining": !cancel})
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&cancel, "cancel", false, "call it off; what has moved stays where it is")
	cmd.Flags().BoolVar(&cancel, "stop", false, "as --cancel")
	_ = cmd.Flags().MarkHidden("stop") // the flag is there
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when it has begun")
	return cmd
}

func parseBroker(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return 0, usagef("%q is no broker id: want a number, 0 or more", s)
	}
	return int32(id), nil
}

// stuckAfter is how long a drain may stand still before what blocks it is named; hopelessAfter is for where too few brokers say at once that
// nothing will move, but for one that is about to come.
const (
	stuckAfter    = 30 * time.Second
	hopelessAfter = 3 * time.Second
)

// awaitDrained waits until a broker holds nothing, or nothing moves any more.
func (p *program) awaitDrained(ctx context.Context, c *client.Client, id int32) error {
	var left atomic.Int64
	g := p.startProgress(func() string {
		return fmt.Sprintf("%s left on broker %d", plural(left.Load(), "replica"), id)
	})
	defer g.stop()
	seen, since := "", time.Now()
	for {
		if m, err := c.Metadata(ctx); err == nil {
			held, dead := heldBy(m, id)
			left.Store(int64(len(held)))
			if len(held) == 0 {
				return nil
			}
			if now := strings.Join(held, " ") + filledFor(ctx, c, m, id); now != seen {
				seen, since = now, time.Now()
			}
			if others, few := tooFew(m, id); few && time.Since(since) > hopelessAfter {
				return &checkError{fmt.Sprintf("broker %d keeps what it has: %s: more replicas than the %s could hold; "+
					"add a broker, or call it off with brokerctl cluster drain %d --cancel", id, shorten(held, 3), plural(int64(others), "other broker"), id)}
			}
			if time.Since(since) > stuckAfter {
				why := "too few other brokers are alive for their replication factor, or have no room"
				if dead {
					why += ", or their majority is lost"
				}
				for _, b := range m.Brokers {
					if b.ID != id && !b.Alive && !b.Draining {
						why += fmt.Sprintf(", or what goes waits for broker %d, which is dead, too: drain it as well", b.ID)
					}
				}
				return &checkError{fmt.Sprintf("nothing has moved off broker %d for %v: %s; still there: %s", id, stuckAfter, why, shorten(held, 8))}
			}
		}
		if !wait(ctx, moveLook) {
			return fmt.Errorf("not waiting any more: %w; the broker goes on draining", context.Cause(ctx))
		}
	}
}

// filledFor says how much of what goes from a broker is there: as long as that grows, it moves.
func filledFor(ctx context.Context, c *client.Client, m client.Metadata, id int32) string {
	groups, _, err := c.RaftGroups(ctx, "")
	if err != nil {
		return ""
	}
	have, _ := copying(groups, func(g client.RaftGroup, b int32) bool {
		return slices.ContainsFunc(m.Topics, func(t client.Topic) bool {
			return slices.ContainsFunc(t.Partitions, func(q client.Partition) bool {
				return q.GroupID == g.GroupID && slices.Contains(q.Replicas, id) && slices.Contains(q.Joining, b)
			})
		})
	})
	return fmt.Sprint(" ", have)
}

// tooFew says how many other brokers can take replicas, and whether these are too few for everything that a broker holds.
func tooFew(m client.Metadata, id int32) (others int, few bool) {
	for _, b := range m.Brokers {
		if b.ID != id && b.Alive && !b.Draining {
			others++
		}
	}
	for _, t := range m.Topics {
		for _, q := range t.Partitions {
			if slices.Contains(q.Leaving, id) || slices.Contains(q.Replicas, id) && (q.Changing() || len(q.Replicas) <= others) {
				return others, false
			}
		}
	}
	return others, true
}

// heldBy names the partitions with a replica on a broker, or one that is about to go, which a dead broker
// cannot remove.
func heldBy(m client.Metadata, id int32) (held []string, dead bool) {
	dead = !slices.ContainsFunc(m.Brokers, func(b client.Broker) bool { return b.ID == id && b.Alive })
	for _, t := range m.Topics {
		for _, q := range t.Partitions {
			if slices.Contains(q.Replicas, id) || !dead && slices.Contains(q.Leaving, id) {
				held = append(held, fmt.Sprintf("%s/%d", t.Name, q.Partition))
			}
		}
	}
	return held, dead
}

func (p *program) clusterUnregister() *cobra.Command {
	return &cobra.Command{
		Use:   "unregister BROKER",
		Short: "Make the cluster forget a broker that holds nothing",
		Long: `Make the cluster forget a broker that holds no replica. Stop it first: one that runs
would register again when it is restarted. Its data directory must not be used again.`,
		Example:           `  brokerctl cluster drain 3 && brokerctl cluster unregister 3`,
		Args:              exactly("BROKER"),
		ValidArgsFunction: p.completeBrokers,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseBroker(args[0])
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				err := p.unregister(cmd.Context(), c, id)
				if isInUse(err) {
					return changing(fmt.Errorf("%w: brokerctl cluster drain %d moves it away", err, id))
				}
				if err != nil {
					return changing(err)
				}
				p.sayf("broker %d is forgotten", id)
				if p.json() {
					return p.writeJSON(map[string]any{"broker": id, "unregistered": true})
				}
				return nil
			})
		},
	}
}

// unregister asks again as long as the broker holds nothing but replicas that their groups are about to remove: those of a dead
// broker are gone from the partitions before they are.
func (p *program) unregister(ctx context.Context, c *client.Client, id int32) error {
	for began := time.Now(); ; {
		err := c.UnregisterBroker(ctx, id)
		if !isInUse(err) || time.Since(began) > stuckAfter {
			return err
		}
		m, metadataErr := c.Metadata(ctx)
		if metadataErr != nil {
			return err
		}
		if held, _ := heldBy(m, id); len(held) > 0 || !wait(ctx, moveLook) {
			return err
		}
	}
}

func isInUse(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Reason == "RESOURCE_IN_USE"
}

func (p *program) clusterSetFeatureLevel() *cobra.Command {
	return &cobra.Command{
		Use:   "set-feature-level LEVEL",
		Short: "Let the cluster use what a new version brings, at the end of an upgrade",
		Long: `Let the cluster use what all its brokers know, at the end of an upgrade. The level
cannot be lowered: brokers of the older version are refused from then on, and cannot read
what is written. brokerctl cluster health says when all brokers know a higher level than
the cluster is at.`,
		Example: `  brokerctl cluster set-feature-level 2`,
		Args:    exactly("LEVEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil || level == 0 {
				return usagef("LEVEL: %q is none: want a number from 1 to 65535", args[0])
			}
			return p.with(func(c *client.Client) error {
				if err := c.SetFeatureLevel(cmd.Context(), uint32(level)); err != nil {
					return changing(err)
				}
				p.sayf("the cluster is at feature level %d", level)
				if p.json() {
					return p.writeJSON(map[string]any{"feature_level": level})
				}
				return nil
			})
		},
	}
}
