package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// updateFeatures lets a tool ask for what holds anyway: transactions have version 2, beside those of clients that only know version 1. No
// other feature, and no other level, can be had.
func (c *conn) updateFeatures(r *request, req *kmsg.UpdateFeaturesRequest, resp *kmsg.UpdateFeaturesResponse) {
	if !c.mayCluster(r, acl.Alter) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.Alter)
		return
	}
	for _, u := range req.FeatureUpdates {
		one := kmsg.NewUpdateFeaturesResponseResult()
		one.Feature = u.Feature
		if u.Feature != featureTransactions || u.MaxVersionLevel != 2 {
			message := "the only feature is " + featureTransactions + ", at level 2"
			one.ErrorCode, one.ErrorMessage = c.refuse(r, "INVALID_UPDATE_VERSION"), &message
			resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
		}
		resp.Results = append(resp.Results, one)
	}
	if len(req.FeatureUpdates) == 0 {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
	}
	if req.Version < 2 {
		resp.ErrorCode, resp.ErrorMessage = 0, nil // each has its own
	}
}
