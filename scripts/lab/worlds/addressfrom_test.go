// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestAddressThatChanges changes the addresses of an uplink, as DHCP, PPPoE or SLAAC do (opnsense/core#2634,
// hwdsl2/setup-ipsec-vpn#1143): a Mapping with addressesFrom follows, and its connections to a replaced address end.
func TestAddressThatChanges(t *testing.T) {
	const fixed, lease, lease6 = "198.51.100.11", "198.51.100.77", "2001:db8:1::77"
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.gateway(t, "ip addr flush dev eth1 scope global")
		w.gateway(t, "ip addr add 198.51.100.10/24 dev eth1")
		w.gateway(t, "ip addr add "+fixed+"/24 dev eth1") // flagged secondary, which for IPv6 means temporary
		w.gateway(t, "ip addr add 2001:db8:1::10/64 dev eth1 nodad")
		w.routeByEth1(t)
		w.objects(t, service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1),
			mapping("eth1", "echo", "addressesFrom: [{uplink: eth1}], ports: [{port: 8080}, {port: 8080, protocol: udp}]"),
			mapping("all", "echo", `addressesFrom: [{uplink: "*"}], ports: [{port: 9090, servicePort: 8080}]`),
			mapping("none", "echo", "addressesFrom: [{uplink: eth0}], ports: [{port: 9091, servicePort: 8080}]"))
		w.start(t, twoUplinks)
		for _, address := range []string{lab.External1, fixed, lab.External1v6} {
			w.await(t, lab.Client, "tcp", lab.Join(address, 8080), by(p1, 8080))
			w.await(t, lab.Client, "udp", lab.Join(address, 8080), by(p1, 8080))
		}
		for _, address := range []string{lab.External1, lab.External2, lab.External2v6} {
			w.await(t, lab.Client, "tcp", lab.Join(address, 9090), by(p1, 8080))
		}
		for _, address := range []string{lab.External2, lab.External1} {
			if _, err := w.ask(t.Context(), lab.Client, "tcp", lab.Join(address, 9091)); err == nil {
				t.Errorf("%s answers for a link that is not an uplink", address)
			}
		}
		old := []*lab.Flow{
			w.open(t, lab.Client, "tcp", lab.Join(lab.External1, 8080), 0), w.open(t, lab.Client, "udp", lab.Join(lab.External1, 8080), 0),
			w.open(t, lab.Client, "tcp", lab.Join(lab.External1v6, 8080), 0),
		}
		for _, flow := range old {
			awaitEcho(t, flow, by(p1, 8080))
		}

		// A restart ends no connection.
		w.stop(t)
		w.start(t, twoUplinks)
		for _, flow := range old {
			awaitEcho(t, flow, by(p1, 8080))
		}

		// The next lease has other addresses.
		w.gateway(t, "ip addr del 198.51.100.10/24 dev eth1") // the other addresses of its network go with it
		w.gateway(t, "ip addr replace "+fixed+"/24 dev eth1")
		w.gateway(t, "ip addr add "+lease+"/24 dev eth1")
		w.gateway(t, "ip -6 addr del 2001:db8:1::10/64 dev eth1")
		w.gateway(t, "ip addr add "+lease6+"/64 dev eth1 nodad")
		w.routeByEth1(t)
		for _, address := range []string{lease, fixed, lease6} {
			w.await(t, lab.Client, "tcp", lab.Join(address, 8080), by(p1, 8080))
			w.await(t, lab.Client, "udp", lab.Join(address, 8080), by(p1, 8080))
		}
		w.await(t, lab.Client, "tcp", lab.Join(lease, 9090), by(p1, 8080))
		w.awaitForgotten(t, lab.External1)
		w.awaitForgotten(t, lab.External1v6)
	})
}

// TestAddressOfAPointToPointUplink covers a PPP link, whose address has a peer, and a link that gets its first address later.
func TestAddressOfAPointToPointUplink(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.gateway(t, "ip addr flush dev eth2 scope global")
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1), mapping("ppp", "echo", "addressesFrom: [{uplink: eth2}], ports: [{port: 8080}]"))
		w.start(t, twoUplinks)
		for _, address := range []string{"203.0.113.50", "203.0.113.51"} {
			w.gateway(t, "ip addr flush dev eth2 scope global")
			w.gateway(t, "ip addr add "+address+" peer 203.0.113.1 dev eth2")
			w.gateway(t, "ip route replace default dev eth2 via 203.0.113.1 metric 200")
			w.await(t, lab.Client, "tcp", lab.Join(address, 8080), by(p1, 8080))
		}
	})
}

// TestAddressesOfSLAAC checks that temporary IPv6 addresses (RFC 8981) are not served, and that connections to the addresses of an old
// prefix survive while these are deprecated (RFC 4862, section 5.5.4).
func TestAddressesOfSLAAC(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.gateway(t, "ip -6 addr flush dev eth1 scope global")
		if err := w.Host(lab.Gateway).SetSysctl("net.ipv6.conf.eth1.use_tempaddr", "2"); err != nil {
			t.Fatal(err)
		}
		w.gateway(t, "ip addr add 2001:db8:1::61/64 dev eth1 nodad mngtmpaddr")
		w.gateway(t, "ip -6 route replace default via 2001:db8:1::1 dev eth1 metric 1024")
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1), mapping("slaac", "echo", "addressesFrom: [{uplink: eth1}], ports: [{port: 8080}]"))
		w.start(t, twoUplinks)
		w.await(t, lab.Client, "tcp", lab.Join("2001:db8:1::61", 8080), by(p1, 8080))
		temporary := w.gateway(t, "ip -6 -brief addr show dev eth1 temporary")
		found := false
		for _, field := range strings.Fields(temporary) {
			if p, err := netip.ParsePrefix(field); err == nil {
				found = true
				if rules := w.gateway(t, "ip6tables-save -t nat"); strings.Contains(rules, p.Addr().String()) {
					t.Errorf("rules for the temporary address %s:\n%s", p.Addr(), rules)
				}
			}
		}
		if !found {
			t.Errorf("the kernel made no temporary address: %q", temporary)
		}
		flow := w.open(t, lab.Client, "tcp", lab.Join("2001:db8:1::61", 8080), 0)
		awaitEcho(t, flow, by(p1, 8080))

		w.gateway(t, "ip addr add 2001:db8:1::62/64 dev eth1 nodad")
		w.gateway(t, "ip addr change 2001:db8:1::61/64 dev eth1 preferred_lft 0 valid_lft 3600")
		w.await(t, lab.Client, "tcp", lab.Join("2001:db8:1::62", 8080), by(p1, 8080))
		if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
			if answer, err := w.ask(ctx, lab.Client, "tcp", lab.Join("2001:db8:1::61", 8080)); err == nil {
				return fmt.Errorf("answer %+v from the deprecated address", answer)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		awaitEcho(t, flow, by(p1, 8080))
	})
}

// routeByEth1 restores the gateway's default routes by the first uplink, which the kernel removed with their addresses.
func (w *world) routeByEth1(t *testing.T) {
	t.Helper()
	w.gateway(t, "ip route replace default via 198.51.100.1 dev eth1 metric 100")
	w.gateway(t, "ip -6 route replace default via 2001:db8:1::1 dev eth1 metric 1024")
}

// awaitForgotten waits until the gateway's conntrack has no connection to the address.
func (w *world) awaitForgotten(t *testing.T, address string) {
	t.Helper()
	family := "ipv4"
	if netip.MustParseAddr(address).Is6() {
		family = "ipv6"
	}
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		known, err := w.Host(lab.Gateway).Exec(ctx, "conntrack", "-L", "-f", family, "--orig-dst", address)
		if err == nil && strings.Contains(known, "dst=") {
			err = fmt.Errorf("conntrack has %q", known)
		}
		return err
	}); err != nil {
		t.Error(errors.Join(fmt.Errorf("connections to %s", address), err))
	}
}
