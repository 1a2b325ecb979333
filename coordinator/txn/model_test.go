package txn

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// model is a second, dumb implementation: plain maps, the tables of T17 and T19 as they are written, every command on a
// deep copy.
type model struct {
	maxIDs, maxPartitions, maxOpen int
	ids                            map[string]mID
}

type mID struct {
	version                uint64
	pid, previous, next    int64
	epoch, last            int32
	timeout                int32
	status                 string
	tv                     uint32
	partitions             map[string]bool
	start, updated         int64
	history                []string
	pidOfNote, epochOfNote []int64
}

func newModel() *model {
	l := DefaultLimits()
	return &model{maxIDs: l.MaxIDs, maxPartitions: l.MaxPartitions, maxOpen: l.MaxOpenPartitions, ids: map[string]mID{}}
}

// mResult is what a command comes to: the name of the code, and the producer that is handed out.
type mResult struct {
	code       string
	pid, epoch int64
	expired    int
	next       string // codes of the adds that came with a completion
}

// The tables. "EB" and "go" are decisions, with and without a raised epoch; "same" gives what there is.
var (
	tableV1 = map[string]map[string]string{
		"Ongoing":        {"commit": "go", "abort": "go"},
		"CompleteCommit": {"commit": "same", "abort": "INVALID_TXN_STATE"},
		"CompleteAbort":  {"commit": "INVALID_TXN_STATE", "abort": "same"},
		"PrepareCommit":  {"commit": "CONCURRENT_TRANSACTIONS", "abort": "CONCURRENT_TRANSACTIONS"},
		"PrepareAbort":   {"commit": "CONCURRENT_TRANSACTIONS", "abort": "CONCURRENT_TRANSACTIONS"},
		"Empty":          {"commit": "INVALID_TXN_STATE", "abort": "INVALID_TXN_STATE"},
	}
	tableV2 = map[string]map[string]string{
		"Ongoing":        {"commit": "EB", "commit again": "PRODUCER_FENCED", "abort": "EB", "abort again": "PRODUCER_FENCED"},
		"Empty":          {"commit": "INVALID_TXN_STATE", "commit again": "PRODUCER_FENCED", "abort": "EB", "abort again": "PRODUCER_FENCED"},
		"CompleteCommit": {"commit": "INVALID_TXN_STATE", "commit again": "same", "abort": "EB", "abort again": "INVALID_TXN_STATE"},
		"CompleteAbort":  {"commit": "INVALID_TXN_STATE", "commit again": "INVALID_TXN_STATE", "abort": "EB", "abort again": "same"},
	}
)

func (m *model) apply(index uint64, now int64, c *statev1.TransactionCommand) mResult {
	none := mResult{code: "NONE", pid: -1, epoch: -1}
	switch cmd := c.Command.(type) {
	case *statev1.TransactionCommand_Limits:
		m.maxIDs, m.maxPartitions, m.maxOpen = int(cmd.Limits.MaxIds), int(cmd.Limits.MaxPartitions), int(cmd.Limits.MaxOpenPartitions)
		return none
	case *statev1.TransactionCommand_Expire:
		for _, e := range cmd.Expire.Ids {
			t, ok := m.ids[e.TransactionalId]
			if ok && t.version == e.Version && t.epoch == e.ProducerEpoch && t.updated <= cmd.Expire.CutoffMs && !t.ending() && t.status != "Ongoing" {
				delete(m.ids, e.TransactionalId)
				none.expired++
			}
		}
		return none
	}
	old, known := m.ids[c.TransactionalId]
	if old.version != c.Version {
		return mResult{code: "STALE", pid: -1, epoch: -1}
	}
	t := old
	t.partitions, t.history = maps.Clone(old.partitions), slices.Clone(old.history)
	t.pidOfNote, t.epochOfNote = slices.Clone(old.pidOfNote), slices.Clone(old.epochOfNote)
	r := m.run(&t, known, now, c)
	if t.String() != old.String() {
		if c.GetAdd() == nil && c.GetNote() == nil {
			t.version = index
		}
		m.ids[c.TransactionalId] = t
	}
	return r
}

func (m *model) run(t *mID, known bool, now int64, c *statev1.TransactionCommand) mResult {
	by := ""
	if c.Client != nil {
		by = c.Client.ClientId + "@" + c.Client.Address
	}
	no := func(code string) mResult { return mResult{code: code, pid: -1, epoch: -1} }
	switch cmd := c.Command.(type) {
	case *statev1.TransactionCommand_Init:
		return m.init(t, known, now, cmd.Init, by)
	case *statev1.TransactionCommand_Add:
		return m.add(t, known, now, cmd.Add)
	case *statev1.TransactionCommand_End:
		return t.end(known, now, cmd.End)
	case *statev1.TransactionCommand_Complete:
		if !known || !t.ending() {
			return no("INVALID_TXN_STATE")
		}
		t.finish(now)
		r := no("NONE")
		for _, add := range cmd.Complete.Next {
			m.ids[c.TransactionalId] = *t
			r.next += m.add(t, true, now, add).code + " "
		}
		return r
	case *statev1.TransactionCommand_Abort:
		a := cmd.Abort
		switch {
		case !known:
			return no("TRANSACTIONAL_ID_NOT_FOUND")
		case t.ending():
			return no("CONCURRENT_TRANSACTIONS")
		case t.status != "Ongoing":
			return no("INVALID_TXN_STATE")
		case a.ProducerId != t.pid || a.ProducerEpoch != t.epoch || t.start > a.StartedUntilMs:
			return no("STALE")
		}
		if a.Reason == statev1.AbortReason_ABORT_REASON_TIMEOUT {
			return no(t.fence(now, a.ServerVersion, a.FreshProducerId, "timed out", ""))
		}
		return no(t.fence(now, a.ServerVersion, a.FreshProducerId, "aborted by operator", by))
	case *statev1.TransactionCommand_Note:
		n := cmd.Note
		if !known || n.ProducerId != t.pid && n.ProducerId != t.previous {
			return no("INVALID_PRODUCER_ID_MAPPING")
		}
		for i := range t.pidOfNote {
			if t.pidOfNote[i] == n.ProducerId && t.epochOfNote[i] == int64(n.ProducerEpoch) {
				return no("NONE")
			}
		}
		t.event(fmt.Sprintf("%d batch refused %d/%d %s/%d %s %d %d", now, n.ProducerId, n.ProducerEpoch, n.Topic, n.Partition, n.Code, n.ExpectedSequence, n.ReceivedSequence),
			n.ProducerId, int64(n.ProducerEpoch))
		return no("NONE")
	}
	panic("no such command")
}

func (m *model) init(t *mID, known bool, now int64, c *statev1.InitTransactions, by string) mResult {
	no := func(code string) mResult { return mResult{code: code, pid: -1, epoch: -1} }
	nothing := c.ProducerId == -1
	done := func() mResult {
		t.status, t.timeout, t.start, t.updated, t.partitions = "Empty", c.TimeoutMs, -1, now, nil
		t.event(fmt.Sprintf("%d initialised %d/%d %s", now, t.pid, t.epoch, by), -1, -1)
		return mResult{code: "NONE", pid: t.pid, epoch: int64(t.epoch)}
	}
	if !known {
		if len(m.ids) >= m.maxIDs {
			return no("TOO_MANY_TRANSACTIONAL_IDS")
		}
		if c.FreshProducerId == -1 {
			return no("NEEDS_PRODUCER_ID")
		}
		*t = mID{pid: c.FreshProducerId, previous: -1, next: -1, last: -1}
		return done()
	}
	if t.ending() {
		return no("CONCURRENT_TRANSACTIONS")
	}
	own := c.ProducerId == t.pid && c.ProducerEpoch <= 32766
	before := t.previous != -1 && c.ProducerId == t.previous && c.ProducerEpoch >= 32766
	if !nothing && !own && !before {
		return no("PRODUCER_FENCED")
	}
	if t.status == "Ongoing" {
		if !nothing && c.ProducerEpoch != t.epoch && c.ProducerEpoch != t.last {
			return no("PRODUCER_FENCED")
		}
		if code := t.fence(now, c.ServerVersion, c.FreshProducerId, "fenced", by); code != "NONE" {
			return no(code)
		}
		return no("CONCURRENT_TRANSACTIONS")
	}
	continues := own && c.ProducerEpoch == t.epoch
	if t.epoch >= 32766 && (nothing || continues) {
		if c.FreshProducerId == -1 {
			return no("NEEDS_PRODUCER_ID")
		}
		t.previous, t.pid = t.pid, c.FreshProducerId
		t.last = -1
		if continues {
			t.last = t.epoch
		}
		t.epoch = 0
		return done()
	}
	if nothing || continues {
		t.last = -1
		if continues {
			t.last = t.epoch
		}
		t.epoch++
		t.previous = -1
		return done()
	}
	if c.ProducerEpoch != t.last {
		return no("PRODUCER_FENCED")
	}
	if c.TimeoutMs != t.timeout {
		t.timeout, t.updated = c.TimeoutMs, now
	}
	return mResult{code: "NONE", pid: t.pid, epoch: int64(t.epoch)}
}

func (m *model) add(t *mID, known bool, now int64, c *statev1.AddPartitions) mResult {
	no := func(code string) mResult { return mResult{code: code, pid: -1, epoch: -1} }
	switch {
	case !known:
		return no("INVALID_PRODUCER_ID_MAPPING")
	case t.ending():
		return no("CONCURRENT_TRANSACTIONS")
	case c.ProducerId != t.pid:
		return no("INVALID_PRODUCER_ID_MAPPING")
	case c.ProducerEpoch != t.epoch || t.epoch == 32767:
		return no("PRODUCER_FENCED")
	}
	all := maps.Clone(t.partitions)
	if all == nil {
		all = map[string]bool{}
	}
	for _, tp := range partitionsOf(c.Partitions) {
		all[tp.String()] = true
	}
	if len(all) == len(t.partitions) && t.status == "Ongoing" {
		return no("NONE")
	}
	open := 0
	for _, other := range m.ids {
		open += len(other.partitions)
	}
	if len(all) > m.maxPartitions || open-len(t.partitions)+len(all) > m.maxOpen {
		return no("TRANSACTION_ABORTABLE")
	}
	if t.status != "Ongoing" {
		t.status, t.start, t.previous = "Ongoing", now, -1
	}
	t.partitions, t.tv, t.updated = all, c.ClientVersion, now
	return no("NONE")
}

func (t *mID) end(known bool, now int64, c *statev1.EndTransaction) mResult {
	no := func(code string) mResult { return mResult{code: code, pid: -1, epoch: -1} }
	if !known {
		return no("INVALID_PRODUCER_ID_MAPPING")
	}
	column, table := "abort", tableV1
	if c.Commit {
		column = "commit"
	}
	if c.ClientVersion == 2 {
		table = tableV2
		if t.ending() {
			return no("CONCURRENT_TRANSACTIONS")
		}
	}
	current := c.ProducerId == t.pid && c.ProducerEpoch == t.epoch && t.epoch != 32767
	again := c.ClientVersion == 2 && c.ProducerEpoch == t.last &&
		(c.ProducerId == t.pid && c.ProducerEpoch == t.epoch-1 || c.ProducerId == t.previous && c.ProducerEpoch == 32766 && t.epoch == 0)
	if !current && !again {
		if c.ProducerId != t.pid {
			return no("INVALID_PRODUCER_ID_MAPPING")
		}
		return no("PRODUCER_FENCED")
	}
	if again {
		column += " again"
	}
	switch cell := table[t.status][column]; cell {
	case "same":
		return mResult{code: "NONE", pid: t.pid, epoch: int64(t.epoch)}
	case "go":
		t.tv = 1
		t.decide(c.Commit, now)
		return mResult{code: "NONE", pid: t.pid, epoch: int64(t.epoch)}
	case "EB":
		if t.epoch == 32766 && c.FreshProducerId == -1 {
			return no("NEEDS_PRODUCER_ID")
		}
		if t.status != "Ongoing" {
			t.start = now
		}
		r := mResult{code: "NONE", pid: t.pid, epoch: int64(t.epoch) + 1}
		if t.epoch == 32766 {
			r.pid, r.epoch = c.FreshProducerId, 0
		}
		t.raise(c.FreshProducerId)
		t.tv = 2
		t.decide(c.Commit, now)
		return r
	default:
		return no(cell)
	}
}

func (t *mID) raise(fresh int64) {
	t.last, t.previous = t.epoch, -1
	t.epoch++
	if t.epoch == 32767 {
		t.next = fresh
	}
}

func (t *mID) fence(now int64, tv uint32, fresh int64, what, by string) string {
	if tv == 2 && t.epoch == 32766 && fresh == -1 {
		return "NEEDS_PRODUCER_ID"
	}
	t.event(fmt.Sprintf("%d %s %d/%d %s", now, what, t.pid, t.epoch, by), -1, -1)
	if tv == 2 {
		t.raise(fresh)
	} else {
		t.epoch, t.last = t.epoch+1, -1
	}
	t.tv = tv
	t.decide(false, now)
	return "NONE"
}

func (t *mID) decide(commit bool, now int64) {
	t.status, t.updated = "PrepareAbort", now
	if commit {
		t.status = "PrepareCommit"
	}
	if len(t.partitions) == 0 {
		t.finish(now)
	}
}

func (t *mID) finish(now int64) {
	t.status = strings.Replace(t.status, "Prepare", "Complete", 1)
	t.partitions, t.updated = nil, now
	if t.next != -1 {
		t.previous, t.pid, t.next, t.epoch = t.pid, t.next, -1, 0
	}
}

func (t *mID) ending() bool { return strings.HasPrefix(t.status, "Prepare") }

func (t *mID) event(line string, notePID, noteEpoch int64) {
	t.history = append(t.history, strings.TrimSpace(line))
	t.pidOfNote, t.epochOfNote = append(t.pidOfNote, notePID), append(t.epochOfNote, noteEpoch)
	if len(t.history) > 16 {
		t.history, t.pidOfNote, t.epochOfNote = t.history[1:], t.pidOfNote[1:], t.epochOfNote[1:]
	}
}

func (t mID) String() string {
	return fmt.Sprintf("v%d %s %d/%d last %d previous %d next %d timeout %d tv %d start %d updated %d %v\n%s", t.version, t.status, t.pid, t.epoch,
		t.last, t.previous, t.next, t.timeout, t.tv, t.start, t.updated, slices.Sorted(maps.Keys(t.partitions)), strings.Join(t.history, "\n"))
}

// modelOf shows a transaction as the model would have it.
func modelOf(t *Transaction) mID {
	m := mID{
		version: t.Version, pid: int64(t.ProducerID), previous: int64(t.PreviousProducerID), next: int64(t.NextProducerID),
		epoch: int32(t.Epoch), last: int32(t.LastEpoch), timeout: t.TimeoutMS, status: t.Status.String(), tv: uint32(t.ClientVersion),
		start: t.StartMS, updated: t.UpdatedMS, partitions: map[string]bool{},
	}
	for _, tp := range t.Partitions {
		m.partitions[tp.String()] = true
	}
	for _, e := range t.History {
		line := fmt.Sprintf("%d %v %d/%d", e.TimeMS, e.Kind, e.ProducerID, e.Epoch)
		pid, epoch := record.NoProducerID, record.NoEpoch
		if e.Client != (Client{}) {
			line += " " + e.Client.ID + "@" + e.Client.Address
		}
		if r := e.Refused; r != nil {
			line += fmt.Sprintf(" %v %s %d %d", r.TopicPartition, r.Code, r.Expected, r.Received)
			pid, epoch = e.ProducerID, e.Epoch
		}
		m.history = append(m.history, line)
		m.pidOfNote, m.epochOfNote = append(m.pidOfNote, int64(pid)), append(m.epochOfNote, int64(epoch))
	}
	return m
}
