// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// countPatience bounds the time to the next count: a slow machine counts less often.
const countPatience = 3 * time.Minute

// TestMasqueradeRunsOutOfPorts uses a range of 100 source ports, enough for 100 clients per backend at a time. From 80 clients on, the
// Mapping to this backend has a finding, until clients have gone.
func TestMasqueradeRunsOutOfPorts(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 514)
		w.objects(t,
			service(t, "syslog", []string{"514/UDP"}, p1), mapping("syslog", "syslog", "addresses: [198.51.100.10], ports: [{port: 514, protocol: udp}]"),
			service(t, "quiet", []string{"514/UDP"}, p2), mapping("quiet", "quiet", "addresses: [198.51.100.11], ports: [{port: 514, protocol: udp}]"),
		)
		w.start(t, twoUplinks+"masqueradePorts: 2000-2099\n")
		// Keep flows from timing out during the test.
		if err := w.Host(lab.Gateway).SetSysctl("net.netfilter.nf_conntrack_udp_timeout", "600"); err != nil {
			t.Fatal(err)
		}
		say := func(from, to uint16) {
			for port := from; port < to; port++ {
				awaitEcho(t, w.open(t, lab.Client, "udp", "198.51.100.10:514", port), by(p1, 514))
			}
		}
		used := func(ratio string, backends int) {
			t.Helper()
			w.awaitMetrics(t, "smartnat_masquerade_source_ports_used_ratio "+ratio,
				fmt.Sprintf("smartnat_masquerade_backends_low_on_source_ports %d", backends))
		}
		w.await(t, lab.Client, "udp", "198.51.100.11:514", by(p2, 514))
		say(10000, 10079)
		used("0.79", 0)
		if log := w.daemon.Log(); strings.Contains(log, "SourcePortsLow") {
			t.Errorf("a finding for 79 of 100 ports:\n%s", log)
		}
		say(10079, 10080)
		used("0.8", 1)
		w.awaitMetrics(t, `smartnat_findings{condition="Programmed",reason="SourcePortsLow"} 1`, "smartnat_mappings_ready 2")
		w.awaitLog(t, "level=warning", "Mapping default/syslog: spec.masquerade: source ports for masqueraded connections to 10.244.1.2:514/udp are running out")
		w.gateway(t, "conntrack -D -p udp --orig-dst 198.51.100.10")
		used("0.01", 0)
		w.awaitLog(t, "level=info", "resolved: Mapping default/syslog: spec.masquerade")
		if log := w.daemon.Log(); strings.Contains(log, "Mapping default/quiet: ") {
			t.Errorf("a finding for a Mapping with enough ports:\n%s", log)
		}
	})
}

// awaitMetrics waits until the gateway's metrics have these lines.
func (w *world) awaitMetrics(t *testing.T, lines ...string) {
	t.Helper()
	if err := lab.Poll(timeout(t, countPatience), func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9470/metrics", nil)
		if err != nil {
			return err
		}
		response, err := w.Host(lab.Gateway).HTTPClient().Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		for _, line := range lines {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				return fmt.Errorf("no line %q", line)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// awaitLog waits until a line of smartnatd's log has these parts.
func (w *world) awaitLog(t *testing.T, parts ...string) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		for line := range strings.Lines(w.daemon.Log()) {
			found := true
			for _, part := range parts {
				found = found && strings.Contains(line, part)
			}
			if found {
				return nil
			}
		}
		return fmt.Errorf("no line with %q", parts)
	}); err != nil {
		t.Error(err)
	}
}
