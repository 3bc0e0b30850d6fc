// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/pkg/ha"
)

var (
	pairRole        = describe("pair_role", "Role of this gateway in its pair: 1 for the current one, 0 for others. Gateways without a pair have none of these metrics.", "role")
	pairSince       = describe("pair_role_since_timestamp_seconds", "Time since when the gateway has its role, or 0 if it is not known.")
	pairPeer        = describe("pair_peer_answers", "Whether the peer answers over the sync link (1) or not (0).")
	pairDifferences = describe("pair_differences", "Number of settings that differ on the peer and must not; smartnatd ha check names them.")
	pairMissed      = describe("pair_neighbours_missed", "Number of neighbours that do not answer this gateway.")
	pairOpen        = describe("pair_connections", "Number of entries in the kernel's connection tracking, here and on the peer.", "gateway")
	pairRefreshes   = describe("pair_refreshes_total", "Number of times when the peer got all connections again, because they age there.")
	pairSync        = describe("pair_sync_works", "Whether conntrackd took the last command (1) or not (0).")
	pairCopied      = describe("pair_sync_connections_total", "Number of connections of the peer that conntrackd wrote into the kernel here since it started.")
	pairOwn         = describe("pair_sync_entries", "Number of connections that conntrackd gives the peer.")
	pairHook        = describe("pair_hook_works", "Whether the last call of the hook succeeded (1) or not (0). Pairs without a hook do not have it.")
	pairErrors      = describe("pair_sync_errors_total", "Number of connections, messages and packets of conntrackd that went wrong since it started, by kind.", "kind")
)

// pairScrape reads the pair on each scrape.
type pairScrape struct{ read func() *ha.Status }

// CountPair makes scrapes report the pair that read returns, if it is not nil.
func (m *Metrics) CountPair(read func() *ha.Status) { m.registry.MustRegister(pairScrape{read}) }

// Describe implements prometheus.Collector.
func (p pairScrape) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pairRole, pairSince, pairPeer, pairDifferences, pairMissed, pairOpen, pairRefreshes, pairSync, pairCopied, pairOwn, pairHook, pairErrors} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (p pairScrape) Collect(to chan<- prometheus.Metric) {
	s := p.read()
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, role := range append(ha.Roles(), ha.Partial) {
		gauge(pairRole, oneIf(s.Own.Role.Role == role), string(role))
	}
	gauge(pairSince, timestamp(s.Own.Role.Since))
	gauge(pairPeer, oneIf(s.Peer != nil && s.PeerProblem == ""))
	gauge(pairDifferences, float64(len(s.Differences)))
	gauge(pairMissed, float64(len(s.Own.Missed)))
	gauge(pairOpen, float64(s.Own.Connections), "own")
	if s.Peer != nil {
		gauge(pairOpen, float64(s.Peer.Connections), "peer")
	}
	to <- prometheus.MustNewConstMetric(pairRefreshes, prometheus.CounterValue, float64(s.Refreshes))
	gauge(pairSync, oneIf(s.SyncProblem == ""))
	if s.Hook != nil {
		gauge(pairHook, oneIf(s.Hook.Problem == ""))
	}
	c := s.Copying
	if c == nil {
		return
	}
	gauge(pairOwn, float64(c.Own))
	to <- prometheus.MustNewConstMetric(pairCopied, prometheus.CounterValue, float64(c.Copied))
	for kind, n := range map[string]uint64{"refused": c.NotCopied, "lost": c.Lost, "malformed": c.Malformed, "send": c.SendErrors, "receive": c.ReceiveErrors} {
		to <- prometheus.MustNewConstMetric(pairErrors, prometheus.CounterValue, float64(n), kind)
	}
}
