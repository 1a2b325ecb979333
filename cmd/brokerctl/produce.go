package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// produceOptions are the flags of produce.
type produceOptions struct {
	topic       string
	partition   int32
	separator   string
	nullMarker  string
	headers     []string
	acks        string
	compression string
	linger      time.Duration
	plain       bool
	count       int64
	size        sizeFlag
	rate        float64
	results     bool
}

func (p *program) produceCommand() *cobra.Command {
	o := produceOptions{size: 100}
	cmd := &cobra.Command{
		Use:   "produce TOPIC[/PARTITION]",
		Short: "Write records: one for each line of stdin, or generated ones",
		Long: `Write each line of stdin as one record, or with --count that many generated records.

Every record ends as written, not written, or unknown (it may have been written).
The summary on stderr counts them; exit code 1 says that some were not written,
3 that some are unknown. --results prints what became of each.`,
		Example: `  printf 'one\ntwo\n' | brokerctl produce greetings
  printf 'k1:v1\nk2:v2\n' | brokerctl produce orders --key-separator : --results
  printf 'k1:-\n' | brokerctl produce accounts -K : --null-marker -
  brokerctl produce load/0 --count 100000 --size 1k --compression zstd
  tail -F app.log | brokerctl produce logs --linger 100ms`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.topic, o.partition = args[0], -1
			if strings.Contains(args[0], "/") {
				tp, err := parseTopicPartition(args[0])
				if err != nil {
					return err
				}
				o.topic, o.partition = tp.Topic, tp.Partition
			}
			return p.with(func(c *client.Client) error { return p.produce(cmd.Context(), c, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.separator, "key-separator", "K", "", "what stands before it in a line is the key")
	f.StringVar(&o.nullMarker, "null-marker", "", "a value that reads so is none: in a compacted topic such a record deletes its key")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "name=value for every record, repeatable")
	f.StringVarP(&o.acks, "acks", "a", "all", "all, leader or none")
	f.StringVarP(&o.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.DurationVar(&o.linger, "linger", 5*time.Millisecond, "how long a batch waits for more records")
	f.BoolVar(&o.plain, "no-idempotence", false, "retries may write records twice")
	f.Int64VarP(&o.count, "count", "n", 0, "generate so many records instead of reading stdin")
	f.VarP(&o.size, "size", "s", "size of generated values")
	f.Float64Var(&o.rate, "rate", 0, "records per second at most; 0: as fast as possible")
	f.BoolVar(&o.results, "results", false, "print what became of each record")
	p.completeCodecs(cmd)
	return cmd
}

// completeCodecs offers the values of --acks and --compression.
func (p *program) completeCodecs(cmd *cobra.Command) {
	for flag, values := range map[string][]string{"acks": {"all", "leader", "none"}, "compression": {"none", "gzip", "snappy", "lz4", "zstd"}} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	}
}

// producerConfig reads the flags that produce and bench share.
func producerConfig(acks, compression string, linger time.Duration, plain bool) (client.ProducerConfig, error) {
	// How large a record may be is for the topic to say.
	cfg := client.ProducerConfig{DisableIdempotence: plain, Linger: linger, MaxRequestBytes: 64 << 20, BufferBytes: 64 << 20}
	if linger == 0 {
		cfg.Linger = client.NoLinger
	}
	switch acks {
	case "all":
	case "leader":
		cfg.Acks = client.AcksLeader
	case "none":
		cfg.Acks = client.AcksNone
	default:
		return cfg, usagef("flag --acks: %q is unknown: use all, leader or none", acks)
	}
	var err error
	if cfg.Compression, err = record.ParseCodec(compression); err != nil {
		return cfg, usagef("flag --compression: %w", err)
	}
	return cfg, nil
}

// tally counts outcomes and remembers the first failure.
type tally struct {
	written, notWritten, unknown, duplicates, bytes atomic.Int64

	mu    sync.Mutex // guards first
	first error
}

func (t *tally) add(r client.Result) {
	switch r.Outcome {
	case client.Written:
		t.written.Add(1)
		if r.Duplicate {
			t.duplicates.Add(1)
		}
		return
	case client.NotWritten:
		t.notWritten.Add(1)
	default:
		t.unknown.Add(1)
	}
	if r.Err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.first == nil {
			t.first = r.Err
		}
	}
}

// refuse counts a record that the producer did not take.
func (t *tally) refuse(err error) { t.add(client.Result{Outcome: client.NotWritten, Err: err}) }

func (t *tally) String() string {
	s := plural(t.written.Load(), "record") + " written"
	if n := t.notWritten.Load(); n > 0 {
		s += fmt.Sprintf(", %d not written", n)
	}
	if n := t.unknown.Load(); n > 0 {
		s += fmt.Sprintf(", %d unknown", n)
	}
	return s
}

// err says whether all went well. With acks none nothing is known and nothing is wrong.
func (t *tally) err(acks client.Acks) error {
	outcome := client.Written
	if t.notWritten.Load() > 0 {
		outcome = client.NotWritten
	}
	if t.unknown.Load() > 0 && acks != client.AcksNone {
		outcome = client.Unknown
	}
	if outcome == client.Written {
		return nil
	}
	return &partlyError{summary: t.String(), outcome: outcome, cause: t.first}
}

func (p *program) produce(ctx context.Context, c *client.Client, o *produceOptions) error {
	cfg, err := producerConfig(o.acks, o.compression, o.linger, o.plain)
	if err != nil {
		return err
	}
	headers, err := parseHeaders(o.headers)
	if err != nil {
		return err
	}
	if o.count < 0 {
		return usagef("flag --count: %d is below 0", o.count)
	}
	if err := o.size.value(); err != nil {
		return err
	}
	producer, err := c.NewProducer(cfg)
	if err != nil {
		return &usageError{asFlag(err)}
	}
	next := lines(p.stdin, o.separator, o.nullMarker)
	if o.count > 0 {
		next = generated(o.count, int(o.size))
	}
	out := &resultWriter{p: p, on: o.results}
	t := &tally{}
	start := time.Now()
	bar := p.startProgress(func() string {
		return fmt.Sprintf("%v, %s/s", t, size(int64(float64(t.bytes.Load())/time.Since(start).Seconds())))
	})
	err = p.sendAll(ctx, producer, o, headers, next, t, out)
	if closeErr := producer.Close(ctx); err == nil && closeErr != nil && ctx.Err() != nil {
		err = closeErr
	}
	bar.stop()
	if err == nil {
		err = out.err
	}
	if err != nil {
		p.sayf("%v", t)
		return err
	}
	if bad := t.err(cfg.Acks); bad != nil {
		return bad
	}
	p.sayf("%v", t)
	return nil
}

// sendAll sends until there is no more.
func (p *program) sendAll(ctx context.Context, producer *client.Producer, o *produceOptions, headers []record.Header,
	next func() (key, value []byte, err error), t *tally, out *resultWriter) error {
	pace := newPacer(o.rate)
	for n := int64(0); ; n++ {
		key, value, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading stdin: %w", err)
		}
		if !pace.wait(ctx) {
			return context.Cause(ctx)
		}
		r := client.Record{Topic: o.topic, Key: key, Value: value, Headers: headers}
		if o.partition >= 0 {
			r.Partition = client.ToPartition(o.partition)
		}
		err = producer.Send(ctx, r, func(res client.Result) {
			t.add(res)
			out.write(n, res)
		})
		t.bytes.Add(int64(len(key) + len(value)))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && errors.Is(err, client.ErrMessageTooLarge):
			t.refuse(err) // the other records are none the worse for it
			out.write(n, client.Result{Outcome: client.NotWritten, Offset: record.NoOffset, Err: err})
		case err != nil:
			return changing(err)
		case out.failed():
			return nil
		}
	}
}

func parseHeaders(pairs []string) ([]record.Header, error) {
	var hs []record.Header
	for _, kv := range pairs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, usagef("flag --header: %q, want name=value", kv)
		}
		hs = append(hs, record.Header{Key: k, Value: []byte(v)})
	}
	return hs, nil
}

// lines gives a record for each line. A value that is nullMarker, if there is such a mark, is null.
func lines(r io.Reader, separator, nullMarker string) func() ([]byte, []byte, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	return func() (key, value []byte, err error) {
		line, err := in.ReadString('\n')
		if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
			return nil, nil, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		text := line
		if separator != "" {
			if k, v, ok := strings.Cut(line, separator); ok {
				key, text = []byte(k), v
			}
		}
		if nullMarker != "" && text == nullMarker {
			return key, nil, nil
		}
		return key, []byte(text), nil
	}
}

// generated gives n values of a size that do not compress.
func generated(n int64, bytes int) func() ([]byte, []byte, error) {
	random := make([]byte, max(generatedBytes, bytes))
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	at := 0
	return func() ([]byte, []byte, error) {
		if n == 0 {
			return nil, nil, io.EOF
		}
		n--
		if at+bytes > len(random) {
			at = 0
		}
		value := random[at : at+bytes : at+bytes]
		at += bytes
		return nil, value, nil
	}
}

// generatedBytes is after how many bytes generated values come again: too late for a batch to be
// compressed by it. Making each anew took a quarter of the client's time in benchmarks.
const generatedBytes = 4 << 20

// resultWriter prints what became of each record; callbacks of several partitions call it.
type resultWriter struct {
	p  *program
	on bool

	mu  sync.Mutex // guards err and the output
	err error
}

// resultJSON is one line of --results -o json.
type resultJSON struct {
	Record    int64         `json:"record"`
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Outcome   string        `json:"outcome"`
	Offset    record.Offset `json:"offset"`
	Duplicate bool          `json:"duplicate,omitempty"`
	Error     string        `json:"error,omitempty"`
}

func (w *resultWriter) write(n int64, r client.Result) {
	if !w.on {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	if !w.p.json() {
		w.err = writeTo(w.p.stdout, fmt.Sprintf("%d: %v\n", n+1, r))
		return
	}
	line := resultJSON{Record: n + 1, Topic: r.Topic, Partition: r.Partition, Outcome: r.Outcome.String(), Offset: r.Offset, Duplicate: r.Duplicate}
	if r.Err != nil {
		line.Error = r.Err.Error()
	}
	w.err = json.NewEncoder(w.p.stdout).Encode(line)
}

func (w *resultWriter) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil
}

// pacer spreads work evenly over time.
type pacer struct {
	every time.Duration
	next  time.Time
}

// newPacer allows rate events per second; 0: any number.
func newPacer(rate float64) *pacer {
	if rate <= 0 {
		return &pacer{}
	}
	return &pacer{every: time.Duration(float64(time.Second) / rate), next: time.Now()}
}

// wait waits for the next event's time; false: ctx has ended.
func (c *pacer) wait(ctx context.Context) bool {
	if c.every == 0 {
		return ctx.Err() == nil
	}
	d := time.Until(c.next)
	c.next = c.next.Add(c.every)
	if d <= 0 {
		return ctx.Err() == nil
	}
	return wait(ctx, d)
}
