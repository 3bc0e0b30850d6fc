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
	"github.com/smartnat/smartnat/pkg/status"
)

const namespace = "smartnat"

// The values of the label result.
const (
	changed   = "changed"
	unchanged = "unchanged"
	success   = "success"
	failure   = "error"
)

// Metrics counts what it is told. It is safe for several goroutines.
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
	facts           atomic.Pointer[status.Facts]
}

// New returns Metrics which ask the gateway at each scrape.
func New(version string, gateway Gateway) *Metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	// From a millisecond to half a minute.
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		})
	}
	m := &Metrics{
		registry:      prometheus.NewRegistry(),
		applies:       counters("applies_total", "Times that the kernel was compared with what is wanted: it was changed, found right, or not all could be done.", "result"),
		applyDuration: seconds("apply_duration_seconds", "How long it took to compute what is wanted and to bring the kernel there."),
		lastApply: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "last_successful_apply_timestamp_seconds",
			Help: "When the kernel was last brought to, or found to hold, all that is wanted; the config's resync is the longest time between two.",
		}),
		repairs: counters("repairs_total", "Things that somebody else had removed or changed since smartnatd wrote them, and that were put back.", "kind"),
		connectionsCut: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "conntrack_entries_cut_total", Help: "Connections that were ended because they are not wanted any more.",
		}),
		restores:        counters("iptables_restores_total", "Batches that were given to iptables-restore.", "family", "result"),
		restoreDuration: seconds("iptables_restore_duration_seconds", "How long iptables-restore took."),
		snapshotWrites:  counters("snapshot_writes_total", "Times that the known objects were saved for the next boot.", "result"),
	}
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
		m.snapshotWrites, &scrape{gateway: gateway, facts: &m.facts, version: version},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// Applied takes what came of an apply.
func (m *Metrics) Applied(o controller.Outcome, now time.Time) {
	for _, r := range o.Result.Repaired {
		m.repairs.WithLabelValues(string(r.Kind)).Inc()
	}
	m.connectionsCut.Add(float64(o.Result.Connections))
	if o.Facts != nil {
		m.facts.Store(o.Facts)
	}
	if errors.Is(o.Err, context.Canceled) {
		return // It was not let finish.
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

// timestamp is as Prometheus has it, and 0 for a time that never was.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}
