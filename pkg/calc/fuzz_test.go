// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// FuzzCalculate calculates unvalidated objects. It expects no panic, a State as pkg/gateway defines it, independence of the
// order of slices, and readable Findings.
func FuzzCalculate(f *testing.F) {
	host, cfg := fuzzHost(f)
	seed := func(s objects.Snapshot) {
		text, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		const most = 16 << 10
		if len(text) < most {
			f.Add(text)
		}
	}
	for _, folder := range scenarios(f) {
		snapshot, _, _ := readScenario(f, folder)
		seed(snapshot)
	}
	for _, bad := range slices.Concat(badAddresses, badSources, badNames, badPorts, badRanges, badServices, badClusterIPs, badSlices) {
		seed(bad.snapshot(f))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s objects.Snapshot
		if json.Unmarshal(text, &s) != nil {
			return
		}
		// A source never delivers nil objects.
		s.Mappings = withoutNil(s.Mappings)
		s.Services = withoutNil(s.Services)
		s.EndpointSlices = withoutNil(s.EndpointSlices)
		s.PortGrants, s.Namespaces = withoutNil(s.PortGrants), withoutNil(s.Namespaces)
		state, findings := calc.Calculate(s, host, cfg)
		checkState(t, state, cfg)
		for _, finding := range findings {
			if finding.Reason == "" || finding.Field == "" || finding.Message == "" || strings.ContainsAny(finding.Field+finding.Message, "\n\x00") {
				t.Errorf("finding %+v", finding)
			}
		}
		slices.Reverse(s.EndpointSlices)
		again, _ := calc.Calculate(s, host, cfg)
		if diff := cmp.Diff(state, again, addresses); diff != "" {
			t.Errorf("the State depends on the order of slices (-first +reversed):\n%s", diff)
		}
	})
}

func withoutNil[T any](items []*T) []*T {
	return slices.DeleteFunc(items, func(item *T) bool { return item == nil })
}

// fuzzHost has the addresses of most scenarios on uplinks.
func fuzzHost(tb testing.TB) (gateway.Host, config.Config) {
	tb.Helper()
	_, host, cfg := readScenario(tb, "testdata/egress")
	host.SCTP = true
	return host, cfg
}
