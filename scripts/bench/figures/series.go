// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package figures is arithmetic on what benchmarks measured, and the words for it. It measures nothing.
package figures

import (
	"math"
	"slices"
)

// Series are rates that were measured in turns: plain, tracked, mapped, plain, tracked, mapped, ... plain, tracked. Each
// mapped one is compared with those before and after it, so that what slows the machine for a while slows both sides.
type Series struct {
	// Plain is by the host that only routes, Tracked by the one that also tracks connections.
	Plain   []float64 `json:"plain"`
	Tracked []float64 `json:"tracked"`
	// Mapped is by the gateway.
	Mapped []float64 `json:"mapped"`
}

// Measurement is the same in two ways: by the clock, which is what users see, and by the processor time of the process,
// which does not mind what else the machine does.
type Measurement struct {
	Clock     Series `json:"clock"`
	Processor Series `json:"processor"`
	// Failed counts connections that did not come to be.
	Failed int64 `json:"failed"`
}

// Ratios compares each with the mean of its neighbours.
func Ratios(mapped, base []float64) []float64 {
	var all []float64
	for i, m := range mapped {
		if i+1 < len(base) && base[i]+base[i+1] > 0 {
			all = append(all, m/((base[i]+base[i+1])/2))
		}
	}
	return all
}

// Spread is a median, and the bounds between which half of the values lie.
type Spread struct{ Median, Low, High float64 }

// SpreadOf are the median and the middle half of values.
func SpreadOf(values []float64) Spread {
	return Spread{Quantile(values, 0.5), Quantile(values, 0.25), Quantile(values, 0.75)}
}

// Summary is what a series comes to: median rates, and ratios of the gateway's.
type Summary struct {
	Plain, Tracked, Mapped float64
	ToPlain, ToTracked     Spread
}

// Summary is the series in short.
func (s Series) Summary() Summary {
	return Summary{
		Plain: Quantile(s.Plain, 0.5), Tracked: Quantile(s.Tracked, 0.5), Mapped: Quantile(s.Mapped, 0.5),
		ToPlain: SpreadOf(Ratios(s.Mapped, s.Plain)), ToTracked: SpreadOf(Ratios(s.Mapped, s.Tracked)),
	}
}

// More is how much processor time, in µs, one of what was counted costs more than by plain routing. The summary must be
// one by processor time.
func (s Summary) More() float64 { return 1e6 * (1/s.ToPlain.Median - 1) / s.Plain }

// Quantile interpolates between the values next to it; NaN when there are none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
