package raftgroup

import "fmt"

// A broker id can have had several directories: one was lost, and another has been registered in its place
// (docs/decisions/0012). Frames name the replica that they are meant for, so that none reaches a successor; but a broker that still
// runs on the old directory would take up connections and time, and not learn that it is over. So a connection belongs to a
// directory. It is refused, or ends, once this broker's metadata has another one in its place, if that metadata is as new as the
// registration the other tells of: what is older knows a former one.

// remote is who is at the other end of a connection; the zero value: not known yet.
type remote struct {
	broker int32
	node   Node
}

// greeting is what this broker says of itself.
func (h *Host) greeting() greeting {
	g := greeting{saysFresh: !h.config.older}
	if h.config.Node != nil {
		g.node = h.config.Node()
	}
	return g
}

// replaced says whether another directory was registered in the place of a broker's.
func (h *Host) replaced(broker int32, n Node) error {
	if n.Incarnation == 0 || h.config.Replaced == nil || !h.config.Replaced(broker, n) {
		return nil
	}
	h.metrics.replaced.Inc()
	return fmt.Errorf("broker %d runs on a directory, node incarnation %x, in whose place another was registered", broker, n.Incarnation)
}

// know notes who is at the other end.
func (h *Host) know(w *wire, r remote) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.wires[w]; ok {
		h.wires[w] = r
	}
}

// endReplaced ends the connections with directories that have been replaced since they were made.
func (h *Host) endReplaced() {
	if h.config.Replaced == nil {
		return
	}
	h.mu.RLock()
	open := make(map[*wire]remote, len(h.wires))
	for w, r := range h.wires {
		open[w] = r
	}
	h.mu.RUnlock()
	for w, r := range open {
		if err := h.replaced(r.broker, r.node); err != nil {
			h.logger.Warn("a connection ends: its broker's directory was replaced", "peer", r.broker, "node_incarnation", fmt.Sprintf("%x", r.node.Incarnation), "class", w.class.String())
			w.fail(err)
		}
	}
}
