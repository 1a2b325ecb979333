package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// describeCluster tells which brokers there are. Controllers have no endpoints of their own here.
func (c *conn) describeCluster(r *request, req *kmsg.DescribeClusterRequest, resp *kmsg.DescribeClusterResponse) {
	img := c.c.Cluster.Image()
	resp.EndpointType, resp.ClusterID, resp.ControllerID, resp.ClusterAuthorizedOperations = 1, img.ClusterID(), c.controller(), noOperations
	if req.Version >= 1 && req.EndpointType != 1 {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		message := "only brokers can be described (endpoint type 1)"
		resp.ErrorMessage, resp.EndpointType = &message, req.EndpointType
		return
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = c.clusterOperations(r)
	}
	for _, n := range c.nodes(img) {
		resp.Brokers = append(resp.Brokers, kmsg.DescribeClusterResponseBroker{NodeID: n.id, Host: n.host, Port: n.port, Rack: n.rack})
	}
}
