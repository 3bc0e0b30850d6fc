// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/scripts/bench/ways"
)

func TestParseApplied(t *testing.T) {
	log := `{"level":"info","msg":"programmed","took":1}
not JSON
{"event":"2026-01-02T03:04:05.123456789Z","waited":0.1,"observe":0.2,"calc":0.3,"build":0.4,"diff":0.5,"restore":6.125,"cut":0.7,"total":9,"msg":"applied"}
{"msg":"applied","restore":0}
`
	want := []applied{
		{time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC), map[string]float64{"waited": 0.1, "observe": 0.2, "calc": 0.3, "build": 0.4, "diff": 0.5, "restore": 6.125, "cut": 0.7}},
		{stages: map[string]float64{"restore": 0}},
	}
	got := parseApplied(log)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(applied{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := restores(got); n != 1 {
		t.Errorf("%d restores, want 1", n)
	}
}

func TestStages(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms float64) time.Time { return began.Add(time.Duration(ms * float64(time.Millisecond))) }
	round := func(ms, restore float64) applied {
		return applied{at(ms), map[string]float64{"waited": 0.5, "observe": 0, "calc": 1, "build": 2, "diff": 0.5, "restore": restore, "cut": 3}}
	}
	changes := []change{{at(0), at(20), "a"}, {at(100), at(140), "b"}, {at(200), at(210), "a"}}
	api := &sightings{seen: []sighting{{"a", at(1)}, {"b", at(99)}, {"a", at(201)}}}
	relay := &sightings{seen: []sighting{{"a", at(3)}, {"b", at(100)}}}
	// The second change is seen after its restore ended, the first one before. The round between them wrote nothing, and no
	// round is known for the third change.
	got := stagesOf(changes, []applied{round(4, 30), round(50, 0), round(101, 20), {stages: map[string]float64{"restore": 5}}}, api, relay)
	want := map[string][]float64{
		"apiserver": {1, -1, 1}, "relay": {2, 1}, "informer": {1, 1},
		"waited": {0.5, 0.5}, "observe": {0, 0}, "calc": {1, 1}, "build": {2, 2}, "diff": {0.5, 0.5}, "restore": {30, 20}, "cut": {3, 3},
		seenStage: {12, 35}, withoutRestore: {8, 5 + 15},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestObjects(t *testing.T) {
	for _, s := range append(full().variants, usual) {
		seen := map[netip.AddrPort]bool{}
		for object := range 10000 {
			mapping, service, slice := s.mapping(object), s.service(object), s.slice(object)
			v1alpha1.SetDefaults(mapping)
			if errs := validation.ValidateMapping(mapping); len(errs) > 0 {
				t.Fatalf("%s: %v", s, errs)
			}
			if mapping.Spec.ServiceName != service.Name || mapping.Spec.Addresses[0] != service.Spec.ExternalIPs[0] || len(slice.Endpoints) != 3 && object != watched {
				t.Fatalf("%s: object %d is inconsistent", s, object)
			}
			for k, port := range mapping.Spec.Ports {
				if port.Port != service.Spec.Ports[k].Port || service.Spec.Ports[k].TargetPort.IntVal != *slice.Ports[k].Port {
					t.Errorf("%s: object %d: port %d has another target", s, object, k)
				}
				seen[netip.AddrPortFrom(netip.MustParseAddr(mapping.Spec.Addresses[0]), uint16(port.Port))] = true
			}
		}
		mapped := s.mapped(100000)
		for _, m := range mapped {
			if !seen[m] {
				t.Fatalf("%s: %s is not exposed", s, m)
			}
		}
		if len(seen) != len(mapped) {
			t.Errorf("%s: %d ports, want %d", s, len(seen), len(mapped))
		}
		if a, b := s.watchedEndpoint(3), s.watchedEndpoint(4); a == b || a != s.watchedEndpoint(1) {
			t.Errorf("%s: the watched endpoint moves from %s to %s", s, a, b)
		}
	}
}

func TestScatteredTargets(t *testing.T) {
	seen := map[int]bool{usual.target(0): true}
	for k := 1; k < ways.PortsPerMapping; k++ {
		if step := usual.target(k) - usual.target(k-1); step == 0 || step == 1 {
			t.Errorf("ports %d and %d have adjacent targets", k-1, k)
		}
		seen[usual.target(k)] = true
	}
	if len(seen) != ways.PortsPerMapping || !seen[0] || !seen[ways.PortsPerMapping-1] {
		t.Errorf("targets are %v", seen)
	}
}

// TestRuleset: every port has the expected translations, and every chain has a jump to it.
func TestRuleset(t *testing.T) {
	s := usual
	for ports, want := range map[int]struct{ chains, translations int }{
		10: {3, 10}, 100: {16, 280}, 10000: {1431, 29980}, 100000: {14290, 299980},
	} {
		text := s.ruleset(ports, s.watchedEndpoint(1))
		if got := strings.Count(text, "\n:B-"); got != want.chains {
			t.Errorf("%d ports: %d chains, want %d", ports, got, want.chains)
		}
		if got := strings.Count(text, "-j DNAT"); got != want.translations {
			t.Errorf("%d ports: %d translations, want %d", ports, got, want.translations)
		}
		if got := strings.Count(text, "-j B-"); got != want.chains {
			t.Errorf("%d ports: %d jumps to %d chains", ports, got, want.chains)
		}
	}
	// A change rewrites lines that the whole ruleset contains.
	whole, part := s.ruleset(1000, s.watchedEndpoint(1)), s.ruleChange(1000, s.watchedEndpoint(1))
	lines := 0
	for line := range strings.Lines(part) {
		if strings.HasPrefix(line, "-A") {
			lines++
		}
		if !strings.Contains(whole, line) {
			t.Errorf("the whole ruleset lacks %q", line)
		}
	}
	if lines != 10+3*6 {
		t.Errorf("a change writes %d rules, want those of two leaves", lines)
	}
}

func TestPlan(t *testing.T) {
	names := func(p plan) string {
		var all []string
		for _, s := range p.scenes() {
			for _, c := range s.cases {
				all = append(all, fmt.Sprintf("%s/%s/%s/%d", s.Family, s.Mode, c.Contender, c.ports))
			}
		}
		return strings.Join(all, "\n")
	}
	for _, test := range []struct{ name, only, in, ports, want string }{
		{"numbers are sorted and variants are excluded", "smartnat", "", "1000,20", `IPv4/endpoints/smartnat legacy/20
IPv4/endpoints/smartnat nft/20
IPv4/endpoints/smartnat nftables/20
IPv4/endpoints/smartnat legacy/1000
IPv4/endpoints/smartnat nft/1000
IPv4/endpoints/smartnat nftables/1000`},
		{"scenes, with the largest number", "smartnat nftables", "service|PortGrants$", "1000,20", `IPv4/service/smartnat nftables/1000
IPv4/endpoints/smartnat nftables/1000`},
		{"a mode of kube-proxy", "kube-proxy nft$", "", "", `IPv4/endpoints/kube-proxy nft/100
IPv4/endpoints/kube-proxy nft/1000
IPv4/endpoints/kube-proxy nft/10000`},
		{"variants", "smartnat nft$", "", "", `IPv4/endpoints/smartnat nft/10
IPv4/endpoints/smartnat nft/100
IPv4/endpoints/smartnat nft/1000
IPv4/endpoints/smartnat nft/10000
IPv4/endpoints/smartnat nft/30000
IPv4/endpoints/smartnat nft/100000
IPv4/endpoints/smartnat nft/10000
IPv4/endpoints/smartnat nft/10000
IPv6/endpoints/smartnat nft/10000
IPv4/service/smartnat nft/10000
IPv4/endpoints/smartnat nft/10000`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := full().limit(test.only, test.in, test.ports)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, names(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, wrong := range [][3]string{{"(", "", ""}, {"", "(", ""}, {"", "", "15"}, {"", "", "0"}, {"", "", "many"}, {"", "", "120010"}} {
		if _, err := full().limit(wrong[0], wrong[1], wrong[2]); err == nil {
			t.Errorf("-only %q -in %q -n %q is accepted", wrong[0], wrong[1], wrong[2])
		}
	}
}
