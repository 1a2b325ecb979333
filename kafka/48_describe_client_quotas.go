package kafka

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// How a part of an entity is matched (KIP-546).
const (
	matchExact = iota
	matchDefault
	matchAny
)

// describeClientQuotas finds none: there are no quotas, and nothing sets any (key 49 is not served). Kafka's tools ask before they show users.
func (c *conn) describeClientQuotas(r *request, req *kmsg.DescribeClientQuotasRequest, resp *kmsg.DescribeClientQuotasResponse) {
	if !c.mayCluster(r, acl.DescribeConfigs) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.DescribeConfigs)
		return
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	if reason, message := checkQuotaFilter(req.Components); reason != "" {
		resp.ErrorCode, resp.ErrorMessage, resp.Entries = c.refuse(r, reason), &message, nil
	}
}

func checkQuotaFilter(components []kmsg.DescribeClientQuotasRequestComponent) (reason, message string) {
	seen := make(map[string]bool)
	for _, q := range components {
		switch t := q.EntityType; {
		case t != "user" && t != "client-id" && t != "ip" && t != "":
			return "UNSUPPORTED_VERSION", fmt.Sprintf("entity_type is %.64q; want user, client-id or ip", t)
		case t == "" || seen[t]:
			return frontdoor.ReasonInvalidRequest, fmt.Sprintf("entity_type %q is empty or there twice; want each of user, client-id and ip once at most", t)
		case q.MatchType < matchExact || q.MatchType > matchAny:
			return frontdoor.ReasonInvalidRequest, fmt.Sprintf("match_type is %d; want %d (exact), %d (default) or %d (any)", q.MatchType, matchExact, matchDefault, matchAny)
		case (q.MatchType == matchExact) != (q.Match != nil):
			return frontdoor.ReasonInvalidRequest, fmt.Sprintf("match_type is %d and match is there: %v; want match with match_type %d, and with no other", q.MatchType, q.Match != nil, matchExact)
		default:
			seen[t] = true
		}
	}
	if seen["ip"] && len(seen) > 1 {
		return frontdoor.ReasonInvalidRequest, "entity_type ip is there with others; want it alone"
	}
	return "", ""
}
