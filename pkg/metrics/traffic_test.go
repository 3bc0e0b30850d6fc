// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/traffic"
)

func reading() meter.Reading {
	entry := func(owner, address string, protocol gateway.Protocol, first, last uint16, totals traffic.Totals) traffic.Entry {
		return traffic.Entry{Owner: owner, Totals: totals, Frontend: gateway.Frontend{
			Address: netip.MustParseAddr(address), Protocol: protocol, Ports: gateway.PortRange{First: first, Last: last},
		}}
	}
	volume := func(packets, bytes uint64) traffic.Volume { return traffic.Volume{Packets: packets, Bytes: bytes} }
	return meter.Reading{Losses: 3, Refusals: true, Entries: []traffic.Entry{
		entry("a/web", "198.51.100.10", gateway.TCP, 80, 80, traffic.Totals{
			Connections: 7, Open: 2, FromClient: volume(70, 7000), ToClient: volume(90, 90_000), Dropped: 5, Rejected: 4,
		}),
		entry("b/game", "2001:db8::10", gateway.UDP, 20000, 20999, traffic.Totals{Dropped: 1}),
	}}
}

// TestTraffic compares the metrics of two frontends with a golden file, and with what Prometheus expects of names.
func TestTraffic(t *testing.T) {
	m := New("v1", &fakeStatus{})
	m.CountTraffic(reading)
	var failure error
	m.CountTracked(func() (entries, limit int, err error) { return 200, 1000, failure })
	var lines strings.Builder
	for line := range strings.Lines(ours(t, m)) {
		if strings.Contains(line, "_mapping_") || strings.Contains(line, "_traffic_") || strings.Contains(line, "_conntrack_entries") && !strings.Contains(line, "cut") {
			lines.WriteString(line)
		}
	}
	compare(t, "testdata/traffic.golden", lines.String())
	problems, err := testutil.GatherAndLint(m)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v: %v", problems, err)
	}
	if failure = errors.New("no conntrack"); strings.Contains(ours(t, m), trackedName) {
		t.Error("a sample is reported although reading failed")
	}
}

// TestRefusalsThatAreNotCounted expects no sample where the data plane does not count: 0 would be a claim.
func TestRefusalsThatAreNotCounted(t *testing.T) {
	m := New("v1", &fakeStatus{})
	m.CountTraffic(func() meter.Reading {
		r := reading()
		r.Refusals = false
		return r
	})
	if text := ours(t, m); strings.Contains(text, "_refused_packets_total") || !strings.Contains(text, "_mapping_connections_total{") {
		t.Errorf("the metrics are\n%s", text)
	}
}

const trackedName = "smartnat_conntrack_entries_limit"

// BenchmarkTraffic measures a scrape of 10,000 frontends that all have traffic.
func BenchmarkTraffic(b *testing.B) {
	m := New("v1", &fakeStatus{})
	one := reading().Entries[0]
	entries := make([]traffic.Entry, 10_000)
	for i := range entries {
		entries[i] = one
		entries[i].Ports = gateway.Port(uint16(1 + i))
	}
	m.CountTraffic(func() meter.Reading { return meter.Reading{Entries: entries, Refusals: true} })
	log, _ := logtest.NewNullLogger()
	server := m.Server(Probes{}, nil, log)
	b.ReportAllocs()
	for b.Loop() {
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		request.Header.Set("Accept-Encoding", "gzip")
		server.handler.ServeHTTP(answer, request)
		b.ReportMetric(float64(answer.Body.Len()), "bytes")
	}
}
