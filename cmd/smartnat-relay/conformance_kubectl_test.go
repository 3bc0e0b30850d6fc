// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testKubectl runs kubectl with both servers: as an administrator with the cluster, as a gateway with the relay.
func testKubectl(t *testing.T, p *controlPlane, token string) {
	as := map[string][]string{
		clusterURL: {"--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key")},
		relayURL:   {"--token", token},
	}
	run := func(server, args string) (string, error) {
		return p.kubectlAs(slices.Concat([]string{"--server", server, "--namespace=shop"}, as[server], strings.Fields(args))...)
	}
	// Commands that print the same.
	for _, args := range []string{
		"get mappings -o name",
		"get smap --no-headers -o custom-columns=:metadata.name,:spec.serviceName",
		"get all -o name",
		"get services,mappings -l tier=mail -o name",
		"get service web -o jsonpath={.spec.ports}",
		"get service none",
		"get mapping web -o go-template={{.spec.addresses}}",
		"api-resources --api-group=smartnat.aureacentral.com --no-headers",
		"explain mappings",
		"explain mapping.spec.ports --recursive",
		"explain mapping.status.conditions",
		"explain service.spec.ports.port",
		"explain endpointslice.endpoints.conditions",
		"explain service.no.field",
		"wait mapping/web --for=jsonpath={.spec.serviceName}=web --timeout=20s",
		"wait mapping/web --for=jsonpath={.spec.serviceName}=other --timeout=1s",
		"wait mapping/none --for=condition=Programmed --timeout=1s",
	} {
		t.Run(args, func(t *testing.T) {
			want, wantErr := run(clusterURL, args)
			got, err := run(relayURL, args)
			if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (wantErr == nil) {
				t.Errorf("%v, want %v (-kube-apiserver +relay)\n%s", err, wantErr, diff)
			}
		})
	}
	// Commands for which the cluster prints more.
	for args, says := range map[string][]string{
		"describe service web":                          {"Name:                     web", "Namespace:                shop", "10.96.0.80", "10.244.1.2:8080"},
		"describe mapping web":                          {"Name:         web", "Kind:         Mapping", "192.0.2.1"},
		"describe endpointslice":                        {"Name:         web-1", "Addresses:  10.244.1.2"},
		"get mapping web -o yaml":                       {"kind: Mapping", "serviceName: web", "- 192.0.2.1"},
		"get service web -o json":                       {`"kind": "Service"`, `"clusterIP": "10.96.0.80"`},
		"get svc,endpointslices":                        {"service/web", "endpointslice.discovery.k8s.io/web-1"},
		"explain service.spec":                          {"KIND:       Service", "ports\t<[]ServicePort>", "sessionAffinity\t<string>"},
		"explain service.spec.ports.targetPort":         {"FIELD: targetPort <string>", "Number or name of the port to access on the pods"},
		"explain endpointslice":                         {"GROUP:      discovery.k8s.io", "addressType\t<string>", "-required-"},
		"get mapping web -o wide":                       {"NAME", "ADDRESSES", "web"},
		"get mappings --sort-by=.metadata.name -o name": {"mapping.smartnat.aureacentral.com/web"},
	} {
		t.Run(args, func(t *testing.T) {
			out, err := run(relayURL, args)
			for _, part := range says {
				if err != nil || !strings.Contains(out, part) {
					t.Fatalf("error %v, want %q in:\n%s", err, part, out)
				}
			}
		})
	}
}
