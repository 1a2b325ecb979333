package raftgroup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame on a Raft connection, all integers big endian (docs/formats/raft-transport.md):
//
//	 0 length    uint32  bytes after these twelve
//	 4 summed    uint32  how many of them the checksum covers, from the first on
//	 8 crc       uint32  CRC32C of the first eight bytes and the summed ones
//	12 kind      uint8
//	13 flags     uint8   0
//	14 code      uint16  answers: 0, or why there is none
//	16 request   uint64  chosen by who asks, repeated in the answer
//	24 group     uint64
//	32 from      uint64  incarnation of the sending replica
//	40 to        uint64  incarnation of the replica it is meant for
//	48 body
const (
	framePrefix = 12
	frameFixed  = 36
	frameHeader = framePrefix + frameFixed

	// maxFrameBytes bounds what is read for one frame. maxEntryLimit leaves room below it.
	maxFrameBytes  = 64 << 20
	maxEntryLimit  = 48 << 20
	maxControlBody = 1 << 20

	maxErrorText = 512

	// maxTerm and maxIndex bound what a peer may claim, far from where counting would wrap.
	maxTerm  = 1 << 56
	maxIndex = 1 << 62
)

type frameKind uint8

// The frames. They are spoken between versions: never renumber them.
const (
	frameHello    frameKind = 1
	frameHelloAck frameKind = 2

	frameHeartbeats     frameKind = 10
	frameHeartbeatsAck  frameKind = 11
	frameHeartbeatLate  frameKind = 12 // the answer to one heartbeat of a batch
	frameVote           frameKind = 13
	frameVoteAck        frameKind = 14
	framePreVote        frameKind = 15
	framePreVoteAck     frameKind = 16
	frameTimeoutNow     frameKind = 17
	frameTimeoutNowAck  frameKind = 18
	frameTerm           frameKind = 19
	frameTermAck        frameKind = 20
	framePing           frameKind = 21
	framePong           frameKind = 22
	frameAppend         frameKind = 30
	frameAppendAck      frameKind = 31
	frameSnapshot       frameKind = 32
	frameSnapshotData   frameKind = 33
	frameSnapshotCredit frameKind = 34
	frameSnapshotAck    frameKind = 35
)

// Codes in answers. Never renumber them.
const (
	codeOK uint16 = iota
	codeFailed
	codeUnknownGroup
	codeWrongServer
	codeUnavailable
	codeBusy
	codeVersion
	codeCluster
	codeReplaced
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is one message. body of a received frame is its own buffer; who decodes it may keep it.
type frame struct {
	kind     frameKind
	code     uint16
	request  uint64
	group    GroupID
	from, to uint64
	body     []byte
}

// badFrameError says what is wrong with what a peer sent. The connection ends with it.
type badFrameError struct{ what string }

func (e *badFrameError) Error() string { return "bad frame: " + e.what }

func badFrame(format string, args ...any) error {
	return &badFrameError{what: fmt.Sprintf(format, args...)}
}

var emptyPrefix [framePrefix]byte

// beginFrame appends a frame's header, to be completed by endFrame.
func beginFrame(b []byte, f *frame) []byte {
	b = append(b, emptyPrefix[:]...)
	b = append(b, byte(f.kind), 0)
	b = binary.BigEndian.AppendUint16(b, f.code)
	b = binary.BigEndian.AppendUint64(b, f.request)
	b = binary.BigEndian.AppendUint64(b, uint64(f.group))
	b = binary.BigEndian.AppendUint64(b, f.from)
	return binary.BigEndian.AppendUint64(b, f.to)
}

// endFrame fills in length and checksum of the frame that begins at start. follow are the bytes
// that follow b on the wire; summed says whether the checksum covers them.
func endFrame(b []byte, start int, follow bodies, summed bool) {
	head := b[start:]
	length, covered := len(head)-framePrefix, len(head)-framePrefix
	for _, body := range follow.buffers {
		length += len(body)
	}
	if summed {
		covered = length
	}
	binary.BigEndian.PutUint32(head, uint32(length))
	binary.BigEndian.PutUint32(head[4:], uint32(covered))
	crc := crc32.Update(0, castagnoli, head[:8])
	crc = crc32.Update(crc, castagnoli, head[framePrefix:])
	if summed {
		crc = follow.sum(crc)
	}
	binary.BigEndian.PutUint32(head[8:], crc)
}

// appendFrame appends a whole frame.
func appendFrame(b []byte, f *frame) []byte {
	start := len(b)
	b = beginFrame(b, f)
	b = append(b, f.body...)
	endFrame(b, start, bodies{}, true)
	return b
}

// readFrame reads one frame of at most limit bytes. Whatever else comes gives a *badFrameError.
func readFrame(r *bufio.Reader, limit int) (frame, error) {
	var prefix [framePrefix]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(prefix[:])
	covered := binary.BigEndian.Uint32(prefix[4:])
	if length < frameFixed || uint64(length) > uint64(limit) {
		return frame{}, badFrame("length %d, must be %d to %d", length, frameFixed, limit)
	}
	if covered < frameFixed || covered > length {
		return frame{}, badFrame("checksum over %d of %d bytes", covered, length)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	crc := crc32.Update(crc32.Update(0, castagnoli, prefix[:8]), castagnoli, b[:covered])
	if want := binary.BigEndian.Uint32(prefix[8:]); crc != want {
		return frame{}, badFrame("checksum %08x, its header says %08x", crc, want)
	}
	f := frame{
		kind:    frameKind(b[0]),
		code:    binary.BigEndian.Uint16(b[2:]),
		request: binary.BigEndian.Uint64(b[4:]),
		group:   GroupID(binary.BigEndian.Uint64(b[12:])),
		from:    binary.BigEndian.Uint64(b[20:]),
		to:      binary.BigEndian.Uint64(b[28:]),
		body:    b[frameFixed:],
	}
	if covered != length && f.kind != frameAppend {
		return frame{}, badFrame("kind %d with an incomplete checksum", f.kind)
	}
	if f.kind == frameAppend && int(covered)-frameFixed < appendSummedSize(f.body) {
		return frame{}, badFrame("checksum does not cover the entries' headers")
	}
	return f, nil
}

// reader takes a body apart. After the first overrun every read gives zero and ok is false.
type reader struct {
	b  []byte
	ok bool
}

func newReader(b []byte) reader { return reader{b: b, ok: true} }

func (r *reader) take(n int) []byte {
	if !r.ok || n < 0 || n > len(r.b) {
		r.ok = false
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// done is true when everything was there and nothing is left.
func (r *reader) done() bool { return r.ok && len(r.b) == 0 }
