// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// BenchmarkStart measures what a start computes for a kernel without a table.
func BenchmarkStart(b *testing.B) {
	for _, ports := range []int{100, 10_000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			var forwards []*gateway.Forward
			for i := range ports {
				f := forward(gateway.IPv4, 1+i/60_000, gateway.TCP, uint16(1+i%60_000), uint16(1+i%60_000), backends(gateway.IPv4, 3, 8080))
				forwards = append(forwards, with(f, func(f *gateway.Forward) { f.Masquerade = true }))
			}
			state := stateOf(forwards...)
			b.ReportAllocs()
			for b.Loop() {
				table := NewBuilder(gateway.IPv4, gateway.DefaultOwnership()).Start(state)
				steps := Steps(ruleset.Diff(ruleset.Table{Family: gateway.IPv4}, table))
				if len(steps) == 0 {
					b.Fatal("nothing to write")
				}
			}
		})
	}
}
