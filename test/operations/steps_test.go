package operations

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
)

// alone runs a command for the broker of the document's configuration.
func (w *walk) alone(command string) {
	w.run(strings.NewReplacer("broker-1.yaml", w.soloFile, "broker-1.example:9095", w.soloGRPC).Replace(command))
}

// serveAlone starts it, waits until it is ready, and writes something to look at.
func (w *walk) serveAlone(command string) {
	args := strings.Fields(strings.ReplaceAll(command, "broker-1.yaml", w.soloFile))
	w.solo = exec.Command(filepath.Join(*binaries, args[0]), args[1:]...)
	w.solo.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.must(w.solo.Start())
	text, err := os.ReadFile(w.soloFile)
	w.must(err)
	_, address, _ := strings.Cut(string(text), "http: {listen: ")
	address, _, _ = strings.Cut(address, "}")
	w.until("the broker to be ready", func() bool {
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	cl, err := client.New(client.Config{Bootstrap: []string{w.soloGRPC}})
	w.must(err)
	defer func() { w.must(cl.Close(w.ctx)) }()
	_, err = cl.CreateTopic(w.ctx, client.TopicSpec{Name: "orders", Partitions: 2, ReplicationFactor: 1, WaitReady: time.Minute})
	w.must(err)
	w.fill(cl, 200)
}

func (w *walk) until(what string, yes func() bool) {
	w.t.Helper()
	for !yes() {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-w.ctx.Done():
			w.t.Fatalf("%s: %v", what, w.ctx.Err())
		}
	}
}

// restart is what a service manager does.
func (w *walk) restart(string) {
	b := w.c.Broker(2)
	w.must(b.Terminate())
	w.must(b.Start())
	w.must(b.WaitReady(w.ctx))
}

// level is refused in a cluster that was founded at that level.
func (w *walk) level(command string) {
	if out, err := w.try(command, w.addresses()...); err != nil && !strings.Contains(out, "can only be raised") {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// unregister comes after the broker has been stopped.
func (w *walk) unregister(command string) {
	w.must(w.c.Broker(3).Terminate())
	w.cluster(command)
}

func (w *walk) loseDisk(command string) {
	b := w.c.Broker(2)
	w.must(b.Kill())
	w.run(strings.ReplaceAll(command, "/var/lib/brokerd", b.DataDir()))
}

func (w *walk) startLost(string) { w.must(w.c.Broker(2).Start()) }

// healthy waits as the document says, more often.
func (w *walk) healthy(command string) {
	w.must(w.c.Broker(2).WaitReady(w.ctx))
	w.run(strings.ReplaceAll(command, "sleep 10", "sleep 1"), w.addresses()...)
}

// loseMajority loses brokers 2 and 4 for ever; broker 3 is unregistered by now.
func (w *walk) loseMajority(command string) {
	for _, id := range []int32{2, 4} {
		w.must(w.c.Broker(id).Kill())
		w.must(os.RemoveAll(w.c.Broker(id).DataDir()))
	}
	w.must(w.c.Broker(1).Terminate())
	out, err := w.try(strings.ReplaceAll(command, "broker-1.yaml", w.firstFile))
	if err == nil || !strings.Contains(out, "cluster/metadata") || !strings.Contains(out, "no group was changed") {
		w.t.Fatalf("it does not say what it would do, or did it: %v\n%s", err, out)
	}
}

func (w *walk) survivor(command string) {
	w.run(strings.ReplaceAll(command, "broker-1.yaml", w.firstFile))
	w.must(w.c.Broker(1).Start())
	w.must(w.c.Broker(1).WaitReady(w.ctx))
}

// addOthers adds the brokers that come in the place of the lost ones.
func (w *walk) addOthers(command string) {
	for _, id := range []int32{5, 6} {
		w.must(w.c.Broker(id).Start())
	}
	for _, id := range []int32{5, 6} {
		w.must(w.c.Broker(id).WaitReady(w.ctx))
	}
	w.cluster(command)
}

func (w *walk) forgetFour(command string) { w.cluster(strings.ReplaceAll(command, "3", "4")) }

// readLogs reads the directory of the broker alone, which is stopped for it.
func (w *walk) readLogs(command string) {
	if w.solo != nil {
		w.must(w.solo.Process.Signal(syscall.SIGTERM))
		w.must(w.solo.Wait())
		w.solo = nil
	}
	partitions, err := filepath.Glob(filepath.Join(w.soloDir, "partitions", "*"))
	w.must(err)
	if len(partitions) != 2 {
		w.t.Fatalf("partitions: %v", partitions)
	}
	w.run(strings.NewReplacer("/var/lib/brokerd/partitions/1000-3", partitions[0], "/var/lib/brokerd", w.soloDir).Replace(command))
}
