package brokerproc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Usage is what a process takes of the machine, as Linux counts it.
type Usage struct {
	// CPUSeconds is user and system time since the process began.
	CPUSeconds float64
	// ResidentBytes is what it has in memory.
	ResidentBytes int64
	// AnonymousBytes are those of it that are no file's: heap and stacks. The rest is the program itself.
	AnonymousBytes int64
	// OpenFiles counts descriptors: files and sockets.
	OpenFiles int
	// Threads counts those of the operating system.
	Threads int
}

// ticksPerSecond is what /proc counts in, on every Linux that Go runs on.
const ticksPerSecond = 100

// Usage is zero for a process that does not run.
func (p *Process) Usage() Usage {
	var u Usage
	proc := fmt.Sprintf("/proc/%d/", p.PID())
	if stat, err := os.ReadFile(proc + "stat"); err == nil {
		// The second field, in brackets, is the program's name; utime and stime are the 14th and 15th.
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) >= 13 {
			for _, field := range fields[11:13] {
				ticks, _ := strconv.ParseFloat(field, 64)
				u.CPUSeconds += ticks / ticksPerSecond
			}
		}
	}
	if status, err := os.ReadFile(proc + "status"); err == nil {
		for line := range strings.Lines(string(status)) {
			name, rest, _ := strings.Cut(line, ":")
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				continue
			}
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			switch name {
			case "VmRSS":
				u.ResidentBytes = n * 1024
			case "RssAnon":
				u.AnonymousBytes = n * 1024
			case "Threads":
				u.Threads = int(n)
			}
		}
	}
	if files, err := os.ReadDir(proc + "fd"); err == nil {
		u.OpenFiles = len(files)
	}
	return u
}

// Usage is the sum over all brokers.
func (c *Cluster) Usage() Usage {
	var sum Usage
	for _, p := range c.brokers {
		u := p.Usage()
		sum.CPUSeconds += u.CPUSeconds
		sum.ResidentBytes += u.ResidentBytes
		sum.AnonymousBytes += u.AnonymousBytes
		sum.OpenFiles += u.OpenFiles
		sum.Threads += u.Threads
	}
	return sum
}
