// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// CountFlowLog makes scrapes report how many connections the flow log has taken, and how often some are missing.
func (m *Metrics) CountFlowLog(written, losses func() uint64) {
	counter := func(name, help string, read func() uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return float64(read()) }))
	}
	counter("flow_log_connections_total", "Number of ended connections written to the flow log.", written)
	counter("flow_log_losses_total",
		"Number of times when ended connections are missing in the flow log, because it could not keep up, could not be written, or did not run.", losses)
}
