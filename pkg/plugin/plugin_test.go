// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/plugin"
)

const objects = `
metadata: {name: web, namespace: shop, generation: 2, creationTimestamp: "2030-01-01T00:00:00Z"}
spec: {addresses: [198.51.100.10, "2001:db8::10"], serviceName: web, ports: [{port: 80}, {port: 443, servicePort: 8443}]}
status:
  conditions: [{type: Accepted, status: "True"}, {type: Ready, status: "True", reason: Ready, observedGeneration: 2}]
  instances:
  - {name: gateway-2, addresses: ["2001:db8::10"], programmed: true, ready: true, observedGeneration: 1}
  - {name: gateway-1, addresses: [198.51.100.10], programmed: true, ready: true, observedGeneration: 2}
---
metadata: {name: db, namespace: shop, generation: 1, creationTimestamp: "2030-01-02T00:00:00Z"}
spec: {addresses: [198.51.100.10], allowedSources: [203.0.113.0/24], serviceName: db, mode: endpoints, ports: [{port: 5432, protocol: TCP}]}
status:
  conditions: [{type: Ready, status: "False", reason: NoReadyEndpoints, message: "no endpoint is ready", observedGeneration: 1}]
  instances: [{name: gateway-1, addresses: [198.51.100.10], programmed: true, observedGeneration: 1, reason: NoReadyEndpoints, problems: ["port 5432/tcp: \e[31mrefused"]}]
---
metadata: {name: late, namespace: shop, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {addresses: [198.51.100.10], serviceName: late, ports: [{port: 80}]}
status: {conditions: [{type: Accepted, status: "False"}, {type: Ready, status: "False", reason: PortConflict, message: "80/tcp belongs to shop/web"}]}
---
metadata: {name: game, namespace: play}
spec: {addressesFrom: [{uplink: eth1}], serviceName: game, mode: endpoints, ports: [{port: 20000, endPort: 20999, protocol: udp}]}
---
metadata: {name: edited, namespace: play, generation: 3}
spec: {addresses: [198.51.100.12], serviceName: edited, ports: [{port: 1}]}
status: {conditions: [{type: Ready, status: "True", reason: Ready, observedGeneration: 2}]}
`

func mappings(t *testing.T) []v1alpha1.Mapping {
	t.Helper()
	var all []v1alpha1.Mapping
	for text := range strings.SplitSeq(objects, "\n---\n") {
		var m v1alpha1.Mapping
		if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, `\e`, `\u001b`)), &m); err != nil {
			t.Fatal(err)
		}
		v1alpha1.SetDefaults(&m)
		all = append(all, m)
	}
	return all
}

func TestStatusTable(t *testing.T) {
	var got []string
	for _, row := range plugin.StatusRows(plugin.Status(mappings(t))) {
		got = append(got, strings.Join(row, " | "))
	}
	want := []string{
		"MAPPING | SERVICE | ADDRESSES | PORTS | READY | GATEWAY | FORWARDS | WHY",
		"play/edited | edited | 198.51.100.12 | 1/tcp | Unknown | - | - | Pending: the status is that of an earlier version of the Mapping",
		"play/game | game | uplink eth1 | 20000-20999/udp | Unknown | - | - | Pending: the relay has not written a status yet: is it running?",
		`shop/db | db | 198.51.100.10 | 5432/tcp | False | gateway-1 | no | NoReadyEndpoints: port 5432/tcp: \x1b[31mrefused`,
		"shop/late | late | 198.51.100.10 | 80/tcp | False | - | - | PortConflict: 80/tcp belongs to shop/web",
		"shop/web | web | 198.51.100.10,2001:db8::10 | 80/tcp,443/tcp | True | gateway-1 | yes | ",
		" |  |  |  |  | gateway-2 | yes, before the last change | ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		source, destination, protocol string
		verdict                       plugin.Verdict
		sentence                      string
		ask                           []plugin.Command
	}{
		{"203.0.113.7", "198.51.100.10:80", "tcp", plugin.Forwarded,
			"Mapping shop/web exposes it and is ready: 198.51.100.10:80/tcp leads to Service web.",
			[]plugin.Command{{Gateway: "gateway-1", Command: "smartnatd explain 203.0.113.7 198.51.100.10:80/tcp"}}},
		{"2001:db8:c::7", "[2001:db8::10]:443", "tcp", plugin.Forwarded,
			"Mapping shop/web exposes it and is ready: [2001:db8::10]:443/tcp leads to Service web.",
			[]plugin.Command{{Gateway: "gateway-2", Command: "smartnatd explain 2001:db8:c::7 [2001:db8::10]:443/tcp"}}},
		{"192.0.2.7", "198.51.100.10:5432", "tcp", plugin.Dropped,
			"Mapping shop/db drops it: 192.0.2.7 is in none of its allowedSources.",
			[]plugin.Command{{Gateway: "gateway-1", Command: "smartnatd explain 192.0.2.7 198.51.100.10:5432/tcp"}}},
		{"203.0.113.7", "198.51.100.10:5432", "tcp", plugin.NotReady,
			"Mapping shop/db exposes it, but is not ready: no endpoint is ready (NoReadyEndpoints)",
			[]plugin.Command{{Gateway: "gateway-1", Command: "smartnatd explain 203.0.113.7 198.51.100.10:5432/tcp"}}},
		{"203.0.113.7", "198.51.100.10:5432", "udp", plugin.Unmapped,
			"No Mapping exposes 198.51.100.10:5432/udp. Mappings of that address expose 443/tcp,5432/tcp,80/tcp.", nil},
		{"203.0.113.7", "198.51.100.99:80", "tcp", plugin.Unmapped, "No Mapping exposes 198.51.100.99:80/tcp.", nil},
	} {
		t.Run(test.source+" "+test.destination+"/"+test.protocol, func(t *testing.T) {
			flow, err := explain.ParseFlow(test.source, test.destination, test.protocol)
			if err != nil {
				t.Fatal(err)
			}
			got := plugin.Explain(mappings(t), flow)
			if got.Verdict != test.verdict || got.Sentence != test.sentence {
				t.Errorf("got  %s: %s\nwant %s: %s", got.Verdict, got.Sentence, test.verdict, test.sentence)
			}
			if diff := cmp.Diff(test.ask, got.Ask); diff != "" {
				t.Errorf("commands (-want +got)\n%s", diff)
			}
		})
	}
}

// TestExplainByUplink asks for an address that only a gateway's report names.
func TestExplainByUplink(t *testing.T) {
	all := mappings(t)
	for i := range all {
		if all[i].Name == "game" {
			all[i].Status.Instances = []v1alpha1.InstanceStatus{{Name: "gateway-3", Addresses: []string{"203.0.113.77"}}}
		}
	}
	flow, err := explain.ParseFlow("192.0.2.7", "203.0.113.77:20500", "udp")
	if err != nil {
		t.Fatal(err)
	}
	got := plugin.Explain(all, flow)
	if got.Verdict != plugin.NotReady || len(got.Ask) != 1 || got.Ask[0].Gateway != "gateway-3" {
		t.Errorf("%+v", got)
	}
}

func TestConnections(t *testing.T) {
	states := plugin.Status(mappings(t))
	for name, want := range map[string][]plugin.Command{
		"":          {{Gateway: "gateway-1", Command: "smartnatd connections"}, {Gateway: "gateway-2", Command: "smartnatd connections"}},
		"shop/db":   {{Gateway: "gateway-1", Command: "smartnatd connections shop/db"}},
		"play/game": nil,
	} {
		got, err := plugin.Connections(states, name)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got)\n%s", name, err, diff)
		}
	}
	if _, err := plugin.Connections(states, "shop/none"); err == nil || err.Error() != "there is no Mapping shop/none" {
		t.Error(err)
	}
}

func TestEnrollmentOptions(t *testing.T) {
	for _, test := range []struct {
		gateway  string
		duration time.Duration
		want     string
	}{
		{"gateway-1", 365 * 24 * time.Hour, ""},
		{"gateway-1", time.Minute, "--duration: 1m0s is not between 10m and 17520h: a gateway learns a new authority of the relay only with a new credential"},
		{"gateway-1", 10 * 365 * 24 * time.Hour, "--duration: 87600h0m0s is not between 10m and 17520h: a gateway learns a new authority of the relay only with a new credential"},
		{"../x", time.Hour, `"../x" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes`},
	} {
		got := ""
		if err := (&plugin.Enrollment{Gateway: test.gateway, Duration: test.duration}).Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s, %s: got %s, want %s", test.gateway, test.duration, got, test.want)
		}
	}
}
