// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/figures"
)

// summarize computes the statistics of the delays of each write by watcher.
func (w *Watched) summarize(writes []write, delays [][]float64, want int) {
	var all, slowest []float64
	for i, of := range delays {
		w.Written = append(w.Written, milliseconds(writes[i].answered.Sub(writes[i].sent)))
		all = append(all, of...)
		if len(of) > 0 {
			slowest = append(slowest, slices.Max(of))
		}
	}
	w.Median, w.P99, w.Last = figures.Quantile(all, 0.5), figures.Quantile(all, 0.99), figures.Quantile(all, 1)
	w.Slowest = figures.Quantile(slowest, 0.5)
	w.Missing = want - len(all)
}

// summarize computes the statistics of the times when watchers were synced again.
func (s *Storm) summarize(killed time.Time, synced []time.Time) {
	var all []float64
	for _, at := range synced {
		all = append(all, at.Sub(killed).Seconds())
	}
	s.Median, s.P99, s.Last = figures.Quantile(all, 0.5), figures.Quantile(all, 0.99), figures.Quantile(all, 1)
}

func latest(times []time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
