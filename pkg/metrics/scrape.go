// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// StatusReader returns the current status of the daemon.
type StatusReader interface {
	Status() daemon.Status
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	buildInfo     = describe("build_info", "Build information of smartnatd, with a constant value of 1.", "version", "goversion")
	ready         = describe("ready", "Whether the desired state has been fully in effect since the start (1) or not (0).")
	degraded      = describe("degraded", "Whether the source is unavailable or a part of the desired state is missing (1) or not (0); systemctl status names the cause.")
	itemProcessed = describe("worker_last_turn_timestamp_seconds", "Time when the worker last finished an item; it checks the kernel every few seconds.")
	queueDepth    = describe("queue_depth", "Length of the worker's queue: 0 or 1, because events are coalesced.")
	connected     = describe("source_connected", "Whether the source of objects (relay, cluster or files) is connected (1) or not (0).")
	lastContact   = describe("source_last_contact_timestamp_seconds", "Time of the last answer from the source of objects.")
	failures      = describe("source_request_failures_total", "Number of failed requests to the source of objects, which are retried.")
	rejected      = describe("source_objects_rejected_total", "Number of objects rejected because no API server would store their names or texts; the log names them.")
	fromDisk      = describe("source_restored", "Whether the objects in effect come from the snapshot on disk because the source has not been read since the start (1) or not (0).")
	savedAt       = describe("source_restored_saved_timestamp_seconds", "Time when the restored objects in effect were saved, or 0 if there are none.")
	credential    = describe("credential_expiration_timestamp_seconds", "Expiry time of the client certificate or token for the source of objects.")
	serverInUse   = describe("source_server_in_use", "Whether the next request goes to this server of the relay first (1) or not (0).", "server")
	serverFailed  = describe("source_server_failures_total", "Number of requests that this server of the relay did not answer, or not validly.", "server")
	uplinkUp      = describe("uplink_up", "Whether an uplink is up (1) or not (0).", "link")
	frontends     = describe("frontends", "Number of frontends that are forwarded: combinations of address, protocol and port range.")
	mappings      = describe("mappings", "Number of known Mappings.")
	programmed    = describe("mappings_programmed", "Number of Mappings with at least one frontend in effect on this host, including those that reject connections.")
	mappingsReady = describe("mappings_ready", "Number of Mappings whose frontends on this host are all forwarded.")
	withFindings  = describe("mappings_with_findings", "Number of Mappings that are not fully in effect on this host, by condition.", "condition")
	findingsCount = describe("findings", "Number of findings why Mappings are not fully in effect on this host, by condition and reason.", "condition", "reason")
)

// scrape collects the metrics that are read on each scrape instead of counted.
type scrape struct {
	status  StatusReader
	report  *atomic.Pointer[finding.Report]
	version string
}

// Describe implements prometheus.Collector.
func (s *scrape) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, ready, degraded, itemProcessed, queueDepth, connected, lastContact, failures, rejected, fromDisk, savedAt, credential,
		serverInUse, serverFailed, uplinkUp, frontends, mappings, programmed, mappingsReady, withFindings, findingsCount,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (s *scrape) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := s.status.Status()
	gauge(buildInfo, 1, s.version, runtime.Version())
	gauge(ready, oneIf(now.Ready))
	gauge(degraded, oneIf(now.Degraded()))
	gauge(itemProcessed, timestamp(now.ItemProcessed))
	gauge(queueDepth, float64(now.Queued))
	gauge(connected, oneIf(now.Synced && !now.Contact.Lost))
	gauge(lastContact, timestamp(now.Contact.Last))
	to <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(now.Contact.Failures))
	to <- prometheus.MustNewConstMetric(rejected, prometheus.CounterValue, float64(now.Contact.Rejected))
	gauge(fromDisk, oneIf(!now.Restored.IsZero()))
	gauge(savedAt, timestamp(now.Restored))
	if !now.CredentialEnds.IsZero() {
		gauge(credential, timestamp(now.CredentialEnds))
	}
	for _, s := range now.Contact.Servers {
		gauge(serverInUse, oneIf(s.InUse), s.Name)
		to <- prometheus.MustNewConstMetric(serverFailed, prometheus.CounterValue, float64(s.Failures), s.Name)
	}
	report := s.report.Load()
	if report == nil {
		report = &finding.Report{}
	}
	for _, u := range report.State.Uplinks {
		gauge(uplinkUp, oneIf(isUp(report.Host, u.Link)), u.Link)
	}
	gauge(frontends, float64(len(report.State.Forwards)))
	gauge(mappings, float64(len(report.Snapshot.Mappings)))
	owners := finding.Programmed(report.State)
	gauge(programmed, float64(len(owners)))
	gauge(mappingsReady, float64(finding.CountReady(owners, report.Findings)))
	byReason, byCondition := countFindings(report.Findings)
	for k, n := range byReason {
		gauge(findingsCount, float64(n), k.condition, k.reason)
	}
	for condition, names := range byCondition {
		gauge(withFindings, float64(len(names)), condition)
	}
}

func isUp(host gateway.Host, link string) bool {
	return slices.ContainsFunc(host.Links, func(l gateway.Link) bool { return l.Name == link && l.Up })
}

type findingKey struct{ condition, reason string }

type mapping struct{ namespace, name string }

func countFindings(findings []finding.Finding) (map[findingKey]int, map[string]map[mapping]struct{}) {
	byReason, byCondition := map[findingKey]int{}, map[string]map[mapping]struct{}{}
	for i := range findings {
		f := &findings[i]
		if f.Elsewhere() {
			continue
		}
		byReason[findingKey{f.Condition, f.Reason}]++
		if f.Condition == "" {
			continue // a finding about the host
		}
		if byCondition[f.Condition] == nil {
			byCondition[f.Condition] = map[mapping]struct{}{}
		}
		byCondition[f.Condition][mapping{f.Namespace, f.Name}] = struct{}{}
	}
	return byReason, byCondition
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
