// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// elsewhere are endpoints that are not pods, which a tenant may write into an EndpointSlice.
var elsewhere = []pod{
	{"a host outside", lab.Client2Address, lab.Client2Address6},
	{"a neighbour on an uplink", "198.51.100.66", "2001:db8:1::66"},
	{"the provider's router", "198.51.100.1", "2001:db8:1::1"},
	{"the gateway's inside address", lab.GatewayAddress, lab.GatewayAddress6},
	{"an address of the gateway's uplink", "198.51.100.12", "2001:db8:1::12"},
	{"the loopback address", "127.0.0.1", "::1"},
	{"a node", lab.Node1Address, lab.Node1Address6},
	{"an IPv4 address as IPv6", lab.Node2Address, "::ffff:10.10.0.11"},
	{"metadata of AWS", "169.254.169.254", "fd00:ec2::254"},
	{"metadata of Azure, a link-local address", "168.63.129.16", "fe80::11"},
	{"metadata of Alibaba and Google", "100.100.100.200", "fd20:ce::254"},
	{"a reserved address, multicast", "240.0.0.1", "ff02::1"},
	{"broadcast, subnet-router anycast inside", "10.10.0.255", "fd00:10::"},
	{"the network's address, anycast on an uplink", "10.10.0.0", "2001:db8:1::"},
}

const (
	// victimPort is the port that must not be reached. Mappings lead to it from mixedPort and the ports after that.
	victimPort = 7000
	mixedPort  = 1300
)

// TestEndpointsThatLeadElsewhere writes endpoints and ClusterIPs by hand that lead to outside hosts, to the gateway, to nodes and to
// metadata services. None of them may get a packet or a rule, and a pod in the same slice must answer all connections.
func TestEndpointsThatLeadElsewhere(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, victimPort)
		w.serveElsewhere(t)
		ports := []string{"7000/TCP", "7000/UDP"}
		expose := func(name string, port int) string {
			return mapping(name, name, fmt.Sprintf(`addresses: [%s, %q], ports: [{port: %d, servicePort: 7000}, {port: %d, servicePort: 7000, protocol: udp}]`,
				lab.External1, lab.External1v6, port, port))
		}
		objects := []string{service(t, "mixed", ports, append([]pod{p1}, elsewhere...)...), expose("mixed", mixedPort)}
		for i, e := range elsewhere {
			name := fmt.Sprintf("elsewhere-%d", i)
			objects = append(objects, service(t, name, ports, e), expose(name, mixedPort+1+i))
			// The same addresses as a ClusterIP, which no API server assigns but a relay may claim.
			name = "clusterip-" + name
			chosen := strings.NewReplacer("10.96.0.10", e.address, "fd00:96::10", e.address6).Replace(service(t, name, ports))
			objects = append(objects, chosen, strings.Replace(expose(name, mixedPort+1+len(elsewhere)+i), "mode: endpoints", "mode: service", 1))
		}
		w.objects(t, objects...)
		w.start(t, twoUplinks)
		w.expectNoRuleTo(t, elsewhere)
		w.expectNothingElsewhere(t, append(elsewhere, elsewhere...))
		w.expectPodAlone(t)
	})
}

// TestMappedConnectionsNeverLeaveByAnUplink has another program route a pod's network to an outside neighbour, in a way that smartnatd
// does not see: mapped packets to that pod must be dropped, even if the config has no uplink and only the default routes show the
// outside.
func TestMappedConnectionsNeverLeaveByAnUplink(t *testing.T) {
	for name, config := range map[string]string{
		"uplinks": twoUplinks, "no uplinks": fmt.Sprintf("servedAddresses: [%s, %q]\n", lab.External1, lab.External1v6),
	} {
		t.Run(name, func(t *testing.T) {
			eachVariant(t, func(t *testing.T, w *world) { w.expectLeavesByNoUplink(t, config) })
		})
	}
}

func (w *world) expectLeavesByNoUplink(t *testing.T, config string) {
	t.Helper()
	w.pods(t, victimPort)
	w.serveElsewhere(t)
	var objects []string
	for i, p := range []pod{p1, p2} {
		objects = append(objects, service(t, p.name, []string{"7000/TCP", "7000/UDP"}, p), mapping(p.name, p.name, fmt.Sprintf(
			`addresses: [%s, %q], ports: [{port: %[3]d, servicePort: 7000}, {port: %[3]d, servicePort: 7000, protocol: udp}]`,
			lab.External1, lab.External1v6, mixedPort+i)))
	}
	w.objects(t, objects...)
	w.start(t, config)
	for _, external := range []string{lab.External1, lab.External1v6} {
		w.await(t, lab.Client, "tcp", lab.Join(external, mixedPort+1), by(p2, victimPort))
	}
	for _, line := range []string{
		"ip route add default via 198.51.100.66 dev eth1 table 99", "ip rule add to 10.244.2.0/24 lookup 99 pref 100",
		"ip -6 route add default via 2001:db8:1::66 dev eth1 table 99", "ip -6 rule add to fd00:244:2::/64 lookup 99 pref 100",
	} {
		w.gateway(t, line)
	}
	w.expectNothingElsewhere(t, []pod{p2})
	rules := w.gateway(t, "iptables-save") + w.gateway(t, "ip6tables-save")
	if !leadsTo(rules, p2.address) || !leadsTo(rules, p2.address6) {
		t.Errorf("no rule leads to %s any more, so the test proves nothing", p2.name)
	}
}

// serveElsewhere runs servers where no Mapping may lead, and connects to them, so that neighbours are resolved.
func (w *world) serveElsewhere(t *testing.T) {
	t.Helper()
	for _, of := range []struct{ host, address, address6 string }{
		{lab.Client2, lab.Client2Address, lab.Client2Address6},
		{lab.Rogue, "198.51.100.66", "2001:db8:1::66"},
		{lab.Router, "198.51.100.1", "2001:db8:1::1"},
		{lab.Gateway, lab.GatewayAddress, lab.GatewayAddress6},
		{lab.Node1, lab.Node1Address, lab.Node1Address6},
		{lab.Node2, lab.Node2Address, lab.Node2Address6},
	} {
		w.serve(t, of.host, victimPort)
		for _, address := range []string{of.address, of.address6} {
			w.await(t, lab.Gateway, "udp", lab.Join(address, victimPort), nil)
			w.await(t, lab.Gateway, "tcp", lab.Join(address, victimPort), nil)
		}
	}
}

// serve makes a host answer on ports until the test ends, or until end is called.
func (w *world) serve(t *testing.T, host string, ports ...uint16) (end func()) {
	t.Helper()
	server, err := w.Host(host).Serve(ports...)
	if err != nil {
		t.Fatal(err)
	}
	end = func() { _ = server.Close() }
	t.Cleanup(end)
	return end
}

// leadsTo reports whether a DNAT rule leads to an address.
func leadsTo(rules, address string) bool {
	for _, before := range []string{"--to-destination " + address, "--to-destination [" + address + "]"} {
		for _, after := range []string{"\n", " ", ":", "-"} {
			if strings.Contains(rules, before+after) {
				return true
			}
		}
	}
	return false
}

func (w *world) expectNoRuleTo(t *testing.T, elsewhere []pod) {
	t.Helper()
	rules := w.gateway(t, "iptables-save") + w.gateway(t, "ip6tables-save")
	if !leadsTo(rules, p1.address) || !leadsTo(rules, p1.address6) {
		t.Errorf("no rule leads to %s, so the test proves nothing", p1.name)
	}
	for _, e := range elsewhere {
		for _, address := range []string{e.address, e.address6} {
			if leadsTo(rules, address) {
				t.Errorf("%s: a rule leads to %s", e.name, address)
			}
		}
	}
}

// expectNothingElsewhere sends first packets to the Mappings that lead only to such endpoints, and checks all packets that leave the
// gateway, reach the hosts, or come back to the client.
func (w *world) expectNothingElsewhere(t *testing.T, elsewhere []pod) {
	t.Helper()
	answering := []string{lab.Join(lab.External1, mixedPort), lab.Join(lab.External1v6, mixedPort)}
	for _, address := range answering {
		w.await(t, lab.Client, "udp", address, by(p1, victimPort))
	}
	captures := map[string]*lab.Capture{}
	for _, on := range []struct{ host, link string }{
		{lab.Gateway, "eth0"}, {lab.Gateway, "eth1"}, {lab.Gateway, "eth2"}, {lab.Gateway, "lo"},
		{lab.Client, "eth0"}, {lab.Client2, "eth0"}, {lab.Rogue, "eth0"},
	} {
		captures[on.host+" "+on.link] = w.capture(t, on.host, on.link)
	}
	for i := range elsewhere {
		for _, external := range []string{lab.External1, lab.External1v6} {
			for _, protocol := range []string{"tcp", "udp"} {
				w.sendFrom(t, lab.Client, external, fmt.Sprintf("%d/%s", mixedPort+1+i, protocol))
			}
		}
	}
	// The gateway's server has one socket for both families and answers datagrams in order, so answers to earlier ones would have come.
	for _, address := range append(answering, lab.Join(lab.External1, victimPort)) {
		w.await(t, lab.Client, "udp", address, nil)
	}
	seen := false
	for where, capture := range captures {
		packets, err := capture.Packets()
		if err != nil {
			t.Fatal(err)
		}
		for _, packet := range packets {
			seen = seen || packet.Destination == netip.AddrPortFrom(netip.MustParseAddr(p1.address), victimPort)
			if problem := ledElsewhere(where, packet, len(elsewhere)); problem != "" {
				t.Errorf("%s: %s: %s", where, problem, packet)
			}
		}
	}
	if !seen {
		t.Errorf("no packet to %s was captured", p1.name)
	}
}

// ledElsewhere returns the problem with a packet of a run with n endpoints, or "" if it is allowed.
func ledElsewhere(where string, packet lab.Packet, n int) string {
	to, from := packet.Destination, packet.Source
	pods := netip.MustParsePrefix(lab.PodNetwork).Contains(to.Addr()) || netip.MustParsePrefix(lab.PodNetwork6).Contains(to.Addr())
	answered := from == netip.AddrPortFrom(netip.MustParseAddr(lab.External1), victimPort)
	asked := to.Addr().String() == lab.External1 || to.Addr().String() == lab.External1v6
	leaves := packet.Out && (where == lab.Gateway+" eth1" || where == lab.Gateway+" eth2")
	switch {
	case packet.Protocol != unix.IPPROTO_TCP && packet.Protocol != unix.IPPROTO_UDP:
	case to.Port() == victimPort && !asked && (leaves || !pods):
		return "led elsewhere"
	case !strings.HasPrefix(where, lab.Client+" ") || packet.Out || packet.Flags&lab.RST != 0:
	case from.Port() > mixedPort && int(from.Port()) <= mixedPort+n, from.Port() == victimPort && !answered:
		return "an answer"
	}
	return ""
}

// expectPodAlone connects so often that each endpoint of the slice would get a connection.
func (w *world) expectPodAlone(t *testing.T) {
	t.Helper()
	for _, external := range []string{lab.External1, lab.External1v6} {
		address := lab.Join(external, mixedPort)
		for range 40 {
			answer, err := w.Host(lab.Client).EchoTCP(timeout(t, patience), address)
			if err != nil || answer.Pod != p1.name {
				t.Fatalf("%s: answer %+v, want one of %s: %v", address, answer, p1.name, err)
			}
		}
	}
}

func (w *world) capture(t *testing.T, host, link string) *lab.Capture {
	t.Helper()
	capture, err := w.Host(host).Capture(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = capture.Close() })
	return capture
}
