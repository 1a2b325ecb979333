package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/oncelog/oncelog/internal/netproxy"
)

// compose is the cluster of deploy/docker-compose.yml, reached by its published ports.
type compose struct {
	containers map[int32]string
	network    string
}

func openCompose(ctx context.Context) (cluster, error) {
	c := &compose{containers: make(map[int32]string)}
	for _, id := range c.Brokers() {
		out, err := docker("ps", "--quiet", "--filter", fmt.Sprintf("label=com.docker.compose.service=broker-%d", id))
		if err != nil {
			return nil, err
		}
		if out == "" || strings.Contains(out, "\n") {
			return nil, fmt.Errorf("broker-%d: found containers %q, want one; is the cluster up?", id, out)
		}
		c.containers[id] = out
	}
	out, err := docker("inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", c.containers[1])
	if err != nil {
		return nil, err
	}
	c.network = out
	for _, id := range c.Brokers() {
		if err := c.WaitReady(ctx, id); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func docker(args ...string) (string, error) {
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (c *compose) do(id int32, verb string) error {
	_, err := docker(verb, c.containers[id])
	return err
}

func (c *compose) Addrs() []string {
	return []string{"127.0.0.1:19095", "127.0.0.1:19195", "127.0.0.1:19295"}
}

func (c *compose) Brokers() []int32 { return []int32{1, 2, 3} }

func (c *compose) Kill(id int32) error { return c.do(id, "kill") }

func (c *compose) Start(id int32) error { return c.do(id, "start") }

// Pause tries again where a busy machine kept the engine from freezing all threads in its time.
func (c *compose) Pause(id int32) error {
	var err error
	for range 5 {
		if err = c.do(id, "pause"); err == nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
	return err
}

func (c *compose) Resume(id int32) error { return c.do(id, "unpause") }

func (c *compose) Cut(id int32) (bool, error) {
	_, err := docker("network", "disconnect", c.network, c.containers[id])
	return true, err
}

func (c *compose) Heal(id int32) error {
	_, err := docker("network", "connect", "--alias", fmt.Sprintf("broker-%d", id), c.network, c.containers[id])
	return err
}

// Network is the engine's.
func (c *compose) Network() *netproxy.Network { return nil }

func (c *compose) WaitReady(ctx context.Context, id int32) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", 19544+100*id))
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("readyz answers %s", resp.Status)
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("broker %d is not ready: %w", id, err)
		}
	}
}

// Close leaves the containers to who started them.
func (c *compose) Close() {}
