// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// badInput is one mistake in a Mapping, its Service or their EndpointSlice.
type badInput struct {
	name string
	// mapping and service replace keys of the spec, slice replaces top-level keys; null removes a key.
	mapping, service, slice string
	// findings are all expected findings: field and reason.
	findings []string
	// effect is what the Mapping still does: port>backends, one word per port.
	effect string
}

// The Mapping with a mistake, and its neighbour.
const (
	badMapping  = "addresses: [198.51.100.20]\nserviceName: bad\nmode: endpoints\nports: [{port: 80}]"
	badService  = "clusterIP: 10.96.0.20\nports: [{port: 80}]"
	badSlice    = "addressType: IPv4\nendpoints: [{addresses: [10.244.1.20]}]\nports: [{port: 8080}]"
	goodMapping = "addresses: [198.51.100.10, 2001:db8::10]\nserviceName: good\nmode: endpoints\nports: [{port: 80}]"
	goodEffect  = "80>10.244.1.10:8080"
)

// TestBadInput expects a finding with the field for each mistake, and that as much as possible of the Mapping and its neighbour
// is in effect.
func TestBadInput(t *testing.T) {
	all := slices.Concat(badAddresses, badSources, badNames, badPorts, badRanges, enormous, badServices, badClusterIPs, badSlices)
	const least = 80
	if len(all) < least {
		t.Errorf("%d cases, want at least %d", len(all), least)
	}
	for _, test := range all {
		t.Run(test.name, func(t *testing.T) {
			snapshot := test.snapshot(t)
			cfg := config.Default()
			cfg.AnyAddress = true
			state, findings := calc.Calculate(snapshot, gateway.Host{}, cfg)
			checkState(t, state, cfg)
			var got []string
			for _, f := range findings {
				if f.Name != "bad" {
					t.Errorf("finding about another Mapping: %s", f)
				}
				if text := f.String(); len(text) > 600 || strings.ContainsAny(text, "\n\x00") {
					t.Errorf("%s: %d bytes, or more than a line: %.200q", f.Field, len(text), text)
				}
				got = append(got, f.Field+" "+f.Reason)
			}
			if diff := cmp.Diff(test.findings, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s\n%s", diff, findings)
			}
			if got := effect(state, "default/bad"); got != test.effect {
				t.Errorf("in effect: %q, want %q", got, test.effect)
			}
			if got := effect(state, "default/good"); got != goodEffect {
				t.Errorf("the neighbour has in effect: %q, want %q", got, goodEffect)
			}
		})
	}
}

// effect returns what a Mapping does for IPv4.
func effect(state gateway.State, owner string) string {
	var words []string
	for _, f := range state.Forwards {
		if f.Owner != owner || f.Address.Is6() {
			continue
		}
		to := strings.Join(spell(f.Backends), ",")
		if to == "" {
			to = "reject"
		}
		words = append(words, fmt.Sprintf("%s>%s", f.Ports, to))
	}
	return strings.Join(words, " ")
}

func (b badInput) snapshot(t testing.TB) objects.Snapshot {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	sliceOf := func(name string, slice discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		slice.ObjectMeta = meta(name + "-1")
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		return &slice
	}
	newer := meta("bad")
	newer.CreationTimestamp = metav1.Unix(1, 0)
	return objects.Snapshot{
		Mappings: []*v1alpha1.Mapping{
			{ObjectMeta: newer, Spec: decode[v1alpha1.MappingSpec](t, badMapping, b.mapping)},
			{ObjectMeta: meta("good"), Spec: decode[v1alpha1.MappingSpec](t, goodMapping, "")},
		},
		Services: []*corev1.Service{
			{ObjectMeta: meta("bad"), Spec: decode[corev1.ServiceSpec](t, badService, b.service)},
			{ObjectMeta: meta("good"), Spec: decode[corev1.ServiceSpec](t, badService, "")},
		},
		EndpointSlices: []*discoveryv1.EndpointSlice{
			sliceOf("bad", decode[discoveryv1.EndpointSlice](t, badSlice, b.slice)),
			sliceOf("good", decode[discoveryv1.EndpointSlice](t, badSlice, "endpoints: [{addresses: [10.244.1.10]}]")),
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "good-6", Labels: map[string]string{discoveryv1.LabelServiceName: "good"}},
				AddressType: discoveryv1.AddressTypeIPv6, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"fd00:10:244::10"}}},
				Ports: []discoveryv1.EndpointPort{{Port: new(int32(8080))}}},
		},
	}
}

// decode reads an object whose keys are replaced by those of the change.
func decode[T any](t testing.TB, base, change string) T {
	t.Helper()
	keys, changes := map[string]any{}, map[string]any{}
	for text, into := range map[string]*map[string]any{base: &keys, change: &changes} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%v in:\n%.500s", err, text)
		}
	}
	for key, value := range changes {
		keys[key] = value
		if value == nil {
			delete(keys, key)
		}
	}
	text, err := yaml.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatalf("%v in:\n%.500s", err, text)
	}
	return object
}

// huge is longer than any text that the schema allows.
const huge = 100_000

const (
	inEffect = "80>10.244.1.20:8080"
	rejected = "80>reject"
)

func invalid(fields ...string) []string {
	var findings []string
	for _, f := range fields {
		findings = append(findings, f+" "+finding.ReasonInvalid)
	}
	return findings
}

// repeat returns n items, numbered from 1.
func repeat(n int, format string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(format, i+1)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

var badAddresses = []badInput{
	{name: "no address", mapping: "addresses: null", findings: invalid("spec.addresses")},
	{name: "empty list of addresses", mapping: "addresses: []", findings: invalid("spec.addresses")},
	{name: "empty address", mapping: "addresses: ['']", findings: invalid("spec.addresses[0]")},
	{name: "blank address", mapping: "addresses: [' ']", findings: invalid("spec.addresses[0]")},
	{name: "octet above 255", mapping: "addresses: [198.51.100.256]", findings: invalid("spec.addresses[0]")},
	{name: "leading zeros", mapping: "addresses: [198.51.100.020]", findings: invalid("spec.addresses[0]")},
	{name: "name", mapping: "addresses: [gateway.example.com]", findings: invalid("spec.addresses[0]")},
	{name: "network", mapping: "addresses: [198.51.100.0/24]", findings: invalid("spec.addresses[0]")},
	{name: "address with port", mapping: "addresses: ['198.51.100.20:80']", findings: invalid("spec.addresses[0]")},
	{name: "address in brackets", mapping: "addresses: ['[2001:db8::20]']", findings: invalid("spec.addresses[0]")},
	{name: "digits of another script", mapping: "addresses: [١٩٨.51.100.20]", findings: invalid("spec.addresses[0]")},
	{name: "address with a line break", mapping: `addresses: ["198.51.100.20\n"]`, findings: invalid("spec.addresses[0]")},
	{name: "address with a zero byte", mapping: `addresses: ["198.51.100.20\0"]`, findings: invalid("spec.addresses[0]")},
	{name: "address with a zone", mapping: "addresses: ['2001:db8::20%eth1']", findings: invalid("spec.addresses[0]")},
	{name: "IPv4-mapped", mapping: "addresses: ['::ffff:198.51.100.20']", findings: invalid("spec.addresses[0]")},
	{name: "unspecified", mapping: "addresses: [0.0.0.0, '::']", findings: invalid("spec.addresses[0]", "spec.addresses[1]")},
	{name: "loopback", mapping: "addresses: [127.0.0.1, '::1']", findings: invalid("spec.addresses[0]", "spec.addresses[1]")},
	{name: "multicast", mapping: "addresses: [224.0.0.1, 'ff02::1']", findings: invalid("spec.addresses[0]", "spec.addresses[1]")},
	{name: "link-local", mapping: "addresses: [169.254.0.1, 'fe80::1']", findings: invalid("spec.addresses[0]", "spec.addresses[1]")},
	{name: "broadcast", mapping: "addresses: [255.255.255.255]", findings: invalid("spec.addresses[0]")},
	{name: "twice", mapping: "addresses: [198.51.100.20, 198.51.100.20]", findings: invalid("spec.addresses[1]")},
	{name: "twice in different spelling", mapping: "addresses: ['2001:db8::20', '2001:DB8:0:0::20']", findings: invalid("spec.addresses[1]")},
	{name: "the second one alone", mapping: "addresses: [198.51.100.20, nonsense]", findings: invalid("spec.addresses[1]")},
	{name: "of a family that the Service has not", mapping: "addresses: [198.51.100.20, '2001:db8::20']",
		findings: []string{"spec.addresses[1] IPFamilyNotSupported"}, effect: inEffect},
}

var badSources = []badInput{
	{name: "empty source", mapping: "allowedSources: ['']", findings: invalid("spec.allowedSources[0]")},
	{name: "IPv4 length 33", mapping: "allowedSources: [10.0.0.0/33]", findings: invalid("spec.allowedSources[0]")},
	{name: "IPv6 length 129", mapping: "allowedSources: ['2001:db8::/129']", findings: invalid("spec.allowedSources[0]")},
	{name: "negative length", mapping: "allowedSources: [10.0.0.0/-1]", findings: invalid("spec.allowedSources[0]")},
	{name: "length with a zero", mapping: "allowedSources: [10.0.0.0/08]", findings: invalid("spec.allowedSources[0]")},
	{name: "netmask", mapping: "allowedSources: [10.0.0.0/255.0.0.0]", findings: invalid("spec.allowedSources[0]")},
	{name: "source without length", mapping: "allowedSources: [10.0.0.1]", findings: invalid("spec.allowedSources[0]")},
	{name: "host bits", mapping: "allowedSources: [10.0.0.1/8]", findings: invalid("spec.allowedSources[0]")},
	{name: "host bits, IPv6", mapping: "allowedSources: ['2001:db8::1/32']", findings: invalid("spec.allowedSources[0]")},
	{name: "IPv4-mapped network", mapping: "allowedSources: ['::ffff:10.0.0.0/104']", findings: invalid("spec.allowedSources[0]")},
	{name: "network with a zone", mapping: "allowedSources: ['fe80::%eth1/64']", findings: invalid("spec.allowedSources[0]")},
	{name: "range of sources", mapping: "allowedSources: [10.0.0.1-10.0.0.9]", findings: invalid("spec.allowedSources[0]")},
	{name: "source twice", mapping: "allowedSources: [10.0.0.0/8, 10.0.0.0/8]", findings: invalid("spec.allowedSources[1]")},
	{name: "everyone as a word", mapping: "allowedSources: [any]", findings: invalid("spec.allowedSources[0]")},
	{name: "the third one alone", mapping: "allowedSources: [10.0.0.0/8, 192.168.0.0/16, 1]", findings: invalid("spec.allowedSources[2]")},
	{name: "sources of the other family", mapping: "allowedSources: ['2001:db8::/32']",
		findings: []string{"spec.allowedSources NoSources"}, effect: inEffect},
}

var badNames = []badInput{
	{name: "no Service", mapping: "serviceName: null", findings: invalid("spec.serviceName")},
	{name: "empty Service", mapping: "serviceName: ''", findings: invalid("spec.serviceName")},
	{name: "upper case", mapping: "serviceName: Bad", findings: invalid("spec.serviceName")},
	{name: "Service of another namespace", mapping: "serviceName: other/bad", findings: invalid("spec.serviceName")},
	{name: "path", mapping: "serviceName: ../bad", findings: invalid("spec.serviceName")},
	{name: "domain name", mapping: "serviceName: bad.default.svc", findings: invalid("spec.serviceName")},
	{name: "Unicode", mapping: "serviceName: bäd", findings: invalid("spec.serviceName")},
	{name: "what looks like ASCII", mapping: `serviceName: "b\u0430d"`, findings: invalid("spec.serviceName")},
	{name: "Service with a line break", mapping: `serviceName: "bad\n-A FORWARD -j ACCEPT"`, findings: invalid("spec.serviceName")},
	{name: "unknown mode", mapping: "mode: magic", findings: invalid("spec.mode")},
	{name: "mode in upper case", mapping: "mode: Endpoints", findings: invalid("spec.mode")},
	{name: "Service that is not there", mapping: "serviceName: nowhere", findings: []string{"spec.serviceName ServiceNotFound"}, effect: rejected},
}

var badPorts = []badInput{
	{name: "no ports", mapping: "ports: null", findings: invalid("spec.ports")},
	{name: "empty list of ports", mapping: "ports: []", findings: invalid("spec.ports")},
	{name: "nothing in a port", mapping: "ports: [{}]", findings: invalid("spec.ports[0].port")},
	{name: "port 0", mapping: "ports: [{port: 0}]", findings: invalid("spec.ports[0].port")},
	{name: "negative port", mapping: "ports: [{port: -80}]", findings: invalid("spec.ports[0].port")},
	{name: "port 65536", mapping: "ports: [{port: 65536}]", findings: invalid("spec.ports[0].port")},
	{name: "largest port", mapping: "ports: [{port: 2147483647}]", findings: invalid("spec.ports[0].port")},
	{name: "servicePort 65536", mapping: "ports: [{port: 80, servicePort: 65536}]", findings: invalid("spec.ports[0].servicePort")},
	{name: "negative servicePort", mapping: "ports: [{port: 80, servicePort: -1}]", findings: invalid("spec.ports[0].servicePort")},
	{name: "unknown protocol", mapping: "ports: [{port: 80, protocol: icmp}]", findings: invalid("spec.ports[0].protocol")},
	{name: "protocol with a blank", mapping: "ports: [{port: 80, protocol: 'tcp '}]", findings: invalid("spec.ports[0].protocol")},
	{name: "protocol by number", mapping: "ports: [{port: 80, protocol: '6'}]", findings: invalid("spec.ports[0].protocol")},
	{name: "port twice", mapping: "ports: [{port: 80}, {port: 80}]", findings: invalid("spec.ports[1].port")},
	{name: "port twice, protocol in another case", mapping: "ports: [{port: 80, protocol: TCP}, {port: 80}]", findings: invalid("spec.ports[1].port")},
	{name: "the second port alone", mapping: "ports: [{port: 80}, {port: 0}]", findings: invalid("spec.ports[1].port")},
	{name: "port that the Service has not", mapping: "ports: [{port: 81}, {port: 80}]",
		findings: []string{"spec.ports[0].servicePort ServicePortNotFound"}, effect: inEffect + " 81>reject"},
	{name: "protocol that the Service has not", mapping: "ports: [{port: 80}, {port: 80, protocol: udp}]",
		findings: []string{"spec.ports[1].servicePort ServicePortNotFound"}, effect: inEffect + " " + rejected},
	{name: "port of the neighbour", mapping: "addresses: [198.51.100.20, 198.51.100.10]\nports: [{port: 80}, {port: 81, servicePort: 80}]",
		findings: []string{"spec.ports[0].port PortConflict"}, effect: "81>10.244.1.20:8080 80>10.244.1.20:8080 81>10.244.1.20:8080"},
	{name: "egress without an uplink", mapping: "egress: true", findings: []string{"spec.egress NoUplink"}, effect: inEffect},
}

var badRanges = []badInput{
	{name: "range in mode service", mapping: "mode: service\nports: [{port: 80, endPort: 90}]", findings: invalid("spec.ports[0].endPort")},
	{name: "range backwards", mapping: "ports: [{port: 80, endPort: 79}]", findings: invalid("spec.ports[0].endPort")},
	{name: "range to 0", mapping: "ports: [{port: 80, endPort: 0}]", findings: invalid("spec.ports[0].endPort")},
	{name: "range to a negative port", mapping: "ports: [{port: 80, endPort: -1}]", findings: invalid("spec.ports[0].endPort")},
	{name: "range too far", mapping: "ports: [{port: 80, endPort: 65536}]", findings: invalid("spec.ports[0].endPort")},
	{name: "range shifted too far", mapping: "ports: [{port: 80, endPort: 89, servicePort: 65530}]", findings: invalid("spec.ports[0].servicePort")},
	{name: "ranges that overlap", mapping: "ports: [{port: 10, endPort: 20}, {port: 20, endPort: 30}]", findings: invalid("spec.ports[1].port")},
	{name: "range within a range", mapping: "ports: [{port: 10, endPort: 90}, {port: 20, endPort: 30}]", findings: invalid("spec.ports[1].port")},
	{name: "port within a range", mapping: "ports: [{port: 10, endPort: 90}, {port: 80}]", findings: invalid("spec.ports[1].port")},
	{name: "range over a port of the neighbour", mapping: "addresses: [198.51.100.20, 198.51.100.10]\nports: [{port: 79, endPort: 81}]",
		findings: []string{"spec.ports[0].port PortConflict"}, effect: "79>10.244.1.20:79 81>10.244.1.20:81 79-81>10.244.1.20:79"},
}

var enormous = []badInput{
	{name: "10,000 sources", mapping: "allowedSources: " + sources(10000), effect: inEffect},
	{name: "10,001 sources", mapping: "allowedSources: " + sources(10001), findings: invalid("spec.allowedSources")},
	{name: "10,000 bad sources", mapping: "allowedSources: " + repeat(10000, "source-%d"), findings: invalid(firstFields("spec.allowedSources[%d]")...)},
	{name: "65 addresses", mapping: "addresses: " + repeat(65, "198.51.101.%d"), findings: invalid("spec.addresses")},
	{name: "257 ports", mapping: "ports: " + repeat(257, "{port: %d}"), findings: invalid("spec.ports")},
	{name: "enormous address", mapping: "addresses: ['" + strings.Repeat("1", huge) + "']", findings: invalid("spec.addresses[0]")},
	{name: "enormous source", mapping: "allowedSources: ['" + strings.Repeat("é", huge) + "']", findings: invalid("spec.allowedSources[0]")},
	{name: "enormous name", mapping: "serviceName: " + strings.Repeat("a", huge), findings: invalid("spec.serviceName")},
	{name: "enormous protocol", mapping: "ports: [{port: 80, protocol: " + strings.Repeat("t", huge) + "}]", findings: invalid("spec.ports[0].protocol")},
	{name: "Service of 2,000 ports, none of them right", service: "ports: " + repeat(2000, "{name: p%[1]d, port: 1%04[1]d}"),
		findings: []string{"spec.ports[0].servicePort ServicePortNotFound"}, effect: rejected},
	{name: "slice of 2,000 endpoints without a port", slice: "ports: []\nendpoints: " + repeat(2000, "{addresses: [10.%[1]d.0.1]}"),
		findings: []string{"spec.serviceName EndpointSliceInvalid", "spec.ports[0].servicePort NoReadyEndpoints"}, effect: rejected},
}

func sources(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf("100.64.%d.%d/32", i/256, i%256)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// firstFields returns the fields of as many findings as are reported at most.
func firstFields(format string) []string {
	const most = 16
	fields := make([]string, most)
	for i := range fields {
		fields[i] = fmt.Sprintf(format, i)
	}
	return fields
}

var serviceInvalid = []string{"spec.serviceName ServiceInvalid"}

var badServices = []badInput{
	{name: "ExternalName", service: "type: ExternalName\nexternalName: example.com", findings: []string{"spec.serviceName ServiceExternalName"}, effect: rejected},
	{name: "Service without ports", service: "ports: null", findings: []string{"spec.ports[0].servicePort ServicePortNotFound"}, effect: rejected},
	{name: "Service port 0", service: "ports: [{port: 0}, {port: 80}]", findings: serviceInvalid, effect: inEffect},
	{name: "Service port above 65535", service: "ports: [{port: 65616}, {port: 80}]", findings: serviceInvalid, effect: inEffect}, // 80, cut to 16 bits
	{name: "negative Service port", service: "ports: [{port: -80}, {port: 80}]", findings: serviceInvalid, effect: inEffect},
	{name: "Service port twice", service: "ports: [{port: 80}, {name: other, port: 80}]", findings: serviceInvalid, effect: inEffect},
	{name: "Service protocol that is none", service: "ports: [{port: 80, protocol: HTTP}, {port: 80}]", findings: serviceInvalid, effect: inEffect},
	{name: "affinity of no time", service: "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}", findings: serviceInvalid, effect: inEffect},
	{name: "affinity of negative time", service: "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: -1}}", findings: serviceInvalid, effect: inEffect},
	{name: "affinity of a year", service: "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 31536000}}", findings: serviceInvalid, effect: inEffect},
	{name: "affinity of another kind", service: "sessionAffinity: Cookie", findings: serviceInvalid, effect: inEffect},
	{name: "affinity without its config", service: "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {}}", effect: inEffect},
	{name: "ClusterIP that mode endpoints does not need", service: "clusterIP: nonsense", effect: inEffect},
}

var badClusterIPs = []badInput{
	{name: "no ClusterIP", mapping: "mode: service", service: "clusterIP: null", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "empty ClusterIP", mapping: "mode: service", service: "clusterIP: ''", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "empty ClusterIPs", mapping: "mode: service", service: "clusterIPs: ['']", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "headless", mapping: "mode: service", service: "clusterIP: None", findings: []string{"spec.serviceName ServiceHeadless"}, effect: rejected},
	{name: "headless by its list", mapping: "mode: service", service: "clusterIP: null\nclusterIPs: [None]", findings: []string{"spec.serviceName ServiceHeadless"}, effect: rejected},
	{name: "ClusterIP that is no address", mapping: "mode: service", service: "clusterIP: 10.96.0.300", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "ClusterIP that is unspecified", mapping: "mode: service", service: "clusterIP: 0.0.0.0", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "ClusterIP that is loopback", mapping: "mode: service", service: "clusterIP: 127.0.0.1", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "ClusterIP that is multicast", mapping: "mode: service", service: "clusterIP: 224.0.0.1", findings: []string{"spec.serviceName NoClusterIP"}, effect: rejected},
	{name: "second ClusterIP that is no address", mapping: "mode: service", service: "clusterIPs: [10.96.0.20, nonsense]", findings: serviceInvalid, effect: "80>10.96.0.20:80"},
	{name: "second ClusterIP of the same family", mapping: "mode: service", service: "clusterIPs: [10.96.0.20, 10.96.0.21]", findings: serviceInvalid, effect: "80>10.96.0.20:80"},
}

var (
	sliceInvalid = []string{"spec.serviceName EndpointSliceInvalid"}
	noneReady    = []string{"spec.ports[0].servicePort NoReadyEndpoints"}
)

// withEndpoint returns a slice with a bad endpoint followed by a good one.
func withEndpoint(bad string) string { return "endpoints: [" + bad + ", {addresses: [10.244.1.20]}]" }

var badSlices = []badInput{
	{name: "no endpoints", slice: "endpoints: null", findings: noneReady, effect: rejected},
	{name: "no ports in the slice", slice: "ports: null", findings: noneReady, effect: rejected},
	{name: "no addresses", slice: withEndpoint("{}"), findings: sliceInvalid, effect: inEffect},
	{name: "empty addresses", slice: withEndpoint("{addresses: []}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's empty address", slice: withEndpoint("{addresses: ['']}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's name for an address", slice: withEndpoint("{addresses: [pod.example.com]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's network", slice: withEndpoint("{addresses: [10.244.1.0/24]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's address of the other family", slice: withEndpoint("{addresses: ['fd00:10:244::20']}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's IPv4-mapped address", slice: withEndpoint("{addresses: ['::ffff:10.244.1.21']}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's loopback address", slice: withEndpoint("{addresses: [127.0.0.1]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's unspecified address", slice: withEndpoint("{addresses: [0.0.0.0]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's link-local address", slice: withEndpoint("{addresses: [169.254.169.254]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's multicast address", slice: withEndpoint("{addresses: [224.0.0.1]}"), findings: sliceInvalid, effect: inEffect},
	{name: "endpoint's enormous address", slice: withEndpoint("{addresses: ['" + strings.Repeat("ü", huge) + "']}"), findings: sliceInvalid, effect: inEffect},
	{name: "nil conditions", slice: withEndpoint("{addresses: [10.244.1.19], conditions: {}}"), effect: "80>10.244.1.19:8080,10.244.1.20:8080"},
	{name: "conditions that contradict", slice: withEndpoint("{addresses: [10.244.1.19], conditions: {ready: true, serving: false, terminating: true}}"), effect: "80>10.244.1.19:8080,10.244.1.20:8080"},
	{name: "endpoint twice", slice: withEndpoint("{addresses: [10.244.1.20]}"), effect: inEffect},
	{name: "slice port 0", slice: "ports: [{port: 0}, {port: 8080}]", findings: sliceInvalid, effect: inEffect},
	{name: "negative slice port", slice: "ports: [{port: -1}, {port: 8080}]", findings: sliceInvalid, effect: inEffect},
	{name: "slice port above 65535", slice: "ports: [{port: 65536}, {port: 8080}]", findings: sliceInvalid, effect: inEffect},
	{name: "nil slice port", slice: "ports: [{}, {port: 8080}]", effect: inEffect},
	{name: "slice port of another protocol", slice: "ports: [{port: 8080, protocol: UDP}]", findings: noneReady, effect: rejected},
	{name: "slice port of another name", slice: "ports: [{name: other, port: 8080}]", findings: noneReady, effect: rejected},
	{name: "no address type", slice: "addressType: null", findings: []string{"spec.addresses[0] IPFamilyNotSupported", "spec.serviceName EndpointSliceInvalid"}, effect: rejected},
	{name: "unknown address type", slice: "addressType: IPX", findings: []string{"spec.addresses[0] IPFamilyNotSupported", "spec.serviceName EndpointSliceInvalid"}, effect: rejected},
	{name: "names alone", slice: "addressType: FQDN\nendpoints: [{addresses: [pod.example.com]}]", findings: []string{"spec.addresses[0] IPFamilyNotSupported"}, effect: rejected},
}
