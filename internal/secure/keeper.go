package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// KeeperConfig is what a Keeper needs.
type KeeperConfig struct {
	// Port names the port, for logs, errors and metrics, as the configuration does: "kafka.external".
	Port string
	Files
	// MinVersion is the lowest TLS version that is spoken; 0: 1.2.
	MinVersion uint16
	// ClientAuth is what is asked of clients.
	ClientAuth tls.ClientAuthType
	// BrokersOnly turns away certificates that may not be used by servers: those of clients.
	BrokersOnly bool
	// NextProtos are the protocols above, for ALPN.
	NextProtos []string

	Logger  *slog.Logger
	Metrics *Metrics
	// Now is the time of day; nil: time.Now.
	Now func() time.Time
}

// Keeper holds the certificate and the authorities of one port, and takes new ones from their files. What is new counts from the
// next handshake on; connections that are open go on with what they began with.
type Keeper struct {
	c       KeeperConfig
	current atomic.Pointer[loaded]

	// mu lets one reload happen at a time and guards told.
	mu sync.Mutex
	// told is the last failure that was logged; it is said once.
	told string
}

// loaded is what the files held when they were last good.
type loaded struct {
	raw       [3][]byte
	server    *tls.Config
	client    *tls.Config
	notAfter  time.Time
	authority time.Time // when the first authority expires; zero: there is none
}

// Load reads the files for the first time. A certificate that has expired is taken, with a warning: others refuse it and say so.
func Load(c KeeperConfig) (*Keeper, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	k := &Keeper{c: c}
	l, err := k.read()
	if err != nil {
		return nil, err
	}
	if c.Now().After(l.notAfter) {
		c.Logger.Warn("the certificate has expired", "port", c.Port, "file", c.Cert, "not_after", l.notAfter)
	}
	k.current.Store(l)
	c.Metrics.keeps(k)
	return k, nil
}

// Reload takes what the files hold now, all of it or nothing: what is no good, or half written, leaves everything as it was and is
// logged once.
func (k *Keeper) Reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, err := k.read()
	old := k.current.Load()
	switch {
	case err == nil && slices.EqualFunc(l.raw[:], old.raw[:], bytes.Equal):
		k.told = ""
		return nil
	case err == nil && k.c.Now().After(l.notAfter):
		err = fmt.Errorf("%s.tls.cert_file: the new certificate in %s expired at %s", k.c.Port, k.c.Cert, l.notAfter.Format(time.RFC3339))
	}
	if err != nil {
		if err.Error() != k.told {
			k.told = err.Error()
			k.c.Metrics.reloaded(k.c.Port, "refused")
			k.c.Logger.Error("new certificates are no good; the old ones stay in use", "port", k.c.Port, "err", err, "old_not_after", old.notAfter)
		}
		return err
	}
	k.told = ""
	k.current.Store(l)
	k.c.Metrics.reloaded(k.c.Port, "taken")
	k.c.Logger.Info("new certificates in use", "port", k.c.Port, "not_after", l.notAfter)
	return nil
}

// Server is for accepting: each handshake uses what is then in use.
func (k *Keeper) Server() *tls.Config {
	return &tls.Config{MinVersion: k.c.MinVersion, NextProtos: k.c.NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current.Load().server, nil }}
}

// Client is for dialing, with what is in use now.
func (k *Keeper) Client() *tls.Config { return k.current.Load().client }

// NotAfter is when the certificate in use expires.
func (k *Keeper) NotAfter() time.Time { return k.current.Load().notAfter }

// read makes of the files what they hold. Its errors name the key of the configuration, and no content.
func (k *Keeper) read() (*loaded, error) {
	l := new(loaded)
	for i, f := range []struct{ key, name string }{{"cert_file", k.c.Cert}, {"key_file", k.c.Key}, {"ca_file", k.c.CA}} {
		if f.name == "" {
			continue
		}
		b, err := os.ReadFile(f.name)
		if err != nil {
			return nil, fmt.Errorf("%s.tls.%s: %w", k.c.Port, f.key, err)
		}
		l.raw[i] = b
	}
	pair, err := tls.X509KeyPair(l.raw[0], l.raw[1])
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %s and %s: %w", k.c.Port, k.c.Cert, k.c.Key, err)
	}
	l.notAfter = pair.Leaf.NotAfter
	base := &tls.Config{MinVersion: k.c.MinVersion, NextProtos: k.c.NextProtos, Certificates: []tls.Certificate{pair}}
	if k.c.CA != "" {
		pool, until, err := authorities(l.raw[2])
		if err != nil {
			return nil, fmt.Errorf("%s.tls.ca_file: %s %w", k.c.Port, k.c.CA, err)
		}
		base.RootCAs, base.ClientCAs, l.authority = pool, pool, until
	}
	l.client = base.Clone()
	l.server = base
	l.server.ClientAuth = k.c.ClientAuth
	// A resumed session would pass by authorities that have changed since.
	l.server.SessionTicketsDisabled = k.c.ClientAuth != tls.NoClientCert
	if k.c.BrokersOnly {
		l.server.VerifyPeerCertificate = demandServerUse
	}
	return l, nil
}

// authorities reads certificates and gives when the first of them expires.
func authorities(text []byte) (*x509.CertPool, time.Time, error) {
	pool, first := x509.NewCertPool(), time.Time{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, first, fmt.Errorf("holds a bad certificate: %w", err)
		}
		pool.AddCert(cert)
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	if first.IsZero() {
		return nil, first, errors.New("holds no certificate")
	}
	return pool, first, nil
}

// demandServerUse refuses those whom the authority made clients only: they are no brokers.
func demandServerUse(_ [][]byte, chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		if leaf := chain[0]; slices.ContainsFunc(leaf.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
			return u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny
		}) || len(leaf.ExtKeyUsage) == 0 {
			return nil
		}
	}
	return errors.New("the certificate is a client's: one of a broker may be used by servers too (extended key usage serverAuth)")
}

// Watch reloads keepers every so often until ctx ends. Files are looked at, not waited for: mounted secrets are swapped by links
// that watchers of files lose.
func Watch(ctx context.Context, every time.Duration, keepers []*Keeper) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, k := range keepers {
				_ = k.Reload() // it has been logged
			}
		}
	}
}
