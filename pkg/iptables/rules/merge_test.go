// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

func TestMerged(t *testing.T) {
	// two returns two adjacent ports, 80 and 81, that translate to ports of two endpoints.
	two := func(to80, to81 uint16, change func(x, y *gateway.Forward)) []*gateway.Forward {
		x := forward(gateway.IPv4, 1, gateway.TCP, 80, 80, backends(gateway.IPv4, 2, to80))
		y := forward(gateway.IPv4, 1, gateway.TCP, 81, 81, backends(gateway.IPv4, 2, to81))
		if change != nil {
			change(x, y)
		}
		return []*gateway.Forward{x, y}
	}
	for _, tc := range []struct {
		name     string
		forwards []*gateway.Forward
		want     string
	}{
		{"nothing", nil, ""},
		{"to one port", two(8080, 8080, nil), "80-81 to 8080"},
		{"to the same ports", two(80, 81, nil), "80-81 to 80 on"},
		{"to ports as they come", two(8080, 8081, nil), "80-81 to 8080 on"},
		{"to ports the other way round", two(8081, 8080, nil), "80 to 8081, 81 to 8080"},
		{"with a gap", two(8080, 8080, func(_, y *gateway.Forward) { y.Ports = gateway.Port(82) }), "80 to 8080, 82 to 8080"},
		{"of another Mapping", two(8080, 8080, func(_, y *gateway.Forward) { y.Owner = "default/other" }), "80 to 8080, 81 to 8080"},
		{"to other endpoints", two(8080, 8080, func(_, y *gateway.Forward) { y.Backends = backends(gateway.IPv4, 3, 8080)[1:] }), "80 to 8080, 81 to 8080"},
		{"to one endpoint less", two(8080, 8080, func(_, y *gateway.Forward) { y.Backends = y.Backends[1:] }), "80 to 8080, 81 to 8080"},
		{"without endpoints", two(8080, 8080, func(x, y *gateway.Forward) { x.Backends, y.Backends = nil, nil }), "80, 81"},
		{"for other sources", two(8080, 8080, func(_, y *gateway.Forward) { y.Sources = manySources(gateway.IPv4, 1) }), "80 to 8080, 81 to 8080"},
		{"for the same sources", two(8080, 8080, func(x, y *gateway.Forward) {
			x.Sources, y.Sources = manySources(gateway.IPv4, 2), manySources(gateway.IPv4, 2)
		}), "80-81 to 8080"},
		{"for no source", two(8080, 8080, func(_, y *gateway.Forward) { y.SourcesDeny = true }), "80 to 8080, 81 to 8080"},
		{"one keeps the client's address", two(8080, 8080, func(x, _ *gateway.Forward) { x.Masquerade = false }), "80 to 8080, 81 to 8080"},
		{"both keep it", two(8080, 8080, func(x, y *gateway.Forward) { x.Masquerade, y.Masquerade = false, false }), "80-81 to 8080"},
		{"both keep it, to the same ports", two(80, 81, func(x, y *gateway.Forward) { x.Masquerade, y.Masquerade = false, false }), "80-81 to 80 on"},
		{"both keep it, shifted", two(8080, 8081, func(x, y *gateway.Forward) { x.Masquerade, y.Masquerade = false, false }), "80 to 8080, 81 to 8081"},
		{"clients come back", two(8080, 8080, func(x, y *gateway.Forward) { x.Affinity, y.Affinity = time.Hour, time.Hour }), "80-81 to 8080"},
		{"clients come back within another time", two(8080, 8080, func(x, y *gateway.Forward) { x.Affinity, y.Affinity = time.Hour, time.Minute }), "80 to 8080, 81 to 8080"},
		{"clients come back to the only one", two(8080, 8080, func(x, y *gateway.Forward) {
			x.Affinity, y.Affinity, x.Backends, y.Backends = time.Hour, time.Hour, x.Backends[1:], y.Backends[1:]
		}), "80-81 to 8080"},
		{"a shifted range and its next port", two(8080, 8082, func(x, y *gateway.Forward) {
			x.Ports.Last, x.Shift, y.Ports = 81, true, gateway.Port(82)
		}), "80-82 to 8080 on"},
		{"a shifted range and another port", two(8080, 8080, func(x, y *gateway.Forward) {
			x.Ports.Last, x.Shift, y.Ports = 81, true, gateway.Port(82)
		}), "80-81 to 8080 on, 82 to 8080"},
		{"a range to one port and the port behind it", two(8080, 8082, func(x, y *gateway.Forward) {
			x.Ports.Last, y.Ports = 81, gateway.Port(82)
		}), "80-81 to 8080, 82 to 8082"},
		{"a port and a range to one port behind it", two(8080, 8081, func(_, y *gateway.Forward) { y.Ports.Last = 82 }), "80 to 8080, 81-82 to 8081"},
		{"a port and a shifted range to the same one", two(8080, 8080, func(_, y *gateway.Forward) { y.Ports.Last, y.Shift = 82, true }), "80 to 8080, 81-82 to 8080 on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ""
			for f := range merged(tc.forwards) {
				if got != "" {
					got += ", "
				}
				if got += f.Ports.String(); len(f.Backends) > 0 {
					got += fmt.Sprintf(" to %d", f.Backends[0].Port)
				}
				if f.Shift {
					got += " on"
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPacketsToNeighbours sends packets to ports that merge in many ways.
func TestPacketsToNeighbours(t *testing.T) {
	for seed := range uint64(4) {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 23))
				state := gateway.State{Uplinks: uplinks}
				for port := 1; port < 1500; {
					last := port + random.IntN(2)*random.IntN(3)
					to := uint16([]int{8000, port, 8000 + port}[random.IntN(3)*random.IntN(2)])
					f := forward(family, 1, gateway.TCP, uint16(port), uint16(last), backends(family, 1+random.IntN(2), to))
					f.Shift, f.Masquerade = random.IntN(2) == 0, random.IntN(4) > 0
					f.Sources = manySources(family, max(random.IntN(8)-5, 0))
					state.Forwards = append(state.Forwards, f)
					port = last + 1 + random.IntN(20)/19
				}
				rs := Build(state, family, options)
				check(t, rs)
				tracer := ruleset.NewTracer(rs)
				for port := range uint16(1500) {
					p := firstPacket(family, source(family, random.IntN(3)).Addr().Next(), external(family, 1), gateway.TCP, port)
					backend := random.IntN(2)
					judge(t, state, p, backend, false, tracer.Choosing(pick(backend)).Trace(p))
				}
			})
		}
	}
}
