// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// usage holds the resources in use at an instant, by name ("smartnatd RSS, MB"). Unknown values are missing.
type usage struct {
	At     time.Time
	Values map[string]float64
}

// growth bounds the use of resources, in two ways.
type growth struct {
	// Share and Extra are how much more than at the start may be used at any time: a share of the start plus a constant.
	Share float64
	Extra map[string]float64
	// Slope, if not 0, bounds the growth in the second half of a run, by a straight line through its samples, as a share of their
	// mean.
	Slope float64
}

// slack is the increase that does not count as growth.
func (g growth) slack(name string) float64 {
	if extra, found := g.Extra[name]; found {
		return extra
	}
	return 0
}

func (g growth) judge(samples []usage) []string {
	if len(samples) == 0 {
		return nil
	}
	var faults []string
	first := samples[0]
	for _, name := range slices.Sorted(maps.Keys(first.Values)) {
		bound := first.Values[name]*(1+g.Share) + g.slack(name)
		most, at := first.Values[name], first.At
		for _, s := range samples {
			if v, known := s.Values[name]; known && v > most {
				most, at = v, s.At
			}
		}
		if most > bound {
			faults = append(faults, fmt.Sprintf("%s grew from %.0f to %.0f within %v, more than %.0f",
				name, first.Values[name], most, at.Sub(first.At).Round(time.Second), bound))
		}
		if rise, middle := rise(samples[len(samples)/2:], name); g.Slope > 0 && rise > middle*g.Slope+g.slack(name)/2 {
			faults = append(faults, fmt.Sprintf("%s is still growing: by %.1f over the second half, at %.0f", name, rise, middle))
		}
	}
	return faults
}

// rise returns how much the line that fits the samples best (least squares) rises from the first to the last of them, and their
// mean.
func rise(samples []usage, name string) (rise, mean float64) {
	var n, sumX, sumY, sumXX, sumXY, last float64
	for _, s := range samples {
		y, known := s.Values[name]
		if !known {
			continue
		}
		x := s.At.Sub(samples[0].At).Seconds()
		n, sumX, sumY, sumXX, sumXY, last = n+1, sumX+x, sumY+y, sumXX+x*x, sumXY+x*y, x
	}
	spread := n*sumXX - sumX*sumX
	if n < 3 || spread <= 0 {
		return 0, 0
	}
	return (n*sumXY - sumX*sumY) / spread * last, sumY / n
}
