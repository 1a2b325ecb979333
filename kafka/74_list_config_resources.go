package kafka

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// listConfigResources lists what has configs: topics and brokers, from version 1 on. Version 0 asks for subscriptions to client metrics,
// of which there are none.
func (c *conn) listConfigResources(r *request, req *kmsg.ListConfigResourcesRequest, resp *kmsg.ListConfigResourcesResponse) {
	if !c.mayCluster(r, acl.DescribeConfigs) {
		resp.ErrorCode = c.denied(r, acl.Cluster)
		return
	}
	if req.Version == 0 {
		return
	}
	img := c.c.Cluster.Image()
	wants := func(k kmsg.ConfigResourceType) bool {
		return len(req.ResourceTypes) == 0 || slices.Contains(req.ResourceTypes, int8(k))
	}
	add := func(k kmsg.ConfigResourceType, name string) {
		resp.ConfigResources = append(resp.ConfigResources, kmsg.ListConfigResourcesResponseConfigResource{Name: name, Type: int8(k)})
	}
	if wants(kmsg.ConfigResourceTypeTopic) {
		for _, t := range img.Topics() {
			add(kmsg.ConfigResourceTypeTopic, t.Name)
		}
	}
	if wants(kmsg.ConfigResourceTypeBroker) {
		for _, b := range img.Brokers() {
			add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b.ID)))
		}
	}
}
