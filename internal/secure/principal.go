package secure

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Mapping makes a user's name of a certificate's subject, by rules with the syntax and meaning of Kafka's
// ssl.principal.mapping.rules: RULE:pattern/replacement/ with L or U behind it for the lower or upper case, or DEFAULT, which is the
// subject as it is; the first that matches the whole subject counts. Patterns are Go's (RE2), not Java's.
type Mapping struct{ rules []mappingRule }

// mappingRule without a pattern is DEFAULT.
type mappingRule struct {
	pattern     *regexp.Regexp
	replacement string
	toLower     bool
	toUpper     bool
}

// MaxMappingLength bounds the text of the rules, in bytes.
const MaxMappingLength = 16 << 10

// ErrNoRule: no rule matches the subject; the connection is refused.
var ErrNoRule = errors.New("no rule of principal_mapping_rules matches the certificate's subject")

// javaGroup is a reference to a group, which ends after one digit.
var javaGroup = regexp.MustCompile(`\$([0-9])`)

// ParseMapping reads rules, separated by commas. Empty: DEFAULT.
func ParseMapping(text string) (*Mapping, error) {
	if len(text) > MaxMappingLength {
		return nil, fmt.Errorf("has %d bytes: at most %d", len(text), MaxMappingLength)
	}
	m := new(Mapping)
	rest := strings.TrimSpace(text)
	if rest == "" {
		rest = "DEFAULT"
	}
	for {
		var r mappingRule
		var err error
		if after, ok := strings.CutPrefix(rest, "DEFAULT"); ok {
			rest = after
		} else if after, ok := strings.CutPrefix(rest, "RULE:"); ok {
			if r, rest, err = parseRule(after); err != nil {
				return nil, fmt.Errorf("rule %d %w", len(m.rules)+1, err)
			}
		} else {
			return nil, fmt.Errorf("rule %d begins with neither RULE: nor DEFAULT", len(m.rules)+1)
		}
		m.rules = append(m.rules, r)
		if rest = strings.TrimSpace(rest); rest == "" {
			return m, nil
		}
		if !strings.HasPrefix(rest, ",") {
			return nil, fmt.Errorf("rule %d is followed by %q: rules are separated by commas", len(m.rules), rest[:1])
		}
		rest = strings.TrimSpace(rest[1:])
	}
}

// parseRule reads pattern/replacement/[LU] and gives what follows.
func parseRule(text string) (r mappingRule, rest string, err error) {
	pattern, rest, ok := untilSlash(text)
	if !ok {
		return r, "", errors.New("has no / after its pattern")
	}
	if r.replacement, rest, ok = untilSlash(rest); !ok {
		return r, "", errors.New("has no / after its replacement")
	}
	r.replacement = javaGroup.ReplaceAllString(r.replacement, "$${$1}")
	if r.pattern, err = regexp.Compile(`^(?:` + pattern + `)$`); err != nil {
		return r, "", fmt.Errorf("has a bad pattern: %w", err)
	}
	switch {
	case strings.HasPrefix(rest, "L"):
		r.toLower, rest = true, rest[1:]
	case strings.HasPrefix(rest, "U"):
		r.toUpper, rest = true, rest[1:]
	}
	return r, rest, nil
}

// untilSlash cuts at the first slash without a backslash before it; \/ stands for a slash.
func untilSlash(text string) (before, after string, ok bool) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '/':
			return strings.ReplaceAll(text[:i], `\/`, "/"), text[i+1:], true
		}
	}
	return "", "", false
}

// subjectOf writes a certificate's subject as RFC 2253 has it, and Kafka with it: all of its parts, the last first. pkix.Name would leave out
// common names but one, so that two people of one name in different parts of a directory were the same user.
func subjectOf(der []byte) (string, error) {
	var parts pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &parts); err != nil || len(rest) > 0 {
		return "", errors.New("the certificate's subject cannot be read")
	}
	for _, part := range parts {
		for _, attribute := range part {
			if _, ok := attribute.Value.(string); !ok {
				return "", fmt.Errorf("the certificate's subject has %v, which is no text", attribute.Type)
			}
		}
	}
	return parts.String(), nil
}

// Name is the user that a subject stands for.
func (m *Mapping) Name(subject string) (string, error) {
	for _, r := range m.rules {
		if r.pattern == nil {
			return subject, nil
		}
		groups := r.pattern.FindStringSubmatchIndex(subject)
		if groups == nil {
			continue
		}
		name := string(r.pattern.ExpandString(nil, r.replacement, subject, groups))
		switch {
		case r.toLower:
			name = strings.ToLower(name)
		case r.toUpper:
			name = strings.ToUpper(name)
		}
		if name == "" {
			return "", fmt.Errorf("%w: it becomes an empty name", ErrNoRule)
		}
		return name, nil
	}
	return "", ErrNoRule
}
