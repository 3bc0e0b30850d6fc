// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// manyForwards returns a report with Mappings of ten ports.
func manyForwards(mappings int) finding.Report {
	many := map[string][]string{}
	for i := range mappings {
		many[fmt.Sprint("m", i)] = []string{"192.0.2.1"}
	}
	f := facts(many)
	for i := range 10 * mappings {
		f.State.Forwards = append(f.State.Forwards, &gateway.Forward{
			Owner: fmt.Sprint("shop/m", i/10), Direct: true, Backends: make([]gateway.Backend, 3),
			Frontend: gateway.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Protocol: gateway.TCP, Ports: gateway.Port(uint16(1 + i))},
		})
	}
	return f
}

// BenchmarkDigest measures the cost of the status for a gateway, at most once a second during changes: a thousand Mappings of
// ten ports, one of which has other endpoints.
func BenchmarkDigest(b *testing.B) {
	f := manyForwards(1000)
	other := f
	other.State.Forwards = slices.Clone(f.State.Forwards)
	moved := *f.State.Forwards[5]
	other.State.Forwards[5] = &moved
	r := New(Options{Instance: "gw1"})
	r.have, r.known = entries("gw1", nil, f), true
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Report([]finding.Report{f, other}[i%2])
		if !r.digest(time.Now()) || r.queue.Len() != 1 {
			b.Fatal("something changed")
		}
	}
}
