package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/broker"
)

func (p *program) serveCommand() *cobra.Command {
	var options configOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one broker of a cluster",
		Long: `serve runs one broker until SIGTERM or SIGINT. The first signal hands over what the
broker leads and answers what it has taken; a second one ends it at once.

Every key of the configuration comes from, strongest first: flags, environment
variables (BROKERD_PEER__LISTEN is peer.listen), the file, the default.`,
		Example: `  brokerd serve --config /etc/brokerd/brokerd.yaml

  # The first of three brokers, without a file
  brokerd serve --broker-id 1 --data-dir /var/lib/brokerd \
    --peer-listen 10.0.0.1:9093 --seeds 10.0.0.1:9093,10.0.0.2:9093,10.0.0.3:9093 \
    --set grpc.default.listen=10.0.0.1:9095`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := options.load(cmd, p.environ)
			if err != nil {
				return err
			}
			if err := loaded.validate(); err != nil {
				return err
			}
			return p.serve(cmd.Context(), loaded.config)
		},
	}
	options.register(cmd)
	return cmd
}

// serve runs one broker until the context or a signal ends it.
func (p *program) serve(ctx context.Context, cfg broker.Config) error {
	ctx, stop := p.drainOnSignal(ctx)
	defer stop()
	p.bearGarbage(cfg)
	b, err := broker.New(cfg, broker.Options{Logger: newLogger(p.stderr, cfg.Log)})
	if err != nil {
		return fmt.Errorf("start broker %d: %w", cfg.BrokerID, err)
	}
	defer reloadOnHangup(b)()
	if err := b.Run(ctx); err != nil {
		_ = b.Close() // Run's error is the cause; Close can only repeat it.
		return fmt.Errorf("broker %d: %w", cfg.BrokerID, err)
	}
	return b.Close()
}

// bearGarbage sets what may gather in this process.
func (p *program) bearGarbage(cfg broker.Config) {
	if p.garbage != nil {
		p.garbage(int(cfg.Limits.GarbageBytes))
	}
}
