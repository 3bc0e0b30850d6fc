// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// FuzzValidateMapping validates arbitrary specs: it must not panic, each error names a field on one line, equivalent specs
// get the same result, and pkg/calc can read everything valid.
func FuzzValidateMapping(f *testing.F) {
	for _, spec := range []string{
		`{"addresses":["198.51.100.10","2001:db8::10"],"allowedSources":["10.0.0.0/16","2001:db8::/32"],"serviceName":"echo","mode":"endpoints","masquerade":false,"egress":true,"ports":[{"port":80,"protocol":"TCP"},{"port":20000,"endPort":20999,"servicePort":30000,"protocol":"udp"}]}`,
		`{"addresses":["::ffff:10.0.0.1","fe80::1%eth0","255.255.255.255"],"allowedSources":["10.0.0.1/8","::ffff:10.0.0.0/104"],"serviceName":"Echo","mode":"magic","ports":[{"port":70000},{"port":-1,"endPort":0},{}]}`,
		`{"ports":[{"port":10,"endPort":20},{"port":20,"protocol":"tcp"},{"port":2147483647,"endPort":-2147483648,"servicePort":2147483647}]}`,
		`{}`,
	} {
		f.Add([]byte(spec))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m v1alpha1.Mapping
		if json.Unmarshal(text, &m.Spec) != nil {
			return
		}
		before := m.DeepCopy()
		errs := ValidateMapping(&m)
		if diff := cmp.Diff(before, &m); diff != "" {
			t.Errorf("validation changed the Mapping (-before +after):\n%s", diff)
		}
		for _, err := range errs {
			if text := err.Error(); !strings.HasPrefix(err.Field, "spec.") || len(text) > 600 || strings.ContainsAny(text, "\n\x00") {
				t.Errorf("error %q", text)
			}
		}
		defaulted := m.DeepCopy()
		v1alpha1.SetDefaults(defaulted)
		if diff := cmp.Diff(errs.ToAggregate(), ValidateMapping(defaulted).ToAggregate(), cmp.Comparer(sameText)); diff != "" {
			t.Errorf("defaulted Mapping gets other errors (-before +after):\n%s", diff)
		}
		reversed := m.DeepCopy()
		slices.Reverse(reversed.Spec.Addresses)
		slices.Reverse(reversed.Spec.AllowedSources)
		slices.Reverse(reversed.Spec.Ports)
		if backwards := ValidateMapping(reversed); (len(backwards) == 0) != (len(errs) == 0) {
			t.Errorf("forwards: %v, backwards: %v", errs, backwards)
		}
		if len(errs) == 0 {
			checkValid(t, defaulted.Spec)
		}
	})
}

func sameText(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}

// checkValid checks the properties of a valid spec.
func checkValid(t *testing.T, spec v1alpha1.MappingSpec) {
	t.Helper()
	for _, text := range spec.Addresses {
		if a, err := netip.ParseAddr(text); err != nil || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
			t.Errorf("valid address %q: %v", text, err)
		}
	}
	for _, text := range spec.AllowedSources {
		if p, err := netip.ParsePrefix(text); err != nil || p != p.Masked() || p.Addr().Is4In6() {
			t.Errorf("valid source %q: %v", text, err)
		}
	}
	owner := map[string]map[int32]int{}
	for i, p := range spec.Ports {
		if p.EndPort != nil && spec.Mode != v1alpha1.ModeEndpoints {
			t.Errorf("valid range in mode %s", spec.Mode)
		}
		ports := owner[string(p.Protocol)]
		if ports == nil {
			ports = map[int32]int{}
			owner[string(p.Protocol)] = ports
		}
		for port := p.Port; port <= last(&p); port++ {
			if first, twice := ports[port]; twice {
				t.Errorf("valid ports %d and %d share %d", first, i, port)
			}
			ports[port] = i
			if to := p.ServicePort + port - p.Port; port < 1 || port > 65535 || to < 1 || to > 65535 {
				t.Errorf("valid port %d leads to %d", port, to)
			}
		}
	}
}
