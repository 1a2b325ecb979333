package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// complete offers what is found in the cluster for the one argument of a command.
func (p *program) complete(args []string, find func(c *client.Client) ([]string, error)) (found []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	p.flags.timeout = min(p.flags.timeout, time.Second) // somebody has pressed a key
	err := p.with(func(c *client.Client) (err error) {
		found, err = find(c)
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeTopics offers the topics there are.
func (p *program) completeTopics(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.complete(args, func(c *client.Client) (names []string, _ error) {
		m, err := c.Metadata(cmd.Context())
		for _, t := range m.Topics {
			names = append(names, t.Name)
		}
		return names, err
	})
}

// completePartitions offers TOPIC/PARTITION.
func (p *program) completePartitions(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.complete(args, func(c *client.Client) (names []string, _ error) {
		m, err := c.Metadata(cmd.Context())
		for _, t := range m.Topics {
			for _, part := range t.Partitions {
				names = append(names, record.TopicPartition{Topic: t.Name, Partition: part.Partition}.String())
			}
		}
		return names, err
	})
}

// completeBrokers offers the ids of brokers, with their addresses.
func (p *program) completeBrokers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.complete(args, func(c *client.Client) (ids []string, _ error) {
		m, err := c.Metadata(cmd.Context())
		for _, b := range m.Brokers {
			ids = append(ids, fmt.Sprintf("%d\t%s", b.ID, b.Address))
		}
		return ids, err
	})
}

// completeTransactions offers the transactional ids there are.
func (p *program) completeTransactions(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return p.complete(args, func(c *client.Client) (ids []string, _ error) {
		list, _, err := c.ListTransactions(cmd.Context(), client.TransactionFilter{Prefix: typed})
		for _, t := range list {
			ids = append(ids, t.TransactionalID)
		}
		return ids, err
	})
}

// completeGroups offers the groups there are.
func (p *program) completeGroups(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return p.complete(args, func(c *client.Client) (ids []string, _ error) {
		list, _, err := c.ListGroups(cmd.Context(), client.GroupFilter{Prefix: typed})
		for _, g := range list {
			ids = append(ids, g.ID)
		}
		return ids, err
	})
}
