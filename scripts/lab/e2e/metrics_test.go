// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// metricsURL is where smartnatd serves metrics and probes by default.
const metricsURL = "http://127.0.0.1:9470"

// ask returns the response to a request for path.
func (w *world) ask(ctx context.Context, t *testing.T, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := w.Host(lab.Gateway).HTTPClient().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// metric returns the value of a metric, named with all its labels.
func (w *world) metric(ctx context.Context, t *testing.T, name string) float64 {
	t.Helper()
	_, text := w.ask(ctx, t, "/metrics")
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+" "); found {
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	t.Fatalf("there is no metric %s in:\n%s", name, text)
	return 0
}

// awaitMetric waits until a metric is at least least.
func (w *world) awaitMetric(ctx context.Context, t *testing.T, name string, least float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		got := w.metric(ctx, t, name)
		if got >= least {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stays %v, want at least %v", name, got, least)
		}
	}
}

// awaitTraffic waits until the metrics show a connection to a Mapping of the namespace, and bytes in both directions.
func (w *world) awaitTraffic(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	missing := map[string]string{"connections_total": "", "bytes_total": "from_client", "packets_total": "to_client"}
	for deadline := time.Now().Add(patience); len(missing) > 0; time.Sleep(100 * time.Millisecond) {
		_, text := w.ask(ctx, t, "/metrics")
		for line := range strings.Lines(text) {
			for name, label := range missing {
				if strings.HasPrefix(line, "smartnat_mapping_"+name+"{") && strings.Contains(line, `namespace="`+namespace+`"`) && strings.Contains(line, label) &&
					!strings.HasSuffix(line, "} 0\n") {
					delete(missing, name)
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no traffic %v in:\n%s", missing, text)
		}
	}
}

func testMetrics(t *testing.T, w *world) {
	w.namespace(t, "metrics", 1)
	w.mapping(t, "metrics", `addresses: [198.51.100.10, "2001:db8:1::10"], serviceName: echo, ports: [{port: 9471, servicePort: 8080}]`)
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 9471), nil)
	ctx := timeout(t, time.Minute)
	for _, path := range []string{"/readyz", "/livez"} {
		if code, body := w.ask(ctx, t, path); code != http.StatusOK {
			t.Errorf("%s: %d, %s", path, code, body)
		}
	}
	now := float64(time.Now().Unix())
	for name, least := range map[string]float64{
		"smartnat_ready": 1, "smartnat_source_connected": 1, "smartnat_mappings": 1, "smartnat_mappings_programmed": 1, "smartnat_frontends": 1,
		`smartnat_applies_total{result="changed"}`: 1, `smartnat_iptables_restores_total{family="ipv4",result="success"}`: 1,
		`smartnat_iptables_restores_total{family="ipv6",result="success"}`: 1, "smartnat_apply_duration_seconds_count": 2,
		"smartnat_last_successful_apply_timestamp_seconds": now - 600, "smartnat_source_last_contact_timestamp_seconds": now - 600,
		"smartnat_worker_last_turn_timestamp_seconds": now - 60, "go_goroutines": 5, "process_resident_memory_bytes": 1 << 20,
	} {
		w.awaitMetric(ctx, t, name, least) // the packet may arrive before the apply ends
	}
	w.awaitTraffic(ctx, t, "metrics")
	for _, hand := range []struct{ kind, command string }{
		{"iptables", "iptables -t nat -D PREROUTING 1"},
		{"ip_rule", "ip rule flush protocol 83"},
		{"sysctl", "echo 0 > /proc/sys/net/ipv4/ip_forward"},
	} {
		name := `smartnat_repairs_total{kind="` + hand.kind + `"}`
		before := w.metric(ctx, t, name)
		if out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", hand.command); err != nil {
			t.Fatalf("%s: %v %s", hand.command, err, out)
		}
		w.awaitMetric(ctx, t, name, before+1)
	}
}
