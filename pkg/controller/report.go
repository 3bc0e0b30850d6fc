// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"math"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/dataplane"
)

// stages say where the time went from an event until the kernel had it.
type stages struct {
	waited, observe, calc, apply, total time.Duration
}

// report tells what was done, and at debug level how long each part of it took.
func (c *Controller) report(taken event, result dataplane.Result, took stages) {
	for _, repair := range result.Repaired {
		c.Log.WithFields(logrus.Fields{"kind": repair.Kind, "missing": repair.Missing}).Warn("somebody else changed what was programmed: repaired")
	}
	if !result.Empty() {
		c.Log.WithFields(logrus.Fields{
			"changes":  result.String(),
			"took":     took.apply.Round(time.Millisecond),
			"forwards": len(c.state.Forwards),
		}).Info("programmed")
	}
	c.Log.WithFields(logrus.Fields{
		"event":   taken.since.UTC().Format(time.RFC3339Nano),
		"reason":  taken.reasons.String(),
		"waited":  milliseconds(took.waited),
		"observe": milliseconds(took.observe + result.Took.Observe),
		"calc":    milliseconds(took.calc),
		"build":   milliseconds(result.Took.Build),
		"diff":    milliseconds(result.Took.Diff),
		"restore": milliseconds(result.Took.Restore),
		"cut":     milliseconds(result.Took.Cut),
		"total":   milliseconds(took.total),
	}).Debug("applied")
}

// milliseconds has three decimals.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
