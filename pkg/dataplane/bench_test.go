// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// dense returns a state that fills one address after the other with ports up to 65,535. Each port has three endpoints, each
// Mapping ten ports.
func dense(ports int) gateway.State {
	state := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	address, endpoint := addr("198.51.100.10"), addr("10.244.0.0")
	for i := range ports {
		if i > 0 && i%65_535 == 0 {
			address = address.Next()
		}
		f := &gateway.Forward{
			Frontend: gateway.Frontend{Address: address, Protocol: gateway.TCP, Ports: gateway.Port(uint16(1 + i%65_535))},
			Owner:    fmt.Sprintf("default/echo-%d", i/10), Masquerade: true, Direct: true,
		}
		for range 3 {
			endpoint = endpoint.Next()
			f.Backends = append(f.Backends, gateway.Backend{Address: endpoint, Port: 8080})
		}
		state.Forwards = append(state.Forwards, f)
	}
	return state
}

// oneEndpointLess removes an endpoint as a Calculator does: the new state shares everything else with the old one.
func oneEndpointLess(state gateway.State, port int) gateway.State {
	forwards := append([]*gateway.Forward(nil), state.Forwards...)
	less := *forwards[port]
	less.Backends = less.Backends[1:]
	forwards[port] = &less
	state.Forwards = forwards
	return state
}

// instant is a kernel whose calls take no time.
type instant struct {
	families []gateway.Family
	text     []byte
}

func (i *instant) Families() []gateway.Family { return i.families }
func (*instant) Save(_ context.Context, family gateway.Family) (ruleset.Ruleset, error) {
	return ruleset.Ruleset{Family: family}, nil
}
func (i *instant) Restore(_ context.Context, batch ruleset.Batch) (err error) {
	i.text, err = batch.AppendText(i.text[:0])
	return err
}
func (*instant) Watch(context.Context, func()) error   { return nil }
func (*instant) Stamp(gateway.Family) (uint64, error)  { return 0, nil }
func (*instant) Digest(gateway.Family) (uint64, error) { return 0, nil }
func (*instant) IsOnlyWrite(uint64, uint64, int) bool  { return false }

func (*instant) EndStale(context.Context, *gateway.State, gateway.State) (int, error) { return 0, nil }
func (*instant) Pending() bool                                                        { return false }

// BenchmarkApply measures adding and removing an endpoint, without the calls of the kernel.
func BenchmarkApply(b *testing.B) {
	for _, ports := range []int{100, 1_000, 10_000, 30_000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			tables := &instant{families: []gateway.Family{gateway.IPv4, gateway.IPv6}}
			k := newKernel()
			opts := options(k)
			opts.Program, opts.Conntrack = tables, tables
			d := opts.dataplane()
			state := dense(ports)
			other := oneEndpointLess(state, ports/2)
			for _, s := range []gateway.State{state, other, state} {
				if _, err := d.Apply(b.Context(), s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			var took dataplane.Took
			n := 0
			for b.Loop() {
				s := other
				if n%2 == 1 {
					s = state
				}
				result, err := d.Apply(b.Context(), s)
				if err != nil || result.Writes != 1 {
					b.Fatalf("%s: %v", result, err)
				}
				took.Build += result.Took.Build
				took.Diff += result.Took.Diff
				n++
			}
			b.ReportMetric(float64(took.Build.Nanoseconds())/float64(n), "ns/build")
			b.ReportMetric(float64(took.Diff.Nanoseconds())/float64(n), "ns/diff")
		})
	}
}
