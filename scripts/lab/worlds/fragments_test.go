// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestFragmentedUDP sends datagrams larger than a packet, as DNSSEC, SIP over UDP and RADIUS with certificates do: fragments after the
// first have no ports, and must pass in both directions (cilium/cilium#9755, loxilb-io/loxilb#393).
func TestFragmentedUDP(t *testing.T) {
	// The limits of one packet of 1500 bytes for IPv6 and IPv4, and the largest size that leaves room for the answer, which is longer.
	sizes := []int{100, 1452, 1453, 1472, 1473, 4000, 9000, 60_000, 65_000}
	addresses := []string{lab.External1, lab.External2, lab.External1v6, lab.External2v6}
	var many []string
	for i := range 70 { // enough for an ipset
		many = append(many, fmt.Sprintf("198.18.%d.0/24", i), fmt.Sprintf(`"2001:db8:f:%x::/64"`, i))
	}
	kinds := []struct {
		name         string
		port, target uint16
		spec         string
	}{
		{"port", 53, 53, "ports: [{port: 53, protocol: udp}]"},
		{"allowed sources", 1812, 1812, `ports: [{port: 1812, protocol: udp}], allowedSources: [192.0.2.10/32, "2001:db8:c::10/128"]`},
		{
			"a set of allowed sources", 1813, 1812,
			`ports: [{port: 1813, servicePort: 1812, protocol: udp}], allowedSources: [192.0.2.10/32, "2001:db8:c::10/128", ` + strings.Join(many, ", ") + "]",
		},
		{"range", 20005, 20005, "ports: [{port: 20000, endPort: 20010, protocol: udp}]"},
		{"range that is shifted, clients seen", 21005, 31005, "masquerade: false, ports: [{port: 21000, endPort: 21010, servicePort: 31000, protocol: udp}]"},
	}
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 53, 1812, 20005, 31005)
		objects := []string{service(t, "dns", []string{"53/UDP", "1812/UDP", "20000/UDP", "31000/UDP"}, p1)}
		for i, kind := range kinds {
			objects = append(objects, mapping(fmt.Sprintf("kind-%d", i), "dns", fmt.Sprintf("addresses: [%s, %s, %q, %q], %s",
				addresses[0], addresses[1], addresses[2], addresses[3], kind.spec)))
		}
		w.objects(t, objects...)
		w.start(t, twoUplinks)
		for _, kind := range kinds {
			t.Run(kind.name, func(t *testing.T) {
				for _, address := range addresses {
					for _, size := range sizes {
						w.awaitDatagram(t, lab.Join(address, kind.port), size, by(p1, kind.target))
					}
				}
			})
		}
		t.Run("another source than the allowed ones", func(t *testing.T) {
			var answering []string
			for _, address := range addresses {
				answering = append(answering, lab.Join(address, 53))
			}
			w.expectUnreached(t, answering, func() {
				for _, address := range addresses {
					for _, port := range []uint16{1812, 1813} {
						if _, err := w.open(t, lab.Client2, "udp", lab.Join(address, port), 0).Conn.Write(make([]byte, 4000)); err != nil {
							t.Error(err)
						}
					}
				}
			})
		})
		t.Run("a tunnel inside", func(t *testing.T) {
			for _, host := range []string{lab.Gateway, lab.Node1} {
				if _, err := w.Host(host).Exec(timeout(t, patience), "ip", "link", "set", "eth0", "mtu", "1400"); err != nil {
					t.Fatal(err)
				}
			}
			for _, address := range addresses {
				for _, size := range []int{100, 1372, 1373, 1473, 9000, 60_000} {
					w.awaitDatagram(t, lab.Join(address, 53), size, by(p1, 53))
				}
			}
		})
	})
}

// awaitDatagram sends datagrams of size bytes from the client until accept returns true for a complete answer.
func (w *world) awaitDatagram(t *testing.T, address string, size int, accept func(lab.Answer) bool) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, try)
		defer cancel()
		flow, err := w.Host(lab.Client).OpenFlow(ctx, "udp", address, 0)
		if err != nil {
			return err
		}
		defer func() { _ = flow.Close() }()
		answer, err := flow.Say(ctx, strings.Repeat("x", size-len("message 1")))
		if err == nil && (len(answer.Message) != size || !accept(answer)) {
			err = fmt.Errorf("%s answered from port %d after %d bytes", answer.Pod, answer.Port, len(answer.Message))
		}
		return err
	}); err != nil {
		t.Errorf("%d bytes to %s: %v", size, address, err)
	}
}
