package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Recorder takes down a history while it happens. Its methods, and those of the producers and consumers
// that it gives out, may be called from many goroutines; the order of the calls is the order of the
// events, so what is about to be asked must be recorded before it is asked, and an answer after it has
// come.
type Recorder struct {
	now   func() time.Time
	start time.Time

	// mu guards what follows.
	mu     sync.Mutex
	next   Process
	events []Event  // in memory
	file   *os.File // nil: in memory
	to     *bufio.Writer
	enc    *json.Encoder
	err    error
	remote net.Conn // takes the events in place of memory or a file
	broken func(error)
}

// NewRecorder records in memory, about 250 bytes for an event.
func NewRecorder() *Recorder {
	return &Recorder{now: time.Now, start: time.Now(), next: 1}
}

// CreateFile records to a new file, in place of one that is there, which takes about 80 bytes of disk
// for an event and no memory. The note says what is recorded; it stands in the file's first line.
func CreateFile(path, note string) (*Recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	r := NewRecorder()
	r.file = f
	r.to = bufio.NewWriterSize(f, 1<<18)
	r.enc = json.NewEncoder(r.to)
	r.enc.SetEscapeHTML(false)
	r.err = writeHeader(r.to, r.start, note)
	return r, nil
}

// add takes an event down. Records are copied.
func (r *Recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = r.now().Sub(r.start)
	if r.remote != nil {
		r.tell(&e)
		return
	}
	if r.file == nil {
		e.Records = slices.Clone(e.Records)
		r.events = append(r.events, e)
		return
	}
	if r.err == nil {
		r.err = r.enc.Encode(e.line())
	}
}

// Source gives what has been recorded so far.
func (r *Recorder) Source() Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return Events(r.events[:len(r.events):len(r.events)])
	}
	r.flush()
	if err := r.err; err != nil {
		return func(yield func(*Event, error) bool) { yield(nil, err) }
	}
	return File(r.file.Name())
}

func (r *Recorder) flush() {
	if r.err == nil {
		r.err = r.to.Flush()
	}
}

// Close writes what is left to the file, closes it, and says whether everything has been written. What
// is recorded after it is not.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	r.flush()
	err := errors.Join(r.err, r.file.Close())
	r.err = os.ErrClosed
	return err
}

// Fault notes what is done to the cluster.
func (r *Recorder) Fault(format string, args ...any) {
	r.add(Event{Kind: Fault, Text: fmt.Sprintf(format, args...)})
}

// Checksum notes what a broker's replica holds from an offset up to another, exclusive.
func (r *Recorder) Checksum(broker int32, key record.TopicPartition, from, end record.Offset, crc uint32) {
	r.add(Event{Kind: Checksum, Broker: broker, Key: key, From: from, End: end, CRC: crc})
}

func (r *Recorder) process() Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.next
	r.next++
	return p
}

// Producer is one producer's part of a history. A transactional one has one transaction at a time.
type Producer struct {
	r  *Recorder
	id Process

	// mu makes the numbers of a partition rise in the order of its Send events.
	mu   sync.Mutex
	n    map[record.TopicPartition]uint32
	txn  uint64
	open bool
}

// NewProducer begins a process that sends.
func (r *Recorder) NewProducer() *Producer {
	return &Producer{r: r, id: r.process(), n: make(map[record.TopicPartition]uint32)}
}

// ID is the number of the process.
func (p *Producer) ID() Process { return p.id }

// Sent is a value that has been sent, or is about to be. It awaits one call that says what became of it.
type Sent struct {
	Value
	Key record.TopicPartition
	r   *Recorder
}

// Send notes that a value is about to be sent to a partition, in the open transaction if there is one.
// A producer that wants its order checked hands values to its client in the order of these calls.
func (p *Producer) Send(key record.TopicPartition) Sent { return p.send(Event{Key: key}) }

func (p *Producer) send(e Event) Sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Kind, e.Process, e.N, e.Txn = Send, p.id, p.n[e.Key], p.current()
	p.n[e.Key]++
	p.r.add(e)
	return Sent{e.Value(), e.Key, p.r}
}

// SendResult is Send of a value that a job of group makes of the record at an offset of source; the job
// makes one of each.
func (p *Producer) SendResult(key record.TopicPartition, group string, source record.TopicPartition, offset record.Offset) Sent {
	return p.send(Event{Key: key, Group: group, Source: source, SourceOffset: offset})
}

func (p *Producer) current() uint64 {
	if p.open {
		return p.txn
	}
	return 0
}

// Payload is what the record must carry, size bytes long or as short as it can be.
func (s Sent) Payload(size int) []byte { return AppendPayload(nil, s.Key, s.Value, size) }

// Written notes that the value was acknowledged at an offset, NoOffset if the client was not told
// which; duplicate: that an earlier attempt had written it.
func (s Sent) Written(offset record.Offset, duplicate bool) {
	s.r.add(Event{Kind: Written, Process: s.Process, Key: s.Key, N: s.N, Offset: offset, Duplicate: duplicate})
}

// NotWritten notes that the value is certainly not written and never will be.
func (s Sent) NotWritten(why string) {
	s.r.add(Event{Kind: NotWritten, Process: s.Process, Key: s.Key, N: s.N, Text: why})
}

// Unknown notes that nobody knows whether the value is written or will be.
func (s Sent) Unknown(why string) {
	s.r.add(Event{Kind: Unknown, Process: s.Process, Key: s.Key, N: s.N, Text: why})
}

// Begin notes that a transaction begins: what is sent until its end belongs to it.
func (p *Producer) Begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.txn++
	p.open = true
	p.r.add(Event{Kind: Begin, Process: p.id, Txn: p.txn})
}

// end notes something about the transaction, and whether that ends it.
func (p *Producer) end(k Kind, ends bool, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = p.open && !ends
	p.r.add(Event{Kind: k, Process: p.id, Txn: p.txn, Text: why})
}

// Commit notes that the client is about to be asked to commit.
func (p *Producer) Commit() { p.end(Commit, false, "") }

// Abort notes that the client is about to be asked to abort.
func (p *Producer) Abort() { p.end(Abort, false, "") }

// Committed notes that the transaction is committed.
func (p *Producer) Committed() { p.end(Committed, true, "") }

// Aborted notes that the transaction certainly is not committed and never will be.
func (p *Producer) Aborted(why string) { p.end(Aborted, true, why) }

// Undecided notes that nobody knows how the transaction ends.
func (p *Producer) Undecided(why string) { p.end(Undecided, true, why) }

// SendOffset notes that an offset of a group is about to be committed with the open transaction.
func (p *Producer) SendOffset(group string, key record.TopicPartition, offset record.Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r.add(Event{Kind: OffsetCommit, Process: p.id, Group: group, Key: key, Offset: offset, Txn: p.current()})
}

// Consumer is one consumer's part of a history.
type Consumer struct {
	r           *Recorder
	id          Process
	uncommitted bool

	// mu guards the runs that are being joined.
	mu   sync.Mutex
	runs []Record
}

// NewConsumer begins a process that reads committed data, or with uncommitted everything.
func (r *Recorder) NewConsumer(uncommitted bool) *Consumer {
	return &Consumer{r: r, id: r.process(), uncommitted: uncommitted}
}

// ID is the number of the process.
func (c *Consumer) ID() Process { return c.id }

// Assign notes that the consumer goes on with a partition at an offset; NoOffset: it is not known where.
func (c *Consumer) Assign(key record.TopicPartition, offset record.Offset) {
	c.r.add(Event{Kind: Assign, Process: c.id, Key: key, Offset: offset})
}

// Revoke notes that the consumer goes on with a partition no longer.
func (c *Consumer) Revoke(key record.TopicPartition) {
	c.r.add(Event{Kind: Revoke, Process: c.id, Key: key})
}

// Got is one record that a consumer was given. Payload is what Sent.Payload made.
type Got struct {
	Offset  record.Offset
	Payload []byte
}

// Poll notes records of a partition in the order in which the consumer was given them, and the
// position after them.
func (c *Consumer) Poll(key record.TopicPartition, got []Got, next record.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = c.runs[:0]
	for _, g := range got {
		v, err := ParsePayload(key, g.Payload)
		if err != nil {
			c.runs = append(c.runs, Record{Offset: g.Offset, Count: 1, Bad: err.Error()})
			continue
		}
		c.runs = appendRun(c.runs, g.Offset, v)
	}
	c.r.add(Event{Kind: Poll, Process: c.id, Key: key, Records: c.runs, End: next, Uncommitted: c.uncommitted})
}

// maxRun bounds what one run joins.
const maxRun = 1 << 20

// appendRun joins a record to the run before it if it goes on with it.
func appendRun(runs []Record, offset record.Offset, v Value) []Record {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if last.Bad == "" && last.Count < maxRun && last.end() == offset && last.Value.Process == v.Process && last.Value.N+last.Count == v.N {
			last.Count++
			return runs
		}
	}
	return append(runs, Record{Offset: offset, Value: v, Count: 1})
}

// Final notes that the consumer has read a partition from where the log starts up to end, and that
// nothing is sent to it any more; high is the end of the log itself.
func (c *Consumer) Final(key record.TopicPartition, from, end, high record.Offset) {
	c.r.add(Event{Kind: Final, Process: c.id, Key: key, From: from, End: end, High: high, Uncommitted: c.uncommitted})
}

// CommitOffset notes that an offset is about to be committed outside of transactions; reset: in order
// to move the group.
func (c *Consumer) CommitOffset(group string, key record.TopicPartition, offset record.Offset, reset bool) {
	c.r.add(Event{Kind: OffsetCommit, Process: c.id, Group: group, Key: key, Offset: offset, Reset: reset})
}

// OffsetCommitted notes that a CommitOffset was done.
func (c *Consumer) OffsetCommitted(group string, key record.TopicPartition, offset record.Offset) {
	c.r.add(Event{Kind: OffsetCommitted, Process: c.id, Group: group, Key: key, Offset: offset})
}

// OffsetRefused notes that a CommitOffset certainly was not done.
func (c *Consumer) OffsetRefused(group string, key record.TopicPartition, offset record.Offset, why string) {
	c.r.add(Event{Kind: OffsetRefused, Process: c.id, Group: group, Key: key, Offset: offset, Text: why})
}

// AskOffset notes that the group's committed offset is about to be asked for.
func (c *Consumer) AskOffset(group string, key record.TopicPartition) {
	c.r.add(Event{Kind: OffsetAsked, Process: c.id, Group: group, Key: key})
}

// OffsetTold notes the answer; NoOffset: none is committed.
func (c *Consumer) OffsetTold(group string, key record.TopicPartition, offset record.Offset) {
	c.r.add(Event{Kind: OffsetTold, Process: c.id, Group: group, Key: key, Offset: offset})
}
