package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

// The identity file, "node.id", big endian (docs/formats/metadata.md):
//
//	0  magic            [4]byte "OLND"
//	4  version          uint16  1
//	6  membership       uint8   1 none, 2 forming, 3 member
//	7  reserved         uint8   0
//	8  broker id        int32
//	12 node incarnation uint64
//	20 feature level    uint16  the cluster starts with; 0 while membership is none
//	22 former           int32   broker that forms the cluster; -1: not known any more
//	26 cluster id       uint16 length, bytes
//	   founders         uint16 count, each uint16 length, bytes: server ids to bootstrap with
//	   CRC32C           uint32  of all before
//
// It is replaced as a whole. The incarnation is on disk before anyone is told of it, so no two data
// directories ever share one; the membership is on disk before it is promised.
const (
	// IdentityFile is its name in Config.Dir.
	IdentityFile    = "node.id"
	identityMagic   = "OLND"
	identityVersion = 1
	identityHeader  = 26
	maxIdentity     = 64 << 10
	// metadataDir holds the metadata group. It is made after the identity.
	metadataDir = "metadata"
	// begunFile says that the metadata group has applied entries here: where its directory is empty, they were lost.
	begunFile = "metadata.begun"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// membership is what this node knows about the cluster it belongs to. It only grows.
type membership uint8

const (
	// none: no cluster yet.
	none membership = 1
	// forming: promised to a cluster that may not exist yet. The node belongs to it or to none.
	forming membership = 2
	// member: the cluster exists.
	member membership = 3
)

// identity is who this node is. Values are immutable.
type identity struct {
	broker      int32
	incarnation uint64
	membership  membership
	clusterID   string
	level       uint16
	// former is the broker that forms the cluster.
	former int32
	// founders are the voters to bootstrap the metadata group with. They are set when all founders
	// have promised, on the former alone, and cleared when the group has been seen to work.
	founders []raftgroup.ServerID
}

// server is the node's name in the metadata group.
func (n *identity) server() raftgroup.ServerID {
	return raftgroup.MakeServerID(n.broker, n.incarnation)
}

// ErrForeignData: the data directory belongs to another broker or another cluster, or was written by
// a newer program. The error that wraps it names both sides.
var ErrForeignData = errors.New("data directory cannot be used")

// openIdentity reads the identity in dir, or makes one in a new directory.
func openIdentity(fsys vfs.FS, dir string, broker int32, random io.Reader) (*identity, error) {
	name := filepath.Join(dir, IdentityFile)
	b, err := vfs.ReadFile(fsys, name)
	if err == nil {
		n, err := decodeIdentity(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if n.broker != broker {
			return nil, fmt.Errorf("%w: %s belongs to broker %d, and this is broker %d", ErrForeignData, dir, n.broker, broker)
		}
		return n, n.checkMetadata(fsys, dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read node identity: %w", err)
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if found, err := vfs.Exists(fsys, filepath.Join(dir, metadataDir)); err != nil || found {
		if err == nil {
			err = fmt.Errorf("%w: %s has the metadata of a broker and no %s", ErrForeignData, dir, IdentityFile)
		}
		return nil, err
	}
	n := &identity{broker: broker, membership: none, former: -1}
	if n.incarnation, err = randomIncarnation(random); err != nil {
		return nil, err
	}
	if err := n.save(fsys, dir); err != nil {
		return nil, err
	}
	return n, nil
}

// checkMetadata refuses a member whose metadata is gone: under the same incarnation it would vote a second time in terms it
// has forgotten.
func (n *identity) checkMetadata(fsys vfs.FS, dir string) error {
	if n.membership != member {
		return nil
	}
	found, err := vfs.Exists(fsys, filepath.Join(dir, metadataDir))
	if err == nil && !found {
		err = fmt.Errorf("%w: %s says that broker %d is a member of cluster %s, and %s is gone; remove the whole data directory, and the broker is rebuilt from the others",
			ErrForeignData, filepath.Join(dir, IdentityFile), n.broker, n.clusterID, filepath.Join(dir, metadataDir))
	}
	return err
}

// randomIncarnation gives 63 random bits, never 0: there is nobody yet who could count.
func randomIncarnation(random io.Reader) (uint64, error) {
	var b [8]byte
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("make a node incarnation: %w", err)
		}
		if i := binary.BigEndian.Uint64(b[:]) >> 1; i != 0 {
			return i, nil
		}
	}
}

// save replaces the file. When it returns nil the identity is on disk; after an error the file holds
// this identity or the one before.
func (n *identity) save(fsys vfs.FS, dir string) error {
	if err := vfs.WriteFileAtomic(fsys, filepath.Join(dir, IdentityFile), n.encode()); err != nil {
		return fmt.Errorf("write node identity: %w", err)
	}
	return nil
}

func (n *identity) encode() []byte {
	b := append([]byte(nil), identityMagic...)
	b = binary.BigEndian.AppendUint16(b, identityVersion)
	b = append(b, byte(n.membership), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(n.broker))
	b = binary.BigEndian.AppendUint64(b, n.incarnation)
	b = binary.BigEndian.AppendUint16(b, n.level)
	b = binary.BigEndian.AppendUint32(b, uint32(n.former))
	b = appendText(b, n.clusterID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(n.founders)))
	for _, id := range n.founders {
		b = appendText(b, string(id))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// decodeIdentity reads what encode wrote.
func decodeIdentity(b []byte) (*identity, error) {
	if len(b) < identityHeader+8 || len(b) > maxIdentity || string(b[:4]) != identityMagic {
		return nil, errors.New("this is not a node identity")
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != identityVersion {
		return nil, fmt.Errorf("%w: it has format %d, and this program knows formats up to %d", ErrForeignData, v, identityVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("the node identity is damaged: CRC is %08x, not %08x", got, sum)
	}
	n := &identity{
		membership:  membership(b[6]),
		broker:      int32(binary.BigEndian.Uint32(b[8:])),
		incarnation: binary.BigEndian.Uint64(b[12:]),
		level:       binary.BigEndian.Uint16(b[20:]),
		former:      int32(binary.BigEndian.Uint32(b[22:])),
	}
	rest := body[identityHeader:]
	var ok bool
	if n.clusterID, rest, ok = cutText(rest); !ok || len(rest) < 2 {
		return nil, errors.New("the node identity is cut short")
	}
	count := binary.BigEndian.Uint16(rest)
	rest = rest[2:]
	for range count {
		var s string
		if s, rest, ok = cutText(rest); !ok {
			return nil, errors.New("the node identity is cut short")
		}
		if _, _, err := raftgroup.ParseServerID(raftgroup.ServerID(s)); err != nil {
			return nil, err
		}
		n.founders = append(n.founders, raftgroup.ServerID(s))
	}
	bad := len(rest) > 0 || n.broker < 0 || n.incarnation == 0 || n.former < -1 ||
		n.membership < none || n.membership > member || (n.membership == none) != (n.clusterID == "") ||
		n.membership != forming && len(n.founders) > 0 || b[7] != 0 || len(n.clusterID) > metadata.MaxClusterIDLength
	if bad {
		return nil, errors.New("the node identity makes no sense")
	}
	return n, nil
}

func cutText(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}

// String gives "none", "forming" or "member".
func (m membership) String() string {
	switch m {
	case none:
		return "none"
	case forming:
		return "forming"
	default:
		return "member"
	}
}
