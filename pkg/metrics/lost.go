// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

var lostConnections = describe("conntrack_lost_total",
	"Connections of this host and network namespace that the kernel dropped with their first packet: no source port was free for the masquerade, or conntrack's table was full.")

// lost collects a counter of the kernel's, and nothing where it cannot be read.
type lost func() (uint64, error)

// CountLost has scrapes say what is read.
func (m *Metrics) CountLost(read func() (uint64, error)) { m.registry.MustRegister(lost(read)) }

// Describe implements prometheus.Collector.
func (l lost) Describe(to chan<- *prometheus.Desc) { to <- lostConnections }

// Collect implements prometheus.Collector.
func (l lost) Collect(to chan<- prometheus.Metric) {
	if n, err := l(); err == nil {
		to <- prometheus.MustNewConstMetric(lostConnections, prometheus.CounterValue, float64(n))
	}
}
