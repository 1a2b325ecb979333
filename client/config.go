package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"
)

// Config is what a Client needs. Only Bootstrap has no default.
type Config struct {
	// Bootstrap lists gRPC addresses, host:port, of some brokers (Kafka: bootstrap.servers, but
	// the gRPC port, 9095). One that answers is enough; the rest of the cluster is learned from it.
	Bootstrap []string
	// ClientID is told to brokers for their logs (Kafka: client.id). Default "oncelog-go".
	ClientID string
	// TLS, when set, secures every connection. Default: plain text.
	TLS *tls.Config
	// SASL, when its User is set, proves who this client is, to brokers that demand it. Default: nothing is proven.
	SASL SASL
	// Dialer opens connections. Default: TCP. Tests use it to run over memory.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// Logger hears of leader changes, reconnects and epoch bumps. Default: nothing is logged.
	Logger *slog.Logger

	// RequestTimeout bounds every single request (Kafka: request.timeout.ms). Default 30 s,
	// 100 ms to 10 min.
	RequestTimeout time.Duration
	// RetryBackoff is the wait before the first retry; it doubles with each, up to RetryBackoffMax,
	// and is spread by a fifth either way (Kafka: retry.backoff.ms, retry.backoff.max.ms).
	// Defaults 20 ms, since leaders move within tens of ms here (Kafka: 100), and 1 s; 1 ms to 1 min.
	RetryBackoff    time.Duration
	RetryBackoffMax time.Duration
	// MetadataMaxAge is the age at which metadata is asked for again without cause (Kafka:
	// metadata.max.age.ms). Default 5 min, 100 ms to 24 h.
	MetadataMaxAge time.Duration
	// ConnectTimeout bounds the opening of a connection (Kafka: socket.connection.setup.timeout.ms).
	// Default 5 s, 10 ms to 5 min.
	ConnectTimeout time.Duration
}

// withDefaults fills in what was left zero.
func (c Config) withDefaults() Config {
	orDefault(&c.ClientID, "oncelog-go")
	orDefault(&c.RequestTimeout, 30*time.Second)
	orDefault(&c.RetryBackoff, 20*time.Millisecond)
	orDefault(&c.RetryBackoffMax, time.Second)
	orDefault(&c.MetadataMaxAge, 5*time.Minute)
	orDefault(&c.ConnectTimeout, 5*time.Second)
	orDefault(&c.SASL.Mechanism, SCRAMSHA512)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dialer == nil {
		d := &net.Dialer{KeepAlive: 30 * time.Second}
		c.Dialer = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	return c
}

// Validate says which field is out of its range. Zero fields stand for their defaults. Its error
// has the reason INVALID_CONFIG.
func (c Config) Validate() error {
	if len(c.Bootstrap) == 0 {
		return invalid("Bootstrap", "is empty; want at least one host:port of a broker's gRPC listener, such as localhost:9095")
	}
	for _, addr := range c.Bootstrap {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return invalid("Bootstrap", "has %q, want host:port: %v", addr, err)
		}
	}
	c = c.withDefaults()
	switch c.SASL.Mechanism {
	case SCRAMSHA256, SCRAMSHA512, PLAIN:
	default:
		return invalid("SASL.Mechanism", "is %q, want %s, %s or %s", c.SASL.Mechanism, SCRAMSHA256, SCRAMSHA512, PLAIN)
	}
	return firstError(
		within("RequestTimeout", c.RequestTimeout, 100*time.Millisecond, 10*time.Minute),
		within("RetryBackoff", c.RetryBackoff, time.Millisecond, time.Minute),
		within("RetryBackoffMax", c.RetryBackoffMax, c.RetryBackoff, time.Minute),
		within("MetadataMaxAge", c.MetadataMaxAge, 100*time.Millisecond, 24*time.Hour),
		within("ConnectTimeout", c.ConnectTimeout, 10*time.Millisecond, 5*time.Minute),
	)
}

// orDefault sets a zero field.
func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// invalid is the error of a Config field.
func invalid(field, format string, args ...any) *Error {
	return refusal(ReasonInvalidConfig, "%s "+format, append([]any{field}, args...)...)
}

// within checks a field against a closed range.
func within[T int | int32 | int64 | time.Duration](field string, v, low, high T) error {
	if v < low || v > high {
		return invalid(field, "is %v, want %v to %v", v, low, high)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
