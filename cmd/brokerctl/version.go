package main

import (
	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/buildinfo"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which build this is",
		Example: "  brokerctl version -o json",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			if p.json() {
				return p.writeJSON(buildinfo.Get())
			}
			return writeTo(p.stdout, "brokerctl "+buildinfo.Get().String()+"\n")
		},
	}
}
