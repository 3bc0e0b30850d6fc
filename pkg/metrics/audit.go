// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/pkg/audit"
)

// newAudited returns the counter of audit Records, with all that it may count.
func newAudited() *prometheus.CounterVec {
	audited := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "audit_records_total",
		Help: "Number of frontends that were opened, changed, closed or refused since the first apply, by result and reason.",
	}, []string{"result", "reason"})
	for _, k := range audit.Kinds() {
		audited.WithLabelValues(string(k.Result), k.Reason)
	}
	return audited
}

// Audited counts a Record.
func (m *Metrics) Audited(r audit.Record) {
	m.audited.WithLabelValues(string(r.Result), r.Reason).Inc()
}

// CountAudit makes scrapes report how many lines of the audit trail were left out.
func (m *Metrics) CountAudit(lost func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "audit_lines_lost_total", Help: "Number of lines that the audit trail left out, because too many waited.",
	}, func() float64 { return float64(lost()) }))
}
