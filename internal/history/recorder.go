package history

import (
	"bufio"
	"fmt"
	"io"
	"sync"
	"time"
)

// Recorder takes down a history while it happens. Its methods, and those of the producers and
// consumers it gives out, may be called from many goroutines; the order in which the calls are made
// is the order of the events, so a producer must record a Send before it sends, and everything else
// after it has seen it.
type Recorder struct {
	now   func() time.Time
	start time.Time

	// mu guards what follows.
	mu   sync.Mutex
	next Process
	// keep takes the events; nil w: in memory.
	events []Event
	w      *bufio.Writer
	buf    []byte
	err    error
}

// NewRecorder records in memory. now is the clock; nil: the machine's.
func NewRecorder(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now, start: now(), next: 1}
}

// NewFileRecorder records to a file, or whatever w is. Close writes what is left.
func NewFileRecorder(w io.Writer, note string, now func() time.Time) *Recorder {
	r := NewRecorder(now)
	r.w = bufio.NewWriterSize(w, 1<<18)
	_, r.err = r.w.Write(appendHeader(nil, r.start, note))
	return r
}

// add takes an event down. Records are copied.
func (r *Recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = r.now().Sub(r.start)
	if r.w == nil {
		e.Records = append([]Record(nil), e.Records...)
		r.events = append(r.events, e)
		return
	}
	if r.err == nil {
		r.buf = appendEvent(r.buf[:0], &e)
		_, r.err = r.w.Write(r.buf)
	}
}

// Source gives what has been recorded in memory so far.
func (r *Recorder) Source() Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Events(r.events[:len(r.events):len(r.events)])
}

// Flush writes to the file what is still in memory, and says whether everything has been written.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w != nil && r.err == nil {
		r.err = r.w.Flush()
	}
	return r.err
}

// Fault notes what is done to the cluster.
func (r *Recorder) Fault(format string, args ...any) {
	r.add(Event{Kind: Fault, Text: fmt.Sprintf(format, args...)})
}

// Checksum notes what a broker's replica holds from an offset up to another, exclusive.
func (r *Recorder) Checksum(broker int32, key Key, from, to int64, crc uint32, batches int64) {
	r.add(Event{Kind: Checksum, Process: Process(broker), Key: key, Offset: from, End: to, CRC: crc, Batches: batches})
}

// Producer is one producer's part of a history.
type Producer struct {
	r  *Recorder
	id Process

	// mu makes the numbers of a key rise in the order of its Send events.
	mu sync.Mutex
	n  map[Key]uint64
}

// NewProducer begins a process that sends.
func (r *Recorder) NewProducer() *Producer {
	return &Producer{r: r, id: r.process(), n: make(map[Key]uint64)}
}

func (r *Recorder) process() Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.next
	r.next++
	return p
}

// ID is the number of the process.
func (p *Producer) ID() Process { return p.id }

// Send notes that a value is about to be sent to key, and gives the value. A producer that wants its
// order checked hands values to its client in the order of these calls.
func (p *Producer) Send(key Key) Value {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.n[key]
	p.n[key]++
	p.r.add(Event{Kind: Send, Process: p.id, Key: key, First: n, Count: 1})
	return Value{Process: p.id, N: n}
}

// OK notes that a value was acknowledged at an offset, NoOffset if the client was not told which.
func (p *Producer) OK(key Key, v Value, offset int64) {
	p.r.add(Event{Kind: OK, Process: p.id, Key: key, First: v.N, Count: 1, Offset: offset})
}

// Fail notes that a value is certainly not written and never will be.
func (p *Producer) Fail(key Key, v Value, why string) {
	p.r.add(Event{Kind: Fail, Process: p.id, Key: key, First: v.N, Count: 1, Text: why})
}

// Info notes that nobody knows whether a value is written or will be.
func (p *Producer) Info(key Key, v Value, why string) {
	p.r.add(Event{Kind: Info, Process: p.id, Key: key, First: v.N, Count: 1, Text: why})
}

// Consumer is one consumer's part of a history.
type Consumer struct {
	r  *Recorder
	id Process

	// mu guards the run that is being joined.
	mu  sync.Mutex
	run []Record
}

// NewConsumer begins a process that reads.
func (r *Recorder) NewConsumer() *Consumer { return &Consumer{r: r, id: r.process()} }

// ID is the number of the process.
func (c *Consumer) ID() Process { return c.id }

// Assign notes that the consumer goes on with key at an offset.
func (c *Consumer) Assign(key Key, offset int64) {
	c.r.add(Event{Kind: Assign, Process: c.id, Key: key, Offset: offset})
}

// Got is one record that a consumer was given.
type Got struct {
	Offset  int64
	Payload []byte
}

// Read notes records of key in the order in which the consumer was given them. Payloads are those
// that AppendPayload made.
func (c *Consumer) Read(key Key, got []Got) {
	if len(got) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run = c.run[:0]
	for _, g := range got {
		v, err := ParsePayload(key, g.Payload)
		if err != nil {
			c.run = append(c.run, Record{Offset: g.Offset, Count: 1, Bad: err.Error()})
			continue
		}
		c.run = appendRun(c.run, g.Offset, v)
	}
	c.r.add(Event{Kind: Read, Process: c.id, Key: key, Records: c.run})
}

// appendRun joins a record to the run before it if it goes on with it.
func appendRun(run []Record, offset int64, v Value) []Record {
	if n := len(run); n > 0 {
		last := &run[n-1]
		if last.Bad == "" && last.Value.Process == v.Process && last.Value.N+last.Count == v.N && last.Offset+int64(last.Count) == offset {
			last.Count++
			return run
		}
	}
	return append(run, Record{Offset: offset, Value: v, Count: 1})
}

// Final notes that the consumer has read key from where the log starts up to where it ends, now that
// nothing is sent to it any more. What comes after it must not be a Send to key.
func (c *Consumer) Final(key Key, from, to int64) {
	c.r.add(Event{Kind: Final, Process: c.id, Key: key, Offset: from, End: to})
}
