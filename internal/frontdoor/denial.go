package frontdoor

import (
	"fmt"
	"strings"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// Denied is the reason that is given to who may not get at a resource of a type.
func Denied(t acl.ResourceType) string {
	switch t {
	case acl.Topic:
		return ReasonTopicDenied
	case acl.Group:
		return ReasonGroupDenied
	case acl.TransactionalID:
		return ReasonTxnUnauthorised
	}
	return ReasonClusterDenied
}

// DenialText says to somebody what it may not do, and what would let it. An empty name means any resource of the type.
func DenialText(by Caller, op acl.Operation, t acl.ResourceType, name string) string {
	kind := strings.ReplaceAll(t.String(), "_", " ")
	flag := "--" + strings.ReplaceAll(t.String(), "_", "-")
	what := fmt.Sprintf("%s %q", kind, name)
	switch {
	case t == acl.Cluster:
		what = "the cluster"
	case name == "":
		what, flag = "any "+kind, flag+" NAME"
	default:
		flag += " " + shell(name)
	}
	text := fmt.Sprintf("%s may not %s %s: no access rule allows it, or one denies it. To allow it: brokerctl acl create --principal %s --operation %s %s",
		by.principal, strings.ReplaceAll(op.String(), "_", " "), what, shell(by.principal), op, flag)
	if by.User == Anonymous {
		text += ". The client has not proven who it is"
	}
	return text
}

// shell quotes a word where a shell would read it otherwise.
func shell(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(":._-/@=,", r)
	}
	if strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
