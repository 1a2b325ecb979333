package kafka

import (
	"regexp"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// keyEndTxn must be served for transactions of version 2 to be announced: announcing the feature without the versions is the
// broken combination (T13).
const keyEndTxn = 26

// featureTransactions is the feature that tells clients of version 2 of transactions.
const featureTransactions = "transaction.version"

var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// apiVersions tells which keys and versions there are (A4). A version that is not known is answered in the form of version 0, with
// ApiVersions' own range and nothing else: a client that finds more stays with it and never learns of the features.
func (c *conn) apiVersions(r *request, req *kmsg.ApiVersionsRequest, resp *kmsg.ApiVersionsResponse) {
	own := endpoints[keyAPIVersions]
	if req.Version < own.min || req.Version > own.max {
		resp.SetVersion(0)
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonUnsupported)
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: keyAPIVersions, MinVersion: own.min, MaxVersion: own.max}}
		return
	}
	if req.Version >= 3 && (!softwareName.MatchString(req.ClientSoftwareName) || !softwareName.MatchString(req.ClientSoftwareVersion)) {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		return
	}
	for _, key := range keys() {
		e := endpoints[key]
		k := kmsg.ApiVersionsResponseApiKey{ApiKey: key, MinVersion: e.min, MaxVersion: e.max}
		if e.advertised >= 0 {
			k.MinVersion = e.advertised
		}
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	if endpoints[keyEndTxn] == nil {
		return
	}
	if req.Version >= 4 { // before, clients refuse a supported feature that begins at 0
		resp.SupportedFeatures = []kmsg.ApiVersionsResponseSupportedFeature{{Name: featureTransactions, MinVersion: 0, MaxVersion: 2}}
	}
	resp.FinalizedFeaturesEpoch = int64(c.c.Cluster.Image().FeatureLevel())
	resp.FinalizedFeatures = []kmsg.ApiVersionsResponseFinalizedFeature{{Name: featureTransactions, MinVersionLevel: 2, MaxVersionLevel: 2}}
}
