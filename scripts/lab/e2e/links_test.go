// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// promptly bounds the time to follow a change of the host's links. The next resync is minutes away, so only an event can trigger it; the
// goal is a second, and one more allows for a busy machine.
const promptly = 2 * time.Second

// gateway runs a shell command on the gateway that must succeed.
func (w *world) gateway(t *testing.T, line string) string {
	t.Helper()
	out, err := w.Host(lab.Gateway).Exec(timeout(t, patience), strings.Fields(line)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitPromptly waits until accept returns true for the output of a command on the gateway.
func (w *world) awaitPromptly(t *testing.T, line string, accept func(string) bool) {
	t.Helper()
	started := time.Now()
	if err := lab.Poll(timeout(t, promptly), func(ctx context.Context) error {
		out, err := w.Host(lab.Gateway).Exec(ctx, strings.Fields(line)...)
		if err != nil || !accept(out) {
			return errors.Join(err, fmt.Errorf("%s: %s", line, out))
		}
		return nil
	}); err != nil {
		t.Errorf("not followed within %v: %v", promptly, err)
	}
	t.Logf("%s: followed after %v", line, time.Since(started).Round(time.Millisecond))
}

func has(part string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, part) }
}
func hasNot(part string) func(string) bool {
	return func(s string) bool { return !strings.Contains(s, part) }
}

// testAddresses checks that a new address is forwarded at once, and a removed one no longer. Connections survive until it is back, unless
// their source is revoked meanwhile.
func testAddresses(t *testing.T, w *world) {
	w.namespace(t, "addresses", 1)
	w.mapping(t, "addresses", `addresses: [198.51.100.12, 203.0.113.15, "2001:db8:2::15"], serviceName: echo, ports: [{port: 1500, servicePort: 8080}]`)
	w.namespace(t, "addresses-limited", 1)
	limited := func(sources string) {
		w.mapping(t, "addresses-limited", `addresses: [203.0.113.15, "2001:db8:2::15"], allowedSources: [`+sources+`], serviceName: echo,
			ports: [{port: 1501, servicePort: 8080}]`)
	}
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 1500), nil)
	for _, family := range []struct{ list, address, prefix string }{
		{w.plane.list("nat", false), "203.0.113.15", "/24"},
		{w.plane.list("nat", true), "2001:db8:2::15", "/64 nodad"},
	} {
		if rules := w.gateway(t, family.list); strings.Contains(rules, family.address) {
			t.Errorf("rules for an address that the host does not hold:\n%s", rules)
		}
		prefix, _, _ := strings.Cut(family.prefix, " ")
		comes := func() {
			w.gateway(t, "ip address add "+family.address+family.prefix+" dev eth2")
			w.awaitPromptly(t, family.list, has(family.address))
		}
		leaves := func() {
			w.gateway(t, "ip address del "+family.address+prefix+" dev eth2")
			w.awaitPromptly(t, family.list, hasNot(family.address))
		}
		limited(`"0.0.0.0/0", "::/0"`)
		comes()
		w.await(t, lab.Client, "tcp", lab.Join(family.address, 1500), nil)
		flow, revoked := w.flow(t, lab.Client, "tcp", lab.Join(family.address, 1500)), w.flow(t, lab.Client, "tcp", lab.Join(family.address, 1501))
		leaves()
		limited(`192.0.2.254/32, "2001:db8::fe/128"`)
		comes()
		say(t, flow)
		w.expectSilence(t, lab.Client, "tcp", lab.Join(family.address, 1501))
		awaitFlow(t, revoked, "to end, as it was revoked", silent)
		leaves()
	}
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 1500), nil)
}

// testLinkFlap checks that an uplink that goes down loses only its own routes, and that everything is as before once it is back.
func testLinkFlap(t *testing.T, w *world) {
	w.namespace(t, "flap", 1)
	w.mapping(t, "flap", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, ports: [{port: 1510, servicePort: 8080}]`)
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:2::12"} {
		w.await(t, lab.Client, "tcp", lab.Join(external, 1510), nil)
	}
	flows := []*lab.Flow{w.flow(t, lab.Client, "tcp", lab.Join("203.0.113.12", 1510)), w.flow(t, lab.Client, "tcp", lab.Join("2001:db8:2::12", 1510))}
	tables := []string{"ip -4 route show table 7381", "ip -6 route show table 7381"}
	var before []string
	for _, table := range tables {
		before = append(before, w.gateway(t, table))
	}
	if !has("default via 203.0.113.1 dev eth2")(before[0]) || !has("default via 2001:db8:2::1 dev eth2")(before[1]) {
		t.Fatalf("the second uplink's routes are %q", before)
	}
	if err := w.Host(lab.Gateway).SetLink("eth2", false); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 1510), nil)
	if err := w.Host(lab.Gateway).SetLink("eth2", true); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // the kernel removes IPv6 addresses with the link
		w.gateway(t, fmt.Sprintf("ip address replace 2001:db8:2::1%d/64 dev eth2 nodad", i))
	}
	for i, table := range tables {
		w.awaitPromptly(t, table, func(s string) bool { return s == before[i] })
	}
	for i, external := range []string{"203.0.113.12", "2001:db8:2::12"} {
		say(t, flows[i])
		w.await(t, lab.Client, "tcp", lab.Join(external, 1510), nil)
		w.expectReplies(timeout(t, patience), t, "eth2", true, "tcp", lab.Join(external, 1510))
	}
}

// testGatewayChange checks interfaces given by pattern, and gateways that are not configured but found, by the default route of the
// link and by their position in its network, and followed.
func testGatewayChange(t *testing.T, w *world) {
	w.namespace(t, "found", 1)
	w.mapping(t, "found", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:1::12", "2001:db8:2::12"], serviceName: echo, ports: [{port: 1520, servicePort: 8080}]`)
	config := w.config()
	for old, found := range map[string]string{
		`{interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}`: `{interface: "eth[1]"}`,
		`{interface: eth2, gateways: [203.0.113.1, "2001:db8:2::1"]}`:  `{interface: "/^eth[29]$/", gatewayOffset: 1}`,
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("the lab's config has no %s", old)
		}
		config = strings.Replace(config, old, found, 1)
	}
	w.reconfigure(t, config)
	defer w.reconfigure(t, w.config())
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:1::12", "2001:db8:2::12"} {
		w.await(t, lab.Client, "tcp", lab.Join(external, 1520), nil)
	}
	// A new link becomes one more uplink.
	for _, line := range []string{"ip link add eth9 type veth peer name end9", "ip link set end9 up", "ip address add 198.18.0.10/24 dev eth9", "ip link set eth9 up"} {
		w.gateway(t, line)
	}
	w.awaitPromptly(t, "ip -4 route show table all", has("default via 198.18.0.1 dev eth9 table 7382"))
	w.awaitPromptly(t, w.plane.list("mangle", false), has(w.plane.on("eth9")))
	w.gateway(t, "ip link del eth9")
	w.awaitPromptly(t, w.plane.list("mangle", false), hasNot(w.plane.on("eth9")))

	ctx := timeout(t, patience)
	for _, family := range []struct{ option, gateway, other, prefix, external string }{
		{"-4", "198.51.100.1", "198.51.100.254", "/24", "198.51.100.12"},
		{"-6", "2001:db8:1::1", "2001:db8:1::254", "/64", "2001:db8:1::12"},
	} {
		table := "ip " + family.option + " route show table 7380"
		if routes := w.gateway(t, table); !has("default via " + family.gateway + " dev eth1")(routes) {
			t.Errorf("the first uplink's routes are:\n%s\nwant the gateway of the default route, %s", routes, family.gateway)
		}
		if _, err := w.Host(lab.Router).Exec(ctx, "ip", "address", "replace", family.other+family.prefix, "dev", "eth1"); err != nil {
			t.Fatal(err)
		}
		w.gateway(t, "ip "+family.option+" route replace default via "+family.other)
		w.awaitPromptly(t, table, has("default via "+family.other+" dev eth1"))
		w.await(t, lab.Client, "tcp", lab.Join(family.external, 1520), nil)
		w.gateway(t, "ip "+family.option+" route replace default via "+family.gateway)
		w.awaitPromptly(t, table, has("default via "+family.gateway+" dev eth1"))
	}
}

// testNextHop checks that a node that is down is no next hop for ClusterIPs until it is back.
func testNextHop(t *testing.T, w *world) {
	w.namespace(t, "nexthop", 1) // on node1
	w.mapping(t, "nexthop", `addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: service, ports: [{port: 1530, servicePort: 8080}]`)
	both := map[string][2]string{
		"ip -4 route show 10.96.0.0/16":  {lab.Node1Address, lab.Node2Address},
		"ip -6 route show fd00:96::/108": {lab.Node1Address6, lab.Node2Address6},
	}
	expect := func(within time.Duration, down bool) {
		t.Helper()
		for line, hops := range both {
			if err := lab.Poll(timeout(t, within), func(ctx context.Context) error {
				out, err := w.Host(lab.Gateway).Exec(ctx, strings.Fields(line)...)
				if err != nil || !strings.Contains(out, hops[0]+" ") || strings.Contains(out, hops[1]+" ") == down {
					return errors.Join(err, fmt.Errorf("the route is %q", out))
				}
				return nil
			}); err != nil {
				t.Errorf("%s, node2 down: %t: %v", line, down, err)
			}
		}
	}
	for _, address := range externals("12", 1530) {
		w.await(t, lab.Client, "tcp", address, nil)
	}
	expect(patience, false)
	if err := w.SetCable(lab.Node2, "eth0", false); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	expect(patience, true)
	t.Logf("left out after %v", time.Since(started).Round(time.Millisecond))
	ctx := timeout(t, patience)
	for _, address := range externals("12", 1530) {
		for range 20 { // node2 would get half of them
			if _, err := w.echo(ctx, lab.Client, "tcp", address); err != nil {
				t.Errorf("node2 is down: %v", err)
				break
			}
		}
	}
	if err := w.SetCable(lab.Node2, "eth0", true); err != nil {
		t.Fatal(err)
	}
	started = time.Now()
	expect(patience, false)
	t.Logf("back after %v", time.Since(started).Round(time.Millisecond))
	for _, address := range externals("12", 1530) {
		for range 20 {
			if _, err := w.echo(ctx, lab.Client, "tcp", address); err != nil {
				t.Errorf("node2 is back: %v", err)
				break
			}
		}
	}
}
