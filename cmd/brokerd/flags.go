package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// configFlags are the keys with a flag of their own. All others are reached by
// --set KEY=VALUE.
var configFlags = []struct{ name, path, usage string }{
	{"broker-id", "broker_id", "number of this broker, unlike that of any other (required)"},
	{"data-dir", "data_dir", "directory for this broker's data (required)"},
	{"rack", "rack", "where the broker stands; replicas are spread over racks"},
	{"seeds", "seeds", "peer addresses of the brokers that found the cluster, separated by commas"},
	{"peer-listen", "peer.listen", "address to accept other brokers on"},
	{"peer-advertise", "peer.advertise", "address by which other brokers reach this one"},
	{"http-listen", "http.listen", "address for metrics and health"},
	{"log-level", "log.level", "debug, info, warn or error"},
	{"log-format", "log.format", "text, json, or auto: text on a terminal"},
}

// configOptions are the flags of a command that loads a configuration.
type configOptions struct {
	file string
	set  []string
}

// register adds the flags of a command that needs the whole configuration.
func (o *configOptions) register(cmd *cobra.Command) {
	o.registerSources(cmd)
	for _, f := range configFlags {
		cmd.Flags().String(f.name, "", f.usage)
	}
	_ = cmd.MarkFlagDirname("data-dir")
}

// registerSources adds only the flags that name a source of any key.
func (o *configOptions) registerSources(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&o.file, "config", "c", "", "configuration file (default $"+envConfig+", else "+defaultConfigFile+" if it exists)")
	flags.StringArrayVar(&o.set, "set", nil, "any key of the configuration, as KEY=VALUE; may be repeated")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// settings reads the flags that were given.
func (o *configOptions) settings(cmd *cobra.Command) ([]setting, error) {
	s := newSchema()
	settings, err := parseSets(s, o.set)
	if err != nil {
		return nil, err
	}
	for _, f := range configFlags {
		flag := cmd.Flags().Lookup(f.name)
		if flag == nil || !flag.Changed {
			continue
		}
		set, err := parseSetting(s, f.path, flag.Value.String(), "flag --"+f.name)
		if err != nil {
			return nil, &usageError{fmt.Errorf("flag --%s: %w", f.name, err)}
		}
		settings = append(settings, set)
	}
	return settings, nil
}

// parseSets reads the arguments of --set.
func parseSets(s *schema, assignments []string) ([]setting, error) {
	var settings []setting
	for _, assignment := range assignments {
		path, text, ok := strings.Cut(assignment, "=")
		if !ok {
			return nil, &usageError{fmt.Errorf("flag --set: %q is not KEY=VALUE", assignment)}
		}
		set, err := parseSetting(s, path, text, "flag --set "+path)
		if err != nil {
			return nil, &usageError{fmt.Errorf("flag --set: %w", err)}
		}
		settings = append(settings, set)
	}
	return settings, nil
}

// load merges all sources for a command.
func (o *configOptions) load(cmd *cobra.Command, environ []string) (*loaded, error) {
	settings, err := o.settings(cmd)
	if err != nil {
		return nil, err
	}
	return load(loadRequest{file: o.file, flags: settings, environ: environ})
}
