package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Roles of the processes that this program starts.
const (
	roleLeader   = "leader"
	roleFollower = "follower"
)

// node is a leader or a follower.
type node struct {
	dir       string
	followers []string // addresses; of the leader only
	overwrite bool
	noSync    bool

	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // to be closed at the end
	done  bool
	err   error // the first failure of any partition
}

// runNode is the whole of a process that is not the client. It tells its address
// on stdout, answers each line on stdin with its use of the CPU, and ends with
// stdin.
func runNode(role string, args []string, stdin io.Reader, stdout io.Writer) error {
	runtime.GOMAXPROCS(max(8, runtime.NumCPU())) // See measure.
	n := &node{conns: map[net.Conn]bool{}}
	var followers string
	flags := flag.NewFlagSet(role, flag.ContinueOnError)
	flags.StringVar(&n.dir, "dir", "", "")
	flags.StringVar(&followers, "followers", "", "")
	flags.BoolVar(&n.overwrite, "overwrite", false, "")
	flags.BoolVar(&n.noSync, "no-sync", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if role == roleLeader {
		n.followers = strings.Split(followers, ",")
	}
	address, err := n.listen()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, address); err != nil {
		return err
	}
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		used, err := usageNow()
		if err != nil {
			return err
		}
		if err := json.NewEncoder(stdout).Encode(nodeStatus{used, n.failure()}); err != nil {
			return err
		}
	}
	return n.close()
}

// nodeStatus is a node's answer on its standard output.
type nodeStatus struct {
	CPU     time.Duration
	Failure string
}

// usageNow is the CPU time, user and system, of this process so far.
func usageNow() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// listen accepts connections until close, one for each partition.
func (n *node) listen() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	n.listener = listener
	n.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !n.track(conn) {
				return
			}
			n.wg.Go(func() { n.fail(n.serve(conn)) })
		}
	})
	return listener.Addr().String(), nil
}

// track notes a connection to close at the end, or closes it when that was.
func (n *node) track(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.done {
		_ = conn.Close() // Nothing was sent on it.
		return false
	}
	n.conns[conn] = true
	return true
}

// fail keeps the first failure, unless the node is ending anyway.
func (n *node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil && !n.done {
		n.err = err
	}
}

func (n *node) failure() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		return ""
	}
	return n.err.Error()
}

func (n *node) close() error {
	n.mu.Lock()
	n.done = true
	for conn := range n.conns {
		_ = conn.Close() // Its readers and writers end by it.
	}
	n.mu.Unlock()
	err := n.listener.Close()
	n.wg.Wait()
	return err
}

// serve runs one partition until its connection ends. The first four bytes are
// its number.
func (n *node) serve(conn net.Conn) (err error) {
	defer conn.Close()
	var hello [4]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return fmt.Errorf("read partition: %w", err)
	}
	number := binary.BigEndian.Uint32(hello[:])
	file, err := createLog(filepath.Join(n.dir, fmt.Sprintf("partition-%d.log", number)), n.overwrite, n.noSync)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.close()) }()
	var peers []net.Conn
	for _, address := range n.followers {
		peer, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer peer.Close()
		if !n.track(peer) {
			return nil
		}
		if _, err := peer.Write(hello[:]); err != nil {
			return err
		}
		peers = append(peers, peer)
	}
	for _, peer := range peers {
		if _, err := io.ReadFull(peer, hello[:]); err != nil {
			return fmt.Errorf("wait for follower: %w", err)
		}
	}
	// Ready: the other side may send.
	if _, err := conn.Write(hello[:]); err != nil {
		return err
	}
	return newPartition(conn, file, peers).run()
}
