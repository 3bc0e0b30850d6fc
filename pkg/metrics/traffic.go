// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/traffic"
)

var (
	trackedUsed  = describe("conntrack_entries", "Number of entries in the conntrack table, of all programs in this network namespace.")
	trackedLimit = describe("conntrack_entries_limit", "Maximum number of entries in the conntrack table; the kernel drops new connections when it is full.")
)

// CountTraffic makes scrapes report the traffic that read returns. A frontend has no samples before its first packet. All labels
// identify the frontend of a Mapping, which may be a range of ports, except for the direction or the reason.
func (m *Metrics) CountTraffic(read func() meter.Reading) { m.traffic = read }

// Gather implements prometheus.Gatherer. The metrics of frontends do not go through the registry, which checks and sorts each
// sample: with 10,000 ports, that takes most of the time of a scrape.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) {
	families, err := m.registry.Gather()
	if m.traffic == nil {
		return families, err
	}
	families = append(families, trafficFamilies(m.traffic())...)
	slices.SortFunc(families, func(x, y *dto.MetricFamily) int { return strings.Compare(x.GetName(), y.GetName()) })
	return families, err
}

func trafficFamilies(reading meter.Reading) []*dto.MetricFamily {
	connections := counters("mapping_connections_total", "Number of connections forwarded, by frontend of a Mapping.")
	open := counters("mapping_open_connections",
		"Number of connections that conntrack holds, by frontend of a Mapping; it holds them for some time after their last packet.")
	open.Type = dto.MetricType_GAUGE.Enum()
	packets := counters("mapping_packets_total", "Number of packets forwarded, by frontend of a Mapping and direction.")
	bytes := counters("mapping_bytes_total", "Size of packets forwarded including their IP headers, by frontend of a Mapping and direction.")
	refused := counters("mapping_refused_packets_total",
		"Number of packets that opened no connection because their source is not allowed (dropped) or there are no endpoints (rejected), by frontend of a Mapping and reason.")
	losses := counters("traffic_losses_total", "Number of times when ended connections went uncounted; the totals of Mappings are then too low.")
	add(losses, nil, reading.Losses)
	fromClient, toClient := pair("direction", "from_client"), pair("direction", "to_client")
	notAllowed, noEndpoints := pair("reason", string(traffic.SourceNotAllowed)), pair("reason", string(traffic.NoEndpoints))
	for i := range reading.Entries {
		e := &reading.Entries[i]
		labels := labelsOf(e)
		inOrder := func(p *dto.LabelPair) []*dto.LabelPair { return slices.Insert(slices.Clone(labels), 1, p) }
		from, to := inOrder(fromClient), inOrder(toClient)
		add(connections, labels, e.Connections)
		open.Metric = append(open.Metric, &dto.Metric{Label: labels, Gauge: &dto.Gauge{Value: new(float64(e.Open))}})
		add(packets, from, e.FromClient.Packets)
		add(packets, to, e.ToClient.Packets)
		add(bytes, from, e.FromClient.Bytes)
		add(bytes, to, e.ToClient.Bytes)
		if reading.Refusals {
			add(refused, append(slices.Clip(labels), notAllowed), e.Dropped)
			add(refused, append(slices.Clip(labels), noEndpoints), e.Rejected)
		}
	}
	families := []*dto.MetricFamily{connections, open, packets, bytes, refused, losses}
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.Metric) == 0 })
}

// labelsOf returns the labels of a frontend, sorted by name as in all metrics.
func labelsOf(e *traffic.Entry) []*dto.LabelPair {
	owner, name, _ := strings.Cut(e.Owner, "/")
	return []*dto.LabelPair{
		pair("address", e.Address.String()), pair("mapping", name), pair("namespace", owner), pair("port", e.Ports.String()),
		pair("protocol", string(e.Protocol)),
	}
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func counters(name, help string) *dto.MetricFamily {
	name = prometheus.BuildFQName(namespace, "", name)
	return &dto.MetricFamily{Name: &name, Help: &help, Type: dto.MetricType_COUNTER.Enum()}
}

func add(f *dto.MetricFamily, labels []*dto.LabelPair, n uint64) {
	f.Metric = append(f.Metric, &dto.Metric{Label: labels, Counter: &dto.Counter{Value: new(float64(n))}})
}

// CountTracked makes scrapes report the use of the conntrack table, unless read fails.
func (m *Metrics) CountTracked(read func() (entries, limit int, err error)) {
	m.registry.MustRegister(tracked(read))
}

type tracked func() (entries, limit int, err error)

// Describe implements prometheus.Collector.
func (tracked) Describe(to chan<- *prometheus.Desc) { to <- trackedUsed; to <- trackedLimit }

// Collect implements prometheus.Collector.
func (read tracked) Collect(to chan<- prometheus.Metric) {
	entries, limit, err := read()
	if err != nil {
		return
	}
	to <- prometheus.MustNewConstMetric(trackedUsed, prometheus.GaugeValue, float64(entries))
	to <- prometheus.MustNewConstMetric(trackedLimit, prometheus.GaugeValue, float64(limit))
}
