// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// audited are a Mapping with ports, which tenant wrote, its Service, and a PortGrant for a namespace.
func audited(ports, namespace string) string {
	return fmt.Sprintf(`apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata:
  name: echo
  namespace: shop
  managedFields:
  - {manager: "ten ant", operation: Apply, time: "2026-01-02T03:04:05Z", fieldsV1: {"f:spec": {}}}
  - {manager: smartnat, operation: Apply, time: "2026-01-03T03:04:05Z", subresource: status, fieldsV1: {"f:status": {}}}
spec: {addresses: [10.237.94.10], serviceName: echo, ports: [%s]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  clusterIP: 10.96.12.34
  ports: [{port: 8080}]
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: PortGrant
metadata: {name: web}
spec: {addresses: [10.237.94.10], namespaces: [%s]}
`, ports, namespace)
}

// TestAudit runs the whole program, and expects a line for each port that opens, closes or is refused, once the kernel has it, and none for
// what a restart leaves as it was.
func TestAudit(t *testing.T) {
	configFile := newHost(t)
	file := filepath.Join(filepath.Dir(configFile), "objects.yaml")
	config := fmt.Sprintf("instance: gw1\nsource: {files: {paths: [%s]}}\nuplinks: [{interface: eth1}]\nstateDir: %[2]s/state\nruntimeDir: %[2]s/run\n", file, filepath.Dir(configFile))
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(configFile, config)
	const first, second = "{port: 80, servicePort: 8080}", "{port: 81, servicePort: 8080}"
	write(file, audited(first, "shop"))
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	const about = `manager="ten ant" mapping=shop/echo operation=Apply port=%d protocol=tcp reason=%s`
	program.awaitLog(t, "audit=base frontends=1 refused=0", 1)

	write(file, audited(first+", "+second, "shop"))
	program.awaitLog(t, `audit=opened grant=web `+fmt.Sprintf(about, 81, "Requested")+` sources=all written="2026-01-02T03:04:05Z"`, 1)
	if rules := programmed(t); !strings.Contains(rules, "--dport 80:81") && !strings.Contains(rules, "--dport 81") {
		t.Errorf("the line is there before the rule:\n%s", rules)
	}

	write(file, audited(first+", "+second, "bank"))
	for _, port := range []int{80, 81} {
		program.awaitLog(t, "audit=closed grant=web "+fmt.Sprintf(about, port, "NotGranted"), 1)
	}
	if rules := programmed(t); strings.Contains(rules, "-j DNAT") {
		t.Errorf("the line is there before the rule is gone:\n%s", rules)
	}
	write(file, audited("{port: 82}", "bank"))
	program.awaitLog(t, "audit=refused "+fmt.Sprintf(about, 82, "NotGranted"), 1)
	_, metrics := getInside(t, "/metrics")
	for _, want := range []string{
		`smartnat_audit_records_total{reason="Requested",result="opened"} 1`, `smartnat_audit_records_total{reason="NotGranted",result="closed"} 2`,
		`smartnat_audit_records_total{reason="NotGranted",result="refused"} 1`, "smartnat_audit_lines_lost_total 0",
	} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("no %s in the metrics", want)
		}
	}
	program.end(t)
	if n := linesWith(program.log.String(), "audit="); n != 5 {
		t.Errorf("%d audit lines, want 5", n)
	}

	program = startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 2)
	program.awaitLog(t, "audit=base frontends=0 refused=1", 1)
	program.end(t)
	if n := linesWith(program.log.String(), "audit="); n != 1 {
		t.Errorf("%d audit lines after a restart, want 1", n)
	}
}
