package raftgroup

import (
	"encoding/binary"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// The envelope of an entry lies in raft.Log.Extensions, all integers big endian
// (docs/formats/raft-envelope.md):
//
//	 0 version        uint8   1
//	 1 kind           uint8   Kind
//	 2 feature level  uint16
//	 4 admission term uint64  the leadership the command was admitted in
//	12 append time    int64   the leader's clock, ms since 1970
//	20 meta           the rest
const (
	envelopeVersion = 1
	envelopeSize    = 20
)

type envelope struct {
	kind       Kind
	level      uint16
	admission  record.Term
	appendTime int64
	meta       []byte
}

// Envelope takes apart what an entry of the log carries beside its payload, for those who read a
// log without a group: a log's Classify, tools.
func Envelope(extensions []byte) (kind Kind, meta []byte, err error) {
	e, err := decodeEnvelope(extensions)
	return e.kind, e.meta, err
}

func (e *envelope) encode() []byte {
	b := make([]byte, 0, envelopeSize+len(e.meta))
	b = append(b, envelopeVersion, byte(e.kind))
	b = binary.BigEndian.AppendUint16(b, e.level)
	b = binary.BigEndian.AppendUint64(b, uint64(e.admission))
	b = binary.BigEndian.AppendUint64(b, uint64(e.appendTime))
	return append(b, e.meta...)
}

func decodeEnvelope(b []byte) (envelope, error) {
	if len(b) < envelopeSize {
		return envelope{}, fmt.Errorf("envelope of %d bytes, must be %d at least", len(b), envelopeSize)
	}
	if b[0] != envelopeVersion {
		return envelope{}, fmt.Errorf("envelope has format %d, this broker reads %d", b[0], envelopeVersion)
	}
	return envelope{
		kind:       Kind(b[1]),
		level:      binary.BigEndian.Uint16(b[2:]),
		admission:  record.Term(binary.BigEndian.Uint64(b[4:])),
		appendTime: int64(binary.BigEndian.Uint64(b[12:])),
		meta:       b[envelopeSize:],
	}, nil
}
