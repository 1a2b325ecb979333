package metadata

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// Scripts: each directive "apply" holds one command a line and shows what came of each; "check" is the
// same on a scratch copy; "show" prints the image; "reload" takes a snapshot and goes on from it.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s, index := NewState(), uint64(0)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "apply", "check":
				state := s
				if d.Cmd == "check" {
					state = StateOf(s.Image())
				}
				var out strings.Builder
				at := index
				for line := range strings.Lines(d.Input) {
					at++
					out.WriteString(applyLine(t, state, at, strings.TrimSpace(line)))
				}
				if d.Cmd == "apply" {
					index = at
				}
				return out.String()
			case "show":
				return describe(s.Image())
			case "reload":
				b, err := s.Image().AppendSnapshot(nil)
				if err != nil {
					t.Fatal(err)
				}
				img, err := RestoreImage(b)
				if err != nil {
					t.Fatal(err)
				}
				again, err := img.AppendSnapshot(nil)
				if err != nil || !bytes.Equal(again, b) {
					t.Fatalf("the restored image has other bytes (%v)", err)
				}
				s = StateOf(img)
				return "ok\n"
			default:
				t.Fatalf("unknown directive %q", d.Cmd)
				return ""
			}
		})
	})
}

// applyLine applies one command of a script, encoded and decoded as in the log.
func applyLine(t testing.TB, s *State, index uint64, line string) string {
	t.Helper()
	data, err := EncodeCommand(parseCommand(t, line))
	if err != nil {
		return fmt.Sprintf("%d: not encoded: %v\n", index, err)
	}
	r, err := s.Apply(index, data)
	switch {
	case err != nil:
		return fmt.Sprintf("%d: stop: %v\n", index, err)
	case r.Err != nil:
		out := fmt.Sprintf("%d: %v\n", index, r.Err)
		if r.Err.Field != "" || r.Err.Limit != "" {
			out += fmt.Sprintf("   field %s, limit %s\n", r.Err.Field, r.Err.Limit)
		}
		return out
	case r.ProducerIDs.Count > 0:
		return fmt.Sprintf("%d: producer ids %d to %d\n", index, r.ProducerIDs.First, int64(r.ProducerIDs.First)+int64(r.ProducerIDs.Count)-1)
	case !r.Changed:
		return fmt.Sprintf("%d: nothing to do\n", index)
	default:
		return fmt.Sprintf("%d: ok\n", index)
	}
}

// args are the words of a command: positional ones and key=value.
type args struct {
	t     testing.TB
	line  string
	words []string
}

func (a *args) next() string {
	if len(a.words) == 0 {
		a.t.Fatalf("%q: a word is missing", a.line)
	}
	w := a.words[0]
	a.words = a.words[1:]
	return unquote(w)
}

func unquote(w string) string {
	if s, err := strconv.Unquote(w); err == nil {
		return s
	}
	return w
}

func (a *args) key(name string) (string, bool) {
	for _, w := range a.words {
		if k, v, ok := strings.Cut(w, "="); ok && k == name {
			return unquote(v), true
		}
	}
	return "", false
}

func (a *args) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		a.t.Fatalf("%q: %v", a.line, err)
	}
	return n
}

func (a *args) keyNumber(name string, otherwise uint64) uint64 {
	if v, ok := a.key(name); ok {
		return a.number(v)
	}
	return otherwise
}

// list takes "1,2;3,4" apart.
func (a *args) placements(s string) []*statev1.Placement {
	var out []*statev1.Placement
	for part := range strings.SplitSeq(s, ";") {
		p := new(statev1.Placement)
		for id := range strings.SplitSeq(part, ",") {
			if id != "" {
				p.BrokerIds = append(p.BrokerIds, int32(a.number(id)))
			}
		}
		out = append(out, p)
	}
	return out
}

func (a *args) configs() (set []*statev1.ConfigValue, unset []string) {
	for _, w := range a.words {
		if k, v, ok := strings.Cut(w, ":"); ok {
			set = append(set, &statev1.ConfigValue{Name: unquote(k), Value: unquote(v)})
		} else if strings.HasPrefix(w, "-") {
			unset = append(unset, unquote(w[1:]))
		}
	}
	return set, unset
}

func (a *args) refs(s string) []*statev1.ReplicaRef {
	var out []*statev1.ReplicaRef
	for part := range strings.SplitSeq(s, ",") {
		g, i, _ := strings.Cut(part, "/")
		out = append(out, &statev1.ReplicaRef{GroupId: a.number(g), Incarnation: a.number(i)})
	}
	return out
}

// topicID is that of the script's topic number n.
func topicID(n uint64) []byte {
	if n == 0 {
		return nil
	}
	id := make([]byte, 16)
	id[15] = byte(n)
	return id
}

func parseCommand(t testing.TB, line string) *statev1.MetadataCommand {
	t.Helper()
	a := &args{t: t, line: line, words: strings.Fields(line)}
	c := new(statev1.MetadataCommand)
	switch cmd := a.next(); cmd {
	case "init":
		c.Command = &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: a.next(), FeatureLevel: uint32(a.keyNumber("level", 1))}}
	case "broker":
		c.Command = &statev1.MetadataCommand_RegisterBroker{RegisterBroker: parseBroker(a)}
	case "unregister":
		c.Command = &statev1.MetadataCommand_UnregisterBroker{UnregisterBroker: &statev1.UnregisterBroker{BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next())}}
	case "level":
		c.Command = &statev1.MetadataCommand_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: uint32(a.number(a.next())), ExpectedLevel: uint32(a.keyNumber("expected", 1))}}
	case "create":
		create := &statev1.CreateTopic{Name: a.next(), TopicId: topicID(a.keyNumber("id", 1)), CreatedMs: int64(a.keyNumber("at", 0))}
		if v, ok := a.key("on"); ok {
			create.Partitions = a.placements(v)
		}
		create.Configs, _ = a.configs()
		c.Command = &statev1.MetadataCommand_CreateTopic{CreateTopic: create}
	case "alter":
		alter := &statev1.AlterTopic{TopicId: topicID(a.keyNumber("id", 1)), ExpectedPartitions: uint32(a.keyNumber("have", 0))}
		if v, ok := a.key("add"); ok {
			alter.AddPartitions = a.placements(v)
		}
		alter.SetConfigs, alter.UnsetConfigs = a.configs()
		c.Command = &statev1.MetadataCommand_AlterTopic{AlterTopic: alter}
	case "delete":
		c.Command = &statev1.MetadataCommand_DeleteTopic{DeleteTopic: &statev1.DeleteTopic{TopicId: topicID(a.keyNumber("id", 1))}}
	case "report":
		report := &statev1.ReportReplicas{BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next())}
		if v, ok := a.key("created"); ok {
			report.Created = a.refs(v)
		}
		if v, ok := a.key("deleted"); ok {
			report.Deleted = a.refs(v)
		}
		if v, ok := a.key("lost"); ok {
			report.Lost = a.refs(v)
		}
		c.Command = &statev1.MetadataCommand_ReportReplicas{ReportReplicas: report}
	case "activate":
		activate := new(statev1.ActivatePartitions)
		for len(a.words) > 0 {
			activate.GroupIds = append(activate.GroupIds, a.number(a.next()))
		}
		c.Command = &statev1.MetadataCommand_ActivatePartitions{ActivatePartitions: activate}
	case "pids":
		c.Command = &statev1.MetadataCommand_AllocateProducerIds{AllocateProducerIds: &statev1.AllocateProducerIds{
			BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next()), Count: uint32(a.number(a.next()))}}
	case "defaults":
		set, unset := a.configs()
		c.Command = &statev1.MetadataCommand_AlterDefaults{AlterDefaults: &statev1.AlterDefaults{SetConfigs: set, UnsetConfigs: unset}}
	default:
		parseMembers(a, cmd, c)
	}
	return c
}

// parseMembers reads the commands that change who holds what: "reassign id=1 rf=3 0=1,2,3 1=2,3,4",
// "cancel id=1 0 1", "replace 1000/3", "members 1 11 caughtup=1000/7 removed=1000/2", "drain 3 33".
func parseMembers(a *args, cmd string, c *statev1.MetadataCommand) {
	switch cmd {
	case "reassign":
		reassign := &statev1.ReassignPartitions{TopicId: topicID(a.keyNumber("id", 1)), ReplicationFactor: uint32(a.keyNumber("rf", 0))}
		for _, w := range a.words {
			if k, v, _ := strings.Cut(w, "="); k != "id" && k != "rf" {
				reassign.Partitions = append(reassign.Partitions, &statev1.Reassignment{Partition: uint32(a.number(k)), BrokerIds: a.placements(v)[0].GetBrokerIds()})
			}
		}
		c.Command = &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: reassign}
	case "cancel":
		cancel := &statev1.CancelReassignments{TopicId: topicID(a.keyNumber("id", 1))}
		for _, w := range a.words {
			if !strings.Contains(w, "=") {
				cancel.Partitions = append(cancel.Partitions, uint32(a.number(w)))
			}
		}
		c.Command = &statev1.MetadataCommand_CancelReassignments{CancelReassignments: cancel}
	case "replace":
		replace := new(statev1.ReplaceReplicas)
		for len(a.words) > 0 {
			replace.Replicas = append(replace.Replicas, a.refs(a.next())...)
		}
		c.Command = &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: replace}
	case "members":
		report := &statev1.ReportMembers{BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next())}
		if v, ok := a.key("caughtup"); ok {
			for _, ref := range a.refs(v) {
				groupIn(report, ref.GetGroupId()).CaughtUp = append(groupIn(report, ref.GetGroupId()).CaughtUp, ref.GetIncarnation())
			}
		}
		if v, ok := a.key("removed"); ok {
			for _, ref := range a.refs(v) {
				groupIn(report, ref.GetGroupId()).Removed = append(groupIn(report, ref.GetGroupId()).Removed, ref.GetIncarnation())
			}
		}
		c.Command = &statev1.MetadataCommand_ReportMembers{ReportMembers: report}
	case "drain", "undrain":
		c.Command = &statev1.MetadataCommand_SetDraining{SetDraining: &statev1.SetDraining{
			BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next()), Draining: cmd == "drain"}}
	default:
		a.t.Fatalf("unknown command %q", cmd)
	}
}

func groupIn(report *statev1.ReportMembers, id uint64) *statev1.GroupMembers {
	for _, g := range report.GetGroups() {
		if g.GetGroupId() == id {
			return g
		}
	}
	g := &statev1.GroupMembers{GroupId: id}
	report.Groups = append(report.Groups, g)
	return g
}

func parseBroker(a *args) *statev1.RegisterBroker {
	b := &statev1.BrokerState{BrokerId: int32(a.number(a.next())), NodeIncarnation: a.number(a.next()),
		MinFeatureLevel: uint32(a.keyNumber("min", 1)), MaxFeatureLevel: uint32(a.keyNumber("max", 1))}
	b.Rack, _ = a.key("rack")
	b.Version, _ = a.key("version")
	listeners, ok := a.key("listeners")
	if !ok {
		listeners = fmt.Sprintf("peer@b%d:9093", b.BrokerId)
	}
	for l := range strings.SplitSeq(listeners, ",") {
		if name, address, ok := strings.Cut(l, "@"); ok {
			b.Listeners = append(b.Listeners, &statev1.Listener{Name: name, Address: address})
		}
	}
	cluster, ok := a.key("cluster")
	if !ok {
		cluster = "c"
	}
	return &statev1.RegisterBroker{Broker: b, ClusterId: cluster, ReplacesIncarnation: a.keyNumber("replaces", 0)}
}

// describe prints an image.
func describe(img *Image) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %q version %d level %d next group %d incarnation %d producer %d\n",
		img.clusterID, img.version, img.level, img.nextGroup, img.nextIncarnation, img.nextProducerID)
	for _, br := range img.Brokers() {
		fmt.Fprintf(&b, "broker %d (%d) %v rack %q levels %d-%d", br.ID, br.Incarnation, br.Listeners, br.Rack, br.MinLevel, br.MaxLevel)
		if br.Draining {
			b.WriteString(" draining")
		}
		b.WriteByte('\n')
	}
	if len(img.Defaults()) > 0 {
		fmt.Fprintf(&b, "defaults %v\n", img.Defaults())
	}
	for _, t := range img.AllTopics() {
		fmt.Fprintf(&b, "topic %q %x created %d", t.Name, t.ID[15:], t.CreatedMS)
		if t.Deleting {
			b.WriteString(" deleting")
		}
		if len(t.Configs) > 0 {
			fmt.Fprintf(&b, " %v", t.Configs)
		}
		b.WriteByte('\n')
		for i, p := range t.Partitions {
			fmt.Fprintf(&b, "  %d: group %d %v", i, p.Group, p.Phase)
			for _, r := range p.Replicas {
				fmt.Fprintf(&b, " %d/%d", r.Broker, r.Incarnation)
				if r.Created {
					b.WriteByte('+')
				}
				if r.Deleted {
					b.WriteByte('-')
				}
				if r.Joining {
					b.WriteString(" joining")
				}
				if r.Added {
					b.WriteString(" added")
				}
				if r.Lost {
					b.WriteString(" lost")
				}
			}
			for _, l := range p.Leaving {
				fmt.Fprintf(&b, " | %d/%d", l.Broker, l.Incarnation)
				if l.Removed {
					b.WriteString(" removed")
				}
			}
			if p.Target != nil {
				fmt.Fprintf(&b, " -> %v", p.Target)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
