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
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/smartnat/smartnat/relay/watchcache"
)

const namespace = "smartnat_relay"

// metrics are the metrics of a relay. No label holds a user, an address or the name of an object.
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

	// resources are the names of the resources that exist.
	resources sets.Set[string]
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
		resources:        sets.New[string](),
		connections:      prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "connections", Help: "Number of open connections."}),
		connectionsEnded: counters("connections_ended_total", "Number of connections closed because of a connection limit, by reason.", "reason"),
		tlsErrors:        counter("connection_errors_total", "Number of failed connections, most of them in the TLS handshake."),
		requests:         counters("requests_total", "Number of requests served, by verb, resource and code. Watches count when they end.", "verb", "resource", "code"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "request_duration_seconds", Help: "Latency of requests in seconds, by verb, without watches.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}, []string{"verb"}),
		bytes:            counters("response_bytes_total", "Number of response bytes before TLS, by verb and resource.", "verb", "resource"),
		watches:          gauges("watches", "Number of open watches, by resource.", "resource"),
		watchesRevoked:   counter("watches_revoked_total", "Number of watches ended because their user lost access."),
		authentications:  counters("token_reviews_total", "Number of token reviews, including those that were rate limited, by result.", "result"),
		rejections:       counters("rejections_total", "Number of requests refused before the API served them, by reason.", "reason"),
		panics:           counter("panics_total", "Number of panics recovered in requests."),
		upstreamEvents:   counters("upstream_events_total", "Number of watch events from the API server, including bookmarks, by resource and type.", "resource", "type"),
		upstreamRequests: counters("upstream_requests_total", "Number of lists and watches sent to the API server, by resource, verb and result.", "resource", "verb", "result"),
		upstreamContact:  gauges("upstream_last_event_timestamp_seconds", "Unix time of the last response or event from the API server, by resource.", "resource"),
		eventsSent:       counters("events_sent_total", "Number of events sent to watchers, without initial events and bookmarks, by resource.", "resource"),
		eventDelay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "event_delay_seconds", Help: "Seconds from an event of the API server until it is sent to a watcher, by resource; of a batch, the longest.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}, []string{"resource"}),
		statusWrites: counters("status_writes_total", "Number of writes of the status of Mappings, by part (conditions or reports of instances) and result.", "of", "result"),
	}
	registry.MustRegister(m.connections, m.connectionsEnded, m.tlsErrors, m.requests, m.duration, m.bytes, m.watches,
		m.watchesRevoked, m.authentications, m.rejections, m.panics, m.upstreamEvents, m.upstreamRequests, m.upstreamContact,
		m.eventsSent, m.eventDelay, m.statusWrites)
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "synced", Help: "1 if the relay has synced with the cluster, else 0.",
		}, func() float64 { return oneIf(cache.HasSynced()) }))
	for _, resource := range cache.Resources() {
		name := resource.Kind().Resource
		m.resources.Insert(name)
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "objects", Help: "Number of objects visible to clients, by resource.", ConstLabels: prometheus.Labels{"resource": name},
		}, func() float64 {
			if !cache.HasSynced() {
				return 0
			}
			return float64(resource.Len())
		}))
	}
	return m
}

// sent counts events sent to a watcher.
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

// known maps resources that do not exist to an empty label, so that clients cannot create time series.
func (m *metrics) known(resource string) string {
	if m.resources.Has(resource) {
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

// metricsServer serves the metrics without TLS or authentication: its address must be reachable from inside the cluster
// only.
func metricsServer(gatherer prometheus.Gatherer, log *stdlog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler: mux, ErrorLog: log, ReadTimeout: readHeaderTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
}
