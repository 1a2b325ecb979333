package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/broker"
)

func (p *program) recoverCommand() *cobra.Command {
	var options configOptions
	var accept bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on with this broker alone after the others are lost for ever",
		Long: `recover makes this broker the only voter of all that it holds a replica of, when the
majority is lost for ever: of three brokers, two. It is the last resort. The broker must
be stopped. Without --accept-loss it says what would be, and changes no more than any
start of the broker does: what a crash left half written at the end of a log is cut off.
brokerctl log verify looks at the same directory and changes nothing at all.

What may be lost: records that the lost brokers had acknowledged and this one had not got
yet; which those are, nobody can tell any more. What may come to be: records whose
producers were never told that they are written. Everything else is there, transactions
and committed offsets included.

The lost brokers must never come back: they would go on with what they know. Remove their
directories. If several brokers survive, recover the one whose entries reach furthest, and
give the others new directories and new ids.

Afterwards start the broker, add new ones with new ids, then, for each lost one:
  brokerctl cluster drain ID && brokerctl cluster unregister ID`,
		Example: `  brokerd recover --config broker-1.yaml
  brokerd recover --config broker-1.yaml --accept-loss`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := options.load(cmd, p.environ)
			if err != nil {
				return err
			}
			if err := loaded.validate(); err != nil {
				return err
			}
			groups, err := broker.Recover(loaded.config, broker.Options{}, !accept)
			if err != nil {
				return err
			}
			return printRecovered(p.stdout, loaded.config.BrokerID, groups, accept)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&accept, "accept-loss", false, "do it; what the lost brokers alone had is lost")
	options.registerSources(cmd)
	return cmd
}

// votersOf are the brokers that vote in a group.
func votersOf(g broker.RecoveredGroup) []string {
	ids := make([]string, len(g.Voters))
	for i, v := range g.Voters {
		ids[i], _, _ = strings.Cut(string(v), "/")
	}
	return ids
}

func printRecovered(w io.Writer, id int32, groups []broker.RecoveredGroup, done bool) error {
	var b strings.Builder
	changed, failed := 0, 0
	fmt.Fprintf(&b, "%-28s  %-36s  %12s  %s\n", "GROUP", "TOPIC ID AND PARTITION", "LAST ENTRY", "VOTERS")
	for _, g := range groups {
		topic := "-"
		if g.Topic != "" {
			topic = fmt.Sprintf("%s/%d", g.Topic, g.Partition)
		}
		state := strings.Join(votersOf(g), ", ")
		switch {
		case g.Err != nil:
			failed++
			state = "! left as it is: " + g.Err.Error()
		case !g.Changed:
			state += " already"
		default:
			changed++
		}
		fmt.Fprintf(&b, "%-28s  %-36s  %12d  %s\n", g.Name, topic, g.Last, state)
	}
	if len(groups) > 0 && !done && !slices.Contains(votersOf(groups[0]), fmt.Sprint(id)) {
		fmt.Fprintf(&b, "\n! broker %d has no vote for the metadata: it may lack what was agreed last, and hold replicas that were given to\n"+
			"  others long ago. If a broker with a vote survives (see VOTERS), recover that one.\n", id)
	}
	switch {
	case done:
		fmt.Fprintf(&b, "\nbroker %d is now the only voter of %d groups. Start it; never start the lost brokers again.\n", id, changed)
	default:
		fmt.Fprintf(&b, "\nno group was changed. With --accept-loss broker %d becomes the only voter of %d groups:\n"+
			"what the other voters alone had is lost, and they must never come back.\n", id, changed)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d groups were left as they are", failed)
	}
	if !done {
		return errors.New("not done without --accept-loss")
	}
	return nil
}
