package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

// findingJSON is one thing that is wrong, or may become so.
type findingJSON struct {
	// Severity: "problem", something does not work or the next failure loses something; "warning" otherwise.
	Severity string `json:"severity"`
	// Kind is stable, for programs: one of those in kinds.
	Kind string `json:"kind"`
	What string `json:"what"`
	Do   string `json:"do"`
	// About are the brokers, groups or topics concerned.
	About []string `json:"about"`
}

type healthJSON struct {
	ClusterID string        `json:"cluster_id"`
	Healthy   bool          `json:"healthy"`
	Findings  []findingJSON `json:"findings"`
}

const (
	isProblem = "problem"
	isWarning = "warning"
)

func (p *program) clusterHealth() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say in words what is wrong in the cluster, and what to do about it",
		Long: `Ask every broker how it is and say what is wrong and what to do: brokers that are dead or
silent, partitions without a leader, replicas that are missing, damaged or behind,
groups that one more failure would stop, metadata with too few voters, disks that are
full, slow or do not answer, leaders that are not where they should be, clocks and
versions that differ.

! is a problem: something does not work, or the next failure can stop it. The exit code
is 5 then. - is a warning, which counts only with --strict.`,
		Example: `  brokerctl cluster health
  brokerctl cluster health --strict -o json | jq -r '.findings[] | .kind + ": " + .what'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				v, err := look(cmd.Context(), c)
				if err != nil {
					return err
				}
				h := v.health()
				if err := p.printHealth(h); err != nil {
					return err
				}
				problems, warnings := h.count()
				if problems > 0 || strict && warnings > 0 {
					return &checkError{fmt.Sprintf("the cluster is not well: %s, %s", plural(int64(problems), "problem"), plural(int64(warnings), "warning"))}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 5 for warnings, too")
	return cmd
}

func (h *healthJSON) count() (problems, warnings int) {
	for _, f := range h.Findings {
		if f.Severity == isProblem {
			problems++
		} else {
			warnings++
		}
	}
	return problems, warnings
}

func (p *program) printHealth(h healthJSON) error {
	if p.json() {
		return p.writeJSON(h)
	}
	problems, warnings := h.count()
	text := fmt.Sprintf("cluster %s is well\n", h.ClusterID)
	if len(h.Findings) > 0 {
		text = fmt.Sprintf("cluster %s: %s, %s\n", h.ClusterID, plural(int64(problems), "problem"), plural(int64(warnings), "warning"))
	}
	for _, f := range h.Findings {
		mark := "-"
		if f.Severity == isProblem {
			mark = "!"
		}
		text += "\n" + bullet("  "+mark+" ", f.What) + bullet("      → ", f.Do)
	}
	return writeTo(p.stdout, text)
}

// bullet breaks a text into lines that fit a terminal, the first of which begins with mark.
func bullet(mark, text string) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(mark))
	return mark + strings.TrimPrefix(wrap(text, 96, indent), indent) + "\n"
}

// viewed is all that health is judged by.
type viewed struct {
	m      client.Metadata
	groups map[uint64][]client.RaftGroup
	states map[int32]client.BrokerState
	silent map[int32]error
	out    []findingJSON
}

// look asks all brokers.
func look(ctx context.Context, c *client.Client) (*viewed, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	groups, failed, err := c.RaftGroups(ctx, "")
	if err != nil {
		return nil, err
	}
	states, _, err := c.DescribeBrokers(ctx) // who fails here has failed above, or begins to
	if err != nil {
		return nil, err
	}
	v := &viewed{m: m, groups: map[uint64][]client.RaftGroup{}, states: map[int32]client.BrokerState{}, silent: map[int32]error{}}
	for _, g := range groups {
		v.groups[g.GroupID] = append(v.groups[g.GroupID], g)
	}
	for _, s := range states {
		v.states[s.Broker] = s
	}
	for _, f := range failed {
		v.silent[f.Broker] = f.Err
	}
	slices.SortFunc(m.Brokers, func(a, b client.Broker) int { return cmp.Compare(a.ID, b.ID) })
	return v, nil
}

// health judges: what stops things first, then what may, then the rest.
func (v *viewed) health() healthJSON {
	v.out = []findingJSON{}
	v.brokers()
	v.metadata()
	v.partitions()
	v.replicas()
	v.disks()
	v.leaders()
	v.clocks()
	v.versions()
	v.draining()
	slices.SortStableFunc(v.out, func(a, b findingJSON) int { return cmp.Compare(a.Severity, b.Severity) })
	h := healthJSON{ClusterID: v.m.ClusterID, Findings: v.out}
	problems, _ := h.count()
	h.Healthy = problems == 0
	return h
}

func (v *viewed) found(severity, kind string, about []string, what, do string) {
	if about == nil {
		about = []string{}
	}
	v.out = append(v.out, findingJSON{Severity: severity, Kind: kind, What: what, Do: do, About: about})
}

// unreached is why a broker does not answer, without what has been said of it: its address.
func unreached(err error, address string) string {
	var e *client.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := e.Message
	for _, said := range []string{"broker " + address + ": ", "cannot connect: ", "dial tcp " + address + ": "} {
		text = strings.TrimPrefix(text, said)
	}
	return text
}

func brokerName(id int32) string { return fmt.Sprintf("broker %d", id) }

func (v *viewed) brokers() {
	for _, b := range v.m.Brokers {
		switch err := v.silent[b.ID]; {
		case !b.Alive:
			do := "start it, or look into its log"
			held, _ := heldBy(v.m, b.ID)
			switch {
			case v.m.Controller < 0: // nothing can be agreed on now
			case b.Draining && len(held) == 0:
				do = fmt.Sprintf("nothing is left on it: brokerctl cluster unregister %d", b.ID)
			case b.Draining:
				do += fmt.Sprintf(". If it is gone for good, wait until it is drained, then brokerctl cluster unregister %d", b.ID)
			default:
				do += fmt.Sprintf(". If it is gone for good: brokerctl cluster drain %d, then brokerctl cluster unregister %d", b.ID, b.ID)
			}
			v.found(isProblem, "broker_dead", []string{brokerName(b.ID)}, fmt.Sprintf("broker %d is not heard from", b.ID), do)
		case err != nil:
			v.found(isProblem, "broker_silent", []string{brokerName(b.ID)}, fmt.Sprintf("the others heard of broker %d a moment ago, and it does not answer at %s: %s", b.ID, b.Address, unreached(err, b.Address)),
				"if it has just stopped: start it. If it runs: does this machine reach that address, and does the broker advertise the right one? brokerctl doctor looks into that")
		}
	}
}

func (v *viewed) metadata() {
	if v.m.Controller < 0 {
		v.found(isProblem, "no_controller", nil, "nobody leads the metadata: topics cannot be made or changed, and dead brokers' replicas are not replaced",
			"start the brokers that are down: a majority of the metadata's voters is needed. If they are gone for good: docs/operations.md, Loss of a majority")
	}
	voters := v.votersOf(v.groups[metadataGroup])
	if want := min(len(v.m.Brokers), 3); len(voters) > 0 && len(voters) < want {
		v.found(isWarning, "metadata_voters", nil, fmt.Sprintf("the metadata has %s, for %s", plural(int64(len(voters)), "voter"), plural(int64(len(v.m.Brokers)), "broker")),
			"wait: others get votes by themselves while they are alive. If it stays so, look at brokerctl cluster groups")
	}
}

// metadataGroup is the group that agrees on everything else.
const metadataGroup = 1

// votersOf gives the brokers with a vote, as the leader has it, or else whoever knows.
func (v *viewed) votersOf(replicas []client.RaftGroup) []int32 {
	var voters []int32
	for _, g := range replicas {
		if ids := brokersOf(g.Voters); g.Role == "leader" && len(ids) > 0 {
			return ids
		} else if len(ids) > len(voters) {
			voters = ids
		}
	}
	return voters
}

func (v *viewed) partitions() {
	var headless, moving []string
	for _, t := range v.m.Topics {
		for _, part := range t.Partitions {
			name := fmt.Sprintf("%s/%d", t.Name, part.Partition)
			if part.Leader < 0 {
				headless = append(headless, name)
			}
			if len(part.Target) > 0 {
				moving = append(moving, name)
			}
		}
	}
	if len(headless) > 0 {
		v.found(isProblem, "no_leader", headless, fmt.Sprintf("%s without a leader, which can be neither written nor read: %s", plural(int64(len(headless)), "partition"), shorten(headless, 8)),
			"start the brokers of its replicas (brokerctl topic describe): a majority is needed. If they are gone for good: docs/operations.md, Loss of a majority")
	}
	if len(moving) > 0 {
		v.found(isWarning, "moving", moving, fmt.Sprintf("%s on the way to other brokers: %s", plural(int64(len(moving)), "partition"), shorten(moving, 8)),
			"wait; brokerctl topic describe shows how far each is, brokerctl topic reassign TOPIC --cancel calls it off")
	}
}

func (v *viewed) disks() {
	for _, b := range v.m.Brokers {
		s, ok := v.states[b.ID]
		if !ok {
			continue
		}
		about := []string{brokerName(b.ID)}
		d := s.Disk
		room := ""
		if d.Total > 0 {
			room = fmt.Sprintf(": %s of %s are free", size(d.Free), size(d.Total))
		}
		if d.Full {
			v.found(isProblem, "disk_full", about, fmt.Sprintf("the disk of broker %d is full, and refuses writes%s", b.ID, room),
				"make room: lower retention (brokerctl topic alter TOPIC --set retention.bytes=...), move partitions away, or grow the disk. It goes on by itself when there is room")
		} else if d.Total > 0 && d.Free < d.Total/10 {
			v.found(isWarning, "disk_low", about, fmt.Sprintf("the disk of broker %d is nearly full%s", b.ID, room),
				"lower retention, move partitions away, or grow the disk before it is full")
		}
		if d.Stalled > 2*time.Second {
			v.found(isProblem, "disk_hangs", about, fmt.Sprintf("the disk of broker %d does not answer: a write has been under way for %s", b.ID, d.Stalled.Round(time.Second)),
				"look at the machine's kernel log. Leaders there have given up leading; if the disk stays so, stop the broker and replace the disk")
		} else if d.SlowestSync >= slowSync {
			v.found(isWarning, "disk_slow", about, fmt.Sprintf("the disk of broker %d is slow: a sync took %s", b.ID, d.SlowestSync.Round(time.Millisecond)),
				"see what else writes to it. A disk that was fast before may be failing: brokerctl cluster drain takes the broker out of use")
		}
	}
}

// slowSync is a sync that makes clients wait noticeably.
const slowSync = 500 * time.Millisecond

// clockTolerance is by how much brokers' clocks may differ.
const clockTolerance = 2 * time.Second

func (v *viewed) clocks() {
	var least, most *client.BrokerState
	for _, b := range v.m.Brokers {
		s, ok := v.states[b.ID]
		if !ok {
			continue
		}
		if s.ClockJump > 0 {
			v.found(isProblem, "clock_jump", []string{brokerName(b.ID)}, fmt.Sprintf("the clock of broker %d has jumped forward by %s; ages are judged by the time before", b.ID, s.ClockJump.Round(time.Second)),
				"set the clock right; if it is right now, start the broker again")
		}
		if least == nil || s.ClockAhead < least.ClockAhead {
			least = &s
		}
		if most == nil || s.ClockAhead > most.ClockAhead {
			most = &s
		}
	}
	if least == nil {
		return
	}
	if apart := most.ClockAhead - least.ClockAhead - most.ClockError - least.ClockError; apart > clockTolerance {
		v.found(isWarning, "clocks_differ", []string{brokerName(least.Broker), brokerName(most.Broker)},
			fmt.Sprintf("the clocks of broker %d and broker %d differ by %s", least.Broker, most.Broker, apart.Round(time.Second)),
			"keep them together with a time service: records are stamped, and ages judged, by them")
	}
}

func (v *viewed) versions() {
	byVersion := map[string][]int32{}
	highest := uint32(0)
	for _, b := range v.m.Brokers {
		byVersion[b.Version] = append(byVersion[b.Version], b.ID)
		if s, ok := v.states[b.ID]; ok && (highest == 0 || s.MaxFeatureLevel < highest) {
			highest = s.MaxFeatureLevel
		}
	}
	if len(byVersion) > 1 {
		var parts []string
		for version, ids := range byVersion {
			parts = append(parts, fmt.Sprintf("%s on %s", version, list(ids)))
		}
		slices.Sort(parts)
		v.found(isWarning, "versions_differ", nil, "brokers run different versions: "+strings.Join(parts, ", "), "go on with the upgrade, one broker at a time: brokerctl cluster can-restart BROKER")
	}
	if len(v.states) == len(v.m.Brokers) && highest > v.m.FeatureLevel {
		v.found(isWarning, "feature_level", nil, fmt.Sprintf("all brokers know feature level %d, and the cluster is at %d", highest, v.m.FeatureLevel),
			fmt.Sprintf("when nobody wants to go back to the older version: brokerctl cluster set-feature-level %d", highest))
	}
}

func (v *viewed) draining() {
	for _, b := range v.m.Brokers {
		if !b.Draining {
			continue
		}
		held, dead := heldBy(v.m, b.ID)
		what, do := fmt.Sprintf("broker %d is being drained: %s left", b.ID, plural(int64(len(held)), "replica")), fmt.Sprintf("wait; brokerctl cluster drain %d shows what holds it up, --cancel calls it off", b.ID)
		others, few := tooFew(v.m, b.ID)
		switch {
		case len(held) == 0 && dead:
			continue // told as dead
		case len(held) == 0:
			what, do = fmt.Sprintf("broker %d is drained", b.ID), fmt.Sprintf("stop it, then brokerctl cluster unregister %d; or --cancel the draining", b.ID)
		case few:
			do = fmt.Sprintf("%s cannot hold them for their replication factor: add a broker, or call it off with brokerctl cluster drain %d --cancel", plural(int64(others), "other broker"), b.ID)
		}
		v.found(isWarning, "draining", []string{brokerName(b.ID)}, what, do)
	}
}
