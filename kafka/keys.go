package kafka

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// endpoint is one API key with the versions that are served.
type endpoint struct {
	name     string
	min, max int16
	// advertised is what clients are told to be the lowest version; -1: min.
	advertised int16
	handle     func(*conn, *request) *answer
}

const keyAPIVersions = 18

// endpoints are all keys that are served. What a client is told by ApiVersions is read off here.
var endpoints map[int16]*endpoint

// Versions 0 to 2 of Produce carry message formats that are not served, yet librdkafka switches compression off unless version 0 is
// advertised (A2).
func init() {
	endpoints = map[int16]*endpoint{
		keyProduce:          {min: 3, max: 12, handle: (*conn).produce, advertised: 0},
		1:                   {min: 4, max: 17, handle: (*conn).fetch, advertised: -1},
		2:                   plain(1, 10, (*conn).listOffsets),
		3:                   plain(0, 13, (*conn).metadata),
		8:                   plain(2, 9, (*conn).offsetCommit),
		9:                   plain(1, 9, (*conn).offsetFetch),
		10:                  plain(0, 6, (*conn).findCoordinator),
		11:                  plain(0, 9, (*conn).joinGroup),
		12:                  plain(0, 4, (*conn).heartbeat),
		13:                  plain(0, 5, (*conn).leaveGroup),
		14:                  plain(0, 5, (*conn).syncGroup),
		15:                  plain(0, 6, (*conn).describeGroups),
		16:                  plain(0, 5, (*conn).listGroups),
		keyAPIVersions:      plain(0, 4, (*conn).apiVersions),
		keySASLHandshake:    {min: 0, max: 1, handle: (*conn).saslHandshake, advertised: -1},
		keySASLAuthenticate: {min: 0, max: 2, handle: (*conn).saslAuthenticate, advertised: -1},
		19:                  plain(2, 7, (*conn).createTopics),
		20:                  plain(1, 6, (*conn).deleteTopics),
		21:                  plain(0, 2, (*conn).deleteRecords),
		22:                  plain(0, 5, (*conn).initProducerID),
		23:                  plain(2, 4, (*conn).offsetForLeaderEpoch),
		24:                  plain(0, 3, (*conn).addPartitionsToTxn),
		25:                  plain(0, 4, (*conn).addOffsetsToTxn),
		keyEndTxn:           plain(0, 5, (*conn).endTxn),
		27:                  plain(1, 2, (*conn).writeTxnMarkers),
		28:                  plain(0, 5, (*conn).txnOffsetCommit),
		29:                  plain(0, 3, (*conn).describeACLs),
		30:                  plain(0, 3, (*conn).createACLs),
		31:                  plain(0, 3, (*conn).deleteACLs),
		32:                  plain(0, 4, (*conn).describeConfigs),
		33:                  plain(0, 2, (*conn).alterConfigs),
		35:                  plain(1, 4, (*conn).describeLogDirs),
		37:                  plain(0, 3, (*conn).createPartitions),
		42:                  plain(0, 2, (*conn).deleteGroups),
		43:                  plain(0, 2, (*conn).electLeaders),
		44:                  plain(0, 1, (*conn).incrementalAlterConfigs),
		45:                  plain(0, 0, (*conn).alterPartitionReassignments),
		46:                  plain(0, 0, (*conn).listPartitionReassignments),
		47:                  plain(0, 0, (*conn).offsetDelete),
		48:                  plain(0, 1, (*conn).describeClientQuotas),
		50:                  plain(0, 0, (*conn).describeUserScramCredentials),
		51:                  plain(0, 0, (*conn).alterUserScramCredentials),
		55:                  plain(0, 2, (*conn).describeQuorum),
		57:                  plain(0, 2, (*conn).updateFeatures),
		60:                  plain(0, 2, (*conn).describeCluster),
		61:                  plain(0, 0, (*conn).describeProducers),
		65:                  plain(0, 0, (*conn).describeTransactions),
		66:                  plain(0, 2, (*conn).listTransactions),
		68:                  plain(0, 1, (*conn).consumerGroupHeartbeat),
		69:                  plain(0, 1, (*conn).consumerGroupDescribe),
		74:                  plain(0, 1, (*conn).listConfigResources),
		75:                  plain(0, 0, (*conn).describeTopicPartitions),
	}
	for key, e := range endpoints {
		e.name = kmsg.NameForKey(key)
	}
}

// plain is an endpoint whose handler answers before the next request of its connection begins.
func plain[Req, Resp any, PReq interface {
	*Req
	kmsg.Request
}, PResp interface {
	*Resp
	kmsg.Response
}](least, most int16, handle func(*conn, *request, PReq, PResp)) *endpoint {
	return &endpoint{min: least, max: most, advertised: -1, handle: func(c *conn, r *request) *answer {
		req := r.msg.(PReq)
		resp := req.ResponseKind().(PResp)
		handle(c, r, req, resp)
		return &answer{response: resp}
	}}
}

// keys are the keys that are served, sorted.
func keys() []int16 { return slices.Sorted(maps.Keys(endpoints)) }
