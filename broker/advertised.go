package broker

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// advertisedTimeout is how long an advertised address may take to answer.
const advertisedTimeout = 5 * time.Second

// advertisedAddress is what clients are told, under the key of its setting.
type advertisedAddress struct{ setting, address string }

// advertisedAddresses are those that the configuration names, and that may thus be wrong.
func (c *Config) advertisedAddresses() (list []advertisedAddress) {
	for _, name := range c.ListenerNames() {
		list = append(list, advertisedAddress{"grpc." + name + ".advertise", c.GRPC[name].Advertise})
	}
	for _, name := range c.KafkaListenerNames() {
		list = append(list, advertisedAddress{"kafka." + name + ".advertise", c.Kafka[name].Advertise})
	}
	return append(list, advertisedAddress{"peer.advertise", c.Peer.Advertise})
}

// warnOfUnreachable tries the addresses that clients are sent to, as a client here would, and warns of those that do not answer. Some
// answer elsewhere only, as that of a gateway which does not send back what comes from inside: it is a warning, no error.
func warnOfUnreachable(ctx context.Context, list []advertisedAddress, dial func(ctx context.Context, network, address string) (net.Conn, error), logger *slog.Logger) {
	var tries sync.WaitGroup
	for _, a := range list {
		if a.address == "" {
			continue // it is where we listen
		}
		tries.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, advertisedTimeout)
			defer cancel()
			log := logger.With("setting", a.setting, "address", a.address)
			if host, _, err := net.SplitHostPort(a.address); err == nil {
				if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
					log.Warn("clients are sent to an address that is none: give one that they can reach")
					return
				}
			}
			conn, err := dial(ctx, "tcp", a.address)
			switch {
			case err == nil:
				_ = conn.Close() // nothing was said on it
			case ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded:
				log.Warn("clients are sent to an address that cannot be reached from here; brokerctl doctor tells whether they can reach it", "err", err)
			}
		})
	}
	tries.Wait()
}
