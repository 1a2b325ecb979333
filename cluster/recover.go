package cluster

import (
	"fmt"
	"path/filepath"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

// RecoverMetadata makes this broker's replica of the metadata group its only voter (raftgroup.Replica.Recover says what that
// means). dir is the broker's directory for package cluster, which nobody has open; snapshots is the file system with the group's snapshots. A broker without a replica is refused: another
// survivor has to be the one.
func RecoverMetadata(fsys, snapshots vfs.FS, dir string, broker int32, noSync bool, terms *raftgroup.Terms) (raftgroup.Recovery, error) {
	name := filepath.Join(dir, IdentityFile)
	b, err := vfs.ReadFile(fsys, name)
	if err != nil {
		return raftgroup.Recovery{}, fmt.Errorf("read node identity: %w", err)
	}
	n, err := decodeIdentity(b)
	if err != nil {
		return raftgroup.Recovery{}, fmt.Errorf("%s: %w", name, err)
	}
	if n.broker != broker {
		return raftgroup.Recovery{}, fmt.Errorf("%w: %s belongs to broker %d, and this is broker %d", ErrForeignData, dir, n.broker, broker)
	}
	r := raftgroup.Replica{FS: snapshots, Dir: filepath.Join(dir, metadataDir), ID: raftgroup.MetadataGroup, Self: n.server(), NoSync: noSync}
	out, err := r.Recover(terms)
	if err != nil {
		return out, fmt.Errorf("metadata: %w", err)
	}
	return out, nil
}
