package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/oncelog/oncelog/internal/secure"
)

// certificatesLook is how often certificate files are looked at.
const certificatesLook = 10 * time.Second

// certificates are those of all ports that have TLS.
type certificates struct {
	metrics *secure.Metrics
	keepers []*secure.Keeper
	// peer and ports are by the names of ports in the configuration.
	ports map[string]*secure.Keeper
}

// loadCertificates reads the files of every port with TLS.
func (b *Broker) loadCertificates() error {
	c := &b.certificates
	c.metrics, c.ports = secure.NewMetrics(b.options.Registry), make(map[string]*secure.Keeper)
	if t := b.cfg.Peer.TLS; t.Enabled() {
		err := b.loadCertificate(secure.KeeperConfig{Port: "peer", Files: secure.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile},
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, BrokersOnly: true})
		if err != nil {
			return err
		}
	}
	for _, l := range b.cfg.clientListeners() {
		if err := b.loadListener(l); err != nil {
			return err
		}
	}
	return nil
}

// CheckCertificates reads the files of certificates that a configuration names, as New does.
func CheckCertificates(cfg Config) error {
	b := &Broker{cfg: cfg}
	b.options.setDefaults()
	b.logger = b.options.Logger
	return b.loadCertificates()
}

func (b *Broker) loadListener(l namedListener) error {
	t := l.tls
	if !t.Enabled() {
		return nil
	}
	minVersion, err := secure.Version(t.MinVersion)
	if err != nil {
		return err
	}
	auth, err := secure.ClientAuth(t.ClientAuth, t.CAFile != "")
	if err != nil {
		return err
	}
	return b.loadCertificate(secure.KeeperConfig{Port: l.port, Files: secure.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile},
		MinVersion: minVersion, ClientAuth: auth, NextProtos: l.protocols})
}

func (b *Broker) loadCertificate(c secure.KeeperConfig) error {
	c.Logger, c.Metrics, c.Now = b.logger, b.certificates.metrics, b.options.Wall
	k, err := secure.Load(c)
	if err != nil {
		return err
	}
	b.certificates.ports[c.Port] = k
	b.certificates.keepers = append(b.certificates.keepers, k)
	return nil
}

// Reload reads again what can change while a broker runs: certificates and authorities. What is no good leaves that port as it was.
// The audit log is opened anew.
func (b *Broker) Reload() error {
	var errs []error
	if a := b.auditing.Load(); a != nil {
		errs = append(errs, a.reopen())
	}
	for _, k := range b.certificates.keepers {
		errs = append(errs, k.Reload())
	}
	return errors.Join(errs...)
}

// watchCertificates takes new files as they come, until ctx ends.
func (b *Broker) watchCertificates(ctx context.Context) {
	secure.Watch(ctx, certificatesLook, b.certificates.keepers)
}

// secured wraps a listener of clients where its beginning is this broker's trouble: TLS, and who took the wrong port.
func (b *Broker) secured(l namedListener, base net.Listener) net.Listener {
	k := b.certificates.ports[l.port]
	if k == nil && !l.http2 {
		return base // plain; what is not Kafka or HTTP is told apart by who reads
	}
	c := secure.ListenerConfig{Port: l.port, HTTP2: l.http2, Logger: b.logger, Metrics: b.certificates.metrics}
	if k != nil {
		c.TLS = k.Server()
		c.Mapping, _ = secure.ParseMapping(l.tls.PrincipalMappingRules) // Validate has parsed it
	}
	return secure.Listen(base, c)
}

// namedListener is a listener of clients with its name in the configuration.
type namedListener struct {
	port      string
	tls       ListenerTLSConfig
	protocols []string
	http2     bool
}

// clientListeners are all but that of peers.
func (c Config) clientListeners() []namedListener {
	all := []namedListener{{port: "http", tls: c.HTTP.TLS, protocols: []string{"http/1.1"}}}
	for _, name := range c.ListenerNames() {
		all = append(all, c.grpcListener(name))
	}
	for _, name := range c.KafkaListenerNames() {
		all = append(all, c.kafkaListener(name))
	}
	return all
}

func (c Config) grpcListener(name string) namedListener {
	return namedListener{port: "grpc." + name, tls: c.GRPC[name].TLS, protocols: []string{"h2"}, http2: true}
}

func (c Config) kafkaListener(name string) namedListener {
	return namedListener{port: "kafka." + name, tls: c.Kafka[name].TLS}
}
