package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/broker"
)

func (p *program) healthcheckCommand() *cobra.Command {
	var options configOptions
	var address string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the broker on this machine whether it is ready",
		Long: `healthcheck asks /readyz of the broker on this machine. It exits with 0 when the broker
is ready to serve, with 1 when it is not or does not answer, and says why. The
address is http.listen of the same configuration that the broker reads.`,
		Example: `  brokerd healthcheck
  brokerd healthcheck --address 127.0.0.1:10644`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var secured *tls.Config
			if address == "" {
				loaded, err := options.load(cmd, p.environ)
				if err != nil {
					return err
				}
				address = loaded.config.HTTP.Listen
				if secured, err = ownTLS(loaded.config.HTTP.TLS); err != nil {
					return err
				}
			}
			if _, _, err := net.SplitHostPort(address); err != nil {
				return &usageError{fmt.Errorf("flag --address: %q, want host:port, such as 127.0.0.1:9644", address)}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			reason, err := checkReady(ctx, localAddress(address), secured)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, reason)
			return err
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&address, "address", "", "address of the broker's HTTP listener (default: http.listen of the configuration)")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for the answer")
	options.registerSources(cmd)
	return cmd
}

// localAddress turns an address to listen on into one to dial: a wildcard
// becomes loopback.
func localAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// ownTLS is how a broker speaks to its own listener; nil: it has no TLS. Whose certificate it is is not checked: it need not name
// this machine's loopback, and all that is asked is whether the broker is ready.
func ownTLS(t broker.ListenerTLSConfig) (*tls.Config, error) {
	if !t.Enabled() {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("http.tls: %w", err)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, nil
}

// checkReady gives the broker's own words when it is ready, else an error with
// them.
func checkReady(ctx context.Context, address string, secured *tls.Config) (string, error) {
	scheme := "http"
	if secured != nil {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/readyz", nil)
	if err != nil {
		return "", &usageError{fmt.Errorf("address %q: %w", address, err)}
	}
	// No proxy from the environment: the broker is on this machine.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: secured}}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("not ready: %w", err)
	}
	defer response.Body.Close()
	reason := firstLine(io.LimitReader(response.Body, 4096))
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s: %s", response.Status, reason)
	}
	return reason, nil
}

func firstLine(r io.Reader) string {
	scanner := bufio.NewScanner(r)
	if scanner.Scan() {
		return strings.TrimSpace(scanner.Text())
	}
	return "(no reason given)"
}
