// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelFlows expects our connections alone, with both directions, and with the time of their start where the kernel records it.
func TestKernelFlows(t *testing.T) {
	tb, own := newTable(t), gateway.DefaultOwnership()
	ours := own.Forwarded().Value | own.Uplink(2).Value
	masqueraded := connection(gateway.TCP, "192.0.2.1:4000", "198.51.100.10:80")
	masqueraded.answeredBy, masqueraded.answeredTo = netip.MustParseAddrPort("10.244.1.2:8080"), netip.MustParseAddrPort("10.10.0.2:5000")
	tb.add(masqueraded, ours, answered, 0)
	tb.add(connection(gateway.TCP, "192.0.2.1:4001", "198.51.100.10:81"), own.MarkMask&^own.Forwarded().Value, answered, 0)
	tb.add(connection(gateway.TCP, "192.0.2.1:4002", "198.51.100.10:82"), 0, answered, 0)
	if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_timestamp", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	tb.add(connection(gateway.UDP, "[2001:db8::1]:4000", "[2001:db8:1::10]:53"), ours, unanswered, 0)
	var found []flows.Flow
	if err := Flows(own, func(f flows.Flow) { found = append(found, f) }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b flows.Flow) int { return a.Client.Compare(b.Client) })
	if len(found) != 2 {
		t.Fatalf("%d connections, want 2: %+v", len(found), found)
	}
	start := found[1].Start
	if started := start.Sub(began); started < -time.Minute || started > time.Minute {
		t.Errorf("it began %v after this test did", started)
	}
	six, resolver := netip.MustParseAddrPort("[2001:db8::1]:4000"), netip.MustParseAddrPort("[2001:db8:1::10]:53")
	want := []flows.Flow{
		{Protocol: gateway.TCP, Client: masqueraded.source, External: masqueraded.destination, Backend: masqueraded.answeredBy, Seen: masqueraded.answeredTo, State: "NONE"},
		{Protocol: gateway.UDP, Client: six, External: resolver, Backend: resolver, Seen: six, State: "UNREPLIED", Start: start},
	}
	if diff := cmp.Diff(want, found, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
