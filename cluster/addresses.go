package cluster

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

// hintsFile remembers where the other brokers were last. It is only a hint: without it a broker still
// has its seeds. It lets brokers whose seeds are gone find the others before any of them leads.
const hintsFile = "peers.json"

// maxAddresses bounds the address book.
const maxAddresses = 2 * metadata.MaxBrokers

// addressBook says where brokers are. Brokers tell their address whenever they talk, so the book is
// newer than the image, which holds what they registered; what is heard last counts.
type addressBook struct {
	fs     vfs.FS
	file   string
	logger *slog.Logger

	// saving is held while the file is written: two who do it are in each other's way.
	saving sync.Mutex
	// mu guards entries and dirty. It may be taken while saving is held.
	mu      sync.Mutex
	entries map[int32]addressEntry
	dirty   bool
}

type addressEntry struct {
	Broker      int32  `json:"broker"`
	Incarnation uint64 `json:"incarnation"`
	Address     string `json:"address"`
}

func openAddressBook(fsys vfs.FS, file string, logger *slog.Logger) *addressBook {
	b := &addressBook{fs: fsys, file: file, logger: logger, entries: make(map[int32]addressEntry)}
	data, err := vfs.ReadFile(fsys, file)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	var list []addressEntry
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		logger.Warn("passed over the remembered addresses of peers", "file", file, "err", err)
		return b
	}
	for _, e := range list {
		if e.Broker >= 0 && e.Address != "" && len(b.entries) < maxAddresses {
			b.entries[e.Broker] = e
		}
	}
	return b
}

// learn enters what a broker says of itself.
func (b *addressBook) learn(n *peerv1.Node) {
	if n.GetBrokerId() < 0 || n.GetNodeIncarnation() == 0 || n.GetPeerAddress() == "" || len(n.GetPeerAddress()) > metadata.MaxTextLength {
		return
	}
	b.set(addressEntry{Broker: n.GetBrokerId(), Incarnation: n.GetNodeIncarnation(), Address: n.GetPeerAddress()})
}

func (b *addressBook) set(e addressEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.entries[e.Broker]
	if old == e || !ok && len(b.entries) >= maxAddresses {
		return
	}
	b.entries[e.Broker] = e
	b.dirty = true
}

// follow enters the addresses that changed from one image to the next, and drops brokers that went.
// The first image (old is nil) may be older than what is remembered and only fills gaps.
func (b *addressBook) follow(old, img *metadata.Image) {
	if old == nil {
		for _, br := range img.Brokers() {
			if _, known := b.find(br.ID); !known {
				address, _ := br.Address(metadata.PeerListener)
				b.set(addressEntry{Broker: br.ID, Incarnation: br.Incarnation, Address: address})
			}
		}
		return
	}
	for _, br := range img.Brokers() {
		address, _ := br.Address(metadata.PeerListener)
		if was, ok := old.Broker(br.ID); ok {
			if a, _ := was.Address(metadata.PeerListener); a == address && was.Incarnation == br.Incarnation {
				continue
			}
		}
		b.set(addressEntry{Broker: br.ID, Incarnation: br.Incarnation, Address: address})
	}
	for _, was := range old.Brokers() {
		if _, ok := img.Broker(was.ID); !ok {
			b.mu.Lock()
			delete(b.entries, was.ID)
			b.dirty = true
			b.mu.Unlock()
		}
	}
}

// find gives a broker's entry.
func (b *addressBook) find(broker int32) (addressEntry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[broker]
	return e, ok
}

// all gives the entries by broker.
func (b *addressBook) all() []addressEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]addressEntry, 0, len(b.entries))
	for _, id := range slices.Sorted(maps.Keys(b.entries)) {
		list = append(list, b.entries[id])
	}
	return list
}

// save writes the hints if they have changed. A failure is logged: they are hints.
func (b *addressBook) save() {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	dirty := b.dirty
	b.dirty = false
	b.mu.Unlock()
	if !dirty {
		return
	}
	data, err := json.Marshal(b.all())
	if err == nil {
		err = vfs.WriteFileAtomic(b.fs, b.file, data)
	}
	if err != nil {
		b.logger.Warn("cannot remember the addresses of peers", "file", b.file, "err", err)
	}
}

// PeerTarget says how to call a broker; false: its address is not known.
func (c *Cluster) PeerTarget(broker int32) (peer.Target, bool) {
	br, registered := c.Image().Broker(broker)
	if e, ok := c.book.find(broker); ok && (!registered || e.Incarnation == br.Incarnation) {
		return peer.Target{Broker: broker, Address: e.Address}, true
	}
	if !registered {
		return peer.Target{}, false
	}
	address, ok := br.Address(metadata.PeerListener)
	return peer.Target{Broker: broker, Address: address}, ok
}

// Resolve gives the peer address of a replica's broker, for raftgroup.Config.
func (c *Cluster) Resolve(id raftgroup.ServerID) (string, bool) {
	broker, _, err := raftgroup.ParseServerID(id)
	if err != nil {
		return "", false
	}
	if broker == c.config.Broker {
		return c.config.peerAddress(), true
	}
	t, ok := c.PeerTarget(broker)
	return t.Address, ok
}

// Peers gives the client for calls to other brokers. It is closed by Close.
func (c *Cluster) Peers() *peer.Client { return c.client }
