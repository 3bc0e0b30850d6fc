// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

var lostConnections = describe("conntrack_lost_total",
	"Number of connections in this network namespace that the kernel dropped with their first packet, because no source port was free for masquerading or the conntrack table was full.")

// lost collects a counter of the kernel, or nothing if it cannot be read.
type lost func() (uint64, error)

// CountLost makes scrapes report the value that read returns.
func (m *Metrics) CountLost(read func() (uint64, error)) { m.registry.MustRegister(lost(read)) }

// Describe implements prometheus.Collector.
func (l lost) Describe(to chan<- *prometheus.Desc) { to <- lostConnections }

// Collect implements prometheus.Collector.
func (l lost) Collect(to chan<- prometheus.Metric) {
	if n, err := l(); err == nil {
		to <- prometheus.MustNewConstMetric(lostConnections, prometheus.CounterValue, float64(n))
	}
}
