package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// Table is the workload of a compacted topic: writers, each with keys of its own, change and delete them in transactions, of which they
// commit some and abort others. Whatever was broken meanwhile, and however far the log is compacted, who reads the topic then
// finds the last value of each key that was committed, or that may have been, and nothing that was deleted or aborted. Its
// methods may be called from many goroutines.
type Table struct {
	topic      string
	partitions int32
	began      time.Time

	mu sync.Mutex // guards what follows
	// may holds the values that a key can have; "" stands for none.
	may                map[string][]string
	committed, aborted int
}

// NewTable begins with a topic that is empty.
func NewTable(topic string, partitions int32) *Table {
	return &Table{topic: topic, partitions: partitions, began: time.Now(), may: map[string][]string{}}
}

// A writer has keys that it changes all the time, so that there is much to compact, and more that it seldom changes: what
// became of those is decided by what compaction made of them.
const hotKeys, coldKeys = 12, 150

// Write is one life of a writer: one transaction after the other, each over some of its keys, until one fails, ctx ends, or the
// writer lets go of one that is open. The next life takes the same name.
func (t *Table) Write(ctx context.Context, cl *client.Client, name string, r *rand.Rand) {
	p, err := cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: name, TransactionTimeout: 5 * time.Second})
	if err == nil {
		err = p.InitTransactions(ctx)
	}
	for err == nil && ctx.Err() == nil && r.IntN(60) > 0 {
		if err = p.Begin(); err != nil {
			break
		}
		var wrote map[string]string
		if wrote, err = t.send(ctx, p, name, r); err != nil {
			break
		}
		if r.IntN(3) == 0 {
			if err = p.Flush(ctx); err != nil { // else what is aborted would mostly not be written at all
				break
			}
			err = p.Abort(ctx)
			t.ended(&t.aborted, nil)
		} else {
			// From here on it may be committed; once the next one is, this one is decided.
			t.allow(wrote)
			if err = p.Commit(ctx); err == nil {
				t.ended(&t.committed, wrote)
			}
		}
		select {
		case <-time.After(time.Duration(r.IntN(150)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// send sends the records of one transaction. "" stands for a deletion.
func (t *Table) send(ctx context.Context, p *client.TransactionalProducer, name string, r *rand.Rand) (wrote map[string]string, err error) {
	wrote = map[string]string{}
	for range 1 + r.IntN(6) {
		i := r.IntN(hotKeys)
		if r.IntN(3) == 0 {
			i = hotKeys + r.IntN(coldKeys)
		}
		key, value := fmt.Sprintf("%s/%d", name, i), ""
		rec := client.Record{Topic: t.topic, Key: []byte(key), Partition: client.ToPartition(int32(i) % t.partitions)}
		if r.IntN(5) > 0 {
			value = fmt.Sprintf("%s/%d", time.Since(t.began), r.Uint64())
			rec.Value = []byte(value + " " + strings.Repeat("x", r.IntN(3000)))
		}
		if err = p.Send(ctx, rec, func(client.Result) {}); err != nil {
			return nil, err
		}
		wrote[key] = value
	}
	return wrote, nil
}

// allow notes values that keys may have from now on.
func (t *Table) allow(wrote map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, v := range wrote {
		if t.may[k] == nil {
			t.may[k] = []string{""}
		}
		t.may[k] = append(t.may[k], v)
	}
}

// ended notes that a transaction has: its values are those of its keys.
func (t *Table) ended(count *int, wrote map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*count++
	for k, v := range wrote {
		t.may[k] = []string{v}
	}
}

// Counts says how many transactions were committed and aborted, for sure, of how many keys.
func (t *Table) Counts() (committed, aborted, keys int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.committed, t.aborted, len(t.may)
}

// Check reads the topic to its end, once no writer is left, and says what is wrong with it. records is how many it holds.
func (t *Table) Check(ctx context.Context, cl *client.Client) (wrong []string, records int, err error) {
	got, records, err := t.read(ctx, cl)
	if err != nil {
		return nil, records, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, may := range t.may {
		if !slices.Contains(may, got[key]) {
			wrong = append(wrong, fmt.Sprintf("key %s is %q, want one of %q", key, got[key], may))
		}
	}
	for key := range got {
		if t.may[key] == nil {
			wrong = append(wrong, fmt.Sprintf("key %s is %q, and was never committed", key, got[key]))
		}
	}
	slices.Sort(wrong)
	return wrong, records, nil
}

// read gives the last committed value of each key, up to a space.
func (t *Table) read(ctx context.Context, cl *client.Client) (map[string]string, int, error) {
	var all []record.TopicPartition
	at := map[record.TopicPartition]client.Position{}
	for n := range t.partitions {
		all = append(all, record.TopicPartition{Topic: t.topic, Partition: n})
		at[all[n]] = client.End()
	}
	ends, err := cl.ListOffsets(ctx, client.ReadUncommitted, at)
	if err != nil {
		return nil, 0, err
	}
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	if err == nil {
		err = k.Assign(ctx, all...)
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = k.Close(ctx) }() // never fails
	table, records := map[string]string{}, 0
	left := map[record.TopicPartition]record.Offset{}
	for tp, e := range ends {
		if e.Offset > 0 {
			left[tp] = e.Offset
		}
	}
	for len(left) > 0 {
		fetched, err := k.Poll(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("not read to the end, a transaction is open maybe: %w", err)
		}
		for i := range fetched {
			f := &fetched[i]
			for r, err := range f.Records() {
				if err != nil {
					return nil, 0, err
				}
				records++
				if r.Value == nil {
					delete(table, string(r.Key))
					continue
				}
				table[string(r.Key)], _, _ = strings.Cut(string(r.Value), " ")
			}
			if end, ok := left[f.TopicPartition]; ok && f.Next >= end {
				delete(left, f.TopicPartition)
			}
		}
	}
	return table, records, nil
}

// Settle waits until every replica has compacted all that was agreed, and nothing more is due. Nobody may write.
func (t *Table) Settle(ctx context.Context, cl *client.Client, replicas int) error {
	for quiet := 0; quiet < 10; {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("compaction does not come to its end: %w", ctx.Err())
		}
		groups, failed, err := cl.RaftGroups(ctx, t.topic)
		agreed := map[string]*client.Compaction{}
		done := err == nil && len(failed) == 0 && len(groups) == replicas*int(t.partitions)
		for _, g := range groups {
			k := g.Compaction
			if k == nil || !k.Done || k.Running || g.Ready && k.Due {
				done = false
				continue
			}
			if other := agreed[g.Name]; other != nil && (other.Agreed != k.Agreed || other.Horizon != k.Horizon) {
				done = false
			}
			agreed[g.Name] = k
		}
		if quiet++; !done {
			quiet = 0
		}
	}
	return nil
}
