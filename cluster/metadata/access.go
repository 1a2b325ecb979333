package metadata

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// AccessLevel is the feature level from which on users and rules can be changed.
const AccessLevel uint16 = 2

// The bounds of users and rules.
const (
	// MaxCredentials of all users together.
	MaxCredentials = 10_000
	// MaxRules that allow or deny.
	MaxRules = 20_000
	// MaxUserLength in bytes.
	MaxUserLength = 255
	// MinIterations and MaxIterations of a password, as in Kafka.
	MinIterations = 4096
	MaxIterations = 16_384
	// MinSaltLength and MaxSaltLength in bytes.
	MinSaltLength = 8
	MaxSaltLength = 64
)

// Mechanism is a way to prove a password, by its number in Kafka's protocol.
type Mechanism uint32

// The mechanisms that credentials exist for.
const (
	ScramSHA256 Mechanism = 1
	ScramSHA512 Mechanism = 2
)

// String gives the mechanism's name in SASL.
func (m Mechanism) String() string {
	switch m {
	case ScramSHA256:
		return "SCRAM-SHA-256"
	case ScramSHA512:
		return "SCRAM-SHA-512"
	}
	return fmt.Sprintf("unknown mechanism %d", uint32(m))
}

// keyLength is that of a credential's keys; 0: there is no such mechanism.
func (m Mechanism) keyLength() int {
	switch m {
	case ScramSHA256:
		return 32
	case ScramSHA512:
		return 64
	}
	return 0
}

// Credential is what is known of a user's password (RFC 5802, 3): enough to check it.
type Credential struct {
	User       string
	Mechanism  Mechanism
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// String names the credential, and tells nothing of the password.
func (c *Credential) String() string {
	return fmt.Sprintf("%s of %q, %d iterations", c.Mechanism, c.User, c.Iterations)
}

// GoString is String: no key gets into a log by %#v.
func (c *Credential) GoString() string { return c.String() }

func (c *Credential) equal(o *Credential) bool {
	return c.User == o.User && c.Mechanism == o.Mechanism && c.Iterations == o.Iterations && bytes.Equal(c.Salt, o.Salt) &&
		bytes.Equal(c.StoredKey, o.StoredKey) && bytes.Equal(c.ServerKey, o.ServerKey)
}

func compareCredential(c *Credential, user string, m Mechanism) int {
	return cmp.Or(cmp.Compare(c.User, user), cmp.Compare(c.Mechanism, m))
}

// Credentials are those of all users, by user and mechanism.
func (img *Image) Credentials() []*Credential { return img.credentials }

// Credential finds what is known of a user's password.
func (img *Image) Credential(user string, m Mechanism) (*Credential, bool) {
	i, ok := img.findCredential(user, m)
	if !ok {
		return nil, false
	}
	return img.credentials[i], true
}

func (img *Image) findCredential(user string, m Mechanism) (int, bool) {
	return slices.BinarySearchFunc(img.credentials, user, func(c *Credential, user string) int { return compareCredential(c, user, m) })
}

// Rules are those that allow and deny.
func (img *Image) Rules() *acl.Set { return img.rules }

// WithAccess is the image with other users and rules: for tests of what reads them.
func (img *Image) WithAccess(credentials []*Credential, rules []acl.Rule) *Image {
	with := *img
	with.credentials = slices.SortedFunc(slices.Values(credentials), func(a, b *Credential) int { return compareCredential(a, b.User, b.Mechanism) })
	with.rules = acl.New(rules)
	return &with
}

func (s *State) alterAccess(c *statev1.AlterAccess, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	if s.img.level < AccessLevel {
		r.Err = refuse(UnsupportedVersion, "feature_level", "users and access rules need feature level %d; the cluster is at %d", AccessLevel, s.img.level).limit(AccessLevel)
		return
	}
	if c.GetFirstCredentials() && len(s.img.credentials) > 0 {
		return
	}
	credentials, err := alterCredentials(s.img.credentials, c)
	if r.Err = err; err != nil {
		return
	}
	rules, err := alterRules(s.img.rules, c)
	if r.Err = err; err != nil {
		return
	}
	if !slices.EqualFunc(credentials, s.img.credentials, (*Credential).equal) {
		s.edit().credentials, r.Changed = credentials, true
	}
	if rules != s.img.rules {
		s.edit().rules, r.Changed = rules, true
	}
}

func alterCredentials(have []*Credential, c *statev1.AlterAccess) ([]*Credential, *Error) {
	out := slices.Clone(have)
	find := func(user string, m Mechanism) (int, bool) {
		return slices.BinarySearchFunc(out, user, func(c *Credential, user string) int { return compareCredential(c, user, m) })
	}
	for _, ref := range c.GetDeleteCredentials() {
		if i, ok := find(ref.GetUser(), Mechanism(ref.GetMechanism())); ok {
			out = slices.Delete(out, i, i+1)
		}
	}
	for _, p := range c.GetUpsertCredentials() {
		cred, err := CredentialFromProto(p)
		if err != nil {
			return nil, err
		}
		if i, ok := find(cred.User, cred.Mechanism); ok {
			out[i] = cred
		} else {
			out = slices.Insert(out, i, cred)
		}
	}
	if len(out) > MaxCredentials {
		return nil, refuse(PolicyViolation, "credentials", "there would be %d credentials", len(out)).limit(MaxCredentials)
	}
	return out, nil
}

// alterRules gives the set itself if nothing changes.
func alterRules(have *acl.Set, c *statev1.AlterAccess) (*acl.Set, *Error) {
	if len(c.GetAddRules())+len(c.GetRemoveRules()) == 0 {
		return have, nil
	}
	removed := make(map[acl.Rule]bool, len(c.GetRemoveRules()))
	for _, p := range c.GetRemoveRules() {
		removed[ruleFromProto(p)] = true
	}
	list := slices.DeleteFunc(slices.Clone(have.Rules()), func(r acl.Rule) bool { return removed[r] })
	for _, p := range c.GetAddRules() {
		rule := ruleFromProto(p)
		if field, why := rule.Check(); field != "" {
			return nil, refuse(InvalidRequest, field, "%s %s", field, why)
		}
		list = append(list, rule)
	}
	set := acl.New(list)
	if set.Len() > MaxRules {
		return nil, refuse(PolicyViolation, "rules", "there would be %d access rules", set.Len()).limit(MaxRules)
	}
	if slices.Equal(set.Rules(), have.Rules()) {
		return have, nil
	}
	return set, nil
}

// CredentialFromProto reads and checks a credential.
func CredentialFromProto(p *statev1.ScramCredential) (*Credential, *Error) {
	c := &Credential{User: p.GetUser(), Mechanism: Mechanism(p.GetMechanism()), Salt: bytes.Clone(p.GetSalt()), Iterations: int(p.GetIterations()),
		StoredKey: bytes.Clone(p.GetStoredKey()), ServerKey: bytes.Clone(p.GetServerKey())}
	want := c.Mechanism.keyLength()
	switch {
	case c.User == "" || len(c.User) > MaxUserLength:
		return nil, refuse(UnacceptableCredential, "user", "a user's name of %d bytes", len(c.User)).limit(MaxUserLength)
	case want == 0:
		return nil, refuse(UnsupportedSaslMechanism, "mechanism", "%v", c.Mechanism)
	case c.Iterations < MinIterations || c.Iterations > MaxIterations:
		return nil, refuse(UnacceptableCredential, "iterations", "%d iterations: %d to %d", c.Iterations, MinIterations, MaxIterations).limit(fmt.Sprintf("%d-%d", MinIterations, MaxIterations))
	case len(c.Salt) < MinSaltLength || len(c.Salt) > MaxSaltLength:
		return nil, refuse(UnacceptableCredential, "salt", "a salt of %d bytes: %d to %d", len(c.Salt), MinSaltLength, MaxSaltLength).limit(fmt.Sprintf("%d-%d", MinSaltLength, MaxSaltLength))
	case len(c.StoredKey) != want || len(c.ServerKey) != want:
		return nil, refuse(UnacceptableCredential, "stored_key", "keys of %d and %d bytes: %v has %d", len(c.StoredKey), len(c.ServerKey), c.Mechanism, want).limit(want)
	}
	return c, nil
}

// CredentialToProto encodes a credential.
func CredentialToProto(c *Credential) *statev1.ScramCredential {
	return &statev1.ScramCredential{User: c.User, Mechanism: uint32(c.Mechanism), Salt: c.Salt, Iterations: uint32(c.Iterations),
		StoredKey: c.StoredKey, ServerKey: c.ServerKey}
}

// ruleFromProto reads a rule as it is; numbers that no field can hold become ones that mean nothing.
func ruleFromProto(p *statev1.AclRule) acl.Rule {
	return acl.Rule{Type: acl.ResourceType(small(p.GetResourceType())), Name: p.GetResourceName(), Pattern: acl.Pattern(small(p.GetPatternType())),
		Principal: p.GetPrincipal(), Host: p.GetHost(), Operation: acl.Operation(small(p.GetOperation())), Permission: acl.Permission(small(p.GetPermission()))}
}

func small(n uint32) uint8 { return uint8(min(n, 255)) }

// RuleToProto encodes a rule.
func RuleToProto(r acl.Rule) *statev1.AclRule {
	return &statev1.AclRule{ResourceType: uint32(r.Type), ResourceName: r.Name, PatternType: uint32(r.Pattern), Principal: r.Principal, Host: r.Host,
		Operation: uint32(r.Operation), Permission: uint32(r.Permission)}
}

func (img *Image) accessToProto(p *statev1.MetadataState) {
	for _, c := range img.credentials {
		p.Credentials = append(p.Credentials, CredentialToProto(c))
	}
	for _, r := range img.rules.Rules() {
		p.AclRules = append(p.AclRules, RuleToProto(r))
	}
}

func (img *Image) restoreAccess(p *statev1.MetadataState) error {
	switch {
	case len(p.GetCredentials()) > MaxCredentials || len(p.GetAclRules()) > MaxRules:
		return bad("%d credentials, %d access rules", len(p.GetCredentials()), len(p.GetAclRules()))
	case img.level < AccessLevel && len(p.GetCredentials())+len(p.GetAclRules()) > 0:
		return bad("credentials or access rules at feature level %d", img.level)
	}
	for _, cp := range p.GetCredentials() {
		c, refusal := CredentialFromProto(cp)
		if refusal != nil {
			return bad("%v", refusal)
		}
		if n := len(img.credentials); n > 0 && compareCredential(img.credentials[n-1], c.User, c.Mechanism) >= 0 {
			return bad("credentials are not sorted")
		}
		img.credentials = append(img.credentials, c)
	}
	var rules []acl.Rule
	for _, rp := range p.GetAclRules() {
		r := ruleFromProto(rp)
		if field, why := r.Check(); field != "" {
			return bad("access rule: %s %s", field, why)
		}
		if n := len(rules); n > 0 && acl.Compare(rules[n-1], r) >= 0 {
			return bad("access rules are not sorted")
		}
		rules = append(rules, r)
	}
	if len(rules) > 0 {
		img.rules = acl.New(rules)
	}
	return nil
}
