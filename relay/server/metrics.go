// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	stdlog "log" //nolint:depguard // http.Server takes no other logger
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/smartnat/smartnat/relay/watchcache"
)

const namespace = "smartnat_relay"

// metrics are what an operator can see of a relay. None of them names a user, an address or an object.
type metrics struct {
	connections      prometheus.Gauge
	connectionsEnded *prometheus.CounterVec
	tlsErrors        prometheus.Counter
	requests         *prometheus.CounterVec
	duration         *prometheus.HistogramVec
	bytes            *prometheus.CounterVec
	watches          *prometheus.GaugeVec
	watchesRevoked   prometheus.Counter
	authentications  *prometheus.CounterVec
	rejections       *prometheus.CounterVec
	panics           prometheus.Counter
	upstreamEvents   *prometheus.CounterVec
	upstreamRequests *prometheus.CounterVec
	upstreamContact  *prometheus.GaugeVec
	eventsSent       *prometheus.CounterVec
	eventDelay       *prometheus.HistogramVec
	statusWrites     *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, cache *watchcache.Cache) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	m := &metrics{
		connections:      prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "connections", Help: "Open connections."}),
		connectionsEnded: counters("connections_ended_total", "Connections that were ended for want of room.", "reason"),
		tlsErrors:        counter("connection_errors_total", "Connections that failed, most of them in the handshake."),
		requests:         counters("requests_total", "Requests that were answered, watches when they end.", "verb", "resource", "code"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "request_duration_seconds", Help: "How long requests took, watches left out.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}, []string{"verb"}),
		bytes:            counters("response_bytes_total", "Bytes of answers, before TLS.", "verb", "resource"),
		watches:          gauges("watches", "Open watches.", "resource"),
		watchesRevoked:   counter("watches_revoked_total", "Watches that were ended because their user may not watch any more."),
		authentications:  counters("token_reviews_total", "Tokens that the cluster was asked about, or would have been.", "result"),
		rejections:       counters("rejections_total", "Requests that were refused before the API saw them.", "reason"),
		panics:           counter("panics_total", "Requests that failed by a defect of the relay."),
		upstreamEvents:   counters("upstream_events_total", "Events that the cluster sent, bookmarks among them.", "resource", "type"),
		upstreamRequests: counters("upstream_requests_total", "Lists and watches that the cluster was asked for.", "resource", "verb", "result"),
		upstreamContact:  gauges("upstream_last_event_timestamp_seconds", "When the cluster was last heard of.", "resource"),
		eventsSent:       counters("events_sent_total", "Events that watchers were sent, without those that a watch begins with and bookmarks.", "resource"),
		eventDelay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "event_delay_seconds", Help: "From the cluster's event to what a watcher was sent for it, the longest of what was sent at once.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}, []string{"resource"}),
		statusWrites: counters("status_writes_total", "Writes of the status of Mappings: conditions, and what gateways report.", "of", "result"),
	}
	registry.MustRegister(m.connections, m.connectionsEnded, m.tlsErrors, m.requests, m.duration, m.bytes, m.watches,
		m.watchesRevoked, m.authentications, m.rejections, m.panics, m.upstreamEvents, m.upstreamRequests, m.upstreamContact,
		m.eventsSent, m.eventDelay, m.statusWrites)
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "synced", Help: "1 when the relay has seen the whole cluster.",
		}, func() float64 { return oneIf(cache.HasSynced()) }))
	for name, resource := range map[string]*watchcache.Resource{
		"mappings": cache.Mappings(), "services": cache.Services(), "endpointslices": cache.EndpointSlices(),
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "objects", Help: "Objects that are shown.", ConstLabels: prometheus.Labels{"resource": name},
		}, func() float64 {
			if !cache.HasSynced() {
				return 0
			}
			return float64(resource.Len())
		}))
	}
	return m
}

// sent counts events that a watcher was sent.
func (m *metrics) sent(resource string, events int, delay time.Duration) {
	m.eventsSent.WithLabelValues(resource).Add(float64(events))
	m.eventDelay.WithLabelValues(resource).Observe(delay.Seconds())
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// known keeps the labels to words that are ours: a client must not make series by asking for what does not exist.
func known(resource string) string {
	switch resource {
	case "mappings", "services", "endpointslices":
		return resource
	}
	return ""
}

func knownVerb(verb string) string {
	switch verb {
	case "get", "list", "watch":
		return verb
	}
	return "other"
}

// metricsServer serves the metrics, without TLS and to everybody: it is for an address that only the cluster reaches.
func metricsServer(gatherer prometheus.Gatherer, log *stdlog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler: mux, ErrorLog: log, ReadTimeout: readHeaderTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
}
