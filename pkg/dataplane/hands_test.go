// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// hand is a manual change of the host by a script.
type hand struct {
	name, script string
	// kinds lists the allowed kinds of repairs. The text of the repairs must contain missing.
	kinds   []dataplane.Kind
	missing string
	// event means that the kernel reports the change as an event of the host.
	event bool
}

// hostHands are changes to what is not packet rules.
var hostHands = []hand{
	{
		name: "ip rule flush", event: true,
		script: "for f in -4 -6; do ip $f rule flush; ip $f rule add pref 32766 lookup main; done; ip -4 rule add pref 32767 lookup default",
		kinds:  []dataplane.Kind{dataplane.KindIPRule}, missing: "ip rule: ip rule add priority 7380",
	},
	{
		name: "ip route flush table", event: true, script: "ip route flush table 7380; ip -6 route flush table 7380",
		kinds: []dataplane.Kind{dataplane.KindRoute}, missing: "route: ip route add default via 198.51.100.1 dev eth1 table 7380",
	},
	{
		name: "a gateway changed", event: true, script: "ip route replace default via 198.51.100.77 dev eth1 table 7380 proto 83",
		kinds: []dataplane.Kind{dataplane.KindRoute}, missing: "default via 198.51.100.1 dev eth1 table 7380",
	},
	{
		name: "an address removed and added", event: true,
		script: "ip addr del 198.51.100.10/24 dev eth1 && ip addr add 198.51.100.10/24 dev eth1",
		kinds:  []dataplane.Kind{dataplane.KindRoute}, missing: "default via 198.51.100.1 dev eth1 table 7380",
	},
	{
		name: "a link down and up", event: true, script: "ip link set eth2 down && ip link set eth2 up && ip addr replace 2001:db8:2::10/64 dev eth2 nodad",
		kinds: []dataplane.Kind{dataplane.KindRoute}, missing: "default via 203.0.113.1 dev eth2 table 7381",
	},
	{
		name: "forwarding turned off", script: "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
		kinds: []dataplane.Kind{dataplane.KindSysctl}, missing: "sysctl net/ipv4/ip_forward=1: it was 0",
	},
	{
		name: "forwarding turned off on an uplink", script: "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
		kinds: []dataplane.Kind{dataplane.KindSysctl}, missing: "sysctl net/ipv4/conf/eth1/forwarding=1: it was 0",
	},
	{
		name: "a strict reverse path filter", script: "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
		kinds: []dataplane.Kind{dataplane.KindSysctl}, missing: "sysctl net/ipv4/conf/eth1/rp_filter=2: it was 1",
	},
}

// TestKernelHands changes our objects by hand. The next Check or an event of the kernel must report it, and Apply must restore
// everything.
func TestKernelHands(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		d := h.start()
		state := limited(sources(200))
		apply(t, d, state)
		h.write(t, "net/ipv4/conf/eth1/rp_filter", "1")
		d.HostChanged()
		apply(t, d, state)
		programmed := h.ours(t)
		expectPlan(t, d, state, hand{name: "no change"})
		for _, hand := range slices.Concat(h.hands(t), hostHands) {
			// Do not use t.Run, which would run on another goroutine, in another network namespace.
			h.repair(t, d, state, hand)
			if diff := cmp.Diff(programmed, h.ours(t)); diff != "" {
				t.Errorf("%s: not repaired (-before +after):\n%s", hand.name, diff)
			}
		}
	})
}

// repair makes a manual change, waits until it is noticed, and expects that an Apply repairs it.
func (h *host) repair(t *testing.T, d *dataplane.Dataplane, state gateway.State, hand hand) {
	t.Helper()
	quiet(t, d, state)
	if out, err := exec.Command("sh", "-c", hand.script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", hand.script, err, out)
	}
	if hand.event {
		expectChanged(t, d, false)
		d.HostChanged()
	} else {
		awaitChange(t, d)
	}
	held := h.ours(t)
	expectPlan(t, d, state, hand)
	if diff := cmp.Diff(held, h.ours(t)); diff != "" {
		t.Errorf("%s: Plan changes the kernel (-before +after):\n%s", hand.name, diff)
	}
	result := apply(t, d, state)
	if said := fmt.Sprint(result.Repaired); !strings.Contains(said, hand.missing) {
		t.Errorf("%s: repaired %s, want %q in it", hand.name, said, hand.missing)
	}
	for _, r := range result.Repaired {
		if !slices.Contains(hand.kinds, r.Kind) {
			t.Errorf("%s: %q is of the kind %s, want %v", hand.name, r.Missing, r.Kind, hand.kinds)
		}
	}
}

// expectPlan expects that Plan finds the change, of the same kinds as a repair, and nothing without one.
func expectPlan(t *testing.T, d *dataplane.Dataplane, state gateway.State, hand hand) {
	t.Helper()
	plan, err := d.Plan(t.Context(), state)
	if err != nil {
		t.Errorf("%s: %v", hand.name, err)
	}
	if plan.Total > 0 != (len(hand.kinds) > 0) || len(plan.Differences) == 0 != (plan.Total == 0) {
		t.Errorf("%s: Plan finds %d differences: %+v", hand.name, plan.Total, plan.Differences)
	}
	for _, d := range plan.Differences {
		if !slices.Contains(hand.kinds, d.Kind) || d.Text == "" || d.Place == "" && d.Kind != dataplane.KindRoute && d.Kind != dataplane.KindIPRule {
			t.Errorf("%s: Plan finds %+v, want kinds %v", hand.name, d, hand.kinds)
		}
	}
}

// quiet runs Check and Apply until nothing is left to do.
func quiet(t *testing.T, d *dataplane.Dataplane, state gateway.State) {
	t.Helper()
	for range 10 {
		expectQuiet(t, d, state)
		time.Sleep(20 * time.Millisecond)
	}
}

var ofOurs = regexp.MustCompile(`(?m)^.*(SMARTNAT-|smartnat-|proto 83|=).*$`)

// ours returns our lines of the dump, sorted, because chains are listed in the order of their creation.
func (h *host) ours(t *testing.T) []string {
	t.Helper()
	lines := ofOurs.FindAllString(h.dump(t), -1)
	slices.Sort(lines)
	return lines
}
