// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// testSchema checks that the errors of kubectl apply name the field.
func testSchema(t *testing.T, w *world) {
	const rest = `serviceName: echo, ports: [{port: 80}]`
	for _, test := range []struct{ name, spec, field, word string }{
		{"port 70000", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 70000}]`, "spec.ports[0].port", "65535"},
		{"CIDR 10.0.0.0/33", `addresses: [198.51.100.12], allowedSources: [10.0.0.0/33], ` + rest, "spec.allowedSources[0]", "CIDR"},
		{"an address twice", `addresses: [198.51.100.12, 198.51.100.12], ` + rest, "spec.addresses", "Duplicate"},
		{"no address", `addresses: [], ` + rest, "spec.addresses", "at least one IPv4 or IPv6 address"},
		{"a protocol that is none", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 80, protocol: icmp}]`, "spec.ports[0].protocol", "tcp, udp or sctp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := w.KubectlApply(timeout(t, patience), mappingYAML("default", "bad", test.spec))
			if err == nil {
				t.Fatalf("accepted: %s", out)
			}
			if text := err.Error(); !strings.Contains(text, test.field) || !strings.Contains(text, test.word) {
				t.Errorf("error %q, want it to name %q and %q", text, test.field, test.word)
			}
		})
	}
	t.Run("the example of the README is accepted", func(t *testing.T) {
		w.apply(t, mappingYAML("default", "example", `addresses: [10.237.94.10, 172.17.0.1], allowedSources: [10.0.0.0/16, 192.168.1.0/24],
			serviceName: echo-test-service, mode: service, ports: [{port: 8080}, {port: 8081, servicePort: 8080}, {port: 8081, servicePort: 8080, protocol: "udp"}]`))
		if _, err := w.Kubectl(timeout(t, patience), "delete", "mapping", "example"); err != nil {
			t.Error(err)
		}
	})
}

// testBadMappings checks that smartnatd logs errors that the API server cannot find, one line each, and that other Mappings work.
func testBadMappings(t *testing.T, w *world) {
	w.namespace(t, "bad", 1)
	w.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: bad}\nspec: {clusterIP: None, selector: {app: echo}, ports: [{port: 8080}]}\n")
	skip := len(w.daemon.Log())
	for _, m := range []struct{ name, spec string }{
		{"good", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 7000, servicePort: 8080}]`},
		{"missing", `addresses: [198.51.100.12], serviceName: absent, ports: [{port: 7001}]`},
		{"headless", `addresses: [198.51.100.12], serviceName: headless, ports: [{port: 7002, servicePort: 8080}]`},
		{"portless", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 7003, servicePort: 8443}, {port: 7004, servicePort: 8080}]`},
		{"twice", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 7000, servicePort: 8080}, {port: 7005, servicePort: 8080}]`},
	} {
		w.apply(t, mappingYAML("bad", m.name, m.spec))
		if m.name == "good" {
			w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 7000), nil)
		}
	}
	ctx := timeout(t, patience)
	w.awaitLog(ctx, t, skip, "bad/missing", "spec.serviceName", "bad/absent")
	w.awaitLog(ctx, t, skip, "bad/headless", "spec.serviceName", "headless")
	w.awaitLog(ctx, t, skip, "bad/portless", "spec.ports[0].servicePort", "8443", "8080")
	w.awaitLog(ctx, t, skip, "spec.ports[0]", "7000")
	for _, port := range []uint16{7000, 7004, 7005} {
		w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", port), nil)
	}
	for _, port := range []uint16{7001, 7002, 7003} {
		w.awaitRefusal(t, lab.Client, "tcp", lab.Join("198.51.100.12", port))
	}
}
