package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// describeUserScramCredentials tells which users have which credentials, and nothing of their passwords (KIP-554).
func (c *conn) describeUserScramCredentials(r *request, req *kmsg.DescribeUserSCRAMCredentialsRequest, resp *kmsg.DescribeUserSCRAMCredentialsResponse) {
	if !c.mayCluster(r, acl.Describe) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.Describe)
		return
	}
	img := c.c.Cluster.Image()
	byUser := make(map[string][]*metadata.Credential)
	var users []string
	for _, cred := range img.Credentials() {
		if byUser[cred.User] == nil {
			users = append(users, cred.User)
		}
		byUser[cred.User] = append(byUser[cred.User], cred)
	}
	asked := make(map[string]int)
	if len(req.Users) > 0 {
		users = users[:0:0]
		for _, u := range req.Users {
			if asked[u.Name]++; asked[u.Name] == 1 {
				users = append(users, u.Name)
			}
		}
	}
	for _, user := range users {
		at := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		at.User = user
		switch creds := byUser[user]; {
		case asked[user] > 1:
			message := "the user is asked for twice"
			at.ErrorCode, at.ErrorMessage = c.refuse(r, frontdoor.ReasonDuplicate), &message
		case creds == nil:
			message := "there is no such user"
			at.ErrorCode, at.ErrorMessage = c.refuse(r, frontdoor.ReasonNotFound), &message
		default:
			for _, cred := range creds {
				at.CredentialInfos = append(at.CredentialInfos, kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{
					Mechanism: int8(cred.Mechanism), Iterations: int32(cred.Iterations)})
			}
		}
		resp.Results = append(resp.Results, at)
	}
}
