package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) topicDeleteRecords() *cobra.Command {
	var before string
	cmd := &cobra.Command{
		Use:   "delete-records TOPIC/PARTITION --before OFFSET",
		Short: "Delete the oldest records of a partition",
		Long: `Delete the records of a partition below an offset: its log start rises to there.

They cannot be read any more at once, and never come back. Their disk space is
freed some minutes later, in whole segments. Deleting again does no harm.`,
		Example: `  brokerctl topic delete-records orders/0 --before 1000
  brokerctl topic delete-records orders/0 --before end`,
		Args:              exactly("TOPIC/PARTITION"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			tp, err := parseTopicPartition(args[0])
			if err != nil {
				return err
			}
			offset, err := parseBefore(before)
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				start, err := c.DeleteRecords(cmd.Context(), tp, offset)
				if err != nil {
					return changing(err)
				}
				if p.json() {
					return p.writeJSON(deletedJSON{Topic: tp.Topic, Partition: tp.Partition, LogStart: int64(start)})
				}
				return writeTo(p.stdout, fmt.Sprintf("%s begins at offset %d\n", tp, start))
			})
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "the lowest offset to keep, or end: delete all records (required)")
	return cmd
}

type deletedJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	LogStart  int64  `json:"log_start"`
}

func parseBefore(s string) (record.Offset, error) {
	if s == "end" {
		return record.NoOffset, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, usagef("--before is %q: want the lowest offset to keep, 0 or more, or end", s)
	}
	return record.Offset(n), nil
}
