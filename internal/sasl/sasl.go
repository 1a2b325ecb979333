// Package sasl is the server's side of proving a password: PLAIN and SCRAM (RFC 4616, 5802, 7677), message by message. It knows no
// connection and no protocol around it.
package sasl

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"slices"
	"unicode/utf8"
)

// Mechanisms that are known.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// Known are all mechanisms.
var Known = []string{Plain, ScramSHA256, ScramSHA512}

// MaxMessage bounds one message of a client, in bytes.
const MaxMessage = 8 << 10

// DefaultIterations is how often a password is hashed that nobody has said anything else about, as in Kafka.
const DefaultIterations = 4096

// Credential is what a server knows of a password.
type Credential struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// String tells nothing of a password.
func (c Credential) String() string { return fmt.Sprintf("credential of %d iterations", c.Iterations) }

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// hashOf is the hash of a SCRAM mechanism.
func hashOf(mechanism string) (func() hash.Hash, bool) {
	switch mechanism {
	case ScramSHA256:
		return sha256.New, true
	case ScramSHA512:
		return sha512.New, true
	}
	return nil, false
}

// Derive makes a credential of a password.
func Derive(mechanism, password string, salt []byte, iterations int) (Credential, error) {
	h, ok := hashOf(mechanism)
	if !ok {
		return Credential{}, fmt.Errorf("%q is no SCRAM mechanism", mechanism)
	}
	salted, err := pbkdf2.Key(h, password, salt, iterations, h().Size())
	if err != nil {
		return Credential{}, errors.New("the password cannot be hashed")
	}
	return FromSalted(mechanism, salted, salt, iterations)
}

// FromSalted makes a credential of a password that has been salted and hashed already, as Kafka's tools send it.
func FromSalted(mechanism string, salted, salt []byte, iterations int) (Credential, error) {
	h, ok := hashOf(mechanism)
	if !ok {
		return Credential{}, fmt.Errorf("%q is no SCRAM mechanism", mechanism)
	}
	mac := func(text string) []byte {
		m := hmac.New(h, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := h()
	stored.Write(mac("Client Key"))
	return Credential{Salt: bytes.Clone(salt), Iterations: iterations, StoredKey: stored.Sum(nil), ServerKey: mac("Server Key")}, nil
}

// saltSize is in bytes.
const saltSize = 16

// NewSalt gives bytes by chance.
func NewSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return salt
}

// Lookup finds a user's credential for a SCRAM mechanism.
type Lookup func(user, mechanism string) (Credential, bool)

// Server checks passwords. Its methods may be called from many goroutines.
type Server struct {
	lookup Lookup
	// cluster is what salts for users that do not exist are made of.
	cluster func() string
}

// NewServer makes one. cluster gives what all servers that share users know, and that stays: they must tell the same of a user that does
// not exist, or asking two of them would show that it does not. Who knows it too, and the names, can do so all the same.
func NewServer(lookup Lookup, cluster func() string) *Server {
	return &Server{lookup: lookup, cluster: cluster}
}

// ErrRefused is the one answer to all that is wrong with a name or a password.
var ErrRefused = errors.New("authentication failed")

// ErrMalformed: what the client said is no message of the mechanism, or none that is due now.
var ErrMalformed = errors.New("malformed SASL message")

// Exchange is one attempt of one client. It belongs to one goroutine.
type Exchange struct {
	server    *Server
	mechanism string
	scram     *scramServer // nil for PLAIN
	user      string
	// proven is the key that the user's proof was compared with.
	proven []byte
	ended  bool
}

// Begin begins an exchange. Which mechanisms are allowed is for the caller to say.
func (s *Server) Begin(mechanism string) (*Exchange, error) {
	if !slices.Contains(Known, mechanism) {
		return nil, fmt.Errorf("unknown SASL mechanism %.32q", mechanism)
	}
	e := &Exchange{server: s, mechanism: mechanism}
	if h, ok := hashOf(mechanism); ok {
		e.scram = &scramServer{hash: h, find: func(user string) Credential { return s.find(user, mechanism) }}
	}
	return e, nil
}

// Mechanism is the one of the exchange.
func (e *Exchange) Mechanism() string { return e.mechanism }

// User is who was proven, once Next has said that it is done.
func (e *Exchange) User() string { return e.user }

// ProvenKey is the stored key that the proof was compared with, once Next has said that it is done.
func (e *Exchange) ProvenKey() []byte { return e.proven }

// Attempted is the name that the client claims, for logs; empty: it has not said yet.
func (e *Exchange) Attempted() string {
	if e.user == "" && e.scram != nil {
		return e.scram.user
	}
	return e.user
}

// Next takes the client's next message and gives the answer to it. done: the user is who it says. After an error the exchange is over.
func (e *Exchange) Next(message []byte) (answer []byte, done bool, err error) {
	switch {
	case e.ended:
		return nil, false, fmt.Errorf("%w: the exchange is over", ErrMalformed)
	case len(message) > MaxMessage:
		e.ended = true
		return nil, false, fmt.Errorf("%w: %d bytes; at most %d", ErrMalformed, len(message), MaxMessage)
	case e.scram == nil:
		e.ended = true
		return e.plain(message)
	}
	text, done, err := e.scram.next(string(message))
	if err == nil && e.scram.authz != "" && e.scram.authz != e.scram.user {
		err = ErrRefused // nobody acts for somebody else
	}
	if err != nil {
		e.ended = true
		return nil, false, err
	}
	if done {
		e.ended, e.user, e.proven = true, e.scram.user, e.scram.credential.StoredKey
	}
	return []byte(text), done, nil
}

// plain takes the one message of PLAIN: authorization identity, user, password, with NULs between.
func (e *Exchange) plain(message []byte) ([]byte, bool, error) {
	parts := bytes.Split(message, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 || !utf8.Valid(message) {
		return nil, false, ErrMalformed
	}
	user, password := string(parts[1]), string(parts[2])
	if authz := string(parts[0]); authz != "" && authz != user {
		return nil, false, ErrRefused
	}
	// Whichever mechanism the user has a credential for. How long this takes depends on it, and on the iterations: who answers waits for longer
	// than that before a refusal (frontdoor.LoginDelay).
	mechanism := ScramSHA512
	if _, ok := e.server.lookup(user, mechanism); !ok {
		mechanism = ScramSHA256
	}
	known := e.server.find(user, mechanism)
	shown, err := Derive(mechanism, password, known.Salt, known.Iterations)
	if err != nil || subtle.ConstantTimeCompare(shown.StoredKey, known.StoredKey) != 1 {
		return nil, false, ErrRefused
	}
	e.user, e.proven = user, known.StoredKey
	return nil, true, nil
}

// find gives a user's credential, or one that no password fits. That has a salt of its own, always the same, and one of the usual numbers of
// iterations.
func (s *Server) find(user, mechanism string) Credential {
	if c, ok := s.lookup(user, mechanism); ok {
		return c
	}
	mac := hmac.New(sha512.New, []byte("no such user in "+s.cluster()))
	mac.Write([]byte(mechanism + "\x00" + user))
	sum := mac.Sum(nil)
	h, _ := hashOf(mechanism)
	n := h().Size()
	keys := make([]byte, 2*n)
	_, _ = rand.Read(keys) // never fails
	return Credential{Salt: sum[:saltSize], Iterations: usualIterations[sum[saltSize]&1], StoredKey: keys[:n], ServerKey: keys[n:]}
}

// usualIterations are those of Kafka's tools and of ours.
var usualIterations = [2]int{DefaultIterations, 2 * DefaultIterations}
