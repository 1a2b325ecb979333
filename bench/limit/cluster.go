package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// cluster is the three processes beside the client.
type cluster struct {
	leader    *process
	followers []*process
}

// process is one of them.
type process struct {
	name    string
	address string
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Reader
}

// followerCount makes three replicas, of which two are a majority.
const followerCount = 2

func startCluster(opts options, dir string) (_ *cluster, err error) {
	c := &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	var addresses []string
	for i := range followerCount {
		p, err := startProcess(roleFollower, fmt.Sprintf("follower_%d", i+1), opts, dir)
		if err != nil {
			return nil, err
		}
		c.followers = append(c.followers, p)
		addresses = append(addresses, p.address)
	}
	c.leader, err = startProcess(roleLeader, roleLeader, opts, dir, "-followers", strings.Join(addresses, ","))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// startProcess runs this program again in a role and waits for its address.
func startProcess(role, name string, opts options, dir string, args ...string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	own := filepath.Join(dir, name)
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, err
	}
	args = append(args, "-dir", own, fmt.Sprintf("-overwrite=%t", opts.overwrite), fmt.Sprintf("-no-sync=%t", opts.noSync))
	command := exec.Command(program, args...)
	command.Env = append(os.Environ(), roleEnv+"="+role)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, command: command, stdin: stdin, stdout: bufio.NewReader(stdout)}
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s gives no address: %w", name, err), p.stop())
	}
	p.address = strings.TrimSpace(line)
	return p, nil
}

func (c *cluster) all() []*process {
	all := c.followers
	if c.leader != nil {
		all = append([]*process{c.leader}, all...)
	}
	return all
}

// usage asks all processes, the client included, for the CPU time they have used
// so far. It fails when one of them has.
func (c *cluster) usage() (map[string]time.Duration, error) {
	own, err := usageNow()
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{"client": own}
	for _, p := range c.all() {
		status, err := p.status()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if status.Failure != "" {
			return nil, fmt.Errorf("%s failed: %s", p.name, status.Failure)
		}
		used[p.name] = status.CPU
	}
	return used, nil
}

func (p *process) status() (nodeStatus, error) {
	var status nodeStatus
	if _, err := io.WriteString(p.stdin, "usage\n"); err != nil {
		return status, err
	}
	line, err := p.stdout.ReadBytes('\n')
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(line, &status)
}

// stop ends all processes, the leader first, so that no follower seems to fail.
func (c *cluster) stop() error {
	var errs []error
	for _, p := range c.all() {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// stop closes the standard input, by which the process ends, and waits for it.
func (p *process) stop() error {
	_ = p.stdin.Close() // If it is closed already, the process is gone.
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}
