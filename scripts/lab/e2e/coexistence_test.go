// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/scripts/lab"
)

//go:embed testdata
var layouts embed.FS

func TestCoexistenceLegacy(t *testing.T)      { testCoexistence(t, legacy) }
func TestCoexistenceIPTablesNFT(t *testing.T) { testCoexistence(t, nfTables) }
func TestCoexistenceNFTables(t *testing.T)    { testCoexistence(t, native{}) }

// testCoexistence runs other programs on the gateway that also write rules, and checks that their rules stay unchanged.
func testCoexistence(t *testing.T, p plane) {
	w := newWorld(t, p)
	w.reconfigure(t, w.config("resync: 1s\n"))
	w.namespace(t, "others", 1)
	w.mapping(t, "others", `addresses: [198.51.100.10, 203.0.113.10, "2001:db8:1::10"], serviceName: echo, egress: true,
		ports: [{port: 1600, servicePort: 8080}, {port: 1600, servicePort: 8080, protocol: udp}]`)
	if err := w.Container(lab.Gateway, "container", "docker0", "172.17.0.2", "fd00:17::2"); err != nil {
		t.Fatal(err)
	}
	for _, layout := range []string{"docker", "firewalld", "ufw"} {
		t.Run(layout, func(t *testing.T) { testLayout(t, w, layout) })
	}
	if p != (native{}) { // there is no order among the rules of different tables
		t.Run("a rule above ours", func(t *testing.T) { testRuleAbove(t, w) })
	}
	t.Run("a kube-proxy", func(t *testing.T) {
		if p == (native{}) {
			w.mendForward(timeout(t, patience), t, 0)
		}
		testKubeProxy(t, w)
	})
	if p == legacy { // only this one has a lock
		t.Run("a lock that is held", func(t *testing.T) { testLock(t, w) })
	}
}

// testLayout starts on a host with rules of other programs, and must leave them as they were.
func testLayout(t *testing.T, w *world, layout string) {
	ctx := timeout(t, time.Minute)
	if err := w.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Smartnatd(ctx, "cleanup"); err != nil {
		t.Fatal(err)
	}
	rules, err := layouts.ReadFile("testdata/" + layout + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Host(lab.Gateway).ExecInput(ctx, string(rules), "iptables-restore"); err != nil {
		t.Fatal(err)
	}
	before := w.savedRules(ctx, t)
	skip := len(w.daemon.Log())
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	mended := func() {}
	if w.plane == (native{}) {
		mended = w.mendForward(ctx, t, skip)
		// Of these, only firewalld accepts all translated connections.
		if found := strings.Contains(w.daemon.Log()[skip:], "drops what is forwarded"); found == (layout == "firewalld") {
			t.Errorf("a finding that %s drops what is forwarded: %t", layout, found)
		}
	}
	for _, external := range []string{lab.External1, lab.External2, lab.External1v6} {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, lab.Join(external, 1600), nil)
		}
	}
	w.expectEgress(t)
	if strings.Contains(string(rules), "172.17.0.2") {
		for _, external := range []string{"198.51.100.11", "203.0.113.11"} {
			if answer := w.await(t, lab.Client, "tcp", lab.Join(external, 9090), nil); answer.Pod != "container" {
				t.Errorf("port 9090 of %s leads to %s, want the container", external, answer.Pod)
			}
		}
	}
	mended()
	if diff := cmp.Diff(before, notOurs(w.savedRules(ctx, t))); diff != "" {
		t.Errorf("rules of %s were changed (-before +with us):\n%s", layout, diff)
	}
	if err := w.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Smartnatd(ctx, "cleanup"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.savedRules(ctx, t)); diff != "" {
		t.Errorf("rules of %s were changed (-before +after):\n%s", layout, diff)
	}
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
}

// mendForward waits for the finding that FORWARD drops connections of pods, and runs the command that it contains. undo takes back the
// command.
func (w *world) mendForward(ctx context.Context, t *testing.T, skip int) (undo func()) {
	t.Helper()
	const said = "chain FORWARD of table ip filter drops connections that pods open unless one of its rules accepts them: "
	w.awaitLog(ctx, t, skip, finding.ReasonForwardingDropped, said)
	_, remedy, _ := strings.Cut(w.daemon.Log()[skip:], said)
	remedy, _, _ = strings.Cut(remedy, " (")
	w.gateway(t, remedy)
	return func() { w.gateway(t, strings.Replace(remedy, " -I ", " -D ", 1)) }
}

// savedRules returns all IPv4 rules, one per line, without counters.
func (w *world) savedRules(ctx context.Context, t *testing.T) []string {
	t.Helper()
	out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec",
		`for table in raw mangle filter nat; do iptables-save -t $table | sed -e '/^#/d' -e 's/\[[0-9:]*\]//'; done`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(out, "\n")
}

func notOurs(rules []string) []string {
	return slices.DeleteFunc(slices.Clone(rules), func(line string) bool { return strings.Contains(line, "SMARTNAT-") })
}

// expectEgress checks that a pod's own connections still leave, and with which source address.
func (w *world) expectEgress(t *testing.T) {
	t.Helper()
	server, err := w.Host(lab.Client).Serve(7000)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	w.await(t, "echo-0.others", "tcp", lab.Join(lab.ClientAddress, 7000), func(a lab.Answer) bool { return a.Client.Addr().String() == lab.External1 })
}

// testRuleAbove checks that SmartNat's jump moves above a rule that another program inserted above it, and that this rule stays.
func testRuleAbove(t *testing.T, w *world) {
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 1600), nil)
	for _, hook := range [][2]string{{"filter", "FORWARD"}, {"nat", "PREROUTING"}, {"mangle", "PREROUTING"}} {
		table, chain := hook[0], hook[1]
		rule := "-A " + chain + " -s 192.0.2.10/32 -p tcp -m tcp --dport 1600 -j ACCEPT"
		w.gateway(t, "iptables -w -t "+table+" -I"+strings.TrimPrefix(rule, "-A"))
		if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
			out, err := w.Host(lab.Gateway).Exec(ctx, "iptables", "-w", "-t", table, "-S", chain)
			lines := strings.Split(out, "\n")
			if err != nil || len(lines) < 2 || !strings.HasSuffix(lines[1], "-j SMARTNAT-"+chain) && !strings.HasSuffix(lines[1], "-j SMARTNAT-SERVICES") || !slices.Contains(lines, rule) {
				return errors.Join(err, fmt.Errorf("the rules are:\n%s", out))
			}
			return nil
		}); err != nil {
			t.Errorf("table %s: want SmartNat's jump first, and the other rule kept: %v", table, err)
		}
		w.gateway(t, "iptables -w -t "+table+" -D"+strings.TrimPrefix(rule, "-A"))
	}
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 1600), nil)
}

// testKubeProxy checks a gateway that is also a node.
func testKubeProxy(t *testing.T, w *world) {
	proxy, err := w.StartKubeProxy(lab.Gateway, lab.Node1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proxy.Kill() }()
	ctx := timeout(t, time.Minute)
	clusterIPs, err := w.Kubectl(ctx, "get", "service", "echo", "-n", "others", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		if !slices.ContainsFunc(w.savedRules(ctx, t), func(line string) bool { return strings.Contains(line, "others/echo:tcp cluster IP") }) {
			return errors.New("kube-proxy has no rules for the Service")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.apply(t, mappingYAML("others", "endpoints", `addresses: [198.51.100.10, "2001:db8:1::10"], serviceName: echo, mode: endpoints, ports: [{port: 1610, servicePort: 8080}]`))
	for _, clusterIP := range strings.Fields(clusterIPs) {
		w.await(t, lab.Gateway, "tcp", lab.Join(clusterIP, 8080), nil)
	}
	for _, external := range []string{lab.External1, lab.External1v6} {
		for _, port := range []uint16{1600, 1610} {
			for _, host := range []string{lab.Client, lab.Gateway, lab.Node2, "echo-0.others"} {
				w.await(t, host, "tcp", lab.Join(external, port), nil)
			}
		}
	}
	proxies := func() []string {
		return slices.DeleteFunc(w.savedRules(ctx, t), func(line string) bool { return !strings.Contains(line, "KUBE-") })
	}
	before := proxies()
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 1600), nil)
	if diff := cmp.Diff(before, proxies()); diff != "" {
		t.Errorf("kube-proxy's rules were changed (-before +after):\n%s", diff)
	}
}

// testLock checks that smartnatd waits for the lock of iptables.
func testLock(t *testing.T, w *world) {
	skip := len(w.daemon.Log())
	started := time.Now()
	holder, err := w.Host(lab.Gateway).Start("lock", nil, "flock", "/run/xtables.lock", "sh", "-c", "echo held; sleep 2")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if !strings.Contains(holder.Log(), "held") {
			return fmt.Errorf("not held: %s", holder.Log())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.apply(t, mappingYAML("others", "late", `addresses: [198.51.100.10], serviceName: echo, ports: [{port: 1620, servicePort: 8080}]`))
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 1620), nil)
	if waited := time.Since(started); waited < 2*time.Second {
		t.Errorf("in effect after %v, while the lock was held", waited)
	}
	for line := range strings.Lines(w.daemon.Log()[skip:]) {
		if strings.Contains(line, "level=error") || strings.Contains(line, "level=warning") && strings.Contains(line, "lock") {
			t.Errorf("warning about a lock held for 2 s, less than lockTimeout: %s", line)
		}
	}
}
