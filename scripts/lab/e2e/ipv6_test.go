// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// testIPv6 repeats the IPv4 tests over both uplinks and in both modes, for Services of both families.
func testIPv6(t *testing.T, w *world) {
	w.namespace(t, "six", 2)
	for _, mode := range []struct {
		name string
		port uint16
	}{{"service", 6080}, {"endpoints", 6081}} {
		w.apply(t, mappingYAML("six", mode.name, `addresses: ["2001:db8:1::10", "2001:db8:2::10", 198.51.100.10], serviceName: echo, mode: `+mode.name+`,
			ports: [{port: `+portText(mode.port)+`, servicePort: 8080}, {port: `+portText(mode.port)+`, servicePort: 8080, protocol: udp}]`))
		for _, external := range []string{lab.External1v6, lab.External2v6, lab.External1} {
			for _, protocol := range protocols {
				seen := map[string]bool{}
				answer := w.await(t, lab.Client, protocol, lab.Join(external, mode.port), func(a lab.Answer) bool {
					seen[a.Pod] = true
					return len(seen) == 2
				})
				if client := answer.Client.Addr(); client.Is4() != netip.MustParseAddr(external).Is4() || client.String() == lab.ClientAddress6 {
					t.Errorf("%s mode, %s by %s: the pod saw %s, want the gateway's address of the same family", mode.name, external, protocol, client)
				}
			}
		}
	}
	ctx := timeout(t, time.Minute)
	for _, uplink := range []struct{ address, link, other string }{
		{lab.External1v6, "eth1", "eth2"},
		{lab.External2v6, "eth2", "eth1"},
	} {
		for _, protocol := range protocols {
			address := lab.Join(uplink.address, 6081)
			w.expectReplies(ctx, t, uplink.link, true, protocol, address)
			w.expectReplies(ctx, t, uplink.other, false, protocol, address)
		}
	}
	// The host's own replies, too.
	server, err := w.Host(lab.Gateway).Serve(2226)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for _, external := range []string{lab.External1v6, lab.External2v6} {
		w.await(t, lab.Client, "tcp", lab.Join(external, 2226), nil)
	}
}

// testSources6 checks that a forbidden source gets no answer, even if the Mapping allows only sources of the other family.
func testSources6(t *testing.T, w *world) {
	w.namespace(t, "sources6", 1)
	w.apply(t, mappingYAML("sources6", "echo", `addresses: ["2001:db8:1::11", 198.51.100.11], allowedSources: ["2001:db8:c::10/128"], serviceName: echo,
		ports: [{port: 6090, servicePort: 8080}, {port: 6090, servicePort: 8080, protocol: udp}]`))
	for _, protocol := range protocols {
		w.await(t, lab.Client, protocol, lab.Join("2001:db8:1::11", 6090), nil)
		w.expectSilence(t, lab.Client2, protocol, lab.Join("2001:db8:1::11", 6090))
		w.expectSilence(t, lab.Client, protocol, lab.Join("198.51.100.11", 6090))
	}
	w.expectSilence(t, lab.Rogue, "tcp", lab.Join("2001:db8:1::11", 6090))
}

// testFamilyMissing checks that a family that the Service lacks is reported, and that the other one works.
func testFamilyMissing(t *testing.T, w *world) {
	w.namespace(t, "four", 1)
	w.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: echo4, namespace: four}\n"+
		"spec: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], selector: {app: echo}, ports: [{port: 8080}]}\n")
	for mode, port := range map[string]uint16{"service": 6095, "endpoints": 6096} {
		skip := len(w.daemon.Log())
		w.apply(t, mappingYAML("four", mode, `addresses: ["2001:db8:1::10", 198.51.100.10], serviceName: echo4, mode: `+mode+`,
			ports: [{port: `+portText(port)+`, servicePort: 8080}]`))
		w.await(t, lab.Client, "tcp", lab.Join(lab.External1, port), nil)
		w.awaitLog(timeout(t, patience), t, skip, "four/"+mode, "spec.addresses[0]", "2001:db8:1::10", "IPv6")
		w.awaitRefusal(t, lab.Client, "tcp", lab.Join(lab.External1v6, port))
	}
}
