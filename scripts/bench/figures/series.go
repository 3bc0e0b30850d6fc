// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package figures computes statistics of benchmarks and formats them. It measures nothing.
package figures

import (
	"math"
	"slices"
)

// Series are rates measured in turns: plain, tracked, mapped, plain, tracked, mapped, ... plain, tracked. Each mapped rate is
// compared with those before and after it, so that a temporary slowdown of the machine affects both sides.
type Series struct {
	// Plain are the rates through the host that only routes, Tracked those through the host that also tracks connections.
	Plain   []float64 `json:"plain"`
	Tracked []float64 `json:"tracked"`
	// Mapped are the rates through the gateway.
	Mapped []float64 `json:"mapped"`
}

// Measurement is a series by two clocks: wall time, which users see, and the processor time of this process, which is
// independent of other load on the machine.
type Measurement struct {
	Clock     Series `json:"clock"`
	Processor Series `json:"processor"`
	// Failed is the number of connections that failed.
	Failed int64 `json:"failed"`
}

// Ratios returns each mapped rate divided by the mean of its neighbours in base.
func Ratios(mapped, base []float64) []float64 {
	var all []float64
	for i, m := range mapped {
		if i+1 < len(base) && base[i]+base[i+1] > 0 {
			all = append(all, m/((base[i]+base[i+1])/2))
		}
	}
	return all
}

// Spread is a median with the bounds of the middle half.
type Spread struct{ Median, Low, High float64 }

// SpreadOf returns the median and the quartiles of values.
func SpreadOf(values []float64) Spread {
	return Spread{Quantile(values, 0.5), Quantile(values, 0.25), Quantile(values, 0.75)}
}

// Summary is a series in brief: median rates, and the gateway's ratios.
type Summary struct {
	Plain, Tracked, Mapped float64
	ToPlain, ToTracked     Spread
}

// Summary computes the summary of s.
func (s Series) Summary() Summary {
	return Summary{
		Plain: Quantile(s.Plain, 0.5), Tracked: Quantile(s.Tracked, 0.5), Mapped: Quantile(s.Mapped, 0.5),
		ToPlain: SpreadOf(Ratios(s.Mapped, s.Plain)), ToTracked: SpreadOf(Ratios(s.Mapped, s.Tracked)),
	}
}

// More returns the additional processor time per operation, in µs, compared with plain routing. The summary must be one of
// processor time.
func (s Summary) More() float64 { return 1e6 * (1/s.ToPlain.Median - 1) / s.Plain }

// Quantile returns the q-quantile, interpolated between neighbours, or NaN if there are no values.
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
