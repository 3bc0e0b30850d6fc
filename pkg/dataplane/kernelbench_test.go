// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

var kernelPorts = flag.Int("kernel.ports", 10_000, "how many ports BenchmarkKernel programs")

// BenchmarkKernel measures, in milliseconds, bringing the real kernel to a State: everything, one endpoint, no change, a
// restart, and a verification.
func BenchmarkKernel(b *testing.B) {
	states := map[string]gateway.State{
		fmt.Sprintf("ports=%d", *kernelPorts): dense(*kernelPorts),
		"endpoints=1000":                      crowded(1000),
	}
	for _, row := range backends {
		for name, state := range states {
			b.Run(row.name+"/"+name, func(b *testing.B) {
				testenv.NewNetNS(b)
				h := newHost(b, row.new(b))
				for b.Loop() {
					d := h.start()
					report(b, "full", d, state)
					for port := range 5 {
						report(b, "endpoint", d, oneEndpointLess(state, port*len(state.Forwards)/5))
					}
					report(b, "back", d, state)
					report(b, "nothing", d, state)
					d.Verify()
					report(b, "verify", d, state)
					d.Verify()
					report(b, "again", d, state)
					report(b, "restart", h.start(), state)
					if _, err := d.Cleanup(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// crowded returns a state with one port that has this number of endpoints.
func crowded(endpoints int) gateway.State {
	state := dense(1)
	state.Uplinks = nil
	backends := make([]gateway.Backend, endpoints)
	for i := range backends {
		backends[i] = gateway.Backend{Address: netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), Port: 8080}
	}
	state.Forwards[0].Backends = backends
	return state
}

func report(b *testing.B, what string, d *dataplane.Dataplane, state gateway.State) {
	b.Helper()
	state.Uplinks = nil // there are no links
	began := time.Now()
	result, err := d.Apply(b.Context(), state)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms-"+what)
	if what == "full" {
		b.Logf("%s: %s; %+v", what, result, result.Took)
	}
	if what == "endpoint" {
		b.Logf("%s: %s; %+v", what, result, result.Took)
	}
}
