// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// A backend is short of source ports from lowPercent in use until it is below enoughPercent. The hysteresis avoids a finding
// each time the load crosses one limit.
const lowPercent, enoughPercent = 80, 70

// Short returns the counted backends that hardly have a source port left for masquerading. before has those that were short at
// the last count. The result is sorted and says how many addresses share the connections, but not how many these are.
func Short(state gateway.State, counted, before []gateway.SourcePorts) []gateway.SourcePorts {
	var short []gateway.SourcePorts
	for _, c := range counted {
		limit := lowPercent
		if slices.ContainsFunc(before, func(b gateway.SourcePorts) bool { return b.Protocol == c.Protocol && b.Backend == c.Backend }) {
			limit = enoughPercent
		}
		if 100*c.InUse >= limit*c.Addresses*state.SourcePorts() {
			c.InUse = 0
			short = append(short, c)
		}
	}
	slices.SortFunc(short, func(a, b gateway.SourcePorts) int {
		return cmp.Or(a.Backend.Compare(b.Backend), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return short
}

// ShortFindings returns one Finding for each Mapping that leads to backends short of source ports.
func ShortFindings(state gateway.State, short []gateway.SourcePorts) []finding.Finding {
	if len(short) == 0 {
		return nil
	}
	backends, fewest := map[string][]string{}, map[string]int{}
	for _, f := range state.Forwards {
		for _, s := range short {
			text := fmt.Sprintf("%s/%s", s.Backend, s.Protocol)
			if state.Hides(f, s.Backend.Addr()) && leadsTo(f, s) && !slices.Contains(backends[f.Owner], text) {
				backends[f.Owner] = append(backends[f.Owner], text)
				if n := fewest[f.Owner]; n == 0 || s.Addresses < n {
					fewest[f.Owner] = s.Addresses
				}
			}
		}
	}
	findings := make([]finding.Finding, 0, len(backends))
	for owner, texts := range backends {
		const most = 3
		if n := len(texts) - most; n > 0 {
			texts = append(texts[:most:most], fmt.Sprintf("%d more", n))
		}
		namespace, name, _ := strings.Cut(owner, "/")
		findings = append(findings, finding.Finding{
			Namespace: namespace, Name: name, Condition: v1alpha1.ConditionProgrammed, Reason: finding.ReasonSourcePortsLow, Field: "spec.masquerade",
			Message: fmt.Sprintf("source ports for masqueraded connections to %s are running out: %d %% of %d were in use, and new connections are dropped at 100 %%; "+
				"add endpoints (mode endpoints), add an address to masqueradeAddresses or widen masqueradePorts in the gateway's config, or set masquerade: false",
				strings.Join(texts, ", "), lowPercent, fewest[owner]*state.SourcePorts()),
		})
	}
	slices.SortFunc(findings, func(a, b finding.Finding) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return findings
}

func leadsTo(f *gateway.Forward, s gateway.SourcePorts) bool {
	if f.Protocol != s.Protocol {
		return false
	}
	span := uint16(0)
	if f.Shift {
		span = f.Ports.Last - f.Ports.First
	}
	for _, list := range [][]gateway.Backend{f.Backends, f.Draining} {
		if slices.ContainsFunc(list, func(b gateway.Backend) bool {
			return b.Address == s.Backend.Addr() && s.Backend.Port() >= b.Port && s.Backend.Port()-b.Port <= span
		}) {
			return true
		}
	}
	return false
}
