package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) producerCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "producer",
		Aliases: []string{"producers"},
		Short:   "Show what is known of producers, and what happened to them",
	})
	cmd.AddCommand(p.producerDescribe(), p.producerHistory())
	return cmd
}

// producerJSON is a producer as -o json shows it.
type producerJSON struct {
	ID               record.ProducerID `json:"producer_id"`
	Epoch            record.Epoch      `json:"epoch"`
	LastSequence     record.Sequence   `json:"last_sequence"`
	LastTimestamp    int64             `json:"last_timestamp_ms"`
	CoordinatorEpoch int32             `json:"coordinator_epoch"`
	TxnStart         record.Offset     `json:"txn_start_offset"`
	Window           []windowJSON      `json:"window"`
	// Refused is the first batch of this epoch that the present leader refused.
	Refused *transactionEventJSON `json:"first_refused,omitempty"`
}

type windowJSON struct {
	BaseSequence record.Sequence `json:"base_sequence"`
	LastSequence record.Sequence `json:"last_sequence"`
	BaseOffset   record.Offset   `json:"base_offset"`
	LastOffset   record.Offset   `json:"last_offset"`
	Timestamp    int64           `json:"timestamp_ms"`
}

func (p *program) producerDescribe() *cobra.Command {
	var ids []int64
	cmd := &cobra.Command{
		Use:   "describe TOPIC/PARTITION",
		Short: "Show each producer's epoch, last sequence and five-batch window",
		Long: `Show what the leader of a partition remembers of each producer: its epoch, the last
sequence it has taken, and the window, its last five batches, newest first. A batch
that is sent again and is in the window is answered with its first offset; one that
is older, or does not follow LAST SEQ, is refused with OUT_OF_ORDER_SEQUENCE_NUMBER.`,
		Example: `  brokerctl producer describe orders/0
  brokerctl producer describe orders/0 --id 4001 -o json`,
		Args:              exactly("TOPIC/PARTITION"),
		ValidArgsFunction: p.completePartitions,
		RunE: func(cmd *cobra.Command, args []string) error {
			tp, err := parseTopicPartition(args[0])
			if err != nil {
				return err
			}
			which := make([]record.ProducerID, len(ids))
			for i, id := range ids {
				which[i] = record.ProducerID(id)
			}
			return p.with(func(c *client.Client) error {
				states, truncated, err := c.DescribeProducers(cmd.Context(), tp, which...)
				if err != nil {
					return err
				}
				slices.SortFunc(states, func(a, b client.ProducerState) int { return int(a.ID - b.ID) })
				if truncated {
					p.sayf("there are more producers than brokers tell at once: name some with --id")
				}
				if len(states) == 0 {
					p.sayf("%v remembers no producers: nobody has written there with idempotence lately", tp)
				}
				return p.show(producersJSON(states), producerTable(states))
			})
		},
	}
	cmd.Flags().Int64SliceVar(&ids, "id", nil, "only these producer ids")
	return cmd
}

func producersJSON(states []client.ProducerState) []producerJSON {
	out := []producerJSON{}
	for _, s := range states {
		j := producerJSON{ID: s.ID, Epoch: s.Epoch, LastSequence: s.LastSequence, LastTimestamp: s.LastTimestamp,
			CoordinatorEpoch: s.CoordinatorEpoch, TxnStart: s.TxnStart, Window: []windowJSON{}}
		if s.Refused != nil {
			e := eventJSON(*s.Refused)
			j.Refused = &e
		}
		for _, b := range s.Batches {
			j.Window = append(j.Window, windowJSON(b))
		}
		out = append(out, j)
	}
	return out
}

// producerTable has a line per batch of the window; what belongs to the producer stands on its first.
func producerTable(states []client.ProducerState) *table {
	open := slices.ContainsFunc(states, func(s client.ProducerState) bool { return s.TxnStart >= 0 })
	headers := []string{">PRODUCER", ">EPOCH", ">LAST SEQ", "SEQUENCES", "OFFSETS", "TIME (UTC)"}
	if open {
		headers = slices.Insert(headers, 3, ">OPEN TXN")
	}
	t := newTable(headers...)
	for _, s := range states {
		head := []any{s.ID, s.Epoch, dash(s.LastSequence)}
		blank := []any{"", "", ""}
		if open {
			head, blank = append(head, dash(s.TxnStart)), append(blank, "")
		}
		if len(s.Batches) == 0 {
			t.row(append(head, "-", "-", shortStamp(s.LastTimestamp))...)
		}
		for i := len(s.Batches) - 1; i >= 0; i-- {
			b := s.Batches[i]
			t.row(append(slices.Clone(head), span(b.BaseSequence, b.LastSequence), span(b.BaseOffset, b.LastOffset), shortStamp(b.Timestamp))...)
			head = blank
		}
	}
	return t
}

// span is "3" or "3-7".
func span[T ~int32 | ~int64](from, to T) string {
	if from == to {
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d-%d", from, to)
}
