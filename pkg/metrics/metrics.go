// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/meter"
)

const namespace = "smartnat"

// Values of the label result.
const (
	changed   = "changed"
	unchanged = "unchanged"
	success   = "success"
	failure   = "error"
)

// Metrics counts what callers report. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	applies         *prometheus.CounterVec
	applyDuration   prometheus.Histogram
	lastApply       prometheus.Gauge
	repairs         *prometheus.CounterVec
	connectionsCut  prometheus.Counter
	restores        *prometheus.CounterVec
	restoreDuration prometheus.Histogram
	snapshotWrites  *prometheus.CounterVec
	audited         *prometheus.CounterVec
	sourcePorts     prometheus.Gauge
	portsLow        prometheus.Gauge
	report          atomic.Pointer[finding.Report]
	// traffic is nil if it is not counted.
	traffic func() meter.Reading
}

// New returns Metrics that read the status on each scrape.
func New(version string, status StatusReader) *Metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	// The buckets range from 1 ms to about 33 s.
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		})
	}
	m := &Metrics{
		registry:      prometheus.NewRegistry(),
		applies:       counters("applies_total", "Number of applies of the desired state to the kernel, by result.", "result"),
		applyDuration: seconds("apply_duration_seconds", "Duration of computing the desired state and applying it to the kernel."),
		lastApply: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "last_successful_apply_timestamp_seconds",
			Help: "Time when the kernel last matched the desired state; in normal operation it advances at least once per resync interval.",
		}),
		repairs: counters("repairs_total", "Number of external modifications repaired, by kind of object.", "kind"),
		connectionsCut: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "conntrack_entries_cut_total", Help: "Number of conntrack entries deleted because their connections are no longer wanted.",
		}),
		restores:        counters("iptables_restores_total", "Number of iptables-restore runs, by address family and result.", "family", "result"),
		restoreDuration: seconds("iptables_restore_duration_seconds", "Duration of iptables-restore runs."),
		snapshotWrites:  counters("snapshot_writes_total", "Number of writes of the object snapshot for the next boot, by result.", "result"),
		audited:         newAudited(),
	}
	m.sourcePorts = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "masquerade_source_ports_used_ratio",
		Help: "Share of the source ports for masquerading in use to the most used backend; at 1, the kernel drops new connections to it.",
	})
	m.portsLow = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "masquerade_backends_low_on_source_ports",
		Help: "Number of backends with 80 % or more of the source ports for masquerading in use; findings of Mappings name them.",
	})
	for _, result := range []string{changed, unchanged, failure} {
		m.applies.WithLabelValues(result)
	}
	for _, kind := range dataplane.Kinds() {
		m.repairs.WithLabelValues(string(kind))
	}
	for _, result := range []string{success, failure} {
		m.snapshotWrites.WithLabelValues(result)
	}
	m.registry.MustRegister(m.applies, m.applyDuration, m.lastApply, m.repairs, m.connectionsCut, m.restores, m.restoreDuration,
		m.snapshotWrites, m.audited, m.sourcePorts, m.portsLow, &scrape{status: status, report: &m.report, version: version},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// PortsCounted records the use of source ports.
func (m *Metrics) PortsCounted(use controller.PortUse) {
	m.sourcePorts.Set(use.Fullest)
	m.portsLow.Set(float64(use.Short))
}

// Applied counts the outcome of an apply.
func (m *Metrics) Applied(o controller.Outcome, now time.Time) {
	for _, r := range o.Result.Repaired {
		m.repairs.WithLabelValues(string(r.Kind)).Inc()
	}
	m.connectionsCut.Add(float64(o.Result.Connections))
	if o.Report != nil {
		m.report.Store(o.Report)
	}
	if errors.Is(o.Err, context.Canceled) {
		return // smartnatd is stopping
	}
	m.applyDuration.Observe(o.Took.Seconds())
	switch {
	case o.Err != nil:
		m.applies.WithLabelValues(failure).Inc()
		return
	case o.Result.Empty():
		m.applies.WithLabelValues(unchanged).Inc()
	default:
		m.applies.WithLabelValues(changed).Inc()
	}
	m.lastApply.Set(timestamp(now))
}

// timestamp returns t in Unix seconds, or 0 for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}
