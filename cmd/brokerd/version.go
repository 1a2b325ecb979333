package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/buildinfo"
)

func (p *program) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say which build this is",
		Example: "  brokerd version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "text":
				_, err := fmt.Fprintln(p.stdout, "brokerd", buildinfo.Get())
				return err
			case "json":
				return json.NewEncoder(p.stdout).Encode(buildinfo.Get())
			default:
				return unknownOutput(output, "text", "json")
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func unknownOutput(got string, known ...string) error {
	return &usageError{fmt.Errorf("flag --output: %q is unknown: use one of %q", got, known)}
}
