package raftgroup

import (
	"fmt"
	"strconv"
	"strings"
)

// GroupID names a Raft group for all time. The metadata group gives them out; none is used twice.
type GroupID uint64

// MetadataGroup is the group that agrees on everything else.
const MetadataGroup GroupID = 1

// ServerID names one replica of one group for all time, as "broker/incarnation". A replica that
// lost data, or may have, comes back under another incarnation (architecture section 4, Identity).
type ServerID string

// MakeServerID names the replica that a broker holds under an incarnation.
func MakeServerID(broker int32, incarnation uint64) ServerID {
	b := make([]byte, 0, 32)
	b = strconv.AppendInt(b, int64(broker), 10)
	b = append(b, '/')
	b = strconv.AppendUint(b, incarnation, 10)
	return ServerID(b)
}

// ParseServerID takes a ServerID apart. Only what MakeServerID makes is accepted, so that equal
// servers have equal names.
func ParseServerID(id ServerID) (broker int32, incarnation uint64, err error) {
	left, right, ok := strings.Cut(string(id), "/")
	if ok {
		var b int64
		if b, err = strconv.ParseInt(left, 10, 32); err == nil && b >= 0 {
			if incarnation, err = strconv.ParseUint(right, 10, 64); err == nil && MakeServerID(int32(b), incarnation) == id {
				return int32(b), incarnation, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("server id %q is not of the form broker/incarnation", string(id))
}
