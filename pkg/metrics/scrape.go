// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/status"
)

// Gateway is who knows how things stand now.
type Gateway interface {
	Standing() Standing
}

// Standing is how things stand. A time that never was is zero.
type Standing struct {
	// Ready is set once everything has been in effect.
	Ready bool
	// Degraded is set while something that is wanted is missing: the source, or a part of what is to be programmed.
	Degraded bool
	// Turned is when the worker was last done with something, if only with a look at the kernel.
	Turned time.Time
	// Queued is how much waits for the worker: it takes all that waits at once, so that this is 0 or 1.
	Queued int
	// Synced is set once the objects have been read; Contact is how it stands with where they come from.
	Synced  bool
	Contact source.Contact
	// Restored is when the objects that are in effect were saved, while they come from the disk.
	Restored time.Time
	// CertificateEnds is when the client certificate does that is shown to the source, where there is one.
	CertificateEnds time.Time
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	buildInfo     = describe("build_info", "1, with what was built.", "version", "goversion")
	ready         = describe("ready", "1 once all that is wanted has been in effect.")
	degraded      = describe("degraded", "1 while the source cannot be read, or not everything is in effect; systemctl status names the cause.")
	workerTurned  = describe("worker_last_turn_timestamp_seconds", "When the worker was last done with something; every few seconds it looks at the kernel.")
	queueDepth    = describe("queue_depth", "What waits for the worker: 0 or 1, as all that happened is one thing to do.")
	connected     = describe("source_connected", "1 while the source of objects can be read: the relay, the cluster or the files.")
	lastContact   = describe("source_last_contact_timestamp_seconds", "When the source of objects last answered.")
	failures      = describe("source_request_failures_total", "Requests to the source of objects that failed, and were made again.")
	rejected      = describe("source_objects_rejected_total", "Objects that were read and left out, as no API server would have stored their names or texts: the log names them.")
	fromDisk      = describe("source_restored", "1 while the objects in effect are those that were saved before the start, as the source has not been read since.")
	savedAt       = describe("source_restored_saved_timestamp_seconds", "When the objects that were restored had been saved, 0 while none are in effect.")
	certificate   = describe("client_certificate_expiration_timestamp_seconds", "When the client certificate ends that is shown to the source of objects.")
	frontends     = describe("frontends", "Address, protocol and range of ports, each counted once, that are forwarded from.")
	mappings      = describe("mappings", "Mappings that are known.")
	programmed    = describe("mappings_programmed", "Mappings of which something is in effect on this host, if only that connections are refused.")
	mappingsReady = describe("mappings_ready", "Mappings of which all that this host serves is forwarded.")
	withFindings  = describe("mappings_with_findings", "Mappings that are not, or only in part, in effect here, by the condition that it is about.", "condition")
	findingsCount = describe("findings", "Reasons why Mappings are not, or only in part, in effect here.", "condition", "reason")
)

// scrape collects what is asked for rather than counted.
type scrape struct {
	gateway Gateway
	facts   *atomic.Pointer[status.Facts]
	version string
}

// Describe implements prometheus.Collector.
func (s *scrape) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, ready, degraded, workerTurned, queueDepth, connected, lastContact, failures, rejected, fromDisk, savedAt, certificate,
		frontends, mappings, programmed, mappingsReady, withFindings, findingsCount,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (s *scrape) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := s.gateway.Standing()
	gauge(buildInfo, 1, s.version, runtime.Version())
	gauge(ready, oneIf(now.Ready))
	gauge(degraded, oneIf(now.Degraded))
	gauge(workerTurned, timestamp(now.Turned))
	gauge(queueDepth, float64(now.Queued))
	gauge(connected, oneIf(now.Synced && !now.Contact.Lost))
	gauge(lastContact, timestamp(now.Contact.Last))
	to <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(now.Contact.Failures))
	to <- prometheus.MustNewConstMetric(rejected, prometheus.CounterValue, float64(now.Contact.Rejected))
	gauge(fromDisk, oneIf(!now.Restored.IsZero()))
	gauge(savedAt, timestamp(now.Restored))
	if !now.CertificateEnds.IsZero() {
		gauge(certificate, timestamp(now.CertificateEnds))
	}
	facts := s.facts.Load()
	if facts == nil {
		facts = &status.Facts{}
	}
	gauge(frontends, float64(len(facts.State.Forwards)))
	gauge(mappings, float64(len(facts.Snapshot.Mappings)))
	owners := Owners(facts.State)
	gauge(programmed, float64(len(owners)))
	gauge(mappingsReady, float64(ReadyOf(owners, facts.Findings)))
	byReason, byCondition := countFindings(facts.Findings)
	for k, n := range byReason {
		gauge(findingsCount, float64(n), k.condition, k.reason)
	}
	for condition, names := range byCondition {
		gauge(withFindings, float64(len(names)), condition)
	}
}

// Owners are the Mappings of which the state has something, as namespace/name.
func Owners(state gateway.State) map[string]struct{} {
	owners, last := map[string]struct{}{}, "" // neighbours are mostly of one owner
	for _, f := range state.Forwards {
		if f.Owner != last {
			owners[f.Owner], last = struct{}{}, f.Owner
		}
	}
	return owners
}

// ReadyOf counts the owners of whose connections no finding says that they are not forwarded.
func ReadyOf(owners map[string]struct{}, findings []calc.Finding) int {
	blocked := map[string]struct{}{}
	for i := range findings {
		if f := &findings[i]; f.Blocks() {
			if owner := f.Namespace + "/" + f.Name; has(owners, owner) {
				blocked[owner] = struct{}{}
			}
		}
	}
	return len(owners) - len(blocked)
}

func has(owners map[string]struct{}, owner string) bool {
	_, ok := owners[owner]
	return ok
}

type finding struct{ condition, reason string }

type mapping struct{ namespace, name string }

func countFindings(findings []calc.Finding) (map[finding]int, map[string]map[mapping]struct{}) {
	byReason, byCondition := map[finding]int{}, map[string]map[mapping]struct{}{}
	for i := range findings {
		f := &findings[i]
		if f.Elsewhere() {
			continue
		}
		byReason[finding{f.Condition, f.Reason}]++
		if f.Condition == "" {
			continue // It is about the host.
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
