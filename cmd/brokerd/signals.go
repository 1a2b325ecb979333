package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/oncelog/oncelog/broker"
)

// drainOnSignal gives a context that the first SIGTERM or SIGINT ends. A second
// one ends the process at once, with 128 plus its number. The caller calls stop
// when it is done; stop waits for the goroutine.
func (p *program) drainOnSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ; first = false {
			select {
			case <-quit:
				return
			case sig := <-signals:
				if !first {
					fmt.Fprintf(p.stderr, "brokerd: second %v: ending at once\n", sig)
					p.exit(exitBySignal(sig))
					return
				}
				fmt.Fprintf(p.stderr, "brokerd: %v: stopping; once more ends it at once\n", sig)
				cancel()
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		<-done
		cancel()
	}
}

// reloadOnHangup has brokers read their certificates again on every SIGHUP. The caller calls stop when it is done; stop waits for the
// goroutine. What is no good is in the broker's log.
func reloadOnHangup(brokers ...*broker.Broker) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-signals:
				for _, b := range brokers {
					_ = b.Reload() // it has been logged
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(quit)
		<-done
	}
}

func exitBySignal(sig os.Signal) int {
	if number, ok := sig.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return exitFailed
}
