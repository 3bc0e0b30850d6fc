// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// What is exposed: dense ports, ten to a Mapping with a Service of its own, three endpoints each.
const (
	firstPort       = 20000
	portsPerMapping = 10
	firstTarget     = 8080
	endpoints       = 3
)

// families are those of IP, by the names that people give them.
var families = []string{"IPv4", "IPv6"}

// The second number of the pods' addresses says by which host the router sends what is for them.
const (
	plainPods   = 244
	trackedPods = 245
)

// endpoint is the address of an endpoint of the nth Mapping. They take turns on two nodes and on the addresses there.
func endpoint(family string, pods, mapping, k int) netip.Addr {
	n := mapping*endpoints + k
	node, host := n%2+1, 2+n/2%250
	if family == "IPv4" {
		return netip.AddrFrom4([4]byte{10, byte(pods), byte(node), byte(host)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%x", pods, node, host))
}

// podTargets are the sockets behind all ports, as one would reach them without SmartNat.
func podTargets(family string, pods, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		for k := range endpoints {
			targets = append(targets, netip.AddrPortFrom(endpoint(family, pods, p/portsPerMapping, k), uint16(firstTarget+p%portsPerMapping)))
		}
	}
	return targets
}

// mappedTargets are the ports on the gateway's address.
func mappedTargets(address string, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr(address), uint16(firstPort+p)))
	}
	return targets
}

// manifests are the objects that expose the ports on addresses, as YAML.
func manifests(addresses []string, ports int) string {
	var text strings.Builder
	for m := 0; m*portsPerMapping < ports; m++ {
		n := min(portsPerMapping, ports-m*portsPerMapping)
		fmt.Fprintf(&text, "---\napiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: m%d}\n", m)
		fmt.Fprintf(&text, "spec:\n  addresses: [%s]\n  serviceName: m%d\n  mode: endpoints\n  ports:\n", quoted(addresses), m)
		for p := range n {
			fmt.Fprintf(&text, "  - {port: %d, servicePort: %d}\n", firstPort+m*portsPerMapping+p, 1+p)
		}
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Service\nmetadata: {name: m%d}\n", m)
		fmt.Fprintf(&text, "spec:\n  clusterIP: 10.96.%d.%d\n  clusterIPs: [10.96.%d.%d, \"fd00:96::1:%x\"]\n", m>>8, m&255, m>>8, m&255, m)
		text.WriteString("  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  ports:\n")
		for p := range n {
			fmt.Fprintf(&text, "  - {name: p%d, port: %d, targetPort: %d, protocol: TCP}\n", p, 1+p, firstTarget+p)
		}
		for _, family := range families {
			slice(&text, family, m, n)
		}
	}
	return text.String()
}

func slice(text *strings.Builder, family string, mapping, ports int) {
	fmt.Fprintf(text, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: %s\n", family)
	fmt.Fprintf(text, "metadata: {name: m%d-%s, labels: {kubernetes.io/service-name: m%d}}\nports:\n", mapping, strings.ToLower(family), mapping)
	for p := range ports {
		fmt.Fprintf(text, "- {name: p%d, port: %d, protocol: TCP}\n", p, firstTarget+p)
	}
	text.WriteString("endpoints:\n")
	for k := range endpoints {
		fmt.Fprintf(text, "- {addresses: [%q], conditions: {ready: true}}\n", endpoint(family, plainPods, mapping, k))
	}
}

func quoted(values []string) string {
	var list []string
	for _, v := range values {
		list = append(list, fmt.Sprintf("%q", v))
	}
	return strings.Join(list, ", ")
}
