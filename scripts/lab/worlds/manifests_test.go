// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// published are typical Mappings, and the ports that must answer at each of the addresses: PORT/PROTOCOL, with :PORT if the pod's port
// differs.
var published = []struct{ name, addresses, spec, answers string }{
	{
		"turn", `198.51.100.10, "2001:db8:1::10"`,
		"ports: [{port: 3478}, {port: 3478, protocol: UDP}, {port: 5349}, {port: 5349, protocol: Udp}, {port: 49152, endPort: 65535, protocol: UDP}]",
		"3478/tcp 3478/udp 5349/tcp 5349/udp 49152/udp 57000/udp 65535/udp",
	},
	{
		"livekit", `203.0.113.10, "2001:db8:2::10"`,
		"ports: [{port: 443, servicePort: 7880, protocol: TCP}, {port: 7881}, {port: 50000, endPort: 60000, protocol: udp}, {port: 443, protocol: udp}]",
		"443/tcp:7880 443/udp 7881/tcp 50000/udp 60000/udp",
	},
	{
		"jitsi-and-pbx", `198.51.100.10, "2001:db8:1::10"`,
		`ports: [{port: 10000, protocol: udp}, {port: 5060, protocol: udp}, {port: 5060}, {port: 5061}, {port: 4569, protocol: udp},
			{port: 16384, endPort: 32768, protocol: udp}]`,
		"10000/udp 5060/udp 5060/tcp 5061/tcp 4569/udp 16384/udp 16385/udp 32768/udp",
	},
	{
		"dns-and-logs", `198.51.100.10, "2001:db8:1::10"`,
		`allowedSources: [0.0.0.0/1, 128.0.0.0/1, "::/1", "8000::/1"], ports: [{port: 53, protocol: udp}, {port: 53}, {port: 12201, protocol: udp},
			{port: 12201}, {port: 514, protocol: udp}, {port: 514}]`,
		"53/udp 53/tcp 12201/udp 12201/tcp 514/udp:1514 514/tcp:1514",
	},
	{
		"mail", `203.0.113.10, "2001:db8:2::10"`, "masquerade: false, ports: [{port: 25}, {port: 465}, {port: 587}, {port: 993}]",
		"25/tcp 465/tcp 587/tcp 993/tcp",
	},
	{
		"vpn-and-files", `203.0.113.10, "2001:db8:2::10"`,
		`allowedSources: [192.0.2.10/32, "2001:db8:c::10/128"], ports: [{port: 500, protocol: udp}, {port: 4500, protocol: udp}, {port: 2049},
			{port: 2049, protocol: udp}, {port: 111}, {port: 111, protocol: udp}, {port: 389}, {port: 389, protocol: udp}, {port: 445}]`,
		"500/udp 4500/udp 2049/tcp 2049/udp 111/tcp 111/udp 389/tcp 389/udp 445/tcp",
	},
	{
		"games", `198.51.100.11, "2001:db8:1::11"`,
		"ports: [{port: 5201}, {port: 5201, protocol: udp}, {port: 19132, protocol: udp}, {port: 25565}, {port: 27015, protocol: udp}]",
		"5201/tcp 5201/udp 19132/udp 25565/tcp 27015/udp",
	},
	{
		// Adjacent ranges, one of them shifted by one port, and the first and the last port.
		"borders", `203.0.113.11, "2001:db8:2::11"`,
		`ports: [{port: 1, endPort: 24, servicePort: 2, protocol: udp}, {port: 25, endPort: 25, protocol: udp}, {port: 26, endPort: 111, servicePort: 28, protocol: udp},
			{port: 65535}, {port: 1}]`,
		"24/udp:25 25/udp 51/udp:53 109/udp:111 65535/tcp 1/tcp",
	},
}

// TestRealManifests publishes typical Services, all at once (kubernetes-sigs/aws-load-balancer-controller#4405,
// kube-vip/kube-vip#859, coturn/coturn#738, kubernetes/kubernetes#23864).
func TestRealManifests(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 1, 25, 53, 111, 389, 443, 445, 465, 500, 514, 587, 993, 1514, 2049, 3478, 4500, 4569, 5060, 5061, 5201, 5349, 7880, 7881, 10000,
			12201, 16384, 16385, 19132, 25565, 27015, 32768, 49152, 50000, 57000, 60000, 65535)
		objects := []string{service(t, "all", strings.Fields(`3478/TCP 3478/UDP 5349/TCP 5349/UDP 7880/TCP 7881/TCP 10000/UDP 443/TCP 443/UDP
			5060/UDP 5060/TCP 5061/TCP 4569/UDP 53/UDP 53/TCP 12201/UDP 12201/TCP 514:1514/UDP 514:1514/TCP 25/TCP 465/TCP 587/TCP 993/TCP
			500/UDP 4500/UDP 2049/TCP 2049/UDP 111/TCP 111/UDP 389/TCP 389/UDP 445/TCP 5201/TCP 5201/UDP 19132/UDP 25565/TCP 27015/UDP
			65535/TCP 1/TCP`), p1)}
		for _, p := range published {
			objects = append(objects, mapping(p.name, "all", "addresses: ["+p.addresses+"], "+p.spec))
		}
		w.objects(t, objects...)
		w.start(t, twoUplinks)
		for _, p := range published {
			t.Run(p.name, func(t *testing.T) {
				for address := range strings.SplitSeq(strings.ReplaceAll(p.addresses, `"`, ""), ", ") {
					for text := range strings.FieldsSeq(p.answers) {
						outer, translated, _ := strings.Cut(text, ":")
						port := servicePort(t, outer)
						target := uint16(port.Port)
						if translated != "" {
							target = uint16(servicePort(t, translated+"/"+string(port.Protocol)).Port)
						}
						answer := w.await(t, lab.Client, string(port.Protocol), lab.Join(address, uint16(port.Port)), by(p1, target))
						if client := answer.Client.Addr().String(); p.name == "mail" && client != lab.ClientAddress && client != lab.ClientAddress6 {
							t.Errorf("%s at %s: the pod saw %s instead of the client", text, address, client)
						}
					}
				}
			})
		}
		t.Run("unpublished ports", func(t *testing.T) { testUnpublished(t, w) })
	})
}

// TestNamedPortThatChanges has a rollout that renumbers a Service's named target port: each pod must be reached by its own number.
func TestNamedPortThatChanges(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 8080, 9090)
		before, after := service(t, "echo", []string{"80:8080/TCP"}, p1), service(t, "echo", []string{"80:9090/TCP"}, p2)
		_, slices, _ := strings.Cut(after, "\n---\n") // of the same Service
		w.objects(t, before, strings.ReplaceAll(slices, "echo-ipv", "echo-after-ipv"),
			mapping("echo", "echo", `addresses: [198.51.100.10, "2001:db8:1::10"], ports: [{port: 80}]`))
		w.start(t, twoUplinks)
		for _, address := range []string{lab.External1, lab.External1v6} {
			w.await(t, lab.Client, "tcp", lab.Join(address, 80), by(p1, 8080))
			w.await(t, lab.Client, "tcp", lab.Join(address, 80), by(p2, 9090))
		}
	})
}

// testUnpublished tries ports next to the ranges, the other protocol, ports that are published on another address or inside, and
// forbidden sources.
func testUnpublished(t *testing.T, w *world) {
	w.expectUnreached(t, []string{lab.Join(lab.External1, 53), lab.Join(lab.External1v6, 53), lab.Join(lab.External2, 443), lab.Join(lab.External2v6, 443)}, func() {
		for _, addresses := range [][2]string{{"198.51.100.10", "203.0.113.10"}, {"2001:db8:1::10", "2001:db8:2::10"}} {
			for i, ports := range []string{
				"49151/udp 16383/udp 32769/udp 49152/tcp 16384/tcp 65535/tcp 1514/udp 1514/tcp 7880/tcp 445/tcp 5061/udp 5201/tcp",
				"49999/udp 60001/udp 50000/tcp 7880/tcp 7881/udp 25/udp 3478/udp 4500/tcp 65535/udp",
			} {
				for text := range strings.FieldsSeq(ports) {
					w.sendFrom(t, lab.Client, addresses[i], text)
				}
			}
			for text := range strings.FieldsSeq(published[5].answers) {
				w.sendFrom(t, lab.Client2, addresses[1], text)
			}
		}
		for _, address := range []string{"203.0.113.11", "2001:db8:2::11"} {
			for text := range strings.FieldsSeq("112/udp 65535/udp 65534/tcp 2/tcp") {
				w.sendFrom(t, lab.Client, address, text)
			}
		}
	})
}

// sendFrom sends a first packet from a host's own address, without a socket. A port is written PORT/PROTOCOL.
func (w *world) sendFrom(t *testing.T, host, address, port string) {
	t.Helper()
	sources := map[string][2]string{lab.Client: {lab.ClientAddress, lab.ClientAddress6}, lab.Client2: {lab.Client2Address, lab.Client2Address6}}
	to := servicePort(t, port)
	destination := netip.AddrPortFrom(netip.MustParseAddr(address), uint16(to.Port))
	source := sources[host][0]
	if destination.Addr().Is6() {
		source = sources[host][1]
	}
	from := netip.AddrPortFrom(netip.MustParseAddr(source), 4000)
	send := func() error { return w.Host(host).SendTCP(from, destination, lab.SYN, 1, 0) }
	if to.Protocol == "udp" {
		send = func() error { return w.Host(host).SendUDP(from, destination, "unwanted") }
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
}
