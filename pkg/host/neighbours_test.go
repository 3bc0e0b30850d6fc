// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func addresses(s ...string) []netip.Addr {
	var as []netip.Addr
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

func TestNote(t *testing.T) {
	hop := netip.MustParseAddr("10.10.0.11")
	n := newNeighbours([]netip.Addr{hop})
	for _, step := range []struct {
		name              string
		link, state       int
		unreachable, news bool
	}{
		{"never asked for", 1, netlink.NUD_NONE, false, false},
		{"asked for", 1, netlink.NUD_INCOMPLETE, false, false},
		{"did not answer", 1, netlink.NUD_FAILED, true, true},
		{"asked for again", 1, netlink.NUD_INCOMPLETE, true, false},
		{"did not answer again", 1, netlink.NUD_FAILED, true, false},
		{"forgotten", 1, netlink.NUD_NONE, true, false},
		{"answered", 1, netlink.NUD_REACHABLE, false, true},
		{"no sign for some time", 1, netlink.NUD_STALE, false, false},
		{"asked whether it is still there", 1, netlink.NUD_PROBE, false, false},
		{"its link is down", 0, netlink.NUD_NONE, true, true},
		{"its link came back", 1, netlink.NUD_NONE, true, false},
		{"known by configuration", 1, netlink.NUD_PERMANENT, false, true},
	} {
		if news := n.note(neighbour{address: hop, link: step.link, state: step.state}); news != step.news || n.unreachable[hop] != step.unreachable {
			t.Errorf("%s: news %t, unreachable %t; want %t, %t", step.name, news, n.unreachable[hop], step.news, step.unreachable)
		}
	}
}

// TestUnreachable expects that next hops which fail and recover are noticed without traffic to them, in both families.
func TestUnreachable(t *testing.T) {
	testenv.NewNetNS(t)
	ip(t,
		"netns add node", "link add eth0 type veth peer name peer0 netns node",
		"addr add 10.10.0.2/24 dev eth0", "addr add fd00:10::2/64 dev eth0 nodad", "link set eth0 up",
		"-n node addr add 10.10.0.11/24 dev peer0", "-n node addr add 10.10.0.12/24 dev peer0",
		"-n node addr add fd00:10::11/64 dev peer0 nodad", "-n node addr add fd00:10::12/64 dev peer0 nodad", "-n node link set peer0 up",
	)
	testenv.AwaitLocal(t, "fd00:10::2")
	log, _ := logtest.NewNullLogger()
	h := New(log, addresses("fd00:10::12", "10.10.0.12", "10.10.0.11", "fd00:10::11", "192.0.2.1", "10.10.0.11")...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := make(chan struct{}, 1)
	done := testenv.Go(t, func() {
		_ = h.Watch(ctx, func() {
			select {
			case calls <- struct{}{}:
			default:
			}
		})
	})
	const noLink = "192.0.2.1" // no link has a route to it
	for _, step := range []struct {
		name string
		do   []string
		want []netip.Addr
	}{
		{"all answer", nil, addresses(noLink)},
		{
			"two go", []string{"-n node addr del 10.10.0.12/24 dev peer0", "-n node addr del fd00:10::12/64 dev peer0"},
			addresses("10.10.0.12", noLink, "fd00:10::12"),
		},
		{
			"and come back", []string{"-n node addr add 10.10.0.12/24 dev peer0", "-n node addr add fd00:10::12/64 dev peer0 nodad"},
			addresses(noLink),
		},
		{"the link loses its carrier", []string{"-n node link set peer0 down"}, addresses("10.10.0.11", "10.10.0.12", noLink, "fd00:10::11", "fd00:10::12")},
		{
			"and has it again", []string{
				"-n node link set peer0 up",
				"-n node addr replace fd00:10::11/64 dev peer0 nodad", "-n node addr replace fd00:10::12/64 dev peer0 nodad",
			}, addresses(noLink),
		},
	} {
		ip(t, step.do...)
		began := time.Now()
		for {
			host, err := h.Observe()
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(host.Unreachable, step.want) {
				t.Logf("%s: known after %v", step.name, time.Since(began).Round(time.Millisecond))
				break
			}
			// Observe only after a call of Watch.
			select {
			case <-calls:
			case <-time.After(hangs):
				t.Fatalf("%s: unreachable are %v, want %v", step.name, host.Unreachable, step.want)
			}
		}
	}
	// How soon a change is known depends on the kernel's requests, and on this.
	if _, next, err := h.neighbours.probe(); err != nil || next != retryNeighbour {
		t.Errorf("with a next hop that does not answer, the next probe is in %v, want %v: %v", next, retryNeighbour, err)
	}
	cancel()
	await(t, "the end", done)
}

// TestProbe expects the same of next hops that change while the host is watched, by link-local addresses too. One that is behind another
// is not asked.
func TestProbe(t *testing.T) {
	testenv.NewNetNS(t)
	ip(t,
		"netns add nodes", "link add eth0 type veth peer name peer0 netns nodes",
		"addr add 10.10.0.2/24 dev eth0", "link set eth0 up", "route add 10.20.0.0/16 via 10.10.0.11",
		"-n nodes addr add 10.10.0.11/24 dev peer0", "-n nodes addr add fe80::99/64 dev peer0 nodad", "-n nodes link set peer0 up",
	)
	for _, family := range []string{"ipv4", "ipv6"} { // the kernel asks again after this many milliseconds
		if err := os.WriteFile("/proc/sys/net/"+family+"/neigh/eth0/retrans_time_ms", []byte("50"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, _ := logtest.NewNullLogger()
	var hops atomic.Pointer[[]netip.Addr]
	hops.Store(&[]netip.Addr{})
	h := New(log).Probe(func() []netip.Addr { return *hops.Load() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := testenv.Go(t, func() { _ = h.Watch(ctx, func() {}) })
	for _, step := range []struct {
		name string
		hops []netip.Addr
		do   string
		want []netip.Addr
	}{
		{"no next hop", nil, "link", nil},
		{"one does not answer, one is behind another", addresses("10.10.0.11", "10.10.0.12", "10.20.0.1"), "link", addresses("10.10.0.12")},
		{"it does", addresses("10.10.0.11", "10.10.0.12", "10.20.0.1"), "-n nodes addr add 10.10.0.12/24 dev peer0", nil},
		{"another one", addresses("10.10.0.11", "10.10.0.13"), "link", addresses("10.10.0.13")},
		{"and is not asked any longer", addresses("10.10.0.11"), "link", nil},
		{"link-local", addresses("fe80::99%eth0", "fe80::98%eth0", "fe80::99%none"), "link", addresses("fe80::98%eth0", "fe80::99%none")},
	} {
		hops.Store(&step.hops)
		ip(t, step.do)
		began := time.Now()
		for {
			host, err := h.Observe()
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(host.Unreachable, step.want) {
				t.Logf("%s: known after %v", step.name, time.Since(began).Round(time.Millisecond))
				break
			}
			if time.Since(began) > hangs {
				t.Fatalf("%s: unreachable are %v, want %v", step.name, host.Unreachable, step.want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	cancel()
	await(t, "the end", done)
}

// TestForeignNeighboursAreNoNews expects no call for neighbours that are not next hops.
func TestForeignNeighboursAreNoNews(t *testing.T) {
	testenv.NewNetNS(t)
	// Disable addresses that the kernel adds later by itself.
	ip(t, "link add eth0 type veth peer name peer0", "link set eth0 addrgenmode none", "link set peer0 addrgenmode none",
		"link set eth0 up", "link set peer0 up", "addr add 10.10.0.2/24 dev eth0")
	log, _ := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := make(chan struct{})
	h := New(log, addresses("10.10.0.11")...)
	done := testenv.Go(t, func() {
		_ = h.Watch(ctx, func() {
			select {
			case calls <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	for known := false; !known; {
		await(t, "that the next hop does not answer", calls)
		host, err := h.Observe()
		if err != nil {
			t.Fatal(err)
		}
		known = len(host.Unreachable) > 0
	}
	settle(calls)
	ip(t, "neigh add 10.10.0.99 lladdr 02:00:00:00:00:99 nud reachable dev eth0", "neigh del 10.10.0.99 dev eth0")
	select {
	case <-calls:
		t.Error("called for a foreign neighbour")
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	await(t, "the end", done)
}

func TestHelpersWithoutNAT(t *testing.T) {
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	const loaded, dep = "proc/modules", "lib/modules/6.1/modules.dep"
	const module = "kernel/net/netfilter/nf_nat_ftp.ko.xz: kernel/net/netfilter/nf_conntrack_ftp.ko.xz\n"
	for _, tc := range []struct {
		name string
		root fstest.MapFS
		want []string
	}{
		{"a kernel without modules", fstest.MapFS{}, nil},
		{"part of the kernel", fstest.MapFS{loaded: file(""), dep: file("kernel/net/netfilter/xt_sctp.ko: \n")}, nil},
		{"nothing is loaded yet", fstest.MapFS{loaded: file(""), dep: file(module)}, []string{"ftp"}},
		{"only the helper is loaded", fstest.MapFS{loaded: file("nf_conntrack_ftp 24576 1 - Live 0x0\n"), dep: file(module)}, []string{"ftp"}},
		{"both are loaded", fstest.MapFS{loaded: file("nf_nat_ftp 20480 0 - Live 0x0\nnf_conntrack_ftp 24576 1 nf_nat_ftp, Live 0x0\n"), dep: file(module)}, nil},
		{"a container without a list of modules", fstest.MapFS{loaded: file("x 1\nnf_conntrack_ftp 24576 1 - Live 0x0\nnf_conntrack_tftp 24576 1 - Live 0x0\n")}, []string{"ftp", "tftp"}},
		{"modules of another kernel", fstest.MapFS{loaded: file(""), "lib/modules/6.2/modules.dep": file(module)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, withoutNAT(tc.root, "6.1", []string{"ftp", "tftp"})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSCTP(t *testing.T) {
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	const tracked, tracking = "proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established", "proc/sys/net/netfilter/nf_conntrack_max"
	const matches, builtin, modules = "proc/net/ip_tables_matches", "lib/modules/6.1/modules.builtin", "lib/modules/6.1/modules.dep"
	const dep = "kernel/net/netfilter/xt_sctp.ko.xz: kernel/net/netfilter/x_tables.ko.xz\n"
	for _, tc := range []struct {
		name string
		root fstest.MapFS
		want bool
	}{
		{"nothing is known", fstest.MapFS{}, false},
		{"the match is there", fstest.MapFS{tracking: file(""), tracked: file(""), matches: file("udp\nsctp\nset\n")}, true},
		{"connections are not tracked", fstest.MapFS{tracking: file(""), matches: file("udp\nsctp\n")}, false},
		{"connection tracking is not loaded yet", fstest.MapFS{modules: file(dep)}, true},
		{"a module that is not loaded yet", fstest.MapFS{tracking: file(""), tracked: file(""), matches: file("udp\n"), modules: file(dep)}, true},
		{"part of the kernel", fstest.MapFS{tracking: file(""), tracked: file(""), builtin: file("kernel/net/netfilter/xt_sctp.ko\n")}, true},
		{"modules of another kernel", fstest.MapFS{"lib/modules/6.2/modules.dep": file(dep)}, false},
		{"only the protocol itself", fstest.MapFS{modules: file("kernel/net/sctp/sctp.ko: \n"), "proc/net/protocols": file("SCTP 1 2 3\n")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := sctp(tc.root, "6.1"); got != tc.want {
				t.Errorf("sctp = %t, want %t", got, tc.want)
			}
		})
	}
	t.Run("as iptables finds it", func(t *testing.T) {
		testenv.NewNetNS(t)
		testenv.RequireTool(t, "iptables")
		log, _ := logtest.NewNullLogger()
		host, err := New(log).Observe()
		if err != nil {
			t.Fatal(err)
		}
		rule := exec.Command("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "sctp", "--dport", "9", "-j", "DNAT", "--to-destination", "192.0.2.1:9")
		if out, err := rule.CombinedOutput(); (err == nil) != host.SCTP {
			t.Errorf("SCTP %t, but iptables: %v\n%s", host.SCTP, err, out)
		}
	})
}
