// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package crds_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// labelsOf returns n labels.
func labelsOf(n int) string {
	return "{" + strings.Trim(list(n, "k%d: v"), "[]") + "}"
}

// TestSchemaAndValidationOfPortGrantsAgree is TestSchemaAndValidationAgree for PortGrants.
func TestSchemaAndValidationOfPortGrantsAgree(t *testing.T) {
	s := newSchema(t, portGrantFile)
	for _, test := range []testCase{
		{"an address, for a namespace", "{addresses: [192.0.2.1], namespaces: [shop]}", ""},
		{"networks of both families", `{addresses: [192.0.2.0/24, "2001:db8::/64"], namespaces: [shop]}`, ""},
		{"everything", `{addresses: [192.0.2.1], ports: [{port: 1, endPort: 65535, protocol: TCP}, {port: 53}], namespaces: [shop],
			namespaceSelector: {matchLabels: {tier: gold}}, allowedSources: [10.0.0.0/8], maxPorts: 16777216, egress: true,
			endpointsWithoutSelector: true, reservedPorts: true, priority: -1000}`, ""},
		{"an empty selector", "{addresses: [192.0.2.1], namespaceSelector: {}}", ""},
		{"as much of a selector as allowed", "{addresses: [192.0.2.1], namespaceSelector: {matchLabels: " + labelsOf(16) + ", matchExpressions: [{key: a, operator: In, values: " + list(64, "v%d") + "}]}}", ""},
		{"17 labels", "{addresses: [192.0.2.1], namespaceSelector: {matchLabels: " + labelsOf(17) + "}}", "spec.namespaceSelector"},
		{"17 expressions", "{addresses: [192.0.2.1], namespaceSelector: {matchExpressions: " + list(17, "{key: k%d, operator: Exists}") + "}}", "spec.namespaceSelector"},
		{"65 values", "{addresses: [192.0.2.1], namespaceSelector: {matchExpressions: [{key: a, operator: In, values: " + list(65, "v%d") + "}]}}", "spec.namespaceSelector"},
		{"for no namespace", "{addresses: [192.0.2.1]}", "spec.namespaces"},
		{"for an empty list of namespaces", "{addresses: [192.0.2.1], namespaces: []}", "spec.namespaces"},
		{"no address", "{addresses: [], namespaces: [shop]}", "spec.addresses"},
		{"no address at all", "{namespaces: [shop]}", "spec.addresses"},
		{"a name for an address", "{addresses: [example.com], namespaces: [shop]}", "spec.addresses[0]"},
		{"bits beyond the prefix", "{addresses: [192.0.2.1/24], namespaces: [shop]}", "spec.addresses[0]"},
		{"an IPv4-mapped address", `{addresses: ["::ffff:192.0.2.1"], namespaces: [shop]}`, "spec.addresses[0]"},
		{"an address twice", "{addresses: [192.0.2.1, 192.0.2.1], namespaces: [shop]}", "spec.addresses[1]"},
		{"65 addresses", "{namespaces: [shop], addresses: " + list(65, "192.0.2.%d") + "}", "spec.addresses"},
		{"a port range upside down", "{addresses: [192.0.2.1], namespaces: [shop], ports: [{port: 90, endPort: 80}]}", "spec.ports[0].endPort"},
		{"port 0", "{addresses: [192.0.2.1], namespaces: [shop], ports: [{port: 0}]}", "spec.ports[0].port"},
		{"a port that is none", "{addresses: [192.0.2.1], namespaces: [shop], ports: [{port: 65536}]}", "spec.ports[0].port"},
		{"another protocol", "{addresses: [192.0.2.1], namespaces: [shop], ports: [{port: 80, protocol: icmp}]}", "spec.ports[0].protocol"},
		{"65 ports", "{addresses: [192.0.2.1], namespaces: [shop], ports: " + list(65, "{port: %d}") + "}", "spec.ports"},
		{"a namespace in upper case", "{addresses: [192.0.2.1], namespaces: [Shop]}", "spec.namespaces[0]"},
		{"a namespace twice", "{addresses: [192.0.2.1], namespaces: [shop, shop]}", "spec.namespaces[1]"},
		{"an address for a source", "{addresses: [192.0.2.1], namespaces: [shop], allowedSources: [10.0.0.1]}", "spec.allowedSources[0]"},
		{"a negative number of ports", "{addresses: [192.0.2.1], namespaces: [shop], maxPorts: -1}", "spec.maxPorts"},
		{"a priority too high", "{addresses: [192.0.2.1], namespaces: [shop], priority: 1001}", "spec.priority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := []byte("apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: PortGrant\nmetadata: {name: web}\nspec: " + test.spec + "\n")
			var grant v1alpha1.PortGrant
			if err := yaml.UnmarshalStrict(text, &grant); err != nil {
				t.Fatal(err)
			}
			checkField(t, "the schema", s.validate(t, toJSON(t, text)), test.field)
			checkField(t, "validation", validation.ValidatePortGrant(&grant), test.field)
		})
	}
}
