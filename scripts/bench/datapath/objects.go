// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/ways"
)

// manifests returns the objects that expose the ports on addresses, as YAML.
func manifests(addresses []string, ports int) string {
	var text strings.Builder
	for m := 0; m*ways.PortsPerMapping < ports; m++ {
		n := min(ways.PortsPerMapping, ports-m*ways.PortsPerMapping)
		fmt.Fprintf(&text, "---\napiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: m%d}\n", m)
		fmt.Fprintf(&text, "spec:\n  addresses: [%s]\n  serviceName: m%d\n  mode: endpoints\n  ports:\n", quoted(addresses), m)
		for p := range n {
			fmt.Fprintf(&text, "  - {port: %d, servicePort: %d}\n", ways.FirstPort+m*ways.PortsPerMapping+p, 1+p)
		}
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Service\nmetadata: {name: m%d}\n", m)
		fmt.Fprintf(&text, "spec:\n  clusterIP: 10.96.%d.%d\n  clusterIPs: [10.96.%d.%d, \"fd00:96::1:%x\"]\n", m>>8, m&255, m>>8, m&255, m)
		text.WriteString("  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  ports:\n")
		for p := range n {
			fmt.Fprintf(&text, "  - {name: p%d, port: %d, targetPort: %d, protocol: TCP}\n", p, 1+p, ways.FirstTarget+p)
		}
		for _, family := range ways.Families {
			slice(&text, family, m, n)
		}
	}
	return text.String()
}

func slice(text *strings.Builder, family string, mapping, ports int) {
	fmt.Fprintf(text, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: %s\n", family)
	fmt.Fprintf(text, "metadata: {name: m%d-%s, labels: {kubernetes.io/service-name: m%d}}\nports:\n", mapping, strings.ToLower(family), mapping)
	for p := range ports {
		fmt.Fprintf(text, "- {name: p%d, port: %d, protocol: TCP}\n", p, ways.FirstTarget+p)
	}
	text.WriteString("endpoints:\n")
	for k := range ways.Endpoints {
		fmt.Fprintf(text, "- {addresses: [%q], conditions: {ready: true}}\n", ways.Endpoint(family, ways.PlainPods, mapping, k))
	}
}

func quoted(values []string) string {
	var list []string
	for _, v := range values {
		list = append(list, fmt.Sprintf("%q", v))
	}
	return strings.Join(list, ", ")
}
