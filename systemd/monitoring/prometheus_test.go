// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/metrics"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/pkg/traffic"
)

const (
	gatewayAddress    = "127.0.0.1:9470"
	prometheusAddress = "127.0.0.1:9090"
	// patience covers a busy machine.
	patience = 3 * time.Minute
)

// busy is the status of a gateway that uses a relay.
type busy struct{ now time.Time }

func (b busy) Status() daemon.Status {
	return daemon.Status{
		Ready: true, Synced: true, ItemProcessed: b.now, CredentialEnds: b.now.Add(48 * time.Hour),
		Contact: source.Contact{Last: b.now, Servers: []source.Server{{Name: "10.10.0.11:8443", InUse: true}, {Name: "10.10.0.12:8443", Failures: 5}}},
	}
}

// serve serves the metrics of a gateway for which every metric of smartnatd has a sample.
func serve(t *testing.T) {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	m := metrics.New("1.2.3", busy{time.Now()})
	frontend := gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(5432)}
	m.Applied(controller.Outcome{Took: time.Millisecond, Report: &finding.Report{
		Snapshot: objects.Snapshot{Mappings: make([]*v1alpha1.Mapping, 2)},
		Host:     gateway.Host{Links: []gateway.Link{{Name: "eth1", Up: true}}},
		State: gateway.State{
			Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}},
			Forwards: []*gateway.Forward{{Owner: "shop/db", Frontend: frontend}},
		},
		Findings: []finding.Finding{
			{Namespace: "shop", Name: "db", Condition: "ResolvedRefs", Reason: finding.ReasonNoReadyEndpoints}, {Reason: finding.ReasonNoGateway},
		},
	}, Result: dataplane.Result{Changes: dataplane.Changes{Sets: 1}}}, time.Now())
	m.CountLost(func() (uint64, error) { return 0, nil })
	m.CountTracked(func() (int, int, error) { return 90, 100, nil })
	none := func() uint64 { return 0 }
	m.CountFlowLog(none, none)
	m.CountAudit(none)
	m.CountTraffic(func() meter.Reading {
		return meter.Reading{Refusals: true, Entries: []traffic.Entry{{Owner: "shop/db", Frontend: frontend, Totals: traffic.Totals{Connections: 1}}}}
	})
	healthy := func() error { return nil }
	server := m.Server(metrics.Probes{Alive: healthy, Ready: healthy}, nil, log)
	server.Listen(gatewayAddress)
	t.Cleanup(func() { server.Listen("") })
}

// startPrometheus runs Prometheus with the rules until the test ends.
func startPrometheus(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
- job_name: smartnatd
  static_configs: [{targets: [%q]}]
`, rules, gatewayAddress)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	program := exec.Command(tool(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAddress)
	program.Stdout, program.Stderr = &log, &log
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
		if t.Failed() {
			t.Logf("Prometheus:\n%s", log.String())
		}
	})
}

// ask decodes the data of an answer of Prometheus' API.
func ask(path string, query url.Values, data any) error {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get("http://" + prometheusAddress + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", query, answer.Error)
	}
	return nil
}

// series returns the number of series that a query has now.
func series(expr string) (int, error) {
	var data struct{ Result []any }
	err := ask("/api/v1/query", url.Values{"query": {expr}}, &data)
	return len(data.Result), err
}

// queries returns the queries of the dashboard, by panel, with values for its variables.
func queries(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	values := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m", "$top", "10")
	all := map[string]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all[p.Title+"/"+target.RefID] = values.Replace(target.Expr)
		}
	}
	return all
}

// TestPrometheus evaluates each query of the dashboard and each rule in the real Prometheus, which reads a gateway's metrics. Each
// query of the dashboard has a result, and each metric that a rule names exists.
func TestPrometheus(t *testing.T) {
	testenv.RequireKernel(t)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := tool(t, "prometheus")
	t.Logf("with %s", program)
	serve(t)
	startPrometheus(t)
	all := queries(t)
	if len(all) < 30 {
		t.Errorf("the dashboard has %d queries, want at least 30", len(all))
	}
	name := regexp.MustCompile(`\b(up|smartnat_[a-z_]+)\b`)
	for _, r := range rules(t) {
		names := name.FindAllString(r.Expr, -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", r.Alert)
		}
		for _, metric := range names {
			if own, relay := strings.CutPrefix(metric, "smartnat_relay_"); relay { // no relay runs here
				if !strings.Contains(read(t, "../../relay/server/config.go"), `Name: "`+own+`"`) {
					t.Errorf("%s: the relay has no metric %s", r.Alert, metric)
				}
				continue
			}
			all[r.Alert+"/"+metric] = metric
		}
	}
	awaitSeries(t, all)
	checkRules(t)
}

// awaitSeries waits until each query has had a result. On a busy machine a scrape may fail, and then no query has one until the next.
func awaitSeries(t *testing.T, missing map[string]string) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(missing) > 0; time.Sleep(100 * time.Millisecond) {
		late := time.Now().After(deadline)
		for name, expr := range missing {
			n, err := series(expr)
			if n > 0 && err == nil {
				delete(missing, name)
			} else if late {
				t.Errorf("%s: %d series, %v: %s", name, n, err, expr)
			}
		}
		if late {
			return
		}
	}
}

type loadedRule struct {
	Name, Health, LastError string
	Alerts                  []struct{ Annotations map[string]string }
}

// loadedRules returns the rules as Prometheus sees them.
func loadedRules() ([]loadedRule, error) {
	var data struct {
		Groups []struct{ Rules []loadedRule }
	}
	err := ask("/api/v1/rules", nil, &data)
	var all []loadedRule
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all, err
}

// checkRules expects that Prometheus evaluates all rules without an error, and fills in the texts of alerts.
func checkRules(t *testing.T) {
	t.Helper()
	const least = 5 // alerts of the gateway of serve
	var loaded []loadedRule
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var err error
		alerts, evaluated := 0, true
		if loaded, err = loadedRules(); err == nil {
			for _, r := range loaded {
				alerts += len(r.Alerts)
				evaluated = evaluated && r.Health != "unknown"
			}
			if alerts >= least && evaluated {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d alerts, want at least %d; all evaluated: %t; %v", alerts, least, evaluated, err)
		}
	}
	for _, r := range loaded {
		if r.Health != "ok" {
			t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
		}
		for _, alert := range r.Alerts {
			for _, text := range alert.Annotations {
				if strings.Contains(text, "<") || strings.Contains(text, "{{") || strings.Contains(text, "  ") {
					t.Errorf("%s: %q", r.Name, text)
				}
			}
		}
	}
	if want := len(rules(t)); len(loaded) != want {
		t.Errorf("%d rules, want %d", len(loaded), want)
	}
}
