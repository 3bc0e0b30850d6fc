// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// TestKernelTracer expects that a Tracer models the rules that the kernel has now, whichever process wrote them, that Backends
// share connections evenly, and that reading changes nothing.
func TestKernelTracer(t *testing.T) {
	three := full()
	three.Forwards[0].Backends = forward("198.51.100.10", 8080, "10.244.1.2", "10.244.2.2", "10.244.3.2").Backends
	none := full()
	none.Forwards[0].Backends = nil
	halves := func(limited string) map[string]float64 {
		return map[string]float64{
			"192.0.2.9 8080: accept 10.244.1.2:8080": 0.5, "192.0.2.9 8080: accept 10.244.2.2:8080": 0.5,
			"10.0.250.9 8081: " + limited: 1, "2001:db8:c::9 8080: accept [fd00:244:1::2]:8080": 1,
		}
	}
	const third = 1.0 / 3
	onHosts(t, func(t *testing.T, h *host) {
		clean, d, reader := h.dump(t), h.start(), h.options()
		for _, step := range []struct {
			name  string
			state gateway.State
			want  map[string]float64
		}{
			{"nothing", gateway.State{}, map[string]float64{
				"192.0.2.9 8080: accept 198.51.100.10:8080": 1, "10.0.250.9 8081: accept 198.51.100.10:8081": 1,
				"2001:db8:c::9 8080: accept [2001:db8:1::10]:8080": 1,
			}},
			{"two backends", full(), halves("drop")},
			{"many sources, not the client", limited(sources(200)), halves("drop")},
			{"many sources, also the client", limited(sources(300)), halves("accept 10.244.1.2:8080")},
			{"three backends", three, map[string]float64{
				"192.0.2.9 8080: accept 10.244.1.2:8080": third, "192.0.2.9 8080: accept 10.244.2.2:8080": third,
				"192.0.2.9 8080: accept 10.244.3.2:8080": third,
				"10.0.250.9 8081: drop":                  1, "2001:db8:c::9 8080: accept [fd00:244:1::2]:8080": 1,
			}},
			{"no backend", none, map[string]float64{
				"192.0.2.9 8080: reject with tcp-reset": 1,
				"10.0.250.9 8081: drop":                 1, "2001:db8:c::9 8080: accept [fd00:244:1::2]:8080": 1,
			}},
		} {
			apply(t, d, step.state)
			before := h.dump(t)
			tracers := reader.tracers(t)
			got := shares(tracers[gateway.IPv4], "192.0.2.9", "198.51.100.10:8080")
			maps.Copy(got, shares(tracers[gateway.IPv4], "10.0.250.9", "198.51.100.10:8081"))
			maps.Copy(got, shares(tracers[gateway.IPv6], "2001:db8:c::9", "[2001:db8:1::10]:8080"))
			if diff := cmp.Diff(step.want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
			if diff := cmp.Diff(before, h.dump(t)); diff != "" {
				t.Errorf("%s: a Tracer changes the kernel (-before +after):\n%s", step.name, diff)
			}
		}
		h.cleanup(t, d, clean)
	})
}

// shares returns the probability of each outcome for the first packet of a connection that comes in by eth1.
func shares(tracer packet.Tracer, from, to string) map[string]float64 {
	frontend := netip.MustParseAddrPort(to)
	p := packet.Packet{
		In: "eth1", Protocol: gateway.TCP, State: packet.New, Direction: packet.Original, SYN: true,
		Source: netip.AddrPortFrom(addr(from), 40000), Destination: frontend,
		Route: func(destination netip.Addr, _ uint32) string {
			if destination == frontend.Addr() {
				return ""
			}
			return "eth0"
		},
	}
	all := map[string]float64{}
	for trace := range tracer.Outcomes(p) {
		outcome := string(trace.Verdict)
		switch trace.Verdict {
		case packet.Accept:
			outcome += " " + trace.Packet.Destination.String()
		case packet.Reject:
			outcome += " with " + trace.RejectWith
		}
		all[fmt.Sprintf("%s %d: %s", from, frontend.Port(), outcome)] += trace.Probability
	}
	return all
}

// TestTracerFails expects that a Tracer of half-read rules does not exist.
func TestTracerFails(t *testing.T) {
	for _, tc := range []struct{ step, want string }{
		{"IPv4 save", "reading the IPv4 tables: broken for the test"},
		{"observe sets", "reading the sets: broken for the test"},
	} {
		t.Run(tc.step, func(t *testing.T) {
			k := fresh(t, full())
			k.Fail = func(step string) error {
				if step == tc.step {
					return errors.New("broken for the test")
				}
				return nil
			}
			tracer, err := options(k).ruleset(nil).Tracer(t.Context(), gateway.IPv4)
			if tracer != nil || err == nil || err.Error() != tc.want {
				t.Errorf("tracer %v, err = %v; want %q", tracer, err, tc.want)
			}
		})
	}
}
