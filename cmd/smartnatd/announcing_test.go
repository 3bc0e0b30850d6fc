// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// announcedObjects are two Mappings: near leads to a pod behind the next hop 10.10.0.11, far to pods behind it and behind 10.10.0.12.
const announcedObjects = `apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: near, namespace: shop}
spec: {addresses: [203.0.113.1], serviceName: near, mode: endpoints, ports: [{port: 80, servicePort: 8080}]}
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: far, namespace: shop}
spec: {addresses: [203.0.113.2], serviceName: far, mode: endpoints, ports: [{port: 80, servicePort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: near}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: far}, ports: [{port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: near-1, namespace: shop, labels: {kubernetes.io/service-name: near, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, namespace: shop, labels: {kubernetes.io/service-name: far, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.3]}, {addresses: [10.244.2.3]}]
`

// TestWithdrawsWhatNoNextHopReaches runs the whole program with BIRD, and lets next hops of the host's own routes to the pods fall silent.
func TestWithdrawsWhatNoNextHopReaches(t *testing.T) {
	testenv.RequireTool(t, "bird")
	configFile := newHost(t)
	for _, command := range []string{
		"netns add nodes", "link set peer0 netns nodes",
		"-n nodes addr add 10.10.0.11/32 dev peer0", "-n nodes addr add 10.10.0.12/32 dev peer0", "-n nodes link set peer0 up", "-n nodes route add 10.10.0.2 dev peer0",
		"route add 10.244.1.0/24 via 10.10.0.11", "route add 10.244.2.0/24 via 10.10.0.12",
	} {
		output(t, "ip", strings.Fields(command)...)
	}
	t.Cleanup(func() { output(t, "ip", "netns", "del", "nodes") })
	// The kernel asks again after this many milliseconds.
	if err := os.WriteFile("/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms", []byte("50"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(configFile)
	for name, text := range map[string]string{
		configFile: fmt.Sprintf("instance: gw1\nsource: {files: {paths: [%[1]s/objects.yaml]}}\nuplinks: [{interface: eth1}]\nstateDir: %[1]s/state\nruntimeDir: %[1]s/run\n"+
			"standbyAddresses: [203.0.113.1, 203.0.113.2]\nannounce: {networks: [203.0.113.0/28], file: %[1]s/announced.conf, socket: %[1]s/bird.ctl}\n", dir),
		dir + "/objects.yaml": announcedObjects,
		dir + "/bird.conf":    fmt.Sprintf("router id 10.10.0.2;\nprotocol device {}\ninclude %q;\n", dir+"/announced*.conf"),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bird := exec.Command("bird", "-f", "-c", dir+"/bird.conf", "-s", dir+"/bird.ctl", "-P", dir+"/bird.pid")
	bird.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := bird.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bird.Process.Kill(); _ = bird.Wait() })
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	const near, far = "203.0.113.1/32", "203.0.113.2/32"
	for _, step := range []struct{ do, routes, status string }{
		{"link", near + " " + far, "203.0.113.1, 203.0.113.2"},
		{"-n nodes addr del 10.10.0.11/32 dev peer0", far, "203.0.113.1: no next hop to its endpoints answers: 10.10.0.11"},
		{"-n nodes addr del 10.10.0.12/32 dev peer0", "", "203.0.113.2: no next hop to its endpoints answers: 10.10.0.11, 10.10.0.12"},
		{"-n nodes addr add 10.10.0.12/32 dev peer0", far, "203.0.113.1: no next hop to its endpoints answers: 10.10.0.11"},
		{"-n nodes addr add 10.10.0.11/32 dev peer0", near + " " + far, "203.0.113.1, 203.0.113.2"},
	} {
		output(t, "ip", strings.Fields(step.do)...)
		var routes, status string
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			out, _ := exec.Command("birdc", "-s", dir+"/bird.ctl", "show", "route").CombinedOutput()
			var shown []string
			for _, address := range []string{near, far} {
				if strings.Contains(string(out), address) {
					shown = append(shown, address)
				}
			}
			routes = strings.Join(shown, " ")
			_, status, _ = smartnatd(t, "", "status", "--config", configFile)
			if routes == step.routes && strings.Contains(status, step.status) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after ip %s, BIRD has %s, want %s; want %q in\n%s", step.do, routes, step.routes, step.status, status)
			}
		}
	}
	program.end(t)
}
