// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// stages are the durations of the steps from an event to the write to the kernel.
type stages struct {
	waited, observe, calc, apply, total time.Duration
}

// logApply logs what was written and, at debug level, how long each stage took.
func (c *Controller) logApply(taken event, applied gateway.State, result dataplane.Result, took stages) {
	for _, repair := range result.Repaired {
		c.Log.WithFields(logrus.Fields{"kind": repair.Kind, "missing": repair.Missing}).Warn("repaired external modification")
	}
	if err := result.NotPermitted; err != nil && c.notPermitted.Changed(err) {
		c.Log.WithError(err).Warn("cannot set kernel parameters, traffic may not be counted")
	}
	if !result.Empty() {
		fields := logrus.Fields{
			"changes":  result.String(),
			"took":     took.apply.Round(time.Millisecond),
			"forwards": len(c.state.Forwards),
		}
		if changed := changedOwners(c.reported, applied); changed != "" {
			fields["mappings"] = changed
		}
		c.reported = applied
		c.Log.WithFields(fields).Info("programmed")
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

// maxOwners is the maximum number of Mappings that a log line names.
const maxOwners = 5

// changedOwners lists the Mappings that differ between two States.
func changedOwners(old, current gateway.State) string {
	changed := map[string]struct{}{}
	for was, is := range gateway.DifferingForwards(old.Forwards, current.Forwards) {
		addDiffering(changed, was, is, gateway.EqualForwards, func(f *gateway.Forward) string { return f.Owner })
	}
	for was, is := range delta.Join(old.Egresses, current.Egresses, func(a, b gateway.Egress) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
	}) {
		addDiffering(changed, was, is, func(a, b *gateway.Egress) bool { return reflect.DeepEqual(a, b) }, func(e *gateway.Egress) string { return e.Owner })
	}
	names := slices.Sorted(maps.Keys(changed))
	if len(names) > maxOwners {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxOwners], ", "), len(names)-maxOwners)
	}
	return strings.Join(names, ", ")
}

// addDiffering adds the owners of both, unless they are equal. One may be nil.
func addDiffering[T any](changed map[string]struct{}, was, is *T, equal func(a, b *T) bool, owner func(*T) string) {
	if was != nil && is != nil && equal(was, is) {
		return
	}
	for _, t := range []*T{was, is} {
		if t != nil {
			changed[owner(t)] = struct{}{}
		}
	}
}

// milliseconds converts d, rounded to three decimals.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
