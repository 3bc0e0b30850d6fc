// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	namespace = "chaos"
	// Ports of Mappings: to endpoints, to a ClusterIP, to endpoints of which one flaps, and guarded, which only packets of forbidden
	// sources are sent to.
	endpointsPort, servicePort, flappingPort, guardedPort = 8080, 8081, 8082, 9001
	// insidePort belongs to no Mapping: only packets that cross the boundary reach it.
	insidePort = 9002
)

// canaryPorts are the two ports that the Mapping "canary" alternates between, to show whether a change gets through.
var canaryPorts = [2]int{7001, 7002}

// externals are the external addresses of both uplinks and both families.
var externals = []string{lab.External1, lab.External2, lab.External1v6, lab.External2v6}

func join(port uint16) []string {
	var addresses []string
	for _, external := range externals {
		addresses = append(addresses, lab.Join(external, port))
	}
	return addresses
}

// allowed are the sources that Mappings allow: the client, but not the other one.
const allowed = `192.0.2.10/32, "2001:db8:c::10/128"`

// crowd returns enough further sources of each family that smartnatd keeps them in a set.
func crowd() string {
	var text strings.Builder
	for i := range 70 {
		fmt.Fprintf(&text, `, 198.18.%d.0/24, "2001:db8:f:%x::/64"`, i, i)
	}
	return text.String()
}

// objects returns the Services and Mappings of a run.
func objects() string {
	quoted := `"` + strings.Join(externals, `", "`) + `"`
	var text strings.Builder
	for _, service := range []string{"steady", "flapping"} {
		fmt.Fprintf(&text, `
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: %s}
  ports:
  - {name: tcp, port: 8080, protocol: TCP}
  - {name: udp, port: 8080, protocol: UDP}
  - {name: guarded-tcp, port: %d, protocol: TCP}
  - {name: guarded-udp, port: %d, protocol: UDP}
---
`, service, namespace, service, guardedPort, guardedPort)
	}
	both := func(port int, target int) string {
		return fmt.Sprintf("[{port: %d, servicePort: %d}, {port: %d, servicePort: %d, protocol: udp}]", port, target, port, target)
	}
	for _, m := range []struct{ name, service, mode, ports, sources string }{
		{"endpoints", "steady", "endpoints", both(endpointsPort, 8080), allowed},
		{"service", "steady", "service", both(servicePort, 8080), allowed + crowd()},
		{"flapping", "flapping", "endpoints", both(flappingPort, 8080), allowed},
		{"guarded", "steady", "endpoints", both(guardedPort, guardedPort), allowed},
		{"canary", "steady", "endpoints", fmt.Sprintf("[{port: %d, servicePort: 8080}]", canaryPorts[0]), allowed},
	} {
		fmt.Fprintf(&text, `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: %s, namespace: %s}
spec: {addresses: [%s], serviceName: %s, mode: %s, ports: %s, allowedSources: [%s]}
---
`, m.name, namespace, quoted, m.service, m.mode, m.ports, m.sources)
	}
	return text.String()
}
