// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// patience is how long a change may take on a machine that is busy with a whole cluster.
const patience = time.Minute

// silence is the time without an answer after which a packet counts as dropped.
const silence = 700 * time.Millisecond

// world is a lab in which the relay and smartnatd run.
type world struct {
	*lab.Lab
	plane         plane
	relay, daemon *lab.Process
	// before is the state of the gateway's kernel before smartnatd first ran.
	before string
}

// newWorld starts everything, with a data plane for the gateway and additional lines for its config.
func newWorld(t *testing.T, p plane, more ...string) *world {
	t.Helper()
	started := time.Now()
	w := &world{Lab: lab.New(t, lab.WithVariant(p.variant())), plane: p}
	ctx := timeout(t, 2*time.Minute)
	t.Logf("control plane up after %v", time.Since(started).Round(time.Millisecond))
	var err error
	if w.relay, err = w.StartRelay(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.GrantGateway(ctx); err != nil {
		t.Fatal(err)
	}
	w.countRestores(ctx, t)
	w.before = w.kernel(ctx, t)
	if w.daemon, err = w.StartGateway(ctx, w.config(more...), p.env()...); err != nil {
		t.Fatal(err)
	}
	t.Logf("smartnatd in effect after %v", time.Since(started).Round(time.Millisecond))
	return w
}

// config returns the lab's config with additional lines.
func (w *world) config(more ...string) string {
	return lab.DualStackConfig + w.plane.config() + strings.Join(more, "")
}

// restores is the file that records each run of iptables-restore or ip6tables-restore.
const restores = "/run/restores"

// countRestores replaces the gateway's restore programs by scripts that record their runs.
func (w *world) countRestores(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-c", "command -v "+name)
		if err != nil {
			t.Fatal(err)
		}
		link := strings.TrimSpace(out)
		program, err := os.Readlink(link)
		if err != nil {
			t.Fatalf("the lab's %s: %v", name, err)
		}
		// Run the target of the link: its name tells the multi-call binary what to do. A version query writes nothing.
		script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] || echo %s >> %s\nexec %s \"$@\"\n", name, restores, program)
		if err := errors.Join(os.Remove(link), os.WriteFile(link, []byte(script), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Host(lab.Gateway).WriteFile(restores, ""); err != nil {
		t.Fatal(err)
	}
}

// restores returns the number of runs of the restore programs so far.
func (w *world) restores(t *testing.T) int {
	t.Helper()
	text, err := w.Host(lab.Gateway).ReadFile(restores)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(text, "\n")
}

// kernel returns all state on the gateway that smartnatd may have changed, as text that is equal if nothing changed.
func (w *world) kernel(ctx context.Context, t *testing.T) string {
	t.Helper()
	out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", `
		ip -4 rule; ip -6 rule
		# The kernel's own routes come and go with neighbours and link-local addresses.
		ip -4 route show table all; ip -6 route show table all | grep -v 'fe80::\|ff00::' || true
		cd /proc/sys/net
		grep . ipv4/ip_forward ipv6/conf/all/forwarding ipv6/conf/default/forwarding
		for link in all default eth0 eth1 eth2; do echo ipv4/conf/$link/rp_filter ipv6/conf/$link/accept_ra; done | xargs grep .`)
	if err != nil {
		t.Fatal(err)
	}
	return w.rules(ctx, t) + out
}

// rules returns the gateway's packet rules, as text that is equal if they do the same.
func (w *world) rules(ctx context.Context, t *testing.T) string {
	t.Helper()
	rules, err := w.plane.rules(ctx, w.Host(lab.Gateway))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// awaitLog waits for a line of smartnatd's log after the first skip bytes.
func (w *world) awaitLog(ctx context.Context, t *testing.T, skip int, want ...string) {
	t.Helper()
	w.awaitLogFor(ctx, t, patience, skip, want...)
}

func (w *world) awaitLogFor(ctx context.Context, t *testing.T, limit time.Duration, skip int, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := lab.Poll(ctx, func(context.Context) error {
		for line := range strings.Lines(w.daemon.Log()[skip:]) {
			if containsAll(line, want) {
				return nil
			}
		}
		return fmt.Errorf("no line with %q", want)
	}); err != nil {
		t.Fatalf("smartnatd's log: %v\n%s", err, w.daemon.Log()[skip:])
	}
}

func containsAll(line string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(line, part) {
			return false
		}
	}
	return true
}

// namespace creates a Kubernetes namespace for one test, with n ready pods spread over the nodes behind a Service "echo" with port 8080
// for TCP and UDP.
func (w *world) namespace(t *testing.T, name string, n int) {
	t.Helper()
	ctx := timeout(t, patience)
	if err := w.CreateNamespace(ctx, name); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w.addPod(ctx, t, name, podName(i))
	}
	w.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: %s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  ports:
  - {name: tcp, port: 8080, protocol: TCP}
  - {name: udp, port: 8080, protocol: UDP}
`, name))
}

// portText formats a port for a spec.
func portText(port uint16) string { return strconv.Itoa(int(port)) }

func podName(i int) string { return fmt.Sprintf("echo-%d", i) }

func (w *world) addPod(ctx context.Context, t *testing.T, namespace, name string) {
	t.Helper()
	node := lab.Node1
	if strings.HasSuffix(name, "1") || strings.HasSuffix(name, "3") {
		node = lab.Node2
	}
	if _, err := w.AddPod(ctx, lab.Pod{Namespace: namespace, Name: name, Node: node, Labels: map[string]string{"app": "echo"}}); err != nil {
		t.Fatal(err)
	}
}

// mapping applies a Mapping "echo" with a spec in YAML's flow style, "addresses: [...], ...".
func (w *world) mapping(t *testing.T, namespace, spec string) {
	t.Helper()
	w.apply(t, mappingYAML(namespace, "echo", spec))
}

func mappingYAML(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: %s, namespace: %s}\nspec: {%s}\n", name, namespace, spec)
}

func (w *world) apply(t *testing.T, yaml string) {
	t.Helper()
	if err := w.Apply(timeout(t, patience), yaml); err != nil {
		t.Fatal(err)
	}
}

// await polls until host reaches the address and accept returns true for the answer.
func (w *world) await(t *testing.T, host, network, address string, accept func(lab.Answer) bool) lab.Answer {
	t.Helper()
	ctx := timeout(t, patience)
	var answer lab.Answer
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var err error
		if answer, err = w.echo(try, host, network, address); err != nil {
			return err
		}
		if accept != nil && !accept(answer) {
			return fmt.Errorf("answer %+v", answer)
		}
		return nil
	}); err != nil {
		t.Fatalf("%s to %s by %s: %v\nsmartnatd's log ends:\n%s", host, address, network, err, tail(w.daemon.Log()))
	}
	return answer
}

func (w *world) echo(ctx context.Context, host, network, address string) (lab.Answer, error) {
	if network == "udp" {
		return w.Host(host).EchoUDP(ctx, address)
	}
	return w.Host(host).EchoTCP(ctx, address)
}

// expectSilence fails if any answer or refusal comes back.
func (w *world) expectSilence(t *testing.T, host, network, address string) {
	t.Helper()
	answer, err := w.echo(timeout(t, silence), host, network, address)
	switch {
	case err == nil:
		t.Errorf("%s to %s by %s: answered %+v, want silence", host, address, network, answer)
	case !isTimeout(err):
		t.Errorf("%s to %s by %s: %v, want silence", host, address, network, err)
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// awaitRefusal waits until a connection is refused instead of timing out.
func (w *world) awaitRefusal(t *testing.T, host, network, address string) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if answer, err := w.echo(try, host, network, address); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("answer %+v, error %w", answer, err)
		}
		return nil
	}); err != nil {
		t.Fatalf("%s to %s by %s: want a refusal: %v", host, address, network, err)
	}
}

// timeout returns a context that ends with the test, or after the limit.
func timeout(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func tail(log string) string {
	const most = 4000
	return log[max(0, len(log)-most):]
}

// reconfigure restarts smartnatd with another config.
func (w *world) reconfigure(t *testing.T, config string) {
	t.Helper()
	if err := w.Host(lab.Gateway).WriteFile("/etc/smartnat.yaml", config); err != nil {
		t.Fatal(err)
	}
	if err := w.daemon.Restart(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
}
