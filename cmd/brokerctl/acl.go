package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

func (p *program) aclCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "acl",
		Short: "List, create and delete access rules",
		Long: `Rules say what users may do, as in Kafka: what no rule allows is denied, and a rule that
denies beats all that allow. Read, write, delete and alter imply describe; alter_configs
implies describe_configs. They decide where brokers have security.authorizer: acl.

  producer      write on its topics; with transactions write on its transactional id
  consumer      read on its topics, read on its group
  administrator create, alter, delete on topics; alter, describe on the cluster`,
		Example: `  brokerctl acl create --principal User:alice --operation write --topic orders
  brokerctl acl create --principal User:bob --operation read --topic orders. --prefixed
  brokerctl acl create --principal User:bob --operation read --group billing
  brokerctl acl list --topic orders
  brokerctl acl delete --principal User:bob`,
	})
	cmd.AddCommand(p.aclCreate(), p.aclList(), p.aclDelete())
	return cmd
}

// aclFlags are what rules are made of on a command line.
type aclFlags struct {
	topics, groups, ids   []string
	cluster               bool
	pattern               string
	principals, hosts, of []string
	permission            string
}

func (a *aclFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&a.principals, "principal", nil, "User:NAME, or User:* for everybody; repeatable")
	f.StringSliceVar(&a.of, "operation", nil, "read, write, create, delete, alter, describe, ... or all; repeatable")
	f.StringArrayVar(&a.topics, "topic", nil, "topic, or '*' for all; repeatable")
	f.StringArrayVar(&a.groups, "group", nil, "consumer group, or '*'; repeatable")
	f.StringArrayVar(&a.ids, "transactional-id", nil, "transactional id, or '*'; repeatable")
	f.BoolVar(&a.cluster, "cluster", false, "the cluster itself")
	f.StringArrayVar(&a.hosts, "host", nil, "IP address that the principal comes from (default: any); repeatable")
}

// rules are all combinations of what was named. What was not named is one empty value, or the default.
func (a *aclFlags) rules(defaultHost string) []client.ACL {
	type resource struct{ kind, name string }
	var resources []resource
	add := func(kind string, names []string) {
		for _, n := range names {
			resources = append(resources, resource{kind, n})
		}
	}
	add("topic", a.topics)
	add("group", a.groups)
	add("transactional_id", a.ids)
	if a.cluster {
		add("cluster", []string{"kafka-cluster"})
	}
	if len(resources) == 0 {
		resources = []resource{{}}
	}
	or := func(list []string, empty string) []string {
		if len(list) == 0 {
			return []string{empty}
		}
		return list
	}
	var out []client.ACL
	for _, r := range resources {
		for _, principal := range or(a.principals, "") {
			for _, host := range or(a.hosts, defaultHost) {
				for _, operation := range or(a.of, "") {
					out = append(out, client.ACL{ResourceType: r.kind, Resource: r.name, Pattern: a.pattern, Principal: principal, Host: host,
						Operation: strings.ToLower(operation), Permission: a.permission})
				}
			}
		}
	}
	return out
}

func (p *program) aclCreate() *cobra.Command {
	a := aclFlags{permission: "allow"}
	var deny, prefixed bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Add rules",
		Long: `create adds a rule for each combination of what is named: two principals, two operations
and one topic are four rules. Rules that exist are passed over.`,
		Example: `  brokerctl acl create --principal User:alice --operation read,write --topic orders
  brokerctl acl create --principal User:alice --operation write --topic team-a. --prefixed
  brokerctl acl create --principal User:mallory --operation all --topic '*' --deny`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(a.principals) == 0:
				return usagef("flag --principal is missing: say whom the rule is about, such as User:alice")
			case len(a.of) == 0:
				return usagef("flag --operation is missing: say what the rule is about, such as read")
			case len(a.topics)+len(a.groups)+len(a.ids) == 0 && !a.cluster:
				return usagef("no resource: say --topic, --group, --transactional-id or --cluster")
			}
			if a.pattern = "literal"; prefixed {
				a.pattern = "prefixed"
			}
			if deny {
				a.permission = "deny"
			}
			rules := a.rules("*")
			return p.with(func(c *client.Client) error {
				if err := c.CreateACLs(cmd.Context(), rules...); err != nil {
					return changing(err)
				}
				return p.showACLs(rules)
			})
		},
	}
	a.register(cmd)
	cmd.Flags().BoolVar(&prefixed, "prefixed", false, "names are prefixes: the rule is about all that begin so")
	cmd.Flags().BoolVar(&deny, "deny", false, "forbid instead of allow")
	return cmd
}

func (p *program) aclList() *cobra.Command {
	var a aclFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rules",
		Long: `list shows the rules that match all of what is named. With --pattern match a name finds
every rule that bears on it: literal, prefixed, and '*'.`,
		Example: `  brokerctl acl list
  brokerctl acl list --topic orders --pattern match`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				found, err := p.findACLs(cmd.Context(), c, a)
				if err != nil {
					return err
				}
				return p.showACLs(found)
			})
		},
	}
	a.register(cmd)
	cmd.Flags().StringVar(&a.pattern, "pattern", "", "literal, prefixed or match (default: any)")
	cmd.Flags().StringVar(&a.permission, "permission", "", "allow or deny (default: both)")
	return cmd
}

// findACLs joins what each combination finds, each rule once.
func (p *program) findACLs(ctx context.Context, c *client.Client, a aclFlags) ([]client.ACL, error) {
	found := []client.ACL{}
	seen := make(map[client.ACL]bool)
	for _, filter := range a.rules("") {
		part, err := c.ACLs(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, r := range part {
			if !seen[r] {
				seen[r] = true
				found = append(found, r)
			}
		}
	}
	return found, nil
}

func (p *program) aclDelete() *cobra.Command {
	var a aclFlags
	var dryRun, all bool
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Remove rules",
		Long: `delete removes the rules that match all of what is named, and shows them. Whoever was let
in by them is out with the next request.`,
		Example: `  brokerctl acl delete --principal User:bob --dry-run
  brokerctl acl delete --topic orders --operation write`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters := a.rules("")
			if len(filters) == 1 && filters[0] == (client.ACL{}) && !all {
				return usagef("nothing is named: that would remove all rules; say --all if you mean it")
			}
			return p.with(func(c *client.Client) error {
				removed, err := c.DeleteACLs(cmd.Context(), dryRun, filters...)
				if err != nil {
					return changing(err)
				}
				return p.showACLs(removed)
			})
		},
	}
	a.register(cmd)
	cmd.Flags().StringVar(&a.pattern, "pattern", "", "literal, prefixed or match (default: any)")
	cmd.Flags().StringVar(&a.permission, "permission", "", "allow or deny (default: both)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be removed")
	cmd.Flags().BoolVar(&all, "all", false, "remove every rule")
	return cmd
}

func (p *program) showACLs(rules []client.ACL) error {
	t := newTable("RESOURCE", "NAME", "PATTERN", "PRINCIPAL", "HOST", "OPERATION", "PERMISSION")
	for _, r := range rules {
		t.row(r.ResourceType, r.Resource, r.Pattern, r.Principal, r.Host, r.Operation, r.Permission)
	}
	if rules == nil {
		rules = []client.ACL{}
	}
	return p.show(rules, t)
}
