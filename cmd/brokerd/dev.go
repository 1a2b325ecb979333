package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/broker"
)

// devOptions are the flags of brokerd dev.
type devOptions struct {
	data      string
	brokers   int
	ephemeral bool
	logLevel  string
	set       []string
}

// maxDevBrokers keeps the ports of the last broker below 65536.
const maxDevBrokers = 9

func (p *program) devCommand() *cobra.Command {
	var options devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster of three brokers in this process",
		Long: `dev runs a whole cluster in one process, on loopback, for trying out and for
development. Broker 1 has the ports 9092 (Kafka), 9095 (gRPC), 9093 (peers) and 9644
(HTTP), each further broker 1000 more. The first SIGTERM or SIGINT (Ctrl-C) stops the
cluster in order, a second one ends it at once. BROKERD_ variables and files are not
read.`,
		Example: `  # Data in a temporary directory that is removed at the end
  brokerd dev

  # Data that the next start finds again
  brokerd dev --data ./data

  # Any free ports, so that several clusters run side by side
  brokerd dev --ephemeral`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.dev(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&options.data, "data", "", "directory for the data (default: a temporary one, removed at the end)")
	flags.IntVar(&options.brokers, "brokers", 3, fmt.Sprintf("how many brokers, 1 to %d", maxDevBrokers))
	flags.BoolVar(&options.ephemeral, "ephemeral", false, "take any free ports")
	flags.StringVar(&options.logLevel, "log-level", "warn", "debug, info, warn or error")
	flags.StringArrayVar(&options.set, "set", nil, "any key of the configuration, as KEY=VALUE, for all brokers; may be repeated")
	_ = cmd.MarkFlagDirname("data")
	return cmd
}

// dev runs the cluster until the context, a signal or a failing broker ends it.
func (p *program) dev(ctx context.Context, options devOptions) (err error) {
	started := time.Now()
	if options.brokers < 1 || options.brokers > maxDevBrokers {
		return &usageError{fmt.Errorf("flag --brokers: %d is not between 1 and %d", options.brokers, maxDevBrokers)}
	}
	ctx, stop := p.drainOnSignal(ctx)
	defer stop()
	data, removeData, err := devData(options.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeData()) }()
	listeners, err := listenDev(options.brokers, options.ephemeral)
	if err != nil {
		return err
	}
	defer listeners.closeUntaken()
	configs, err := devConfigs(options, data, listeners)
	if err != nil {
		return err
	}
	p.bearGarbage(configs[0])
	return p.runDev(ctx, configs, listeners, func() {
		writeBanner(p.stdout, banner{
			configs:   configs,
			data:      data,
			temporary: options.data == "",
			took:      time.Since(started),
		})
	})
}

// devData gives the directory for all brokers, and what to do with it at the end.
func devData(dir string) (path string, remove func() error, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "oncelog-dev-")
		return path, func() error { return os.RemoveAll(path) }, err
	}
	path, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return "", nil, fmt.Errorf("data directory: %w", err)
	}
	return path, func() error { return nil }, nil
}

// devConfigs gives the configuration of each broker.
func devConfigs(options devOptions, data string, listeners *devListeners) ([]broker.Config, error) {
	var seeds []string
	for _, set := range listeners.brokers {
		seeds = append(seeds, set.peer)
	}
	s := newSchema()
	common, err := parseSets(s, options.set)
	if err != nil {
		return nil, err
	}
	var configs []broker.Config
	for i, set := range listeners.brokers {
		flags := []setting{
			{"broker_id", int64(i + 1), "brokerd dev"},
			{"data_dir", filepath.Join(data, fmt.Sprintf("broker-%d", i+1)), "brokerd dev"},
			{"seeds", seeds, "brokerd dev"},
			{"peer.listen", set.peer, "brokerd dev"},
			{"grpc." + broker.DefaultListener + ".listen", set.grpc, "brokerd dev"},
			{"kafka." + broker.DefaultListener + ".listen", set.kafka, "brokerd dev"},
			{"http.listen", set.http, "brokerd dev"},
			{"log.level", options.logLevel, "flag --log-level"},
		}
		loaded, err := load(loadRequest{flags: append(flags, common...), noFile: true})
		if err != nil {
			return nil, err
		}
		if err := loaded.validate(); err != nil {
			return nil, err
		}
		configs = append(configs, loaded.config)
	}
	return configs, nil
}

// runDev runs one broker for each configuration, calls ready once all serve,
// and returns when all have stopped. The first that fails stops the others.
func (p *program) runDev(ctx context.Context, configs []broker.Config, listeners *devListeners, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	brokers, err := p.newDevBrokers(configs, listeners)
	if err != nil {
		return err
	}
	defer reloadOnHangup(brokers...)()
	var wg sync.WaitGroup
	errs := make([]error, len(brokers))
	for i, b := range brokers {
		wg.Go(func() {
			if err := b.Run(ctx); err != nil {
				errs[i] = fmt.Errorf("broker %d: %w", configs[i].BrokerID, err)
			}
			cancel() // The cluster stops as a whole.
		})
	}
	if allReady(ctx, brokers) {
		ready()
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), closeAll(brokers))
}

func (p *program) newDevBrokers(configs []broker.Config, listeners *devListeners) ([]*broker.Broker, error) {
	var brokers []*broker.Broker
	for _, cfg := range configs {
		logger := newLogger(p.stderr, cfg.Log).With("broker", cfg.BrokerID)
		b, err := broker.New(cfg, broker.Options{Logger: logger, Listen: listeners.take})
		if err != nil {
			err = fmt.Errorf("start broker %d: %w", cfg.BrokerID, err)
			return nil, errors.Join(err, closeAll(brokers))
		}
		brokers = append(brokers, b)
	}
	return brokers, nil
}

func allReady(ctx context.Context, brokers []*broker.Broker) bool {
	for _, b := range brokers {
		select {
		case <-b.Ready():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func closeAll(brokers []*broker.Broker) error {
	var errs []error
	for _, b := range brokers {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}
