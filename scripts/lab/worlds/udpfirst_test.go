// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestUDPThatSendsBeforeTheRules has a sender with a fixed source port (NetFlow, syslog, SIP) that does not wait for the gateway: conntrack
// has its flow, untranslated, before the rules exist, and would leave it so as long as it sends (kubernetes/kubernetes#106274, #125979).
func TestUDPThatSendsBeforeTheRules(t *testing.T) {
	const sender = 2055 // the first source port; others follow it
	ports, shifted := "ports: [{port: 9995, protocol: udp}]", "ports: [{port: 20000, endPort: 20010, servicePort: 30000, protocol: udp}]"
	early := []struct {
		name, address string
		port, target  uint16
		spec          string
	}{
		{"first uplink", lab.External1, 9995, 9995, ports},
		{"second uplink", lab.External2, 9995, 9995, ports},
		{"IPv6", lab.External1v6, 9995, 9995, ports},
		{"second uplink, IPv6", lab.External2v6, 9995, 9995, ports},
		{"a range that is shifted", "198.51.100.11", 20005, 30005, shifted},
		{"a range that is shifted, IPv6", "2001:db8:1::11", 20005, 30005, shifted},
		{"only allowed sources, not masqueraded", "198.51.100.12", 9995, 9995, ports + ", allowedSources: [192.0.2.10/32], masquerade: false"},
	}
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 9995, 30005)
		// Conntrack and NAT are active already, as on a host with any firewall or container engine.
		for _, program := range []string{"iptables", "ip6tables"} {
			w.gateway(t, program+" -t nat -A PREROUTING -m conntrack --ctstate NEW")
		}
		// A strict reverse path filter would drop packets from the second uplink before conntrack sees them.
		if err := w.Host(lab.Gateway).SetSysctl("net.ipv4.conf.eth2.rp_filter", "2"); err != nil {
			t.Fatal(err)
		}
		objects := []string{service(t, "flow", []string{"9995/UDP", "30000/UDP"}, p1)}
		var flows []*lab.Flow
		for i, e := range early {
			objects = append(objects, mapping(fmt.Sprintf("early-%d", i), "flow", fmt.Sprintf("addresses: [%q], %s", e.address, e.spec)))
			flows = append(flows, w.sendUntranslated(t, e.address, e.port, sender+uint16(i)))
		}
		w.objects(t, objects...)
		w.start(t, twoUplinks)
		for i, e := range early {
			t.Run(e.name, func(t *testing.T) { awaitEcho(t, flows[i], by(p1, e.target)) })
		}
		t.Run("a Mapping that comes later", func(t *testing.T) {
			flow := w.sendUntranslated(t, "198.51.100.13", 9995, sender+uint16(len(early)))
			w.objects(t, append(objects, mapping("later", "flow", "addresses: [198.51.100.13], "+ports))...)
			awaitEcho(t, flow, by(p1, 9995))
		})
	})
}

// sendUntranslated opens a flow from the client and sends until the gateway's conntrack has it, as a flow to the gateway itself.
func (w *world) sendUntranslated(t *testing.T, address string, port, sourcePort uint16) *lab.Flow {
	t.Helper()
	flow := w.open(t, lab.Client, "udp", lab.Join(address, port), sourcePort)
	family := "ipv4"
	if strings.Contains(address, ":") {
		family = "ipv6"
	}
	list := fmt.Sprintf("conntrack -L -f %s -p udp --orig-dst %s --orig-port-src %d --orig-port-dst %d", family, address, sourcePort, port)
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		_, sent := flow.Conn.Write([]byte("early")) // an error if the previous datagram was refused
		known, err := w.Host(lab.Gateway).Exec(ctx, strings.Fields(list)...)
		if err == nil && strings.Contains(known, "[UNREPLIED] src="+address) {
			return nil
		}
		return errors.Join(err, sent, fmt.Errorf("conntrack has %q", known))
	}); err != nil {
		t.Fatal(err)
	}
	return flow
}
