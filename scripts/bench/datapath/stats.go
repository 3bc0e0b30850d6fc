// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// series are rates that were measured in turns: plain, tracked, mapped, plain, tracked, mapped, ... plain, tracked. Each
// mapped one is compared with those before and after it, so that what slows the machine for a while slows both sides.
type series struct {
	// Plain is by the host that only routes, Tracked by the one that also tracks connections.
	Plain   []float64 `json:"plain"`
	Tracked []float64 `json:"tracked"`
	// Mapped is by the gateway.
	Mapped []float64 `json:"mapped"`
}

// measurement is the same in two ways: by the clock, which is what users see, and by the processor time of the process,
// which does not mind what else the machine does.
type measurement struct {
	Clock     series `json:"clock"`
	Processor series `json:"processor"`
	// Failed counts connections that did not come to be.
	Failed int64 `json:"failed"`
}

// ratios compares each with the mean of its neighbours.
func ratios(mapped, base []float64) []float64 {
	var ratios []float64
	for i, m := range mapped {
		if i+1 < len(base) && base[i]+base[i+1] > 0 {
			ratios = append(ratios, m/((base[i]+base[i+1])/2))
		}
	}
	return ratios
}

// spread is a median, and the bounds between which half of the values lie.
type spread struct{ Median, Low, High float64 }

func spreadOf(values []float64) spread {
	return spread{quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)}
}

// summary is what a series comes to: median rates, and ratios of the gateway's.
type summary struct {
	Plain, Tracked, Mapped float64
	ToPlain, ToTracked     spread
}

func (s series) summary() summary {
	return summary{
		Plain: quantile(s.Plain, 0.5), Tracked: quantile(s.Tracked, 0.5), Mapped: quantile(s.Mapped, 0.5),
		ToPlain: spreadOf(ratios(s.Mapped, s.Plain)), ToTracked: spreadOf(ratios(s.Mapped, s.Tracked)),
	}
}

// more is how much processor time, in µs, one of what was counted costs more than by plain routing. The summary must be
// one by processor time.
func (s summary) more() float64 { return 1e6 * (1/s.ToPlain.Median - 1) / s.Plain }

// quantile interpolates between the values next to it; NaN when there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
