package sasl

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"strings"
	"unicode/utf8"
)

// scramServer is the server's side of one SCRAM exchange (RFC 5802), without channel binding. It is our own because librdkafka before
// 2.8 repeats its nonce in its last message, which Kafka's server lets pass and libraries do not: what must not be forged is the
// server's part of the nonce, and the proof covers what was sent.
type scramServer struct {
	hash func() hash.Hash
	find func(user string) Credential

	said        int // messages of the client
	user, authz string
	credential  Credential
	// header, bare, first and nonce are what both sides have said: the client's GS2 header, the rest of its first message, the server's
	// answer, and the nonce in that.
	header, bare, first, nonce string
}

// next takes a message of the client; done: the user is proven.
func (s *scramServer) next(message string) (answer string, done bool, err error) {
	switch s.said++; s.said {
	case 1:
		answer, err = s.begin(message)
		return answer, false, err
	case 2:
		answer, err = s.prove(message)
		return answer, err == nil, err
	}
	return "", false, ErrMalformed
}

// begin reads client-first-message.
func (s *scramServer) begin(message string) (string, error) {
	parts := strings.SplitN(message, ",", 3)
	if len(parts) != 3 || !utf8.ValidString(message) {
		return "", ErrMalformed
	}
	switch flag := parts[0]; {
	case strings.HasPrefix(flag, "p="):
		return "", ErrRefused // channel binding is not offered
	case flag != "n" && flag != "y":
		return "", ErrMalformed
	}
	ok := true
	if parts[1] != "" {
		name, found := strings.CutPrefix(parts[1], "a=")
		if s.authz, ok = unescape(name); !found || !ok {
			return "", ErrMalformed
		}
	}
	s.header, s.bare = parts[0]+","+parts[1]+",", parts[2]
	fields := strings.Split(s.bare, ",")
	if len(fields) < 2 {
		return "", ErrMalformed // an extension that is mandatory comes first, and none is known
	}
	name, isName := strings.CutPrefix(fields[0], "n=")
	nonce, isNonce := strings.CutPrefix(fields[1], "r=")
	if s.user, ok = unescape(name); !ok || !isName || !isNonce || nonce == "" {
		return "", ErrMalformed
	}
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	s.nonce = nonce + base64.StdEncoding.EncodeToString(random)
	s.credential = s.find(s.user)
	s.first = fmt.Sprintf("r=%s,s=%s,i=%d", s.nonce, base64.StdEncoding.EncodeToString(s.credential.Salt), s.credential.Iterations)
	return s.first, nil
}

// prove reads client-final-message.
func (s *scramServer) prove(message string) (string, error) {
	at := strings.LastIndex(message, ",p=")
	if at < 0 {
		return "", ErrMalformed
	}
	without := message[:at]
	proof, err := base64.StdEncoding.DecodeString(message[at+3:])
	fields := strings.Split(without, ",")
	if err != nil || len(fields) < 2 {
		return "", ErrMalformed
	}
	binding, isBinding := strings.CutPrefix(fields[0], "c=")
	nonce, isNonce := strings.CutPrefix(fields[1], "r=")
	header, err := base64.StdEncoding.DecodeString(binding)
	switch {
	case err != nil || !isBinding || !isNonce:
		return "", ErrMalformed
	case string(header) != s.header || !strings.HasSuffix(nonce, s.nonce) || len(proof) != s.hash().Size():
		return "", ErrRefused
	}
	signed := s.bare + "," + s.first + "," + without
	key := s.mac(s.credential.StoredKey, signed)
	subtle.XORBytes(key, key, proof)
	stored := s.hash()
	stored.Write(key)
	if subtle.ConstantTimeCompare(stored.Sum(nil), s.credential.StoredKey) != 1 {
		return "", ErrRefused
	}
	return "v=" + base64.StdEncoding.EncodeToString(s.mac(s.credential.ServerKey, signed)), nil
}

func (s *scramServer) mac(key []byte, text string) []byte {
	m := hmac.New(s.hash, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// unescape reads a name, in which commas and equals signs are written as =2C and =3D.
func unescape(name string) (string, bool) {
	rest := strings.NewReplacer("=2C", "", "=3D", "").Replace(name)
	if name == "" || strings.Contains(rest, "=") {
		return "", false
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name), true
}
