// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// egressField is the field of findings about egress.
const egressField = "spec.egress"

// egresses records with which external addresses pods of a Mapping may leave, or no longer. Which pods they are changes all the time, and has
// no Record.
func (d *differ) egresses() {
	for was, is := range delta.Join(d.before.State.Egresses, d.now.State.Egresses, compareEgresses) {
		switch {
		case is == nil:
			d.closed = append(d.closed, d.egress(Closed, d.whyEgressEnds(was), was))
		case was == nil:
			d.opened = append(d.opened, d.egress(Opened, ReasonRequested, is))
		}
	}
	before, now := d.before.Findings, d.now.Findings
	if len(now) == 0 || len(before) == len(now) && &before[0] == &now[0] {
		return
	}
	type refusal struct{ mapping, reason string }
	recorded := map[refusal]bool{}
	for _, f := range before {
		if reason := refusesEgress(f); reason != "" {
			recorded[refusal{f.Namespace + "/" + f.Name, reason}] = true
		}
	}
	for _, r := range d.closed {
		if r.Egress {
			recorded[refusal{r.Mapping, r.Reason}] = true
		}
	}
	for _, f := range now {
		owner := f.Namespace + "/" + f.Name
		if reason := refusesEgress(f); reason != "" && !recorded[refusal{owner, reason}] {
			recorded[refusal{owner, reason}] = true
			d.refusals = append(d.refusals, Record{Result: Refused, Reason: reason, Mapping: owner, Egress: true, Writer: d.writer(owner)})
		}
	}
}

func compareEgresses(a, b gateway.Egress) int {
	return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
}

func (d *differ) egress(result Result, reason string, e *gateway.Egress) Record {
	return Record{Result: result, Reason: reason, Mapping: e.Owner, Egress: true, Frontend: gateway.Frontend{Address: e.Address}, Writer: d.writer(e.Owner)}
}

// refusesEgress returns the reason if a finding says that pods do not leave with an address that their Mapping asks for, or "".
func refusesEgress(f finding.Finding) string {
	if f.Field == egressField && (f.Reason == finding.ReasonNotGranted || f.Reason == finding.ReasonEgressConflict) {
		return f.Reason
	}
	return ""
}

func (d *differ) whyEgressEnds(e *gateway.Egress) string {
	m := mappingOf(d.now, e.Owner)
	switch {
	case m == nil:
		return ReasonDeleted
	case !m.Spec.Egress || !d.asksFor(m, e.Address):
		return ReasonWithdrawn
	}
	for _, f := range d.now.Findings {
		if reason := refusesEgress(f); reason != "" && f.Namespace == m.Namespace && f.Name == m.Name {
			return reason
		}
	}
	whole := []string{finding.ReasonInvalid, finding.ReasonTooManyPorts, finding.ReasonTooExpensive, finding.ReasonRuleRefused} // of the Mapping
	for _, r := range d.now.Refused {
		if r.Owner == e.Owner && slices.Contains(whole, r.Reason) {
			return r.Reason
		}
	}
	if slices.ContainsFunc(d.now.State.Absent.Egresses, func(absent gateway.Egress) bool { return compareEgresses(absent, *e) == 0 }) {
		return finding.ReasonAddressNotOnHost
	}
	if slices.ContainsFunc(d.now.State.Egresses, func(is gateway.Egress) bool { return is.Owner == e.Owner && is.Address.Is4() == e.Address.Is4() }) {
		return ReasonAddressChanged
	}
	return ReasonNoPods
}

// asksFor reports whether a Mapping names an address, or has it from an uplink now.
func (d *differ) asksFor(m *v1alpha1.Mapping, address netip.Addr) bool {
	return slices.Contains(m.Spec.Addresses, address.String()) || slices.Contains(d.now.ResolvedOf(m.Namespace, m.Name).Addresses, address)
}
