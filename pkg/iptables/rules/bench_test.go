// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// shapes are arrangements of many ports: adjacent ports with a destination each, and Mappings of ten ports with the same
// endpoints.
var shapes = []struct {
	name  string
	state func(ports int) gateway.State
}{
	{"apart", dense},
	{"tens", tens},
}

var sizes = []int{10, 1000, 10000, 30000}

func each(b *testing.B, run func(b *testing.B, state gateway.State)) {
	for _, shape := range shapes {
		for _, n := range sizes {
			b.Run(fmt.Sprintf("%s/ports=%d", shape.name, n), func(b *testing.B) {
				b.ReportAllocs()
				run(b, shape.state(n))
			})
		}
	}
}

// lessOne returns the state without one endpoint of ten ports in its middle. As in calc, it shares the rest.
func lessOne(state gateway.State) gateway.State {
	state.Forwards = slices.Clone(state.Forwards)
	middle := len(state.Forwards) / 20 * 10
	changed := gatewaytest.Copies(state.Forwards[middle : middle+10])
	for _, f := range changed {
		f.Backends = f.Backends[1:]
	}
	copy(state.Forwards[middle:], changed)
	return state
}

func BenchmarkBuild(b *testing.B) {
	each(b, func(b *testing.B, state gateway.State) {
		for b.Loop() {
			Build(state, gateway.IPv4, options)
		}
	})
}

func BenchmarkBuildOneEndpoint(b *testing.B) {
	each(b, func(b *testing.B, state gateway.State) {
		builder := NewBuilder(gateway.IPv4, options)
		states := [2]gateway.State{state, lessOne(state)}
		builder.Build(state)
		for i := 1; b.Loop(); i++ {
			builder.Build(states[i%2])
		}
	})
}

func BenchmarkDiff(b *testing.B) {
	each(b, func(b *testing.B, state gateway.State) {
		have, want := Build(state, gateway.IPv4, options), Build(state, gateway.IPv4, options)
		for b.Loop() {
			if batch := ruleset.Diff(have, want, options.Ownership.ChainPrefix); !batch.Empty() {
				b.Fatal("not equal")
			}
		}
	})
}

func BenchmarkDiffOneEndpoint(b *testing.B) {
	each(b, func(b *testing.B, state gateway.State) {
		builder := NewBuilder(gateway.IPv4, options)
		have, want := builder.Build(state), builder.Build(lessOne(state))
		var text []byte
		for b.Loop() {
			text, _ = ruleset.Diff(have, want, options.Ownership.ChainPrefix).AppendText(text[:0])
		}
		b.ReportMetric(float64(len(text)), "text-B")
	})
}

func BenchmarkRender(b *testing.B) {
	each(b, func(b *testing.B, state gateway.State) {
		batch := ruleset.Diff(ruleset.Ruleset{}, Build(state, gateway.IPv4, options), options.Ownership.ChainPrefix)
		var text []byte
		for b.Loop() {
			text, _ = batch.AppendText(text[:0])
		}
		b.ReportMetric(float64(len(text)), "text-B")
	})
}

// TestAllocationsFollowTheChange compares the allocations for one endpoint among many ports and among few, because garbage
// determines how often the collector runs. Only the list of the table's chains is copied, 8 bytes for each.
func TestAllocationsFollowTheChange(t *testing.T) {
	for _, shape := range shapes {
		for _, n := range []int{1000, 10000, 30000} {
			t.Run(fmt.Sprintf("%s/%d", shape.name, n), func(t *testing.T) {
				builder := NewBuilder(gateway.IPv4, options)
				states := []gateway.State{shape.state(n)}
				states = append(states, lessOne(states[0]))
				have := builder.Build(states[0])
				var text []byte
				i := 0
				change := func() {
					i++
					want := builder.Build(states[i%2])
					text, _ = ruleset.Diff(have, want, options.Ownership.ChainPrefix).AppendText(text[:0])
					have = want
				}
				if got := testing.AllocsPerRun(10, change); got > 200 || len(text) == 0 {
					t.Errorf("%.0f allocations for %d bytes of rules", got, len(text))
				}
				chains := len(have.Tables[2].Chains)
				if got, most := bytesPerRun(10, change), 24_000+10*chains; got > most {
					t.Errorf("%d bytes allocated for %d bytes of rules among %d chains, want at most %d", got, len(text), chains, most)
				}
			})
		}
	}
}

// bytesPerRun is testing.AllocsPerRun for bytes.
func bytesPerRun(runs int, f func()) int {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc-before.TotalAlloc) / runs
}
