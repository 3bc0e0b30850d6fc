// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestSysctls(t *testing.T) {
	const all, eth1, forward = "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth1/rp_filter", "net/ipv4/ip_forward"
	for _, tc := range []struct {
		name                           string
		forward, all, eth1             string
		wantForward, wantAll, wantEth1 string
	}{
		{"strict on the link", "0", "0", "1", "1", "0", "2"},
		{"strict on all", "0", "1", "0", "1", "1", "2"},
		{"strict on both", "0", "1", "1", "1", "1", "2"},
		{"loose on all", "1", "2", "1", "1", "2", "1"},
		{"loose on the link", "1", "1", "2", "1", "1", "2"},
		{"off stays off", "1", "0", "0", "1", "0", "0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newKernel()
			k.Sysctls.Values[forward], k.Sysctls.Values[all], k.Sysctls.Values[eth1] = tc.forward, tc.all, tc.eth1
			d := start(k)
			apply(t, d, gateway.State{Uplinks: []gateway.Uplink{uplink1}})
			v := k.Sysctls.Values
			if v[forward] != tc.wantForward || v[all] != tc.wantAll || v[eth1] != tc.wantEth1 {
				t.Errorf("ip_forward %s, all %s, eth1 %s; want %s, %s, %s", v[forward], v[all], v[eth1], tc.wantForward, tc.wantAll, tc.wantEth1)
			}
			if v["net/ipv4/conf/eth2/rp_filter"] != "1" {
				t.Error("a link that is no uplink was changed")
			}
			if _, err := d.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v[forward] != tc.forward || v[all] != tc.all || v[eth1] != tc.eth1 {
				t.Errorf("after cleanup: ip_forward %s, all %s, eth1 %s; want %s, %s, %s", v[forward], v[all], v[eth1], tc.forward, tc.all, tc.eth1)
			}
		})
	}
}

// TestCountTraffic expects that the kernel counts traffic if the options say so, and that a host where it cannot works without.
func TestCountTraffic(t *testing.T) {
	const key = "net/netfilter/nf_conntrack_acct"
	k := newKernel()
	v := k.Sysctls.Values
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	counting, silent := options(k), start(k)
	counting.countTraffic = true
	for _, step := range []struct {
		name string
		d    *dataplane.Dataplane
		was  string
		err  error
		want string
	}{
		{name: "the kernel has no conntrack", d: counting.dataplane()},
		{name: "off by default", d: counting.dataplane(), was: "0", want: "1"},
		{name: "on already", d: counting.dataplane(), was: "1", want: "1"},
		{name: "read-only", d: counting.dataplane(), was: "0", err: syscall.EROFS, want: "0"},
		{name: "not permitted", d: counting.dataplane(), was: "0", err: syscall.EACCES, want: "0"},
		{name: "not wanted", d: silent, was: "0", want: "0"},
	} {
		delete(v, key)
		if step.was != "" {
			v[key] = step.was
		}
		k.Fail = func(what string) error {
			if strings.Contains(what, key) {
				return step.err
			}
			return nil
		}
		// The parameter is missing in the first step.
		wantError := step.err != nil || step.was == "" && step.d != silent
		if err := apply(t, step.d, state).NotPermitted; (err != nil) != wantError {
			t.Errorf("%s: error %v, want one: %t", step.name, err, wantError)
		}
		expectQuiet(t, step.d, state)
		if v[key] != step.want {
			t.Errorf("%s: %q, want %q", step.name, v[key], step.want)
		}
	}
	k.Fail = nil
	d := counting.dataplane()
	v[key] = "0"
	apply(t, d, state)
	v[key] = "0" // Another program turns it off.
	expectChanged(t, d, true)
	if result := apply(t, d, state); v[key] != "1" || len(result.Repaired) != 1 {
		t.Errorf("%s: %q, repaired %v", key, v[key], result.Repaired)
	}
	apply(t, start(k), state) // The config does not count any more.
	if v[key] != "0" {
		t.Errorf("%q after a start that does not count", v[key])
	}
}

// TestTakeOver expects that the kernel accepts TCP out of its window only if the options say so, and never after that.
func TestTakeOver(t *testing.T) {
	const key = "net/netfilter/nf_conntrack_tcp_be_liberal"
	k := newKernel()
	v := k.Sysctls.Values
	v[key] = "0"
	takesOver := options(k)
	takesOver.takeOver = true
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	for _, step := range []struct {
		d    *dataplane.Dataplane
		want string
	}{{start(k), "0"}, {takesOver.dataplane(), "1"}, {start(k), "0"}} {
		apply(t, step.d, state)
		expectQuiet(t, step.d, state)
		if v[key] != step.want {
			t.Errorf("%q, want %q", v[key], step.want)
		}
	}
}

// TestSendersLookedUpByMark enables src_valid_mark while the data plane runs, as Tailscale and wg-quick do. Replies of a
// backend carry a mark.
func TestSendersLookedUpByMark(t *testing.T) {
	const byMark, eth2 = "net/ipv4/conf/all/src_valid_mark", "net/ipv4/conf/eth2/rp_filter"
	k := newKernel()
	v := k.Sysctls.Values
	v["net/ipv4/conf/all/rp_filter"], v[eth2], v[byMark] = "0", "1", "0"
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	d := start(k)
	apply(t, d, state)
	expectQuiet(t, d, state)
	for _, step := range []struct{ byMark, filter string }{{"1", "2"}, {"0", "1"}, {"1", "2"}} {
		v[byMark] = step.byMark
		expectChanged(t, d, true)
		apply(t, d, state)
		if v[eth2] != step.filter {
			t.Errorf("src_valid_mark %s: the filter of a link that is no uplink is %s, want %s", step.byMark, v[eth2], step.filter)
		}
		expectQuiet(t, d, state)
	}
	// sysctl --system makes it strict again.
	v[eth2] = "1"
	expectChanged(t, d, true)
	apply(t, d, state)
	if v[eth2] != "2" {
		t.Errorf("the filter that was made strict again is %s", v[eth2])
	}
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v[eth2] != "1" || v[byMark] != "1" {
		t.Errorf("after cleanup the filter is %s and src_valid_mark %s", v[eth2], v[byMark])
	}
}

// TestParametersThatCannotBeRead expects that a parameter which cannot be read does not hide a change of another one.
func TestParametersThatCannotBeRead(t *testing.T) {
	const forward, filter = "net/ipv4/ip_forward", "net/ipv4/conf/eth1/rp_filter"
	for _, unreadable := range []string{"net/ipv4/conf/all/src_valid_mark", filter} {
		k := newKernel()
		k.Sysctls.Values["net/ipv4/conf/all/src_valid_mark"] = "0"
		state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
		d := start(k)
		apply(t, d, state)
		expectQuiet(t, d, state)
		k.Sysctls.Unreadable = map[string]error{unreadable: fs.ErrPermission}
		if changed, err := d.Check(); changed || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: changed %t, error %v; want only an error", unreadable, changed, err)
		}
		k.Sysctls.Values[forward] = "0"
		if changed, err := d.Check(); !changed || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: changed %t, error %v; want both, as forwarding was turned off", unreadable, changed, err)
		}
		if _, err := d.Apply(t.Context(), state); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: error %v, want the parameter that cannot be read", unreadable, err)
		}
		if is := k.Sysctls.Values[forward]; is != "1" {
			t.Errorf("%s: forwarding is %s, want it back", unreadable, is)
		}
	}
}

// TestUplinksForward expects forwarding on the uplinks, also if it was turned off only there, and no change on other links.
func TestUplinksForward(t *testing.T) {
	const eth1, eth2 = "net/ipv4/conf/eth1/forwarding", "net/ipv4/conf/eth2/forwarding"
	k := newKernel()
	k.Sysctls.Values["net/ipv4/ip_forward"], k.Sysctls.Values[eth1], k.Sysctls.Values[eth2] = "1", "0", "0"
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	d := start(k)
	apply(t, d, state)
	expectQuiet(t, d, state)
	k.Sysctls.Values[eth1] = "0"
	expectChanged(t, d, true)
	expectRepair(t, apply(t, d, state), []string{"sysctl " + eth1 + "=1: it was 0"})
	if got := k.Sysctls.Values[eth2]; got != "0" {
		t.Errorf("%s, of no uplink, is %s", eth2, got)
	}
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := k.Sysctls.Values[eth1]; got != "0" {
		t.Errorf("after cleanup %s is %s", eth1, got)
	}
}

// TestReversePathFiltersThatAreLoose expects that a loose filter is managed even if this process did not set it, for example
// after a restart. A filter that was turned off, or whose link is no longer an uplink, is left alone.
func TestReversePathFiltersThatAreLoose(t *testing.T) {
	const eth1 = "net/ipv4/conf/eth1/rp_filter"
	k := newKernel()
	k.Sysctls.Values[eth1] = "2"
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	d := start(k)
	apply(t, d, state)
	k.Sysctls.Values[eth1] = "1"
	expectChanged(t, d, true)
	expectRepair(t, apply(t, d, state), []string{"sysctl " + eth1 + "=2: it was 1"})
	expectQuiet(t, d, state)

	k.Sysctls.Values[eth1] = "0"
	expectChanged(t, d, true)
	if result := apply(t, d, state); !result.Empty() {
		t.Errorf("turned on: %s", result)
	}
	expectQuiet(t, d, state)

	k.Sysctls.Values[eth1] = "2"
	d.HostChanged()
	apply(t, d, state)
	apply(t, d, gateway.State{})
	k.Sysctls.Values[eth1] = "1"
	expectChanged(t, d, false)
}

// TestIPv6Forwarding expects that a host which forwards IPv6 still accepts router advertisements, and that IPv6 forwarding is
// enabled only if needed.
func TestIPv6Forwarding(t *testing.T) {
	const forwarding, all, standard, eth0, eth1, eth2 = "net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/accept_ra", "net/ipv6/conf/default/accept_ra",
		"net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth1/accept_ra", "net/ipv6/conf/eth2/accept_ra"
	four := gateway.State{Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")}}
	six := gateway.State{Forwards: []*gateway.Forward{forward("2001:db8:1::10", 8080, "fd00:244:1::2")}}
	egress := gateway.State{Egresses: []gateway.Egress{{Address: addr("2001:db8:1::10"), Uplink: 1, Sources: addrs("fd00:244:1::2")}}}
	for _, tc := range []struct {
		name   string
		before map[string]string
		state  gateway.State
		want   map[string]string
	}{
		{name: "IPv4 only", state: four, want: map[string]string{forwarding: "0", standard: "1", eth1: "1"}},
		{name: "a Forward", state: six, want: map[string]string{forwarding: "1", all: "1", standard: "2", eth0: "2", eth1: "2", eth2: "2"}},
		{name: "an Egress", state: egress, want: map[string]string{forwarding: "1", eth1: "2"}},
		{
			name: "links that ignore advertisements, or accept them already", state: six, before: map[string]string{eth1: "0", eth2: "2"},
			want: map[string]string{forwarding: "1", eth0: "2", eth1: "0", eth2: "2"},
		},
		{
			name: "already a router, not because of us", state: six, before: map[string]string{forwarding: "1"},
			want: map[string]string{forwarding: "1", standard: "1", eth1: "1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, end := range []string{"the state no longer needs it", "cleanup"} {
				k := newKernel()
				maps.Copy(k.Sysctls.Values, tc.before)
				before := maps.Clone(k.Sysctls.Values)
				d := start(k)
				apply(t, d, tc.state)
				for key, want := range tc.want {
					if got := k.Sysctls.Values[key]; got != want {
						t.Errorf("%s is %s, want %s", key, got, want)
					}
				}
				before["net/ipv4/ip_forward"] = "1"
				if end == "cleanup" {
					before["net/ipv4/ip_forward"] = "0"
					if _, err := d.Cleanup(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					apply(t, d, four)
				}
				if diff := cmp.Diff(before, k.Sysctls.Values); diff != "" {
					t.Errorf("%s (-before +after):\n%s", end, diff)
				}
			}
		})
	}
	t.Run("accepts advertisements again after a link was brought up", func(t *testing.T) {
		k := newKernel()
		d := start(k)
		apply(t, d, six)
		k.Sysctls.Values[eth1] = "1"
		d.HostChanged()
		result := apply(t, d, six)
		if k.Sysctls.Values[eth1] != "2" || !slices.Equal(result.Repaired, []dataplane.Repair{{Kind: dataplane.KindSysctl, Missing: "sysctl " + eth1 + "=2: it was 1"}}) {
			t.Errorf("%s is %s, missing %q", eth1, k.Sysctls.Values[eth1], result.Repaired)
		}
	})
	t.Run("accepts advertisements before it forwards", func(t *testing.T) {
		k := fresh(t, six)
		last := slices.IndexFunc(k.Journal, func(s string) bool { return s == "sysctl "+forwarding+"=1" })
		for i, step := range k.Journal {
			if strings.Contains(step, "accept_ra") && i > last || strings.HasPrefix(step, "IPv6 ") && i > last {
				t.Errorf("%q came after forwarding", step)
			}
		}
		if last < 0 {
			t.Error("IPv6 is not forwarded")
		}
	})
}

// TestIPv6NextHops expects that the flow label does not select the next hop of a connection, and that the administrator's
// choice stays.
func TestIPv6NextHops(t *testing.T) {
	const hash = "net/ipv6/fib_multipath_hash_policy"
	four := gateway.State{Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")}}
	six := gateway.State{Forwards: []*gateway.Forward{forward("2001:db8:1::10", 8080, "fd00:244:1::2")}}
	one, two := six, six
	one.ServiceRoutes = []gateway.ServiceRoute{{Destination: prefixes("fd00:96::/108")[0], Via: []netip.Addr{addr("fd00:10::11")}}}
	two.ServiceRoutes = []gateway.ServiceRoute{{Destination: prefixes("fd00:96::/108")[0], Via: []netip.Addr{addr("fd00:10::11"), addr("fd00:10::12")}}}
	for _, tc := range []struct {
		name, before string
		old          bool // the kernel does not support hashFields
		state        gateway.State
		want         string
	}{
		{name: "the default", before: "0", state: two, want: "3"},
		{name: "the default of an old kernel", before: "0", old: true, state: two, want: "1"},
		{name: "one next hop", before: "0", state: one, want: "0"},
		{name: "no routes", before: "0", state: six, want: "0"},
		{name: "IPv4 only", before: "0", state: four, want: "0"},
		{name: "the administrator's choice", before: "1", state: two, want: "1"},
		{name: "already set", before: "3", state: two, want: "3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newKernel()
			k.Sysctls.Values[hash] = tc.before
			k.Fail = func(step string) error {
				if tc.old && step == "sysctl "+hash+"=3" {
					return syscall.EINVAL
				}
				return nil
			}
			d := start(k)
			apply(t, d, tc.state)
			if got := k.Sysctls.Values[hash]; got != tc.want {
				t.Errorf("%s is %s, want %s", hash, got, tc.want)
			}
			expectQuiet(t, d, tc.state)
			if _, err := d.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := k.Sysctls.Values[hash]; got != tc.before {
				t.Errorf("after cleanup %s is %s, was %s", hash, got, tc.before)
			}
		})
	}
	t.Run("is restored", func(t *testing.T) {
		k := newKernel()
		k.Sysctls.Values[hash] = "0"
		d := start(k)
		apply(t, d, two)
		k.Sysctls.Values[hash] = "0"
		expectChanged(t, d, true)
		expectRepair(t, apply(t, d, two), []string{"sysctl " + hash + "=3: it was 0"})
		apply(t, d, one)
		if got := k.Sysctls.Values[hash]; got != "0" {
			t.Errorf("with one next hop again %s is %s", hash, got)
		}
	})
}
