package cluster

import (
	"context"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// AccessChange asks for a change of who may come in and what they may do.
type AccessChange struct {
	Set    []*metadata.Credential
	Delete []CredentialName
	// Add and Remove are rules.
	Add, Remove []acl.Rule
	// First changes nothing if there is any credential.
	First bool
}

// CredentialName names a credential.
type CredentialName struct {
	User      string
	Mechanism metadata.Mechanism
}

// AlterAccess changes users and rules, all or nothing, and waits until this broker's image has it. What exists, or is gone, is passed
// over.
func (c *Cluster) AlterAccess(ctx context.Context, n AccessChange) error {
	cmd := &statev1.AlterAccess{FirstCredentials: n.First}
	for _, s := range n.Set {
		cmd.UpsertCredentials = append(cmd.UpsertCredentials, metadata.CredentialToProto(s))
	}
	for _, d := range n.Delete {
		cmd.DeleteCredentials = append(cmd.DeleteCredentials, &statev1.CredentialRef{User: d.User, Mechanism: uint32(d.Mechanism)})
	}
	for _, r := range n.Add {
		cmd.AddRules = append(cmd.AddRules, metadata.RuleToProto(r))
	}
	for _, r := range n.Remove {
		cmd.RemoveRules = append(cmd.RemoveRules, metadata.RuleToProto(r))
	}
	return c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_AlterAccess{AlterAccess: &peerv1.AlterAccess{Command: cmd}}})
}
