package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// TestMain lets the test's own program be the example: it is run again as its workers.
func TestMain(m *testing.M) {
	if moment, ok := os.LookupEnv("POSTGRES_EXAMPLE_WORKER"); ok {
		hook := dieAt(moment, 2)
		if name, stops := strings.CutPrefix(moment, "stop:"); stops {
			hook = stopAt(name)
		}
		err := run(context.Background(), strings.Split(os.Getenv("POSTGRES_EXAMPLE_BROKERS"), ","), os.Getenv("POSTGRES_EXAMPLE_URL"), hook)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// stopAt stops the process at a moment, as if it hung; SIGCONT wakes it up.
func stopAt(name string) func(string) {
	return func(moment string) {
		if moment == name {
			name = ""
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
	}
}

// rig is a cluster, a database, and workers between them.
type rig struct {
	t       *testing.T
	cluster *brokerproc.Cluster
	url     string
	cl      *client.Client
	s       *sink
	sent    map[string]change
	total   int64
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, url: startPostgres(t), sent: make(map[string]change)}
	binary := filepath.Join(t.TempDir(), "brokerd")
	build := exec.Command("go", "build", "-o", binary, "./cmd/brokerd")
	build.Dir, build.Stderr = "../..", os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	var err error
	r.cluster, err = brokerproc.New(brokerproc.Options{Binary: binary, Dir: t.TempDir(), Brokers: 3,
		Set: []string{"log.level=warn", "groups.session_timeout=1500ms", "groups.heartbeat_interval=300ms"}})
	r.must(err)
	t.Cleanup(r.cluster.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.must(r.cluster.Start(ctx))
	r.cl, err = client.New(client.Config{Bootstrap: r.cluster.GRPCAddrs()})
	r.must(err)
	t.Cleanup(func() { _ = r.cl.Close(context.Background()) })
	_, err = r.cl.CreateTopic(ctx, client.TopicSpec{Name: orders, Partitions: 3, WaitReady: 20 * time.Second})
	r.must(err)
	r.s, err = openSink(ctx, r.url)
	r.must(err)
	t.Cleanup(r.s.close)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// startPostgres gives the URL of a database that ends with the test.
func startPostgres(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close() // the database takes it
	cmd := exec.Command("../../scripts/postgres.sh", port)
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	if readErr != nil {
		err := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 3 && os.Getenv("POSTGRES_REQUIRED") == "" {
			t.Skip("there is no PostgreSQL here")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // the script sees its input end
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	})
	return strings.TrimSpace(line)
}

// worker starts a process that dies, or stops, at a moment; empty: at none.
func (r *rig) worker(moment string) *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "POSTGRES_EXAMPLE_WORKER="+moment, "POSTGRES_EXAMPLE_URL="+r.url, "POSTGRES_EXAMPLE_BROKERS="+strings.Join(r.cluster.GRPCAddrs(), ","))
	cmd.Stderr = os.Stderr
	r.must(cmd.Start())
	r.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// send writes orders, some in a transaction that is aborted in the end, which nobody may count.
func (r *rig) send(n int) {
	r.t.Helper()
	p, err := r.cl.NewProducer(client.ProducerConfig{})
	r.must(err)
	defer func() { _ = p.Close(context.Background()) }()
	for range n {
		r.total++
		account := fmt.Sprint("account-", r.total%7)
		c := r.sent[account]
		r.sent[account] = change{c.amount + r.total, c.orders + 1}
		r.must(p.Send(r.t.Context(), client.Record{Topic: orders, Key: []byte(account), Value: strconv.AppendInt(nil, r.total, 10)}, func(res client.Result) {
			if res.Err != nil {
				r.t.Error(res.Err)
			}
		}))
	}
	r.must(p.Flush(r.t.Context()))
	void, err := r.cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: "void"})
	r.must(err)
	r.must(void.InitTransactions(r.t.Context()))
	r.must(void.Begin())
	for i := range 3 {
		if res := void.SendSync(r.t.Context(), client.Record{Topic: orders, Partition: client.ToPartition(int32(i)), Key: []byte("account-0"), Value: []byte("1000000")}); res.Err != nil {
			r.t.Fatal(res.Err)
		}
	}
	r.must(void.Abort(r.t.Context()))
	r.must(void.Close(r.t.Context()))
}

func (r *rig) balances() map[string]change {
	rows, err := r.s.pool.Query(r.t.Context(), "select account, amount, orders from balances")
	r.must(err)
	found := make(map[string]change)
	for rows.Next() {
		var account string
		var c change
		r.must(rows.Scan(&account, &c.amount, &c.orders))
		found[account] = c
	}
	r.must(rows.Err())
	return found
}

// booked waits until as many orders are booked as there are.
func (r *rig) booked(atLeast int64) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var n int64
		for _, c := range r.balances() {
			n += c.orders
		}
		if n >= atLeast {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d orders are booked", n, atLeast)
		}
	}
}

// Workers are killed after reading, inside the database's transaction and after it, a broker is killed, and one worker sleeps
// through its replacement, with and without a transaction in hand. Every order counts once.
func TestOrdersAreBookedOnce(t *testing.T) {
	r := newRig(t)
	for _, moment := range []string{"read", "booked", "stored"} {
		r.send(150)
		doomed := r.worker(moment)
		if err := doomed.Wait(); doomed.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the worker that was to die when %s: %v", moment, err)
		}
	}
	r.must(r.cluster.Broker(1).Kill())
	var zombies []*exec.Cmd
	for _, moment := range []string{"stop:read", "stop:booked"} {
		r.send(150)
		zombie := r.worker(moment)
		r.stopped(zombie)
		zombies = append(zombies, zombie)
	}
	r.must(r.cluster.Broker(1).Start())
	r.worker("")
	r.booked(r.total)
	for _, z := range zombies {
		r.must(z.Process.Signal(syscall.SIGCONT))
	}
	r.send(150)
	r.booked(r.total)
	if got := r.balances(); !maps.Equal(got, r.sent) {
		t.Errorf("balances %v, want %v", got, r.sent)
	}
}

// stopped waits until a process has stopped itself.
func (r *rig) stopped(cmd *exec.Cmd) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		r.must(err)
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "T") {
			return
		}
	}
	r.t.Fatal("the worker does not stop itself")
}
