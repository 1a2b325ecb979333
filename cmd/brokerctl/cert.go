package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/secure"
)

func (p *program) certCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cert",
		Short: "Make certificates for trying TLS out",
		Example: `  brokerctl cert dev --dir certs
  brokerctl cert dev --dir certs --host broker1.lan --host 10.0.0.1 --client alice --client bob`,
	})
	cmd.AddCommand(p.certDevCommand())
	return cmd
}

// clientName is what a client's files can be called.
var clientName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (p *program) certDevCommand() *cobra.Command {
	var set secure.DevSet
	var valid time.Duration
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Make an authority, a broker's certificate and clients' certificates",
		Long: `dev makes an authority of its own and has it sign a certificate for brokers and one
for each client. It is for trying TLS out: the authority's key lies beside the
certificates, and nothing can be revoked. Files that exist are never overwritten.

A client's certificate says CN=NAME, which is the user User:CN=NAME unless the
listener maps it (kafka.NAME.tls.principal_mapping_rules). It does not open the port
for brokers.`,
		Example: `  brokerctl cert dev --dir certs

  brokerd dev --set kafka.default.tls.cert_file=certs/broker.pem \
    --set kafka.default.tls.key_file=certs/broker.key --set kafka.default.tls.ca_file=certs/ca.pem

  kcat -L -b localhost:9092 -X security.protocol=ssl -X ssl.ca.location=certs/ca.pem \
    -X ssl.certificate.location=certs/client.pem -X ssl.key.location=certs/client.key`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			for _, name := range set.Clients {
				if !clientName.MatchString(name) || name == "ca" || name == "broker" {
					return usagef("flag --client: %q cannot be a file's name: letters, digits, '.', '_' and '-', at most 63, and neither ca nor broker", name)
				}
			}
			if valid < time.Minute || valid > 10*365*24*time.Hour {
				return usagef("flag --valid: %s is not between 1m and 87600h", valid)
			}
			// Clocks differ a little.
			set.From, set.Until = p.now().Add(-5*time.Minute), p.now().Add(valid)
			names, err := set.Make()
			if err != nil {
				return fmt.Errorf("make certificates: %w; choose another --dir, or remove the old set", err)
			}
			if p.json() {
				return p.writeJSON(map[string]any{"files": names, "not_after": set.Until.UTC().Format(time.RFC3339)})
			}
			for _, name := range names {
				if err := writeTo(p.stdout, name+"\n"); err != nil {
					return err
				}
			}
			p.sayf("Valid until %s for %v. Try: brokerctl --tls-ca %s --tls-cert %s --tls-key %s cluster status", set.Until.Format(time.DateOnly), set.Hosts,
				filepath.Join(set.Dir, secure.DevCA), filepath.Join(set.Dir, set.Clients[0]+".pem"), filepath.Join(set.Dir, set.Clients[0]+".key"))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&set.Dir, "dir", "certs", "directory for the files; made if it does not exist")
	f.StringSliceVar(&set.Hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "names and addresses of brokers; may be repeated")
	f.StringSliceVar(&set.Clients, "client", []string{"client"}, "names of clients; may be repeated")
	f.DurationVar(&valid, "valid", 30*24*time.Hour, "for how long, 1m to 87600h")
	return cmd
}
