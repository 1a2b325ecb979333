package partition

import (
	"encoding/binary"
	"fmt"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Commands of a partition's log. The first two bytes of an entry's meta are version and kind;
// docs/formats/partition.md draws them.
const (
	commandVersion = 1

	// cmdAppend: the payload is one or more record batches back to back, decided one by one.
	cmdAppend byte = 1
	// cmdExpireProducers: the payload lists producers idle since a cutoff (P25, R5).
	cmdExpireProducers byte = 2
	// cmdAdvanceStart: the payload is the new log start offset (R13).
	cmdAdvanceStart byte = 3
	// cmdSettings: the payload is what apply needs to know of the configuration (R5).
	cmdSettings byte = 4
	// cmdEndTransaction: the payload is one control batch (L1), the meta goes on with the
	// transaction version that sent the marker (P20).
	cmdEndTransaction byte = 5
	// cmdCompact: the payload is the bound of a pass of compaction and its horizon (L31, L33), two offsets.
	cmdCompact byte = 6
)

// maxExpiredPerCommand bounds one cmdExpireProducers.
const maxExpiredPerCommand = 1000

// appendMeta is the meta of a plain append: nothing that only the leader knows.
var appendMeta = []byte{commandVersion, cmdAppend}

// What the leader knew of a transactional batch follows in the meta of an append (R3a):
// uint8 1 if verified, int8 transaction version, int64 last marker, int32 lowest sequence.
const knewLen = 1 + 1 + 8 + 4

// metaOfAppend says what the leader knew when it admitted the batch. Batches that are not
// transactional share one constant.
func metaOfAppend(k producer.Knew) []byte {
	if k == (producer.Knew{}) {
		return appendMeta
	}
	m := make([]byte, 0, 2+knewLen)
	m = append(m, commandVersion, cmdAppend, 0, byte(k.Version))
	if k.Verified {
		m[2] = 1
	}
	m = binary.BigEndian.AppendUint64(m, uint64(k.Marker))
	return binary.BigEndian.AppendUint32(m, uint32(k.LowestSequence))
}

func decodeKnew(rest []byte) (producer.Knew, error) {
	if len(rest) == 0 {
		return producer.Knew{}, nil
	}
	if len(rest) != knewLen || rest[0] > 1 {
		return producer.Knew{}, fmt.Errorf("append meta of %d bytes, want 2 or %d", len(rest)+2, 2+knewLen)
	}
	return producer.Knew{
		Verified:       rest[0] == 1,
		Version:        int8(rest[1]),
		Marker:         record.Offset(binary.BigEndian.Uint64(rest[2:])),
		LowestSequence: record.Sequence(binary.BigEndian.Uint32(rest[10:])),
	}, nil
}

// batchOf gives the machine what it must know of a batch.
func batchOf(b record.Batch, knew producer.Knew) producer.Batch {
	return producer.Batch{
		ProducerID:    b.ProducerID(),
		Epoch:         b.ProducerEpoch(),
		BaseSequence:  b.BaseSequence(),
		LastSequence:  b.LastSequence(),
		Records:       b.LastOffsetDelta() + 1,
		MaxTimestamp:  b.MaxTimestamp(),
		Transactional: b.Attributes().Transactional(),
		Knew:          knew,
	}
}

// parseMeta gives the kind of a command and what follows it.
func parseMeta(meta []byte) (kind byte, rest []byte, err error) {
	if len(meta) < 2 {
		return 0, nil, fmt.Errorf("command meta of %d bytes, want at least 2", len(meta))
	}
	if meta[0] != commandVersion {
		return 0, nil, fmt.Errorf("command version %d, this broker knows %d", meta[0], commandVersion)
	}
	return meta[1], meta[2:], nil
}

// Classify tells the record log how many records an entry's batches hold and their largest
// timestamp: zero for every entry that holds no batches. ext is the entry's envelope.
func Classify(ext, payload []byte) (records int32, maxTimestamp int64) {
	_, meta, err := raftgroup.Envelope(ext)
	if err != nil {
		return 0, 0
	}
	kind, _, err := parseMeta(meta)
	if err != nil || (kind != cmdAppend && kind != cmdEndTransaction) {
		return 0, 0
	}
	for len(payload) > 0 {
		b, rest, err := record.Parse(payload)
		if err != nil {
			return 0, 0
		}
		records += b.LastOffsetDelta() + 1
		maxTimestamp = max(maxTimestamp, b.MaxTimestamp())
		payload = rest
	}
	return records, maxTimestamp
}

// expireHeader is cutoff, offset and count.
const expireHeader = 8 + 8 + 4

func encodeExpire(cutoff int64, below record.Offset, list []producer.Expirable) []byte {
	b := make([]byte, 0, expireHeader+len(list)*10)
	b = binary.BigEndian.AppendUint64(b, uint64(cutoff))
	b = binary.BigEndian.AppendUint64(b, uint64(below))
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, e := range list {
		b = binary.BigEndian.AppendUint64(b, uint64(e.ProducerID))
		b = binary.BigEndian.AppendUint16(b, uint16(e.Epoch))
	}
	return b
}

func decodeExpire(p []byte) (cutoff int64, below record.Offset, list []producer.Expirable, err error) {
	if len(p) < expireHeader {
		return 0, 0, nil, fmt.Errorf("expire command of %d bytes, want at least %d", len(p), expireHeader)
	}
	cutoff = int64(binary.BigEndian.Uint64(p))
	below = record.Offset(binary.BigEndian.Uint64(p[8:]))
	n := int(binary.BigEndian.Uint32(p[16:]))
	p = p[expireHeader:]
	if n > maxExpiredPerCommand || len(p) != n*10 {
		return 0, 0, nil, fmt.Errorf("expire command names %d producers in %d bytes", n, len(p))
	}
	list = make([]producer.Expirable, n)
	for i := range list {
		list[i].ProducerID = record.ProducerID(binary.BigEndian.Uint64(p[i*10:]))
		list[i].Epoch = record.Epoch(binary.BigEndian.Uint16(p[i*10+8:]))
	}
	return cutoff, below, list, nil
}

func encodeOffset(o record.Offset) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(o))
}

func decodeOffset(p []byte) (record.Offset, error) {
	if len(p) != 8 {
		return 0, fmt.Errorf("offset of %d bytes, want 8", len(p))
	}
	return record.Offset(binary.BigEndian.Uint64(p)), nil
}

// settings are the parts of the configuration that change what apply decides. They are
// replicated: brokers with different files must not apply differently (R5).
type settings struct {
	// maxProducers bounds the producers that the partition remembers.
	maxProducers uint32
	// minIdle is how long one of them must have been idle, in ms, before it is forgotten for a new one.
	minIdle uint32
}

// What a partition begins with. These are part of the format: a broker that begins with others
// applies differently.
const (
	firstMaxProducers = 10_000
	minIdleMS         = 60_000
)

// keptIdleMS is minIdle where a partition remembers half as many producers as it may, or more: longer than clients go on sending a batch
// again of which they have not heard, which is 2 min for Java's and ours unless they are told otherwise, and 5 min for librdkafka.
const keptIdleMS = 6 * 60_000

// crowded says whether producers may soon have to be forgotten for others.
func crowded(producers, most int) bool { return 2*producers >= most }

func (s settings) limits() producer.Limits {
	return producer.Limits{MaxProducers: int(s.maxProducers), MinIdle: int64(s.minIdle)}
}

func (s settings) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, s.maxProducers)
	return binary.BigEndian.AppendUint32(b, s.minIdle)
}

func decodeSettings(p []byte) (settings, error) {
	if len(p) < 8 {
		return settings{}, fmt.Errorf("settings of %d bytes, want at least 8", len(p))
	}
	s := settings{maxProducers: binary.BigEndian.Uint32(p), minIdle: binary.BigEndian.Uint32(p[4:])}
	if s.maxProducers == 0 {
		return settings{}, fmt.Errorf("settings with max producers 0")
	}
	return s, nil
}
