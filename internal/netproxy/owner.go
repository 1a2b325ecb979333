package netproxy

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// Owner tells which of some processes of this machine has made a connection, by what Linux says of sockets; pids are process
// ids by number. It is for the who of New.
func Owner(c *net.TCPConn, pids map[int32]int) (int32, bool) {
	theirs, ok := c.RemoteAddr().(*net.TCPAddr)
	ours, ok2 := c.LocalAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return 0, false
	}
	inode := inodeOf(theirs.Port, ours.Port)
	if inode == "" {
		return 0, false
	}
	link := "socket:[" + inode + "]"
	for id, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, f := range files {
			if to, err := os.Readlink(dir + "/" + f.Name()); err == nil && to == link {
				return id, true
			}
		}
	}
	return 0, false
}

// inodeOf finds the socket with a local and a remote port; "": there is none.
func inodeOf(local, remote int) string {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		inode := findSocket(bufio.NewScanner(f), fmt.Sprintf(":%04X", local), fmt.Sprintf(":%04X", remote))
		_ = f.Close() // it was only read
		if inode != "" {
			return inode
		}
	}
	return ""
}

// findSocket reads lines of number, local address, remote address, and, as the tenth, the inode.
func findSocket(lines *bufio.Scanner, local, remote string) string {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 9 && strings.HasSuffix(f[1], local) && strings.HasSuffix(f[2], remote) && f[9] != "0" {
			return f[9]
		}
	}
	return ""
}
