package raftgroup

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// The bodies of the frames, drawn in docs/formats/raft-transport.md. Terms and indexes are
// bounded (checkTerm, checkIndex), entry types are those this version knows, and configurations
// are decoded once before Raft sees them: it would panic on one it cannot read.

const (
	appendFixed = 36 // of an append's body, before the entries' headers
	entryHeader = 25

	// copyBelow is the size up to which a body is copied beside its header rather than given to
	// the kernel as a buffer of its own.
	copyBelow = 4 << 10

	// maxEntriesPerFrame bounds the count that a peer may claim.
	maxEntriesPerFrame = 4096

	maxConfigurationBytes = 64 << 10
)

// chunk is a part of an AppendEntriesRequest that fits a frame.
type chunk struct {
	term, prevIndex, prevTerm, commit uint64
	entries                           []*raft.Log
	bytes                             int64 // of the entries' data and extensions
}

// lastIndex is the last index the chunk covers.
func (c *chunk) lastIndex() uint64 { return c.prevIndex + uint64(len(c.entries)) }

// bodies is what follows a frame's head on the wire.
type bodies struct {
	buffers [][]byte
	// batches says for each buffer whether it is record batches, whose own checksums stand for their bytes.
	batches []bool
}

func (b *bodies) add(p []byte, batches bool) {
	b.buffers, b.batches = append(b.buffers, p), append(b.batches, batches)
}

// sum continues a checksum over all of them.
func (b *bodies) sum(crc uint32) uint32 {
	for i, p := range b.buffers {
		if b.batches[i] {
			crc = record.SumAll(crc, p)
		} else {
			crc = crc32.Update(crc, castagnoli, p)
		}
	}
	return crc
}

// appendAppend appends the meta part of an append frame and the small bodies that follow it, and gives the bodies to send after that.
// holdsBatches tells the entries whose data is record batches that this broker has validated, or has had from one that has.
func appendAppend(b []byte, c *chunk, holdsBatches func(*raft.Log) bool) ([]byte, bodies) {
	b = binary.BigEndian.AppendUint64(b, c.term)
	b = binary.BigEndian.AppendUint64(b, c.prevIndex)
	b = binary.BigEndian.AppendUint64(b, c.prevTerm)
	b = binary.BigEndian.AppendUint64(b, c.commit)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.entries)))
	for _, e := range c.entries {
		var at int64
		if !e.AppendedAt.IsZero() {
			at = e.AppendedAt.UnixNano()
		}
		b = binary.BigEndian.AppendUint64(b, e.Term)
		b = binary.BigEndian.AppendUint64(b, uint64(at))
		b = append(b, byte(e.Type))
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Extensions)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	}
	return appendBodies(b, c.entries, holdsBatches)
}

// appendBodies appends the small bodies that come first, and lists what follows them, small neighbours copied together.
func appendBodies(b []byte, entries []*raft.Log, holdsBatches func(*raft.Log) bool) ([]byte, bodies) {
	var out bodies
	first, room := 0, 0
	for first < len(entries) && len(entries[first].Extensions) < copyBelow && len(entries[first].Data) < copyBelow {
		room += len(entries[first].Extensions) + len(entries[first].Data)
		first++
	}
	b = slices.Grow(b, room)
	for _, e := range entries[:first] {
		b = append(append(b, e.Extensions...), e.Data...)
	}
	if entries = entries[first:]; len(entries) == 0 {
		return b, out
	}
	room = 0
	for _, e := range entries {
		for _, p := range [2][]byte{e.Extensions, e.Data} {
			if len(p) < copyBelow {
				room += len(p)
			}
		}
	}
	small := make([]byte, 0, room) // Never grows, so that parts of it stay where they are.
	start := 0
	flush := func() {
		if len(small) > start {
			out.add(small[start:len(small):len(small)], false)
			start = len(small)
		}
	}
	for _, e := range entries {
		for i, p := range [2][]byte{e.Extensions, e.Data} {
			if len(p) < copyBelow {
				small = append(small, p...)
				continue
			}
			flush()
			out.add(p, i == 1 && holdsBatches(e))
		}
	}
	flush()
	return b, out
}

// appendSummedSize is how much of an append's body the checksum must cover at least.
func appendSummedSize(body []byte) int {
	if len(body) < appendFixed {
		return len(body)
	}
	return min(len(body), appendFixed+entryHeader*int(min(binary.BigEndian.Uint32(body[32:]), maxEntriesPerFrame)))
}

// decodeAppend reads an append. The entries' bytes are parts of body.
func decodeAppend(body []byte) (*raft.AppendEntriesRequest, error) {
	r := newReader(body)
	req := &raft.AppendEntriesRequest{
		Term:              r.u64(),
		PrevLogEntry:      r.u64(),
		PrevLogTerm:       r.u64(),
		LeaderCommitIndex: r.u64(),
	}
	count := r.u32()
	if !r.ok || count > maxEntriesPerFrame {
		return nil, badFrame("append of %d bytes with %d entries", len(body), count)
	}
	if err := checkTerms(req.Term, req.PrevLogTerm); err != nil {
		return nil, err
	}
	if req.PrevLogEntry > maxIndex || req.LeaderCommitIndex > maxIndex {
		return nil, badFrame("append at index %d, commit %d", req.PrevLogEntry, req.LeaderCommitIndex)
	}
	heads := newReader(r.take(int(count) * entryHeader))
	if !r.ok {
		return nil, badFrame("append ends inside its %d entry headers", count)
	}
	logs := make([]raft.Log, count)
	req.Entries = make([]*raft.Log, count)
	for i := range logs {
		l := &logs[i]
		l.Index = req.PrevLogEntry + 1 + uint64(i)
		l.Term = heads.u64()
		if at := int64(heads.u64()); at != 0 {
			l.AppendedAt = time.Unix(0, at)
		}
		l.Type = raft.LogType(heads.u8())
		extensions, data := heads.u32(), heads.u32()
		l.Extensions = nonEmpty(r.take(int(extensions)))
		l.Data = nonEmpty(r.take(int(data)))
		if !r.ok {
			return nil, badFrame("entry %d of %d and %d bytes passes the frame's end", l.Index, extensions, data)
		}
		if l.Term == 0 || l.Term > req.Term {
			return nil, badFrame("entry %d of term %d from a leader of term %d", l.Index, l.Term, req.Term)
		}
		if err := checkEntry(l); err != nil {
			return nil, err
		}
		req.Entries[i] = l
	}
	if !r.done() {
		return nil, badFrame("%d bytes after the entries", len(r.b))
	}
	return req, nil
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// checkEntry refuses what Raft would panic on.
func checkEntry(l *raft.Log) error {
	switch l.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		_, err := decodeConfiguration(l.Data)
		return err
	}
	return badFrame("entry %d of unknown type %d", l.Index, l.Type)
}

// decodeConfiguration reads Raft's own encoding of a configuration.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	if len(b) > maxConfigurationBytes {
		return c, badFrame("configuration of %d bytes", len(b))
	}
	defer func() {
		if p := recover(); p != nil {
			err = badFrame("configuration: %v", p)
		}
	}()
	c = raft.DecodeConfiguration(b)
	for _, s := range c.Servers {
		if _, _, err := ParseServerID(ServerID(s.ID)); err != nil {
			return c, badFrame("configuration: %v", err)
		}
	}
	return c, nil
}

func checkTerms(terms ...uint64) error {
	for _, t := range terms {
		if t > maxTerm {
			return badFrame("term %d", t)
		}
	}
	return nil
}

const (
	flagSuccess        = 1
	flagNoRetryBackoff = 2
	flagTransfer       = 1
	flagGranted        = 1
)

func appendAppendAck(b []byte, a *raft.AppendEntriesResponse) []byte {
	var flags byte
	if a.Success {
		flags |= flagSuccess
	}
	if a.NoRetryBackoff {
		flags |= flagNoRetryBackoff
	}
	b = binary.BigEndian.AppendUint64(b, a.Term)
	b = binary.BigEndian.AppendUint64(b, a.LastLog)
	return append(b, flags)
}

func decodeAppendAck(body []byte, a *raft.AppendEntriesResponse) error {
	r := newReader(body)
	a.Term, a.LastLog = r.u64(), r.u64()
	flags := r.u8()
	a.Success, a.NoRetryBackoff = flags&flagSuccess != 0, flags&flagNoRetryBackoff != 0
	if !r.done() || a.Term > maxTerm || a.LastLog > maxIndex {
		return badFrame("answer to an append of %d bytes", len(body))
	}
	return nil
}

// ballot is what a vote and a pre-vote ask with.
type ballot struct {
	term, lastIndex, lastTerm uint64
	transfer                  bool
}

func appendBallot(b []byte, v ballot) []byte {
	var flags byte
	if v.transfer {
		flags = flagTransfer
	}
	b = binary.BigEndian.AppendUint64(b, v.term)
	b = binary.BigEndian.AppendUint64(b, v.lastIndex)
	b = binary.BigEndian.AppendUint64(b, v.lastTerm)
	return append(b, flags)
}

func decodeBallot(body []byte) (ballot, error) {
	r := newReader(body)
	v := ballot{term: r.u64(), lastIndex: r.u64(), lastTerm: r.u64()}
	v.transfer = r.u8()&flagTransfer != 0
	if !r.done() || v.lastIndex > maxIndex {
		return v, badFrame("vote request of %d bytes", len(body))
	}
	return v, checkTerms(v.term, v.lastTerm)
}

// appendTermFlag encodes the answers that are a term and a yes or no.
func appendTermFlag(b []byte, term uint64, yes bool) []byte {
	b = binary.BigEndian.AppendUint64(b, term)
	if yes {
		return append(b, flagGranted)
	}
	return append(b, 0)
}

func decodeTermFlag(body []byte) (term uint64, yes bool, err error) {
	r := newReader(body)
	term, yes = r.u64(), r.u8()&flagGranted != 0
	if !r.done() || term > maxTerm {
		return 0, false, badFrame("answer of %d bytes", len(body))
	}
	return term, yes, nil
}

// appendInstall encodes the head of a snapshot stream.
func appendInstall(b []byte, q *raft.InstallSnapshotRequest) []byte {
	b = binary.BigEndian.AppendUint64(b, q.Term)
	b = binary.BigEndian.AppendUint64(b, q.LastLogIndex)
	b = binary.BigEndian.AppendUint64(b, q.LastLogTerm)
	b = binary.BigEndian.AppendUint64(b, q.ConfigurationIndex)
	b = binary.BigEndian.AppendUint64(b, uint64(q.Size))
	b = append(b, byte(q.SnapshotVersion))
	b = binary.BigEndian.AppendUint32(b, uint32(len(q.Configuration)))
	return append(b, q.Configuration...)
}

func decodeInstall(body []byte) (*raft.InstallSnapshotRequest, error) {
	r := newReader(body)
	q := &raft.InstallSnapshotRequest{
		Term:               r.u64(),
		LastLogIndex:       r.u64(),
		LastLogTerm:        r.u64(),
		ConfigurationIndex: r.u64(),
		Size:               int64(r.u64()),
		SnapshotVersion:    raft.SnapshotVersion(r.u8()),
	}
	q.Configuration = r.take(int(r.u32()))
	if !r.done() || q.LastLogIndex > maxIndex || q.ConfigurationIndex > q.LastLogIndex || q.Size < 0 {
		return nil, badFrame("snapshot head of %d bytes for index %d", len(body), q.LastLogIndex)
	}
	if q.SnapshotVersion != 1 {
		return nil, badFrame("snapshot version %d", q.SnapshotVersion)
	}
	if err := checkTerms(q.Term, q.LastLogTerm); err != nil {
		return nil, err
	}
	_, err := decodeConfiguration(q.Configuration)
	return q, err
}

// beat is one heartbeat in a batch.
type beat struct {
	group    GroupID
	from, to uint64
	term     uint64
}

const (
	beatSize    = 32
	beatAckSize = 19
	maxBeats    = 8192
)

func appendBeat(b []byte, h beat) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(h.group))
	b = binary.BigEndian.AppendUint64(b, h.from)
	b = binary.BigEndian.AppendUint64(b, h.to)
	return binary.BigEndian.AppendUint64(b, h.term)
}

func decodeBeats(body []byte) ([]beat, error) {
	n := len(body) / beatSize
	if len(body)%beatSize != 0 || n > maxBeats {
		return nil, badFrame("heartbeats of %d bytes", len(body))
	}
	beats := make([]beat, n)
	r := newReader(body)
	for i := range beats {
		beats[i] = beat{GroupID(r.u64()), r.u64(), r.u64(), r.u64()}
		if err := checkTerms(beats[i].term); err != nil {
			return nil, err
		}
	}
	return beats, nil
}

// beatAck answers one heartbeat; late: the answer comes in a frame of its own; fresh: the replica has taken no append since it was
// opened, and knows no commit index.
type beatAck struct {
	code        uint16
	late, fresh bool
	resp        raft.AppendEntriesResponse
}

const (
	flagLate  = 4
	flagFresh = 8
)

func appendBeatAck(b []byte, a *beatAck) []byte {
	b = binary.BigEndian.AppendUint16(b, a.code)
	b = appendAppendAck(b, &a.resp)
	if a.late {
		b[len(b)-1] |= flagLate
	}
	if a.fresh {
		b[len(b)-1] |= flagFresh
	}
	return b
}

func decodeBeatAck(b []byte) (beatAck, error) {
	var a beatAck
	if len(b) != beatAckSize {
		return a, badFrame("heartbeat answer of %d bytes", len(b))
	}
	a.code = binary.BigEndian.Uint16(b)
	a.late, a.fresh = b[len(b)-1]&flagLate != 0, b[len(b)-1]&flagFresh != 0
	return a, decodeAppendAck(b[2:], &a.resp)
}

// hello opens a connection; helloAck answers it.
type hello struct {
	minVersion, maxVersion uint16
	class                  class
	from, to               int32
	cluster                string
	tail                   greeting
}

type helloAck struct {
	version uint16
	broker  int32
	cluster string
	tail    greeting
}

// greeting is what both say of themselves since it was added; brokers of before say nothing, and pass over it.
type greeting struct {
	node Node
	// saysFresh: its answers to heartbeats say whether a replica has taken an append since it was opened.
	saysFresh bool
}

const flagSaysFresh = 1

func appendGreeting(b []byte, g greeting) []byte {
	b = binary.BigEndian.AppendUint64(b, g.node.Incarnation)
	b = binary.BigEndian.AppendUint64(b, g.node.Since)
	flags := byte(0)
	if g.saysFresh {
		flags |= flagSaysFresh
	}
	return append(b, flags)
}

// readGreeting reads what is left; nothing: an older broker.
func readGreeting(r *reader) (g greeting) {
	if len(r.b) == 0 {
		return g
	}
	g.node = Node{Incarnation: r.u64(), Since: r.u64()}
	g.saysFresh = r.u8()&flagSaysFresh != 0
	return g
}

// transportVersion is what this broker speaks. A later one that changes frames raises it and goes
// on speaking this one to those that know no better.
const transportVersion = 1

func appendHello(b []byte, h hello) []byte {
	b = binary.BigEndian.AppendUint16(b, h.minVersion)
	b = binary.BigEndian.AppendUint16(b, h.maxVersion)
	b = append(b, byte(h.class))
	b = binary.BigEndian.AppendUint32(b, uint32(h.from))
	b = binary.BigEndian.AppendUint32(b, uint32(h.to))
	return appendGreeting(appendShort(b, h.cluster), h.tail)
}

func decodeHello(body []byte) (hello, error) {
	r := newReader(body)
	h := hello{minVersion: r.u16(), maxVersion: r.u16(), class: class(r.u8()), from: int32(r.u32()), to: int32(r.u32())}
	h.cluster = string(r.take(int(r.u8())))
	h.tail = readGreeting(&r)
	// A later version may say more; what is here stays where it is.
	if !r.ok || h.from < 0 || h.class > classControl || h.minVersion > h.maxVersion {
		return h, badFrame("hello of %d bytes", len(body))
	}
	return h, nil
}

func appendHelloAck(b []byte, a helloAck) []byte {
	b = binary.BigEndian.AppendUint16(b, a.version)
	b = binary.BigEndian.AppendUint32(b, uint32(a.broker))
	return appendGreeting(appendShort(b, a.cluster), a.tail)
}

func decodeHelloAck(body []byte) (helloAck, error) {
	r := newReader(body)
	a := helloAck{version: r.u16(), broker: int32(r.u32())}
	a.cluster = string(r.take(int(r.u8())))
	a.tail = readGreeting(&r)
	if !r.ok {
		return a, badFrame("hello answer of %d bytes", len(body))
	}
	return a, nil
}

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

// remoteError is an answer that is an error.
type remoteError struct {
	code uint16
	text string
}

// Is makes errors.Is find ErrUnknownGroup.
func (e *remoteError) Is(target error) bool {
	return target == ErrUnknownGroup && e.code == codeUnknownGroup
}

func (e *remoteError) Error() string {
	switch e.code {
	case codeUnknownGroup:
		return "the group is not open on that broker"
	case codeWrongServer:
		return "that broker holds another incarnation of the replica"
	case codeUnavailable:
		return "the replica is stopped or starting"
	case codeBusy:
		return "the replica has too many requests waiting"
	case codeReplaced:
		return "that broker has another directory in the place of this one's: " + e.text
	}
	return fmt.Sprintf("remote error %d: %s", e.code, e.text)
}

// answerError turns an answer's code into an error. Raft takes the words "unexpected command" in
// an error for a granted pre-vote: they never come out of here.
func answerError(f *frame) error {
	if f.code == codeOK {
		return nil
	}
	text := strings.ToValidUTF8(string(f.body[:min(len(f.body), maxErrorText)]), "?")
	return &remoteError{code: f.code, text: strings.ReplaceAll(text, "unexpected command", "unknown request")}
}
