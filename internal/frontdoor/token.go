package frontdoor

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata"
)

// A token stands for a user who has proven a password (docs/decisions/0010). It is made and checked by one broker, with a key that
// dies with the process:
//
//	 0 expires      int64  ms since 1970
//	 8 fingerprint [8]byte of the user's credentials
//	16 length of the address, and the address that the user came from
//	   user
//	   mac         [32]byte HMAC-SHA256 of all before
//
// in base64. Nothing is remembered of it: it is good until it expires, or the user's credentials change.
type tokens struct{ key [32]byte }

// TokenTime is for how long a token is good where no shorter session is configured.
const TokenTime = time.Hour

// maxTokenLength bounds what is looked at.
const maxTokenLength = 1024

const (
	tokenHead = 16
	macLength = sha256.Size
)

// ErrToken: a token is not ours, or no longer good.
var ErrToken = errors.New("the token is not one of this broker, or has expired")

func newTokens() tokens {
	var t tokens
	_, _ = rand.Read(t.key[:]) // never fails
	return t
}

func (t tokens) mac(b []byte) []byte {
	m := hmac.New(sha256.New, t.key[:])
	m.Write(b)
	return m.Sum(nil)
}

// Token makes one for the user who was proven. It is good as long as the credentials are that were proven.
func (l *Login) Token() (token string, good time.Duration) {
	g, user := l.guard, l.exchange.User()
	good = TokenTime
	if s := g.c.MaxSession; s > 0 {
		good = min(good, s)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(good).UnixMilli()))
	b = append(b, l.print[:]...)
	host := hostOf(l.from)
	b = append(append(append(b, byte(len(host))), host...), user...)
	return base64.RawURLEncoding.EncodeToString(append(b, g.tokens.mac(b)...)), good
}

// hostOf is an address as tokens have it.
func hostOf(from net.Addr) string {
	host := NewCaller("", "", from).Host
	return host[:min(len(host), 255)]
}

// Holder is the user that a token stands for which comes from an address.
func (g *Guard) Holder(token string, from net.Addr) (user string, err error) {
	if len(token) > maxTokenLength {
		return "", ErrToken
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= tokenHead+macLength {
		return "", ErrToken
	}
	b, mac := b[:len(b)-macLength], b[len(b)-macLength:]
	if subtle.ConstantTimeCompare(mac, g.tokens.mac(b)) != 1 {
		return "", ErrToken
	}
	rest := b[tokenHead:]
	n := int(rest[0])
	if len(rest) < 1+n || string(rest[1:1+n]) != hostOf(from) {
		return "", ErrToken
	}
	user = string(rest[1+n:])
	if time.Now().UnixMilli() >= int64(binary.BigEndian.Uint64(b)) {
		return "", ErrToken
	}
	if print := fingerprint(g.c.Image(), user); string(print[:]) != string(b[8:tokenHead]) {
		return "", ErrToken
	}
	return user, nil
}

// fingerprint changes with a user's credentials.
func fingerprint(img *metadata.Image, user string) [8]byte {
	h := sha256.New()
	for _, m := range []metadata.Mechanism{metadata.ScramSHA256, metadata.ScramSHA512} {
		if c, ok := img.Credential(user, m); ok {
			h.Write([]byte(m.String()))
			h.Write(c.Salt)
			h.Write(c.StoredKey)
		}
	}
	return [8]byte(h.Sum(nil)[:8])
}
