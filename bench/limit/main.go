// Command limit measures what this machine could do at best: a client, a leader
// and two followers, each a process of its own, that do nothing but what no
// replicated log can leave out.
//
// The client sends batches over TCP, each with its length before it. The leader
// writes them to a file and sends them to both followers at the same time; all
// three make what they have written durable with one fdatasync for everything
// that has gathered since the last. A batch is acknowledged once the leader and
// one follower have it on disk. There is no Raft, no protocol, no checksum, no
// offset and no recovery: the figures of a real broker are given as a share of
// these (bench/README.md).
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// options are what one run is told.
type options struct {
	partitions int
	batchBytes int // payload, without the length before it
	inFlight   int // batches of one partition that are sent and not acknowledged
	warmUp     time.Duration
	duration   time.Duration
	dir        string
	overwrite  bool // write over a file whose blocks exist, else let it grow
	noSync     bool // acknowledge what is only written
	keep       bool // leave the files for a look
	output     string
}

// roleEnv holds the role of a process that this program started.
const roleEnv = "ONCELOG_LIMIT_ROLE"

func main() {
	var err error
	if role := os.Getenv(roleEnv); role != "" {
		err = runNode(role, os.Args[1:], os.Stdin, os.Stdout)
	} else {
		err = run(os.Args[1:], os.Stdout)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "limit:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	opts, err := parseOptions(args)
	if err != nil {
		return err
	}
	report, err := measure(opts)
	if err != nil {
		return err
	}
	if opts.output == "json" {
		return json.NewEncoder(stdout).Encode(report)
	}
	return report.writeText(stdout)
}

func parseOptions(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("limit", flag.ContinueOnError)
	flags.IntVar(&opts.partitions, "partitions", 1, "number of partitions, each a file and a connection, 1 to 1000")
	flags.IntVar(&opts.batchBytes, "batch-bytes", 100<<10, "payload of one batch, 8 to 16777216")
	flags.IntVar(&opts.inFlight, "in-flight", 5, "batches of one partition under way, 1 to 10000")
	flags.DurationVar(&opts.warmUp, "warm-up", 500*time.Millisecond, "time before the measurement")
	flags.DurationVar(&opts.duration, "duration", 2*time.Second, "time of the measurement, up to 5m")
	flags.StringVar(&opts.dir, "dir", "", "directory on the disk to measure (default: a temporary one)")
	flags.BoolVar(&opts.overwrite, "overwrite", false, "write over a file whose blocks exist, instead of a growing one")
	flags.BoolVar(&opts.noSync, "no-sync", false, "acknowledge without fdatasync")
	flags.BoolVar(&opts.keep, "keep", false, "do not remove the files")
	flags.StringVar(&opts.output, "o", "text", "text or json")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	return opts, opts.validate(flags.Args())
}

func (o options) validate(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.partitions < 1 || o.partitions > 1000:
		return fmt.Errorf("-partitions %d is not between 1 and 1000", o.partitions)
	case o.batchBytes < batchHeader || o.batchBytes > 16<<20:
		return fmt.Errorf("-batch-bytes %d is not between %d and %d", o.batchBytes, batchHeader, 16<<20)
	case o.inFlight < 1 || o.inFlight > 10_000:
		return fmt.Errorf("-in-flight %d is not between 1 and 10000", o.inFlight)
	case o.warmUp < 0 || o.warmUp > time.Minute:
		return fmt.Errorf("-warm-up %s is not between 0 and 1m", o.warmUp)
	case o.duration <= 0 || o.duration > 5*time.Minute:
		return fmt.Errorf("-duration %s is not between 0 and 5m", o.duration)
	case o.output != "text" && o.output != "json":
		return fmt.Errorf("-o %q is neither text nor json", o.output)
	}
	return nil
}

// measure starts the three nodes, is the client itself, and reports.
func measure(opts options) (_ *report, err error) {
	// Sockets and fdatasync block threads: with as many Ps as cores, goroutines
	// that could run would wait until the scheduler takes a blocked one's P away.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	dir, err := os.MkdirTemp(opts.dir, "oncelog-limit-")
	if err != nil {
		return nil, err
	}
	if !opts.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if err := refuseMemory(dir); err != nil {
		return nil, err
	}
	cluster, err := startCluster(opts, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.stop()) }()

	c, err := dialLeader(cluster.leader.address, opts)
	if err != nil {
		return nil, err
	}
	c.start()
	if err := c.wait(opts.warmUp); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	before, err := cluster.usage()
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	c.mark()
	began := time.Now()
	err = c.wait(opts.duration)
	took := time.Since(began)
	samples := c.measured()
	after, usageErr := cluster.usage()
	if err := errors.Join(err, usageErr, c.stop()); err != nil {
		return nil, err
	}
	return newReport(opts, took, samples, before, after), nil
}

// refuseMemory refuses a directory without a disk below it: fdatasync would
// cost nothing there, and nothing would be durable.
func refuseMemory(dir string) error {
	const tmpfs, ramfs = 0x01021994, 0x858458f6
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if stat.Type == tmpfs || stat.Type == ramfs {
		return fmt.Errorf("%s is in memory: name a directory on a disk with -dir", filepath.Dir(dir))
	}
	return nil
}
