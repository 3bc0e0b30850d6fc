// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestMessages checks that each mistake causes one line that says what would be right. A table next to the CRD covers
// which Mappings are valid, and compares with the schema.
func TestMessages(t *testing.T) {
	for _, test := range []struct {
		name, spec string
		want       []string
	}{
		{"valid", "{addresses: [198.51.100.10], allowedSources: [10.0.0.0/16], serviceName: echo, ports: [{port: 80, protocol: TCP}]}", nil},
		{"nothing", "{}", []string{
			"spec.addresses: Required value: must hold at least one IPv4 or IPv6 address, or addressesFrom must name an uplink",
			"spec.serviceName: Required value: must be the name of a Service in the Mapping's namespace",
			"spec.ports: Required value: must hold at least one port",
		}},
		{"addresses", `{addresses: [x, 10.0.0.0/8, "fe80::1%eth0", "::ffff:10.0.0.1", 0.0.0.0, 127.0.0.1, 224.0.0.1, 169.254.0.1, 255.255.255.255, 10.0.0.1, 10.0.0.1], serviceName: echo, ports: [{port: 80}]}`, []string{
			`spec.addresses[0]: Invalid value: "x": must be an IP address such as 192.0.2.10 or 2001:db8::10`,
			`spec.addresses[1]: Invalid value: "10.0.0.0/8": is a network; must be an address such as 10.0.0.0`,
			`spec.addresses[2]: Invalid value: "fe80::1%eth0": has a zone; must be an address without one, such as 2001:db8::10`,
			`spec.addresses[3]: Invalid value: "::ffff:10.0.0.1": is an IPv4-mapped IPv6 address; must be written as 10.0.0.1`,
			`spec.addresses[4]: Invalid value: "0.0.0.0": is the unspecified address; must be a unicast address that others can reach`,
			`spec.addresses[5]: Invalid value: "127.0.0.1": is a loopback address; must be a unicast address that others can reach`,
			`spec.addresses[6]: Invalid value: "224.0.0.1": is a multicast address; must be a unicast address that others can reach`,
			`spec.addresses[7]: Invalid value: "169.254.0.1": is a link-local address; must be a unicast address that others can reach`,
			`spec.addresses[8]: Invalid value: "255.255.255.255": is the broadcast address; must be a unicast address that others can reach`,
			`spec.addresses[10]: Duplicate value: "10.0.0.1": the same address as spec.addresses[9]`,
		}},
		{"uplinks", `{addressesFrom: [{uplink: eth1}, {uplink: "*"}, {uplink: "eth\x7f"}, {uplink: eth1}], serviceName: echo, ports: [{port: 80}]}`, []string{
			`spec.addressesFrom[2].uplink: Invalid value: "eth\x7f": must be the name of a link such as eth1, or * for all uplinks; a name has at most 15 ASCII characters, none of them a blank, '/', ':' or '*'`,
			`spec.addressesFrom[3].uplink: Duplicate value: "eth1": the same uplink as spec.addressesFrom[0]`,
		}},
		{"sources", `{addresses: [198.51.100.10], allowedSources: [10.0.0.0/33, 10.0.0.1, 10.0.0.1/8, "::ffff:10.0.0.0/104", "::ffff:10.0.0.0/64", 10.0.0.0/8, 10.0.0.0/8], serviceName: echo, ports: [{port: 80}]}`, []string{
			`spec.allowedSources[0]: Invalid value: "10.0.0.0/33": must be a network in CIDR notation such as 10.0.0.0/16 (length 0 to 32) or 2001:db8::/32 (length 0 to 128)`,
			`spec.allowedSources[1]: Invalid value: "10.0.0.1": is an address; must be a network such as 10.0.0.1/32`,
			`spec.allowedSources[2]: Invalid value: "10.0.0.1/8": has bits set beyond its prefix length; must be written as 10.0.0.0/8`,
			`spec.allowedSources[3]: Invalid value: "::ffff:10.0.0.0/104": is an IPv4-mapped IPv6 network; must be written as 10.0.0.0/8`,
			`spec.allowedSources[4]: Invalid value: "::ffff:10.0.0.0/64": is an IPv4-mapped IPv6 network; must be an IPv4 or an IPv6 network`,
			`spec.allowedSources[6]: Duplicate value: "10.0.0.0/8": the same network as spec.allowedSources[5]`,
		}},
		{"ports", "{addresses: [198.51.100.10], serviceName: echo, mode: endpoints, ports: [{port: 70000}, {port: 1, servicePort: 70000, protocol: icmp}, {port: 9, endPort: 8}, {port: 20, endPort: 29, servicePort: 65530}, {port: 25}]}", []string{
			"spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535",
			"spec.ports[1].servicePort: Invalid value: 70000: must be between 1 and 65535",
			`spec.ports[1].protocol: Unsupported value: "icmp": supported values: "tcp", "udp", "sctp"`,
			"spec.ports[2].endPort: Invalid value: 8: must not be below port 9",
			"spec.ports[3].servicePort: Invalid value: 65530: must leave room for the whole range: it ends at servicePort + endPort - port = 65539, which must not be above 65535",
			`spec.ports[4].port: Duplicate value: "25/tcp": overlaps spec.ports[3], which exposes 20-29/tcp`,
		}},
		{"range in service mode", "{addresses: [198.51.100.10], serviceName: echo, ports: [{port: 20, endPort: 29}]}", []string{
			"spec.ports[0].endPort: Forbidden: a range needs mode endpoints",
		}},
		{"mode", "{addresses: [198.51.100.10], serviceName: echo, mode: magic, ports: [{port: 20}]}", []string{
			`spec.mode: Unsupported value: "magic": supported values: "service", "endpoints"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m v1alpha1.Mapping
			if err := yaml.UnmarshalStrict([]byte(test.spec), &m.Spec); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, err := range ValidateMapping(&m) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestMessagesStayShort sets each text field to a huge value with line breaks.
func TestMessagesStayShort(t *testing.T) {
	huge := strings.Repeat("é\n", 100000)
	m := &v1alpha1.Mapping{Spec: v1alpha1.MappingSpec{
		Addresses: []string{huge}, AddressesFrom: []v1alpha1.AddressSource{{Uplink: huge}}, AllowedSources: []string{huge}, ServiceName: huge, Mode: v1alpha1.Mode(huge),
		Ports: []v1alpha1.MappingPort{{Port: 80, Protocol: v1alpha1.Protocol(huge)}},
	}}
	errs := ValidateMapping(m)
	if len(errs) != 6 {
		t.Errorf("%d errors, want one for each field", len(errs))
	}
	for _, err := range errs {
		if text := err.Error(); len(text) > 400 || strings.Contains(text, "\n") {
			t.Errorf("%s: %d bytes, or several lines: %.100q", err.Field, len(text), text)
		}
	}
}

// TestTooMuchIsNotLookedAt proves that lists beyond their limits cost no time, even if no API server has checked them.
func TestTooMuchIsNotLookedAt(t *testing.T) {
	m := &v1alpha1.Mapping{Spec: v1alpha1.MappingSpec{
		Addresses:      make([]string, v1alpha1.MaxAddresses+1),
		AddressesFrom:  make([]v1alpha1.AddressSource, v1alpha1.MaxAddressesFrom+1),
		AllowedSources: make([]string, v1alpha1.MaxAllowedSources+1),
		ServiceName:    "echo",
		Ports:          make([]v1alpha1.MappingPort, v1alpha1.MaxPorts+1),
	}}
	var fields []string
	for _, err := range ValidateMapping(m) {
		fields = append(fields, err.Field)
	}
	if diff := cmp.Diff([]string{"spec.addresses", "spec.addressesFrom", "spec.allowedSources", "spec.ports"}, fields); diff != "" {
		t.Errorf("fields named (-want +got):\n%s", diff)
	}
}

func TestAddressProblem(t *testing.T) {
	for text, want := range map[string]string{
		"198.51.100.10":    "",
		"2001:db8::10":     "",
		"2001:DB8:0::10":   "must be spelled 2001:db8::10",
		"198.51.100.10/24": "is a network; must be an address such as 198.51.100.10",
		"fe80::1":          "is a link-local address; must be a unicast address that others can reach",
		"x\n":              "must be an IP address such as 192.0.2.10 or 2001:db8::10",
	} {
		if got := AddressProblem(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
