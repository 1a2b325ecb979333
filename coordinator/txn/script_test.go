package txn

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// The scripts in testdata/scripts, named by rule. One command a line:
//
//	init ID [P/E] [timeout=MS] [tv=1|2] [by=CLIENT@ADDRESS] [fresh=no]
//	add ID P/E TOPIC/N,... [tv=1|2]
//	end ID P/E commit|abort [tv=1|2] [fresh=no]
//	complete ID [P/E=TOPIC/N,...] ... (adds that come with it)
//	abort ID P/E timeout|operator [until=MS] [tv=1|2] [by=...] [fresh=no]
//	note ID P/E TOPIC/N CODE EXPECTED RECEIVED
//	expire ID[@VERSION[/EPOCH]],... cutoff=MS
//	limits IDS PARTITIONS OPEN
//
// P/E is a producer id and epoch. tv is the client's transaction version, or the server's for init and abort; 2 if not
// given. Each command carries the version that the id has (version=N: another one) and, where Check asks for it, a fresh
// producer id: 100, 101 and so on.
//
// The directive "apply" applies, "check" only asks, "verify ID P/E TOPIC/N" is T8; "at MS" sets the clock, "show ID" prints
// all of an id, "list" what a leader looks after, "epochs ID N" takes over a new id as often as it
// needs to have epoch N, "reload" goes on from a snapshot.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		p := newPlayer(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p.t = t
			var out strings.Builder
			switch d.Cmd {
			case "apply", "check", "verify":
				for line := range strings.Lines(d.Input) {
					out.WriteString(p.run(d.Cmd, strings.TrimSpace(line)))
				}
			case "at":
				p.now, _ = strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
			case "show":
				for _, arg := range d.CmdArgs {
					out.WriteString(showAll(p.s.Find(arg.Key)))
				}
			case "list":
				out.WriteString(p.list())
			case "epochs":
				p.epochs(d.CmdArgs[0].Key, d.CmdArgs[1].Key)
			case "reload":
				p.reload()
			default:
				t.Fatalf("unknown directive %q", d.Cmd)
			}
			if out.Len() == 0 {
				return "ok\n"
			}
			return out.String()
		})
	})
}

// player is a shard as a leader drives it.
type player struct {
	t     testing.TB
	s     *State
	index uint64
	now   int64
	fresh record.ProducerID
}

func newPlayer(t testing.TB) *player {
	return &player{t: t, s: New(), now: 1000, fresh: 100}
}

func (p *player) run(directive, line string) string {
	words := strings.Fields(line)
	if directive == "verify" {
		id, epoch := p.producer(words[1])
		r := p.s.Verify(words[0], id, epoch, parsePartitions(words[2])[0])
		return fmt.Sprintf("%v\n", r.Code)
	}
	c := p.parse(words)
	r := p.s.checkAny(p.now, c)
	if r.Code == NeedsProducerID && !slices.Contains(words, "fresh=no") {
		p.setFresh(c)
		r = p.s.checkAny(p.now, c)
	}
	if directive == "check" {
		return describe(r, p.s.Find(c.TransactionalId))
	}
	p.index++
	if !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "version=") }) {
		c.Version = r.Version()
	}
	got := p.apply(c)
	if c.Version == r.Version() && c.GetExpire() == nil && c.GetLimits() == nil &&
		(got.Code != r.Code || got.Changed != r.Changed || got.ProducerID != r.ProducerID || got.Epoch != r.Epoch) {
		p.t.Fatalf("%s: Check says %+v, Apply %+v", line, r, got)
	}
	return fmt.Sprintf("%d: %s", p.index, describe(got, got.Transaction))
}

// checkAny is Check for those that are about one id.
func (s *State) checkAny(now int64, c *statev1.TransactionCommand) Result {
	if c.GetExpire() != nil || c.GetLimits() != nil {
		return Result{}
	}
	return s.Check(now, c)
}

func (p *player) apply(c *statev1.TransactionCommand) Result {
	p.t.Helper()
	data, err := EncodeCommand(c)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := p.s.Apply(p.index, p.now, data)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *player) setFresh(c *statev1.TransactionCommand) {
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		cmd.Init.FreshProducerId = int64(p.fresh)
	case *statev1.TransactionCommand_End:
		cmd.End.FreshProducerId = int64(p.fresh)
	case *statev1.TransactionCommand_Abort:
		cmd.Abort.FreshProducerId = int64(p.fresh)
	}
	p.fresh++
}

func (p *player) parse(words []string) *statev1.TransactionCommand {
	c := &statev1.TransactionCommand{TransactionalId: words[1]}
	c.Version, _ = strconv.ParseUint(key(words, "version", "0"), 10, 64)
	if by := key(words, "by", ""); by != "" {
		id, address, _ := strings.Cut(by, "@")
		c.Client = &statev1.ClientRef{ClientId: id, Address: address}
	}
	tv := uint32(p.number(key(words, "tv", "2")))
	switch words[0] {
	case "init":
		cmd := &statev1.InitTransactions{ProducerId: -1, ProducerEpoch: -1, FreshProducerId: -1,
			TimeoutMs: int32(p.number(key(words, "timeout", "60000"))), ServerVersion: tv}
		if len(words) > 2 && strings.Contains(words[2], "/") && !strings.Contains(words[2], "=") {
			id, epoch := p.producer(words[2])
			cmd.ProducerId, cmd.ProducerEpoch = int64(id), int32(epoch)
		}
		c.Command = &statev1.TransactionCommand_Init{Init: cmd}
	case "add":
		id, epoch := p.producer(words[2])
		cmd := &statev1.AddPartitions{ProducerId: int64(id), ProducerEpoch: int32(epoch), ClientVersion: tv}
		if len(words) > 3 && !strings.Contains(words[3], "=") {
			cmd.Partitions = PartitionsToProto(parsePartitions(words[3]))
		}
		c.Command = &statev1.TransactionCommand_Add{Add: cmd}
	case "end":
		id, epoch := p.producer(words[2])
		c.Command = &statev1.TransactionCommand_End{End: &statev1.EndTransaction{ProducerId: int64(id), ProducerEpoch: int32(epoch),
			Commit: words[3] == "commit", ClientVersion: tv, FreshProducerId: -1}}
	case "complete":
		cmd := &statev1.CompleteTransaction{}
		for _, w := range words[2:] {
			if producer, partitions, ok := strings.Cut(w, "="); ok && strings.Contains(producer, "/") {
				id, epoch := p.producer(producer)
				cmd.Next = append(cmd.Next, &statev1.AddPartitions{ProducerId: int64(id), ProducerEpoch: int32(epoch), ClientVersion: tv,
					Partitions: PartitionsToProto(parsePartitions(partitions))})
			}
		}
		c.Command = &statev1.TransactionCommand_Complete{Complete: cmd}
	case "abort":
		id, epoch := p.producer(words[2])
		reason := statev1.AbortReason_ABORT_REASON_OPERATOR
		if words[3] == "timeout" {
			reason = statev1.AbortReason_ABORT_REASON_TIMEOUT
		}
		c.Command = &statev1.TransactionCommand_Abort{Abort: &statev1.AbortTransaction{Reason: reason, ProducerId: int64(id),
			ProducerEpoch: int32(epoch), StartedUntilMs: p.number(key(words, "until", "999999999")), ServerVersion: tv, FreshProducerId: -1}}
	case "note":
		id, epoch := p.producer(words[2])
		tp := parsePartitions(words[3])[0]
		c.Command = &statev1.TransactionCommand_Note{Note: &statev1.NoteRefusal{ProducerId: int64(id), ProducerEpoch: int32(epoch),
			Topic: tp.Topic, Partition: tp.Partition, Code: words[4], ExpectedSequence: int32(p.number(words[5])), ReceivedSequence: int32(p.number(words[6]))}}
	case "expire":
		c.TransactionalId = ""
		c.Command = &statev1.TransactionCommand_Expire{Expire: p.parseExpire(words[1], p.number(key(words, "cutoff", "0")))}
	case "limits":
		c.TransactionalId = ""
		c.Command = &statev1.TransactionCommand_Limits{Limits: &statev1.SetTransactionLimits{
			MaxIds: uint32(p.number(words[1])), MaxPartitions: uint32(p.number(words[2])), MaxOpenPartitions: uint32(p.number(words[3]))}}
	default:
		p.t.Fatalf("unknown command %q", words[0])
	}
	return c
}

func (p *player) parseExpire(list string, cutoff int64) *statev1.ExpireTransactionalIds {
	cmd := &statev1.ExpireTransactionalIds{CutoffMs: cutoff}
	for one := range strings.SplitSeq(list, ",") {
		id, rest, explicit := strings.Cut(one, "@")
		e := &statev1.ExpiredId{TransactionalId: id}
		if t := p.s.Find(id); t != nil {
			e.Version, e.ProducerEpoch = t.Version, int32(t.Epoch)
		}
		if explicit {
			version, epoch, ok := strings.Cut(rest, "/")
			e.Version = uint64(p.number(version))
			if ok {
				e.ProducerEpoch = int32(p.number(epoch))
			}
		}
		cmd.Ids = append(cmd.Ids, e)
	}
	return cmd
}

func key(words []string, name, otherwise string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			return v
		}
	}
	return otherwise
}

func (p *player) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) producer(s string) (record.ProducerID, record.Epoch) {
	id, epoch, _ := strings.Cut(s, "/")
	return record.ProducerID(p.number(id)), record.Epoch(p.number(epoch))
}

func parsePartitions(s string) []record.TopicPartition {
	var list []record.TopicPartition
	for one := range strings.SplitSeq(s, ",") {
		topic, n, _ := strings.Cut(one, "/")
		number, _ := strconv.Atoi(n)
		list = append(list, record.TopicPartition{Topic: topic, Partition: int32(number)})
	}
	return list
}

// reload goes on from a snapshot, whose bytes must be those of what is restored (R6).
func (p *player) reload() {
	p.t.Helper()
	b, err := p.s.AppendSnapshot(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := Restore(b)
	if err != nil {
		p.t.Fatal(err)
	}
	if again, err := s.AppendSnapshot(nil); err != nil || !bytes.Equal(again, b) {
		p.t.Fatalf("the restored shard has other bytes (%v)", err)
	}
	p.s = s
}

// epochs puts an id where as many producers as that have taken it over.
func (p *player) epochs(id, epoch string) {
	p.t.Helper()
	p.run("apply", "init "+id)
	t := *p.s.Find(id)
	t.Epoch = record.Epoch(p.number(epoch))
	p.s.replace(p.s.Find(id), &t, p.index)
}

func (p *player) list() string {
	var out strings.Builder
	for _, t := range p.s.Open() {
		fmt.Fprintf(&out, "%s %s", t.ID, show(t))
		if d := t.Deadline(); d != NoStart {
			fmt.Fprintf(&out, " until %d", d)
		}
		out.WriteString("\n")
	}
	fmt.Fprintf(&out, "%d ids, %d open with %d partitions\n", p.s.Len(), p.s.OpenLen(), p.s.OpenPartitions())
	return out.String()
}

func describe(r Result, t *Transaction) string {
	out := r.Code.String()
	if r.ProducerID != record.NoProducerID && (r.ProducerID != 0 || r.Transaction != nil) {
		out += fmt.Sprintf(" gives %d/%d", r.ProducerID, r.Epoch)
	}
	if r.Expired > 0 {
		out += fmt.Sprintf(" forgets %d", r.Expired)
	}
	if r.Changed {
		out += " *"
	}
	for _, n := range r.Next {
		out += fmt.Sprintf(", then %v", n.Code)
	}
	if t != nil {
		out += "\n   " + show(t)
	}
	return out + "\n"
}

func show(t *Transaction) string {
	out := fmt.Sprintf("%v %d/%d last %d", t.Status, t.ProducerID, t.Epoch, t.LastEpoch)
	if t.PreviousProducerID != record.NoProducerID {
		out += fmt.Sprintf(" previous %d", t.PreviousProducerID)
	}
	if t.NextProducerID != record.NoProducerID {
		out += fmt.Sprintf(" next %d", t.NextProducerID)
	}
	for i, tp := range t.Partitions {
		if out += " "; i > 0 {
			out = strings.TrimSuffix(out, " ") + ","
		}
		out += tp.String()
	}
	return out + fmt.Sprintf(" v%d", t.Version)
}

func showAll(t *Transaction) string {
	if t == nil {
		return "not known\n"
	}
	out := fmt.Sprintf("%s timeout %d tv %d start %d updated %d\n", show(t), t.TimeoutMS, t.ClientVersion, t.StartMS, t.UpdatedMS)
	for _, e := range t.History {
		out += fmt.Sprintf("  %d %v %d/%d", e.TimeMS, e.Kind, e.ProducerID, e.Epoch)
		if e.Client != (Client{}) {
			out += fmt.Sprintf(" by %s@%s", e.Client.ID, e.Client.Address)
		}
		if r := e.Refused; r != nil {
			out += fmt.Sprintf(" %v %s expected %d received %d", r.TopicPartition, r.Code, r.Expected, r.Received)
		}
		out += "\n"
	}
	return out
}
