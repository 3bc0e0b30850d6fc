// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package monitoring tests the alerts and the dashboard of this folder with the real Prometheus.
package monitoring

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/pkg/testenv"
)

var update = flag.Bool("update", false, "write the PrometheusRule")

func TestMain(m *testing.M) { testenv.Main(m) }

const rulesFile = "smartnat.rules.yaml"

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// tool returns the path of prometheus or promtool.
func tool(t *testing.T, name string) string {
	t.Helper()
	where, err := exec.Command("../../scripts/tools/prometheus.sh", "--where").Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(strings.TrimSpace(string(where)), name)
	testenv.RequireTool(t, path)
	return path
}

type rule struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestPromtool(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", rulesFile},
		{"test", "rules", "smartnat.rules.test.yaml"},
	} {
		if out, err := exec.Command(tool(t, "promtool"), args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestEveryAlertIsTested expects a test that makes each alert fire, and a runbook that names a command that exists.
func TestEveryAlertIsTested(t *testing.T) {
	tests, document := read(t, "smartnat.rules.test.yaml"), read(t, "../README.md")
	commands := commands(t)
	for _, r := range rules(t) {
		if !strings.Contains(tests, `{alertname="`+r.Alert+`",instance="bad"}', value: 1}`) {
			t.Errorf("%s: no test expects it to fire", r.Alert)
		}
		if !strings.Contains(document, "| `"+r.Alert+"` |") {
			t.Errorf("%s is not in the table of systemd/README.md", r.Alert)
		}
		if r.Annotations["summary"] == "" || !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s: summary %q, severity %q", r.Alert, r.Annotations["summary"], r.Labels["severity"])
		}
		named := regexp.MustCompile(`'smartnatd ([a-z]+)`).FindAllStringSubmatch(r.Annotations["description"], -1)
		if len(named) == 0 && !strings.Contains(r.Annotations["description"], "journalctl -u smartnatd") {
			t.Errorf("%s: the description names no command that says more", r.Alert)
		}
		for _, match := range named {
			if !slices.Contains(commands, match[1]) {
				t.Errorf("%s: there is no command smartnatd %s", r.Alert, match[1])
			}
		}
	}
}

// commands returns the names of the commands of smartnatd.
func commands(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../cmd/smartnatd/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		for _, match := range regexp.MustCompile(`Use: +"([a-z]+)`).FindAllStringSubmatch(read(t, file), -1) {
			names = append(names, match[1])
		}
	}
	return names
}

// TestPrometheusRule compares the object for the Prometheus operator with the file of rules.
func TestPrometheusRule(t *testing.T) {
	const file = "prometheusrule.yaml"
	var object bytes.Buffer
	object.WriteString(`# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# The alerts of ` + rulesFile + ` for the Prometheus operator; go test ./systemd/monitoring -update writes this file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: smartnat
  labels: {app.kubernetes.io/name: smartnat}
spec:
`)
	for line := range strings.Lines(read(t, rulesFile)) {
		if !strings.HasPrefix(line, "#") {
			object.WriteString("  " + line)
		}
	}
	if *update {
		if err := os.WriteFile(file, object.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if object.String() != read(t, file) {
		t.Errorf("%s differs from %s: run go test ./systemd/monitoring -update", file, rulesFile)
	}
	var rule, plain struct {
		Spec struct {
			Groups any
		}
		Groups any
	}
	if err := yaml.Unmarshal(object.Bytes(), &rule); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &plain); err != nil {
		t.Fatal(err)
	}
	if one, other := marshal(t, rule.Spec.Groups), marshal(t, plain.Groups); one != other || len(one) < 1000 {
		t.Errorf("the groups differ:\n%s\n%s", one, other)
	}
}

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
