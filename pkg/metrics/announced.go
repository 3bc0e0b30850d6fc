// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/pkg/announce"
)

var (
	addressAnnounced = describe("address_announced", "Whether the gateway announces the address to its router (1) or not (0); smartnatd status says why not. Gateways without announce have none.", "address")
	announcingWorks  = describe("announcing_works", "Whether BIRD took the last change of the announced addresses (1) or not (0).")
)

// announcedScrape reads what is announced on each scrape.
type announcedScrape struct{ read func() *announce.Status }

// CountAnnounced makes scrapes report what read returns, if it is not nil.
func (m *Metrics) CountAnnounced(read func() *announce.Status) {
	m.registry.MustRegister(announcedScrape{read})
}

// Describe implements prometheus.Collector.
func (a announcedScrape) Describe(to chan<- *prometheus.Desc) {
	to <- addressAnnounced
	to <- announcingWorks
}

// Collect implements prometheus.Collector.
func (a announcedScrape) Collect(to chan<- prometheus.Metric) {
	s := a.read()
	if s == nil {
		return
	}
	for _, address := range s.Addresses {
		to <- prometheus.MustNewConstMetric(addressAnnounced, prometheus.GaugeValue, oneIf(address.Why == ""), address.Address.String())
	}
	to <- prometheus.MustNewConstMetric(announcingWorks, prometheus.GaugeValue, oneIf(s.Problem == ""))
}
