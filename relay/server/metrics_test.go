// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"
)

// count returns the sum of a metric over the series with all the given labels (name=value).
func (c *Config) count(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := c.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != namespace+"_"+name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var have []string
			for _, pair := range metric.GetLabel() {
				have = append(have, pair.GetName()+"="+pair.GetValue())
			}
			all := true
			for _, label := range labels {
				all = all && strings.Contains(" "+strings.Join(have, " ")+" ", " "+label+" ")
			}
			if all {
				sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// observations returns the number of observations of a histogram over all series.
func (c *Config) observations(t *testing.T, name string) (n uint64) {
	t.Helper()
	families, err := c.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == namespace+"_"+name {
			for _, metric := range family.GetMetric() {
				n += metric.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}
