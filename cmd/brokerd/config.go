package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/broker"
)

func (p *program) configCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration",
	})
	cmd.AddCommand(p.configCheckCommand(), p.configPrintCommand())
	return cmd
}

func (p *program) configCheckCommand() *cobra.Command {
	var options configOptions
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Say whether serve would accept the configuration",
		Long:    "check reads the configuration, and the certificates that it names, as serve does.",
		Example: "  brokerd config check --config brokerd.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := options.load(cmd, p.environ)
			if err != nil {
				return err
			}
			if err := loaded.validate(); err != nil {
				return err
			}
			if err := broker.CheckCertificates(loaded.config); err != nil {
				return &usageError{fmt.Errorf("the values are valid, but serve would not start: %w", err)}
			}
			_, err = fmt.Fprintln(p.stdout, "The configuration is valid.")
			return err
		},
	}
	options.register(cmd)
	return cmd
}

func (p *program) configPrintCommand() *cobra.Command {
	var options configOptions
	var effective bool
	var output string
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show the configuration and where each value comes from",
		Long: `print shows the keys that flags, environment or file set; with --effective also those
that have their default. The YAML it prints is a configuration file. It exits
with 2, after printing, when serve would refuse the configuration.`,
		Example: `  brokerd config print --effective --config brokerd.yaml
  BROKERD_LOG__LEVEL=debug brokerd config print -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := options.load(cmd, p.environ)
			if err != nil {
				return err
			}
			values := loaded.values(effective)
			switch output {
			case "yaml":
				err = writeYAML(p.stdout, values)
			case "json":
				encoder := json.NewEncoder(p.stdout)
				encoder.SetIndent("", "  ")
				err = encoder.Encode(values)
			default:
				err = unknownOutput(output, "yaml", "json")
			}
			if err != nil {
				return err
			}
			return loaded.validate()
		},
	}
	cmd.Flags().BoolVar(&effective, "effective", false, "show defaults too")
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	options.register(cmd)
	return cmd
}

// effectiveValue is one key as it is in force.
type effectiveValue struct {
	Key    string `json:"key"`
	Value  any    `json:"value"` // string, number, true or false, or list of strings
	Source string `json:"source"`
}

func (l *loaded) values(defaults bool) []effectiveValue {
	values := []effectiveValue{}
	flatten("", reflect.ValueOf(l.config), func(path string, value any) {
		source := l.sources[path]
		if source == "default" && !defaults {
			return
		}
		values = append(values, effectiveValue{Key: path, Value: plain(value), Source: source})
	})
	return values
}

// plain turns a value into one that JSON and YAML write the way parseValue
// reads it.
func plain(value any) any {
	switch value := value.(type) {
	case []string:
		if value == nil {
			return []string{}
		}
		return value
	case fmt.Stringer:
		return value.String()
	default:
		return value
	}
}

// writeYAML writes nested keys with the source of each as a comment.
func writeYAML(w io.Writer, values []effectiveValue) error {
	var buf bytes.Buffer
	tw := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	var open []string
	for _, value := range values {
		parts := strings.Split(value.Key, ".")
		common := 0
		for common < len(open) && common < len(parts)-1 && open[common] == parts[common] {
			common++
		}
		for depth := common; depth < len(parts)-1; depth++ {
			fmt.Fprintf(tw, "%s%s:\t\n", strings.Repeat("  ", depth), parts[depth])
		}
		open = parts[:len(parts)-1]
		fmt.Fprintf(tw, "%s%s: %s\t# %s\n", strings.Repeat("  ", len(open)), parts[len(open)], yamlScalar(value.Value), value.Source)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(buf.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// yamlScalar writes a value in one line. JSON strings and lists are YAML too.
func yamlScalar(value any) string {
	if text, ok := value.(string); ok && plainYAML(text) {
		return text
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(value))
	}
	return string(data)
}

// plainYAML reports whether a text can stand without quotes and still be read
// as a string: a word that starts with a letter or "/", or a number with a unit.
func plainYAML(text string) bool {
	for _, r := range text {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-.", r) {
			return false
		}
	}
	switch strings.ToLower(text) {
	case "", "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		return false
	}
	return strings.ContainsAny(text[:1], "/abcdefghijklmnopqrstuvwxyz") || strings.HasSuffix(text, "s") || strings.HasSuffix(text, "B")
}
