// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func ip(t *testing.T, lines ...string) {
	t.Helper()
	testenv.RequireTool(t, "ip")
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
	}
}

func link(name string, up bool, addresses ...string) gateway.Link {
	l := gateway.Link{Name: name, Up: up, Kind: "veth"}
	if name == "lo" {
		l.Kind = "device"
	}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l
}

func throughEth1(gw string) gateway.DefaultRoute {
	to := netip.MustParseAddr(gw)
	return gateway.DefaultRoute{Link: "eth1", Gateway: to, IPv6: to.Is6()}
}

// route returns a route through eth1.
func route(destination, gw string) gateway.Route {
	r := gateway.Route{Destination: netip.MustParsePrefix(destination), Link: "eth1"}
	if gw != "" {
		r.Gateway = netip.MustParseAddr(gw)
	}
	return r
}

func TestObserve(t *testing.T) {
	lo := link("lo", true, "127.0.0.1/8", "::1/128")
	announced := func(to string) gateway.Route {
		r := route(to, "198.51.100.8")
		r.Announced = true
		return r
	}
	for _, tc := range []struct {
		name  string
		lines []string
		want  gateway.Host
	}{
		{name: "nothing but lo", want: gateway.Host{Links: []gateway.Link{lo}}},
		{
			name:  "a link that is down",
			lines: []string{"link add eth1 type veth peer name peer1", "addr add 198.51.100.10/24 dev eth1"},
			want:  gateway.Host{Links: []gateway.Link{link("eth1", false, "198.51.100.10/24"), lo, link("peer1", false)}},
		},
		{
			name: "a link without a carrier",
			lines: []string{
				"link add eth1 type veth peer name peer1", "link set eth1 addrgenmode none", "link set eth1 up", "addr add 198.51.100.10/24 dev eth1",
			},
			want: gateway.Host{
				Links:  []gateway.Link{link("eth1", false, "198.51.100.10/24"), lo, link("peer1", false)},
				Routes: []gateway.Route{route("198.51.100.0/24", "")},
			},
		},
		{
			name: "addresses and default routes of both families",
			lines: []string{
				"link add eth1 type veth peer name peer1", "link set eth1 addrgenmode none", "link set peer1 addrgenmode none",
				"link set eth1 up", "link set peer1 up",
				"addr add 198.51.100.11/24 dev eth1", "addr add 198.51.100.10/24 dev eth1",
				"addr add 203.0.113.10/32 dev lo", "addr add 2001:db8:1::10/64 dev eth1 nodad",
				"route add default via 198.51.100.3 metric 30",
				"route add default via 198.51.100.1 metric 10",
				"route add default metric 20 nexthop via 198.51.100.5 nexthop via 198.51.100.4",
				"-6 route add default via fe80::1 dev eth1 metric 25",
				"route add default dev eth1 metric 5",
				"-6 route add default dev eth1 metric 26",
				"-4 route add default via inet6 fe80::7 dev eth1 metric 6",
				"addr add 203.0.113.77 peer 203.0.113.1 dev eth1",
				// None of these is a default route of the main table.
				"route add default via 198.51.100.7 table 99",
				"route add unreachable default metric 4",
				"route add 192.0.2.0/24 via 198.51.100.8 metric 7",
				"route add 192.0.3.0/24 nexthop via 198.51.100.8 nexthop via 198.51.100.9",
				"route add 192.0.4.0/24 via 198.51.100.8 table 99",
				"route add unreachable 192.0.5.0/24",
				"route add 192.0.6.0/24 via 198.51.100.8 proto dhcp", "route add 192.0.7.0/24 via 198.51.100.8 proto ra",
				"route add 192.0.8.0/24 via 198.51.100.8 proto redirect", "route add 192.0.9.0/24 via 198.51.100.8 proto static",
			},
			want: gateway.Host{
				Links: []gateway.Link{
					{
						Name: "eth1", Kind: "veth", Up: true, Peers: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")},
						Addresses: link("", true, "198.51.100.10/24", "198.51.100.11/24", "203.0.113.77/32", "2001:db8:1::10/64").Addresses,
					},
					link("lo", true, "127.0.0.1/8", "203.0.113.10/32", "::1/128"),
					link("peer1", true),
				},
				DefaultRoutes: []gateway.DefaultRoute{
					{Link: "eth1"},
					{Link: "eth1", Gateway: netip.MustParseAddr("fe80::7")},
					throughEth1("198.51.100.1"),
					throughEth1("198.51.100.4"),
					throughEth1("198.51.100.5"),
					throughEth1("fe80::1"),
					{Link: "eth1", IPv6: true},
					throughEth1("198.51.100.3"),
				},
				Routes: []gateway.Route{
					{Destination: netip.MustParsePrefix("192.0.2.0/24"), Link: "eth1", Gateway: netip.MustParseAddr("198.51.100.8"), Metric: 7},
					route("192.0.3.0/24", "198.51.100.8"),
					route("192.0.3.0/24", "198.51.100.9"),
					announced("192.0.6.0/24"),
					announced("192.0.7.0/24"),
					announced("192.0.8.0/24"),
					route("192.0.9.0/24", "198.51.100.8"),
					route("198.51.100.0/24", ""),
					route("203.0.113.1/32", ""),
					{Destination: netip.MustParsePrefix("2001:db8:1::/64"), Link: "eth1", Metric: 256}, // IP6_RT_PRIO_ADDRCONF
				},
			},
		},
		{
			name: "addresses made from router advertisements",
			lines: []string{
				"link add eth1 type veth peer name peer1", "addr add 2001:db8:1::10/64 dev eth1 nodad mngtmpaddr", "addr add 2001:db8:2::10/64 dev peer1 nodad",
				"addr add 198.51.100.10/24 dev peer1", "addr add 198.51.100.11/24 dev peer1", // the second one has a flag of the same value
			},
			want: gateway.Host{Links: []gateway.Link{
				{Name: "eth1", Kind: "veth", Autoconfigured: true, Addresses: link("", true, "2001:db8:1::10/64").Addresses}, lo,
				link("peer1", false, "198.51.100.10/24", "198.51.100.11/24", "2001:db8:2::10/64"),
			}},
		},
		{
			name: "links above links",
			lines: []string{
				"link add eth1 type veth peer name peer1", "link add br-wan type bridge", "link set eth1 master br-wan",
				"link add link peer1 name mv0 type macvlan",
			},
			want: gateway.Host{Links: []gateway.Link{
				{Name: "br-wan", Kind: "bridge"}, {Name: "eth1", Kind: "veth", Master: "br-wan"}, lo,
				{Name: "mv0", Kind: "macvlan", Parent: "peer1"}, link("peer1", false),
			}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			ip(t, tc.lines...)
			// With br_netfilter, each network namespace has its own setting.
			switched := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0) == nil &&
				os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0) == nil &&
				strings.Contains(strings.Join(tc.lines, ","), "type bridge")
			tc.want.BridgeNetfilter, tc.want.Physdev = gateway.Families{IPv4: switched}, switched
			before := map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "1"}
			got, err := New(logrus.New()).Before(func(key string) (string, error) { return before[key], nil }).Observe()
			if err != nil {
				t.Fatal(err)
			}
			tc.want.ForwardingOwned = gateway.Families{IPv4: true}
			tc.want.SCTP = got.SCTP // TestSCTP covers it
			for i := range got.Links {
				l, err := netlink.LinkByName(got.Links[i].Name)
				if err != nil || l.Attrs().Index != got.Links[i].Index {
					t.Errorf("%s has the index %d, not that of %v: %v", got.Links[i].Name, got.Links[i].Index, l, err)
				}
				got.Links[i].Index = 0
			}
			if diff := gocmp.Diff(tc.want, got, gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("host (-want +got):\n%s", diff)
			}
		})
	}
}

// TestObserveWhichAddressesLast makes the kernel set flags on addresses. The flag of the second IPv4 address of a network has
// the same value as that of a temporary IPv6 address.
func TestObserveWhichAddressesLast(t *testing.T) {
	testenv.NewNetNS(t)
	ip(t,
		"link add eth1 type veth peer name peer1", "link set eth1 addrgenmode none", "link set peer1 addrgenmode none", "link set eth1 up", "link set peer1 up",
		"addr add 198.51.100.10/24 dev eth1", "addr add 198.51.100.11/24 dev eth1", "addr add 198.51.100.12/24 dev eth1 preferred_lft 0",
		"addr add 203.0.113.77 peer 203.0.113.1 dev eth1",
		"addr add 2001:db8:1::10/64 dev eth1 nodad", "addr add 2001:db8:1::11/64 dev eth1 nodad preferred_lft 0",
		// Without a carrier, duplicate address detection cannot finish.
		"link add eth2 type veth peer name peer2", "link set eth2 addrgenmode none", "link set eth2 up", "addr add 2001:db8:2::10/64 dev eth2",
	)
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth1/use_tempaddr", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	ip(t, "addr add 2001:db8:3::10/64 dev eth1 nodad mngtmpaddr")
	host, err := New(logrus.New()).Observe()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range host.Links {
		dormant := map[string]string{"eth1": "[198.51.100.12 2001:db8:1::11]", "eth2": "[2001:db8:2::10]"}[l.Name]
		if got := fmt.Sprint(l.Dormant); got != cmp.Or(dormant, "[]") {
			t.Errorf("%s: dormant %s, want %s", l.Name, got, dormant)
		}
		if l.Name != "eth1" {
			if len(l.Temporary) > 0 {
				t.Errorf("%s: temporary %v", l.Name, l.Temporary)
			}
			continue
		}
		network := netip.MustParsePrefix("2001:db8:3::/64")
		if len(l.Temporary) != 1 || !network.Contains(l.Temporary[0]) || l.Temporary[0] == netip.MustParseAddr("2001:db8:3::10") {
			t.Errorf("temporary %v, want one of %s that the kernel made", l.Temporary, network)
		}
	}
}

// hangs is when a wait ends the test. Watch looks at nothing but next hops without an event, so a busy machine only delays a test.
const hangs = time.Minute

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(hangs):
		t.Fatalf("%s: nothing for %s", what, hangs)
	}
}

// settle reads calls until none comes for a while, so that later calls belong to later changes.
func settle(c <-chan struct{}) {
	for {
		select {
		case <-c:
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

func TestWatch(t *testing.T) {
	testenv.NewNetNS(t)
	ip(t, "link add eth1 type veth peer name peer1", "link set eth1 addrgenmode none", "link set peer1 addrgenmode none")
	log, _ := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := make(chan struct{})
	var watchErr error
	done := testenv.Go(t, func() {
		watchErr = New(log).Watch(ctx, func() {
			select {
			case calls <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	await(t, "the first look", calls)
	for _, event := range []string{
		"link set eth1 up", "link set peer1 up",
		"addr add 198.51.100.10/24 dev eth1", "-6 addr add 2001:db8:1::10/64 dev eth1 nodad",
		"route add default via 198.51.100.1", "route replace default via 198.51.100.2", "-6 route add default via 2001:db8:1::1",
		"rule add priority 7380 fwmark 0x100/0x1f00 lookup 7380", "-6 rule add priority 7380 fwmark 0x100/0x1f00 lookup 7380",
		"rule del priority 7380", "-6 route del default via 2001:db8:1::1", "route del default",
		"sysctl net/ipv4/ip_forward=1", "sysctl net/ipv4/conf/eth1/rp_filter=2", "sysctl net/ipv6/conf/all/forwarding=1",
		"addr del 198.51.100.10/24 dev eth1", "link set peer1 down", "link del eth1",
	} {
		settle(calls)
		if parameter, isSysctl := strings.CutPrefix(event, "sysctl "); isSysctl {
			set(t, parameter)
		} else {
			ip(t, event)
		}
		await(t, event, calls)
	}
	cancel()
	await(t, "the end", done)
	if watchErr != nil {
		t.Error(watchErr)
	}
}

// set changes a parameter, "net/ipv4/ip_forward=1".
func set(t *testing.T, parameter string) {
	t.Helper()
	key, value, _ := strings.Cut(parameter, "=")
	path := "/proc/sys/" + key
	was, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(was)) == value {
		t.Fatalf("%s is %q already: %v", key, was, err)
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func TestChangesDuringACallAreOneCall(t *testing.T) {
	testenv.NewNetNS(t)
	log, _ := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls, proceed := make(chan struct{}), make(chan struct{})
	var watchErr error
	done := testenv.Go(t, func() {
		watchErr = New(log).Watch(ctx, func() {
			calls <- struct{}{}
			<-proceed
		})
	})
	await(t, "the first look", calls)
	for i := range 50 {
		ip(t, fmt.Sprintf("addr add 192.0.2.%d/32 dev lo", i+1))
	}
	awaitRead(t)
	proceed <- struct{}{}
	await(t, "the call for changes during a call", calls)
	count := 1
	for more := true; more; {
		proceed <- struct{}{}
		select {
		case <-calls:
			count++
		case <-time.After(200 * time.Millisecond):
			more = false
		}
	}
	// One more call if the last events were read, but not yet noted.
	if count > 2 {
		t.Errorf("%d calls for 50 changes during one call, want 1 or 2", count)
	}
	cancel()
	await(t, "the end", done)
	if watchErr != nil {
		t.Error(watchErr)
	}
}

// awaitRead waits until no event waits for the watch of this network namespace.
func awaitRead(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		sockets, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			t.Fatal(err)
		}
		watches, unread := 0, false
		for line := range strings.Lines(string(sockets)) {
			// The columns are the address, the protocol, the port, the groups, and the bytes to read.
			if f := strings.Fields(line); f[1] == "0" && f[3] != "00000000" {
				watches++
				unread = unread || f[4] != "0"
			}
		}
		switch {
		case watches == 0:
			t.Fatalf("no socket of a watch in\n%s", sockets)
		case !unread:
			return
		case time.Since(began) > hangs:
			t.Fatalf("events are not read:\n%s", sockets)
		}
	}
}

func TestOverrun(t *testing.T) {
	testenv.NewNetNS(t)
	log, _ := logtest.NewNullLogger()
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.SetReceiveBufferSize(2048, false); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		ip(t, fmt.Sprintf("addr add 192.0.2.%d/32 dev lo", i+1))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	notes := make(chan struct{}, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := New(log).receive(ctx, socket, func() { notes <- struct{}{} }); ctx.Err() == nil {
			t.Errorf("the overrun ended the watch: %v", err)
		}
	}()
	await(t, "the overrun", notes)
	settle(notes)
	ip(t, "addr add 198.51.100.1/32 dev lo")
	await(t, "a change after the overrun", notes)
	cancel()
	await(t, "the end", ended)
}

func TestWatchComesBack(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.WarnLevel)
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	repeat(ctx, log, 0, func() error {
		if attempts++; attempts == 3 {
			cancel()
		}
		return unix.ENOMEM
	})
	if attempts != 3 || len(hook.Entries) != 2 {
		t.Errorf("%d attempts, %d log lines; want 3 and 2", attempts, len(hook.Entries))
	}
}
