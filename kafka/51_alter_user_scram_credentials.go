package kafka

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/sasl"
)

// alterUserScramCredentials sets and deletes credentials (KIP-554). What a user's part of the request gets wrong fails for that user
// alone; all others change at once. The salted password is as good as the password: it is turned into keys at once, and kept nowhere.
func (c *conn) alterUserScramCredentials(r *request, req *kmsg.AlterUserSCRAMCredentialsRequest, resp *kmsg.AlterUserSCRAMCredentialsResponse) {
	var order []string
	named := make(map[string]int)
	type key struct {
		user      string
		mechanism int8
	}
	twice := make(map[key]int)
	note := func(user string, mechanism int8) {
		if named[user]++; named[user] == 1 {
			order = append(order, user)
		}
		twice[key{user, mechanism}]++
	}
	for _, d := range req.Deletions {
		note(d.Name, d.Mechanism)
	}
	for _, u := range req.Upsertions {
		note(u.Name, u.Mechanism)
	}
	failed := make(map[string]kmsg.AlterUserSCRAMCredentialsResponseResult)
	fail := func(user, reason, message string) {
		if _, already := failed[user]; !already {
			at := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			at.User, at.ErrorCode, at.ErrorMessage = user, c.refuse(r, reason), &message
			failed[user] = at
		}
	}
	if !c.mayCluster(r, acl.Alter) {
		for _, user := range order {
			fail(user, frontdoor.ReasonClusterDenied, frontdoor.DenialText(c.caller, acl.Alter, acl.Cluster, acl.ClusterName))
		}
	}
	for k, n := range twice {
		if n > 1 {
			fail(k.user, frontdoor.ReasonDuplicate, "the credential is named twice")
		}
	}
	img := c.c.Cluster.Image()
	for _, d := range req.Deletions {
		if _, ok := img.Credential(d.Name, metadata.Mechanism(d.Mechanism)); !ok {
			fail(d.Name, frontdoor.ReasonNotFound, "there is no such credential")
		}
	}
	set := make(map[string][]*metadata.Credential)
	for _, u := range req.Upsertions {
		cred, reason, message := credentialOf(u)
		if reason != "" {
			fail(u.Name, reason, message)
		}
		set[u.Name] = append(set[u.Name], cred)
	}
	var change cluster.AccessChange
	for _, user := range order {
		if _, bad := failed[user]; !bad {
			change.Set = append(change.Set, set[user]...)
		}
	}
	for _, d := range req.Deletions {
		if _, bad := failed[d.Name]; !bad {
			change.Delete = append(change.Delete, cluster.CredentialName{User: d.Name, Mechanism: metadata.Mechanism(d.Mechanism)})
		}
	}
	var whole *failure
	if len(change.Set)+len(change.Delete) > 0 {
		ctx, cancel := c.adminContext(frontdoor.MaxTimeoutMS)
		defer cancel()
		if err := c.c.Cluster.AlterAccess(ctx, change); err != nil {
			f := c.failure(r, err)
			whole = &f
		}
	}
	for _, user := range order {
		at, bad := failed[user]
		if !bad {
			at = kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			at.User = user
			if whole != nil {
				at.ErrorCode, at.ErrorMessage = whole.code, whole.message
			}
		}
		resp.Results = append(resp.Results, at)
	}
}

// credentialOf checks an upsertion; a reason refuses it.
func credentialOf(u kmsg.AlterUserSCRAMCredentialsRequestUpsertion) (cred *metadata.Credential, reason, message string) {
	mechanism := metadata.Mechanism(u.Mechanism)
	keys, err := sasl.FromSalted(mechanism.String(), u.SaltedPassword, u.Salt, int(u.Iterations))
	if err != nil {
		return nil, frontdoor.ReasonSaslMechanism, fmt.Sprintf("mechanism is %d; want 1 (SCRAM-SHA-256) or 2 (SCRAM-SHA-512)", u.Mechanism)
	}
	cred = &metadata.Credential{User: u.Name, Mechanism: mechanism, Salt: keys.Salt, Iterations: keys.Iterations, StoredKey: keys.StoredKey, ServerKey: keys.ServerKey}
	if _, refusal := metadata.CredentialFromProto(metadata.CredentialToProto(cred)); refusal != nil {
		return nil, string(refusal.Code), refusal.Message
	}
	if len(u.SaltedPassword) != len(keys.StoredKey) {
		return nil, frontdoor.ReasonBadCredential, fmt.Sprintf("salted_password has %d bytes; a hash of %v has %d", len(u.SaltedPassword), mechanism, len(keys.StoredKey))
	}
	return cred, "", ""
}
