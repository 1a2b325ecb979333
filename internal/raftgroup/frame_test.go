package raftgroup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func readOne(t *testing.T, b []byte, limit int) frame {
	t.Helper()
	f, err := readFrame(bufio.NewReader(bytes.NewReader(b)), limit)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The bytes are what docs/formats/raft-transport.md draws. If this fails, brokers of two versions
// no longer understand each other.
func TestFrameBytes(t *testing.T) {
	b := appendFrame(nil, &frame{kind: frameTerm, code: 3, request: 4, group: 5, from: 6, to: 7, body: []byte{8}})
	want := []byte{0, 0, 0, 37, 0, 0, 0, 37, 0x92, 0x47, 0x37, 0x31, 19, 0, 0, 3,
		0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 8}
	crc := crc32.Update(crc32.Checksum(want[:8], castagnoli), castagnoli, want[12:])
	binary.BigEndian.PutUint32(want[8:], crc)
	if !bytes.Equal(b, want) {
		t.Errorf("frame is % x, want % x", b, want)
	}
	e := envelope{kind: KindLeaderStart, level: 2, admission: 3, appendTime: 4, meta: []byte{5}}
	if got := e.encode(); !bytes.Equal(got, []byte{1, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 5}) {
		t.Errorf("envelope is % x", got)
	}
}

func TestAppendTravels(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	for range 100 {
		c := &chunk{term: 9, prevIndex: rng.Uint64N(1 << 40), prevTerm: rng.Uint64N(9), commit: rng.Uint64N(1 << 40)}
		for i := range rng.IntN(20) {
			l := &raft.Log{Index: c.prevIndex + 1 + uint64(i), Term: 1 + rng.Uint64N(9), Type: []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogBarrier}[rng.IntN(3)]}
			if rng.IntN(2) == 0 {
				l.AppendedAt = time.Unix(0, rng.Int64())
			}
			for _, p := range []*[]byte{&l.Data, &l.Extensions} {
				if n := []int{0, 0, 1, 30, copyBelow - 1, copyBelow, 3 * copyBelow}[rng.IntN(7)]; n > 0 {
					*p = make([]byte, n)
					for k := range *p {
						(*p)[k] = byte(rng.Uint32())
					}
				}
			}
			c.entries = append(c.entries, l)
		}
		summed := rng.IntN(2) == 0
		b, bodies := appendAppend(beginFrame(nil, &frame{kind: frameAppend, group: 1}), c, noBatches)
		endFrame(b, 0, bodies, summed)
		for _, body := range bodies.buffers {
			b = append(b, body...)
		}
		f := readOne(t, b, maxFrameBytes)
		q, err := decodeAppend(f.body)
		if err != nil {
			t.Fatal(err)
		}
		want := c.entries
		if len(want) == 0 {
			want = []*raft.Log{}
		}
		if q.Term != 9 || q.PrevLogEntry != c.prevIndex || q.PrevLogTerm != c.prevTerm || q.LeaderCommitIndex != c.commit || !reflect.DeepEqual(q.Entries, want) {
			t.Fatalf("got %+v, want %+v", q, c)
		}
		// With the bodies outside the checksum, what Raft goes by is still inside.
		if at := framePrefix + frameFixed + rng.IntN(appendSummedSize(f.body)); !summed || rng.IntN(2) == 0 {
			b[at] ^= 1
			if _, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxFrameBytes); err == nil {
				t.Fatalf("a flipped bit at %d is not found", at)
			}
		}
	}
}

func TestMessagesTravel(t *testing.T) {
	ack := raft.AppendEntriesResponse{Term: 3, LastLog: 4, Success: true, NoRetryBackoff: true}
	var gotAck raft.AppendEntriesResponse
	if err := decodeAppendAck(appendAppendAck(nil, &ack), &gotAck); err != nil || !reflect.DeepEqual(gotAck, ack) {
		t.Errorf("append answer %+v, %v", gotAck, err)
	}
	v := ballot{term: 1, lastIndex: 2, lastTerm: 3, transfer: true}
	if got, err := decodeBallot(appendBallot(nil, v)); err != nil || got != v {
		t.Errorf("ballot %+v, %v", got, err)
	}
	a := beatAck{code: 3, late: true, fresh: true, resp: raft.AppendEntriesResponse{Term: 5, LastLog: 6, NoRetryBackoff: true}}
	if got, err := decodeBeatAck(appendBeatAck(nil, &a)); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("heartbeat answer %+v, %v", got, err)
	}
	beats := []beat{{1, 2, 3, 4}, {5, 6, 7, 8}}
	if got, err := decodeBeats(appendBeat(appendBeat(nil, beats[0]), beats[1])); err != nil || !reflect.DeepEqual(got, beats) {
		t.Errorf("heartbeats %+v, %v", got, err)
	}
	conf := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/2", Address: "1/2"}}})
	q := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 1, LastLogIndex: 5, LastLogTerm: 3, Configuration: conf, ConfigurationIndex: 4, Size: 6}
	if got, err := decodeInstall(appendInstall(nil, q)); err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("snapshot head %+v, %v", got, err)
	}
	tail := greeting{Node{Incarnation: 7, Since: 8}, true}
	h := hello{1, 2, classControl, 3, 4, "cluster", tail}
	if got, err := decodeHello(appendHello(nil, h)); err != nil || got != h {
		t.Errorf("hello %+v, %v", got, err)
	}
	k := helloAck{1, 3, "cluster", tail}
	if got, err := decodeHelloAck(appendHelloAck(nil, k)); err != nil || got != k {
		t.Errorf("hello answer %+v, %v", got, err)
	}
	// What an older broker says ends before the greeting.
	size := len(appendGreeting(nil, tail))
	h.tail, k.tail = greeting{}, greeting{}
	b := appendHello(nil, h)
	if got, err := decodeHello(b[:len(b)-size]); err != nil || got != h {
		t.Errorf("older hello %+v, %v", got, err)
	}
	b = appendHelloAck(nil, k)
	if got, err := decodeHelloAck(b[:len(b)-size]); err != nil || got != k {
		t.Errorf("older hello answer %+v, %v", got, err)
	}
}

// FuzzFrame feeds what a peer may send to everything that reads it. Nothing may panic, and what is
// taken must be safe for Raft.
func FuzzFrame(f *testing.F) {
	add := func(k frameKind, body []byte) {
		f.Add(appendFrame(nil, &frame{kind: k, request: 1, group: 7, body: body}))
	}
	b, bodies := appendAppend(nil, &chunk{term: 5, prevIndex: 1, prevTerm: 1, entries: []*raft.Log{
		{Term: 2, Data: []byte("data"), Extensions: []byte("ext")},
		{Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}})},
	}}, noBatches)
	add(frameAppend, append(b, bytes.Join(bodies.buffers, nil)...))
	add(frameVote, appendBallot(nil, ballot{1, 2, 3, true}))
	add(frameHeartbeats, appendBeat(nil, beat{1, 2, 3, 4}))
	add(frameHeartbeatsAck, appendBeatAck(nil, &beatAck{}))
	add(frameTermAck, appendTermFlag(nil, 3, true))
	add(frameAppendAck, appendAppendAck(nil, &raft.AppendEntriesResponse{Term: 1}))
	add(frameHello, appendHello(nil, hello{1, 1, 0, 1, 2, "x", greeting{}}))
	add(frameHelloAck, appendHelloAck(nil, helloAck{1, 2, "x", greeting{}}))
	add(frameSnapshot, appendInstall(nil, &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 1, LastLogIndex: 3, Size: 10,
		Configuration: raft.EncodeConfiguration(raft.Configuration{})}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := readFrame(bufio.NewReader(bytes.NewReader(b)), 1<<20); err == nil {
			tryAll(t, fr.body)
		}
		// Past the checksum, too.
		tryAll(t, b)
	})
}

func tryAll(t *testing.T, body []byte) {
	if q, err := decodeAppend(body); err == nil {
		for i, e := range q.Entries {
			if e.Index != q.PrevLogEntry+1+uint64(i) || e.Term == 0 || e.Term > q.Term || q.Term > maxTerm {
				t.Errorf("entry %+v after %d from a leader of term %d", e, q.PrevLogEntry, q.Term)
			}
			if e.Type == raft.LogConfiguration {
				raft.DecodeConfiguration(e.Data) // Panics on what Raft would panic on.
			}
		}
	}
	if q, err := decodeInstall(body); err == nil {
		raft.DecodeConfiguration(q.Configuration)
		if q.Size < 0 || q.Term > maxTerm {
			t.Errorf("snapshot head %+v", q)
		}
	}
	appendSummedSize(body)
	_, _ = decodeBallot(body)
	_, _ = decodeBeats(body)
	_, _ = decodeBeatAck(body)
	_, _, _ = decodeTermFlag(body)
	_, _ = decodeHello(body)
	_, _ = decodeHelloAck(body)
	_ = decodeAppendAck(body, &raft.AppendEntriesResponse{})
	_, _ = decodeEnvelope(body)
	_, _ = decodeServers(body)
	_, _ = readSnapshotHead(bytes.NewReader(body), int64(len(body)))
}

func TestServerIDs(t *testing.T) {
	for _, id := range []ServerID{"0/0", "1/2", "2147483647/18446744073709551615"} {
		b, i, err := ParseServerID(id)
		if err != nil || MakeServerID(b, i) != id {
			t.Errorf("%s: %d, %d, %v", id, b, i, err)
		}
	}
	for _, id := range []ServerID{"", "1", "/1", "1/", "-1/1", "01/1", "1/01", "1/1/1", "+1/1", "2147483648/1", "1/18446744073709551616", "a/b"} {
		if _, _, err := ParseServerID(id); err == nil {
			t.Errorf("%q was taken", id)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Broker: 1, Dir: "x", Listener: &testListener{}, Dial: (&testNet{}).dialNothing, Resolve: func(ServerID) (string, bool) { return "", false }}
	c, err := good.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.HeartbeatTimeout != time.Second || c.LeaderLeaseTimeout != time.Second || c.HeartbeatInterval != 20*time.Millisecond {
		t.Errorf("defaults %+v", c)
	}
	for field, bad := range map[string]func(*Config){
		"Broker":              func(c *Config) { c.Broker = -1 },
		"Dir":                 func(c *Config) { c.Dir = "" },
		"Listener":            func(c *Config) { c.Listener = nil },
		"HeartbeatTimeout":    func(c *Config) { c.HeartbeatTimeout = time.Millisecond },
		"ElectionTimeout":     func(c *Config) { c.ElectionTimeout = 500 * time.Millisecond },
		"LeaderLeaseTimeout":  func(c *Config) { c.LeaderLeaseTimeout = 2 * time.Second },
		"CommitTimeout":       func(c *Config) { c.CommitTimeout = 1 },
		"HeartbeatInterval":   func(c *Config) { c.HeartbeatInterval = time.Second },
		"MaxEntryBytes":       func(c *Config) { c.MaxEntryBytes = 1 << 30 },
		"MaxOutstandingBytes": func(c *Config) { c.MaxOutstandingBytes = -1 },
	} {
		c := good
		bad(&c)
		if _, err := c.withDefaults(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(field)) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if s := fmt.Sprint(DidNotHappen, ", ", MayHaveHappened); s != "did not happen, may have happened" {
		t.Errorf("outcomes are %q", s)
	}
}
