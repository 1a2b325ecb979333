package recordlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// The file "meta" of 1536 bytes, all integers big endian:
//
//	   0 decision, first copy:
//	     0 magic      8 bytes "oncelmt\n"
//	     8 version    uint16  1
//	    10 reserved   uint16  0
//	    12 generation uint32  of the live segments
//	    16 sequence   uint64  rises with each decision
//	    24 begin      uint64  the lowest index that must be held; segments wholly below are garbage
//	    32 CRC32C     uint32  of bytes 0 to 31
//	 512 decision, second copy
//	1024 mark:
//	     0 sequence   uint64  of the decision under which it was written
//	     8 synced     uint64  all entries up to here are on disk
//	    16 window     uint64  first index of the raft window
//	    24 CRC32C     uint32  of bytes 0 to 23
//
// A decision is written and synced twice, first copy first, before what it decides is carried out.
// If we die in between, at least one copy is whole. The newer one counts: what it decides is
// always safe to carry out on opening.
//
// The mark is written after every Append and never synced. It is a hint that costs no flush: it is
// exact after the process died, and some seconds old after a power cut. It is only ever written
// when it is true, and a tail truncation first makes a new decision, which voids it.
const (
	metaName       = "meta"
	metaMagic      = "oncelmt\n"
	metaVersion    = 1
	metaSize       = 1536
	decisionSize   = 36
	secondDecision = 512
	markAt         = 1024
	markSize       = 28
)

// decision is what must be durable before it is carried out.
type decision struct {
	generation uint32
	sequence   uint64
	begin      record.Index
}

// mark is what is known to be true and need not be durable.
type mark struct {
	sequence uint64
	synced   record.Index
	window   record.Index
}

func (d decision) encode() []byte {
	b := make([]byte, decisionSize)
	copy(b, metaMagic)
	binary.BigEndian.PutUint16(b[8:], metaVersion)
	binary.BigEndian.PutUint32(b[12:], d.generation)
	binary.BigEndian.PutUint64(b[16:], d.sequence)
	binary.BigEndian.PutUint64(b[24:], uint64(d.begin))
	binary.BigEndian.PutUint32(b[32:], sum(0, b[:32]))
	return b
}

func decodeDecision(b []byte) (decision, error) {
	if len(b) < decisionSize {
		return decision{}, differ(fmt.Sprintf("a decision of %d bytes", decisionSize), len(b))
	}
	crc := binary.BigEndian.Uint32(b[32:])
	if got := sum(0, b[:32]); got != crc || string(b[:8]) != metaMagic {
		return decision{}, differ(fmt.Sprintf("%q with CRC %08x", metaMagic, got), fmt.Sprintf("%q with %08x", b[:8], crc))
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != metaVersion {
		return decision{}, &FormatError{What: "meta file", Found: int(v), Known: metaVersion}
	}
	d := decision{
		generation: binary.BigEndian.Uint32(b[12:]),
		sequence:   binary.BigEndian.Uint64(b[16:]),
		begin:      record.Index(binary.BigEndian.Uint64(b[24:])),
	}
	if d.begin == 0 || d.sequence == 0 {
		return decision{}, differ("a begin and a sequence above 0", fmt.Sprintf("%+v", d))
	}
	return d, nil
}

func (m mark) encode(b *[markSize]byte) []byte {
	binary.BigEndian.PutUint64(b[0:], m.sequence)
	binary.BigEndian.PutUint64(b[8:], uint64(m.synced))
	binary.BigEndian.PutUint64(b[16:], uint64(m.window))
	binary.BigEndian.PutUint32(b[24:], sum(0, b[:24]))
	return b[:]
}

// decodeMark reads a mark; without one that fits the decision it is empty.
func decodeMark(b []byte, d decision) mark {
	if len(b) < markSize || sum(0, b[:24]) != binary.BigEndian.Uint32(b[24:]) {
		return mark{}
	}
	m := mark{
		sequence: binary.BigEndian.Uint64(b[0:]),
		synced:   record.Index(binary.BigEndian.Uint64(b[8:])),
		window:   record.Index(binary.BigEndian.Uint64(b[16:])),
	}
	if m.sequence != d.sequence {
		return mark{}
	}
	return m
}

// metaFile is the open meta file. Used with the gate held.
type metaFile struct {
	file     vfs.File
	decision decision
	mark     mark
	buf      [markSize]byte
}

// openMeta reads the meta file. errors.Is(err, fs.ErrNotExist): there is none.
func (l *Log) openMeta() (*metaFile, error) {
	f, err := l.o.FS.Open(l.path(metaName))
	if err != nil {
		return nil, err
	}
	m, err := readMeta(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

func readMeta(f vfs.File) (*metaFile, error) {
	d, k, same, err := lookMeta(f)
	if err != nil {
		return nil, err
	}
	m := &metaFile{file: f, decision: d, mark: k}
	if !same {
		// We died between the copies, or one is damaged. Make both the same again.
		if err := m.writeDecision(m.decision); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// lookMeta reads what a meta file says and changes nothing; same: both copies of the decision say it.
func lookMeta(f io.ReaderAt) (d decision, k mark, same bool, err error) {
	b := make([]byte, metaSize)
	if n, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return d, k, false, err
	} else if n < metaSize {
		return d, k, false, corrupt(metaName, int64(n), 0, differ(fmt.Sprintf("%d bytes", metaSize), n))
	}
	one, err1 := decodeDecision(b)
	two, err2 := decodeDecision(b[secondDecision:])
	for _, err := range []error{err1, err2} {
		if errors.Is(err, ErrNewerFormat) {
			return d, k, false, err
		}
	}
	switch {
	case err1 != nil && err2 != nil:
		return d, k, false, corrupt(metaName, 0, 0, err1)
	case err1 != nil || (err2 == nil && two.sequence > one.sequence):
		d = two
	default:
		d = one
	}
	return d, decodeMark(b[markAt:], d), err1 == nil && err2 == nil && one == two, nil
}

// createMeta makes the meta file of an empty log. If we die before the renaming is durable, the
// directory is still empty and we start over.
func (l *Log) createMeta(d decision) error {
	b := make([]byte, metaSize)
	copy(b, d.encode())
	copy(b[secondDecision:], d.encode())
	return vfs.WriteFileAtomic(l.o.FS, l.path(metaName), b)
}

// decide makes a decision durable. The mark is void from here on.
func (m *metaFile) decide(generation uint32, begin record.Index) error {
	d := decision{generation: generation, sequence: m.decision.sequence + 1, begin: begin}
	if err := m.writeDecision(d); err != nil {
		return fmt.Errorf("write decision: %w", err)
	}
	m.decision, m.mark = d, mark{}
	return nil
}

func (m *metaFile) writeDecision(d decision) error {
	for _, at := range []int64{0, secondDecision} {
		if _, err := m.file.WriteAt(d.encode(), at); err != nil {
			return err
		}
		if err := m.file.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// note writes the mark. A failure is the caller's to count; nothing depends on the mark.
func (m *metaFile) note(synced, window record.Index) error {
	k := mark{sequence: m.decision.sequence, synced: synced, window: window}
	if k == m.mark {
		return nil
	}
	m.mark = k
	_, err := m.file.WriteAt(k.encode(&m.buf), markAt)
	return err
}

func (m *metaFile) close() error {
	if m == nil || m.file == nil {
		return nil
	}
	f := m.file
	m.file = nil
	return f.Close()
}

func removeIfThere(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readFull reads exactly len(b) bytes.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d bytes at %d: %w", len(b), off, io.ErrUnexpectedEOF)
	}
	return err
}
