// Package secure is TLS on every port of a broker: certificates that are read again when their files change, handshakes within
// bounds, and the names that certificates stand for.
package secure

import (
	"crypto/tls"
	"fmt"
)

// Files names the PEM files of one port.
type Files struct {
	// Cert is the certificate chain, leaf first, and Key the leaf's private key.
	Cert, Key string
	// CA holds the authorities that must have signed what the other side shows; empty: it need show nothing.
	CA string
}

// Version is the number of a TLS version by its name in configurations; empty: 1.2.
func Version(name string) (uint16, error) {
	switch name {
	case "", "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("%q is no version that is served: use 1.2 or 1.3", name)
}

// Names of what is asked of clients, as in Kafka's ssl.client.auth.
const (
	// AuthNone asks for no certificate.
	AuthNone = "none"
	// AuthRequested takes a certificate and does without; one that is shown must be good.
	AuthRequested = "requested"
	// AuthRequired turns away who has none.
	AuthRequired = "required"
)

// ClientAuth is what a name means to crypto/tls. Empty: required where there are authorities, else none.
func ClientAuth(name string, authorities bool) (tls.ClientAuthType, error) {
	switch name {
	case "":
		if authorities {
			return tls.RequireAndVerifyClientCert, nil
		}
		return tls.NoClientCert, nil
	case AuthNone:
		return tls.NoClientCert, nil
	case AuthRequested:
		return tls.VerifyClientCertIfGiven, nil
	case AuthRequired:
		return tls.RequireAndVerifyClientCert, nil
	}
	return 0, fmt.Errorf("%q is unknown: use %s, %s or %s", name, AuthNone, AuthRequested, AuthRequired)
}
