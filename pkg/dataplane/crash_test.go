// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
)

// change is a transition from one state to another.
type change struct {
	name          string
	before, after gateway.State
	// empty means that the kernel never held anything of ours.
	empty bool
}

// changes returns a change of each kind.
func changes() []change {
	with := func(edit func(s *gateway.State)) gateway.State {
		s := full()
		edit(&s)
		return s
	}
	oneUplink := with(func(s *gateway.State) {
		s.Uplinks = s.Uplinks[:1]
		s.Forwards = append(s.Forwards[:2:2], s.Forwards[3])
		s.Egresses = s.Egresses[:1]
	})
	return []change{
		{name: "the first start", after: full(), empty: true},
		{name: "the first start with many sources", after: limited(sources(100)), empty: true},
		{name: "an endpoint appears", before: with(func(s *gateway.State) { s.Forwards[0].Backends = s.Forwards[0].Backends[1:] }), after: full()},
		{name: "an endpoint disappears", before: full(), after: with(func(s *gateway.State) { s.Forwards[0].Backends = s.Forwards[0].Backends[1:] })},
		{name: "no endpoints", before: full(), after: with(func(s *gateway.State) { s.Forwards[0].Backends, s.Forwards[3].Backends = nil, nil })},
		{name: "a Mapping appears", before: with(func(s *gateway.State) { s.Forwards = s.Forwards[:2] }), after: full()},
		{name: "a Mapping disappears", before: full(), after: with(func(s *gateway.State) { s.Forwards = s.Forwards[1:] })},
		{name: "fifty Mappings appear", before: full(), after: with(many)},
		{name: "fifty Mappings disappear", before: with(many), after: full()},
		{name: "sources become limited", before: full(), after: with(func(s *gateway.State) { s.Forwards[2].Sources = prefixes("10.0.5.0/24") })},
		{name: "sources become unlimited", before: full(), after: with(func(s *gateway.State) { s.Forwards[1].Sources = nil })},
		{name: "other sources", before: full(), after: with(func(s *gateway.State) { s.Forwards[1].Sources = prefixes("10.0.5.0/24") })},
		{name: "few sources become many", before: full(), after: limited(sources(100))},
		{name: "many sources become few", before: limited(sources(100)), after: full()},
		{name: "a few sources of many change", before: limited(sources(260)[:255]), after: limited(sources(260)[8:])},
		{name: "many sources are replaced", before: limited(sources(100)), after: limited(sources(300)[200:])},
		{name: "all sources become denied", before: limited(sources(100)), after: with(func(s *gateway.State) { s.Forwards[1].Sources, s.Forwards[1].SourcesDeny = nil, true })},
		{name: "an uplink appears", before: oneUplink, after: full()},
		{name: "an uplink disappears", before: full(), after: oneUplink},
		{name: "another gateway", before: full(), after: with(func(s *gateway.State) {
			s.Uplinks = []gateway.Uplink{uplink1, uplink2}
			s.Uplinks[1].Gateways = addrs("203.0.113.254", "fe80::2")
		})},
		{name: "one next hop less", before: full(), after: with(func(s *gateway.State) {
			s.ServiceRoutes = []gateway.ServiceRoute{{Destination: services.Destination, Via: services.Via[:1]}}
		})},
		{name: "no service routes", before: full(), after: with(func(s *gateway.State) { s.ServiceRoutes = nil })},
		{name: "one egress less", before: full(), after: with(func(s *gateway.State) { s.Egresses = s.Egresses[1:] })},
		{name: "one egress more", before: with(func(s *gateway.State) { s.Egresses = nil }), after: full()},
		{name: "another config", before: full(), after: with(func(s *gateway.State) {
			s.ClampMSS = true
			for i := range s.Forwards {
				s.Forwards[i].Masquerade = false
			}
		})},
		{name: "masquerade addresses appear", before: full(), after: with(func(s *gateway.State) { s.MasqueradeAddresses = shared })},
		{name: "masquerade addresses disappear", before: with(func(s *gateway.State) { s.MasqueradeAddresses = shared }), after: full()},
		{name: "other masquerade addresses", before: with(func(s *gateway.State) {
			s.MasqueradeAddresses, s.MasqueradePorts = shared, gateway.PortRange{First: 1024, Last: 65535}
		}), after: with(func(s *gateway.State) {
			s.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: addrs("10.10.0.101", "10.10.0.102", "10.10.0.103")}}
			s.MasqueradePorts = gateway.PortRange{First: 1024, Last: 65535}
		})},
		{name: "no IPv6 any more", before: full(), after: with(func(s *gateway.State) { s.Forwards, s.Egresses = s.Forwards[:3], s.Egresses[:1] })},
		{name: "nothing any more", before: full(), after: gateway.State{}},
		{name: "everything changes at once", before: limited(sources(100)), after: with(func(s *gateway.State) {
			many(s)
			s.Forwards = s.Forwards[2:]
			s.Uplinks = s.Uplinks[1:]
			s.Egresses, s.ServiceRoutes, s.ClampMSS = nil, nil, true
		})},
	}
}

// many adds Forwards, which makes the trees deeper.
func many(s *gateway.State) {
	var more []*gateway.Forward
	for i := range uint16(50) {
		f := forward("198.51.100.10", 9000+i*3, "10.244.2.2")
		if i%5 == 0 {
			f.Owner, f.Sources = "default/some", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		more = append(more, f)
	}
	s.Forwards = append(append(s.Forwards[:2:2], more...), s.Forwards[2:]...)
}

// kernelBefore returns the kernel before the change.
func (c change) kernelBefore(t *testing.T) *iptablestest.Kernel {
	t.Helper()
	if c.empty {
		return newKernel()
	}
	return fresh(t, c.before)
}

// TestCrashAtEveryWrite kills a process after each write of each change. Packets that both states forward must still be
// forwarded, and no packet may pass that both states stop. The next process must bring the kernel to either state as if nothing
// had happened.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			probes := probes(c.before, c.after)
			before := judge(look(t, options(c.kernelBefore(t))), probes)
			// Compare with a kernel that made the same change, because a change may leave traces that affect no packet.
			want := c.kernelBefore(t)
			apply(t, start(want), c.after)
			after := judge(look(t, options(want)), probes)
			crashes := 0
			for ; ; crashes++ {
				k := c.kernelBefore(t)
				killed, life := mortal(options(k), crashes)
				_, err := killed.Apply(t.Context(), c.after)
				if err != nil && !errors.Is(err, errCrashed) {
					t.Fatal(err)
				}
				when := fmt.Sprintf("killed after %q", life.done)
				expectBetween(t, when, before, after, judge(look(t, options(k)), probes))
				if crashes%2 == 0 && !c.empty { // The next process may start with an older snapshot.
					apply(t, start(k), c.before)
					expectSame(t, fresh(t, c.before), k)
				}
				apply(t, start(k), c.after)
				expectSame(t, want, k)
				if t.Failed() {
					t.Fatal(when)
				}
				if err == nil {
					break
				}
			}
			if crashes < 1 {
				t.Error("the change writes nothing, so no process was killed")
			}
			t.Logf("%d crashes, %d packets", crashes, len(probes))
		})
	}
}

// TestCrashAfterCrash expects that a process which is killed after each write and started again reaches the state, and is safe
// on the way.
func TestCrashAfterCrash(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			probes := probes(c.before, c.after)
			k := c.kernelBefore(t)
			before := judge(look(t, options(k)), probes)
			want := c.kernelBefore(t)
			apply(t, start(want), c.after)
			after := judge(look(t, options(want)), probes)
			n, life := 0, &life{}
			for ; n == 0 || len(life.done) > 0; n++ {
				var killed *dataplane.Dataplane
				// Allow two writes at times: if the process dies after half a set, the next one starts the set from the beginning.
				killed, life = mortal(options(k), 1+n%2)
				if _, err := killed.Apply(t.Context(), c.after); err != nil && !errors.Is(err, errCrashed) {
					t.Fatal(err)
				}
				expectBetween(t, fmt.Sprintf("after %d crashes, the last after %q", n+1, life.done), before, after, judge(look(t, options(k)), probes))
				const most = 200
				if n > most || t.Failed() {
					t.Fatalf("not done after %d crashes", n)
				}
			}
			apply(t, start(k), c.after)
			expectSame(t, want, k)
		})
	}
}

// TestCrashInCleanup expects that a cleanup which is killed opens no path, and that the next cleanup restores the host.
func TestCrashInCleanup(t *testing.T) {
	state := limited(sources(100))
	probes := probes(state)
	before := judge(look(t, options(fresh(t, state))), probes)
	after := judge(look(t, options(newKernel())), probes)
	for crashes := 0; ; crashes++ {
		k := fresh(t, state)
		killed, life := mortal(options(k), crashes)
		_, err := killed.Cleanup(t.Context())
		expectBetween(t, fmt.Sprintf("killed after %q", life.done), before, after, judge(look(t, options(k)), probes))
		if _, err := start(k).Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectSame(t, newKernel(), k)
		if err == nil {
			break
		}
	}
}

// TestCrashBeforeConnectionsAreCut expects that after a crash before EndStale, the next process checks all connections.
func TestCrashBeforeConnectionsAreCut(t *testing.T) {
	k := fresh(t, full())
	after := full()
	after.Forwards = after.Forwards[1:]
	killed, life := mortal(options(k), 1)
	if _, err := killed.Apply(t.Context(), after); !errors.Is(err, errCrashed) || len(life.done) != 1 {
		t.Fatalf("err = %v, killed after %q", err, life.done)
	}
	k.Conntrack.Calls, k.Conntrack.Stale = nil, 3
	result := apply(t, start(k), after)
	if len(k.Conntrack.Calls) != 1 || k.Conntrack.Calls[0].Since != nil || result.Connections != 3 {
		t.Errorf("%d connections ended, EndStale called with %v; want 3, and all connections checked", result.Connections, k.Conntrack.Calls)
	}
}
