// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

type key = types.NamespacedName

// Entry is what a gateway reports about a Mapping.
type Entry struct {
	// UID is the Mapping's. A recreated Mapping has no entry yet.
	UID types.UID
	v1alpha1.InstanceStatus
}

// equal compares field by field: reflection would cost more than all other work for the status.
func (e Entry) equal(o Entry) bool {
	return e.UID == o.UID && e.Name == o.Name && e.Endpoints == o.Endpoints && e.ObservedGeneration == o.ObservedGeneration &&
		e.Programmed == o.Programmed && e.Ready == o.Ready && e.Reason == o.Reason &&
		slices.Equal(e.Addresses, o.Addresses) && slices.Equal(e.Uplinks, o.Uplinks) && slices.Equal(e.Problems, o.Problems)
}

// entries returns an entry for each Mapping of which this gateway holds an address, or would if its uplink had one.
func entries(instance string, standby []netip.Addr, f finding.Report) map[key]Entry {
	local := map[netip.Addr]bool{}
	for _, a := range standby {
		local[a] = true
	}
	for _, link := range f.Host.Links {
		for _, a := range link.Addresses {
			local[a.Addr()] = true
		}
	}
	endpoints, inEffect := countEndpoints(f.State.Forwards), owners(f.State.Forwards)
	findings := map[key][]finding.Finding{}
	for _, finding := range f.Findings {
		k := key{Namespace: finding.Namespace, Name: finding.Name}
		findings[k] = append(findings[k], finding)
	}
	all := make(map[key]Entry, len(f.Snapshot.Mappings))
	for _, m := range f.Snapshot.Mappings {
		k := key{Namespace: m.Namespace, Name: m.Name}
		resolved := f.Resolved[k]
		addresses := held(m.Spec.Addresses, local)
		for _, a := range resolved.Addresses {
			addresses = append(addresses, a.String())
		}
		if len(addresses) == 0 && !slices.ContainsFunc(findings[k], func(f finding.Finding) bool { return f.Reason == finding.ReasonNoUplinkAddress }) {
			continue
		}
		e := Entry{m.UID, v1alpha1.InstanceStatus{
			Name: instance, Addresses: addresses, Uplinks: resolved.Uplinks, Endpoints: endpoints[m.Namespace+"/"+m.Name], ObservedGeneration: m.Generation, Programmed: true, Ready: true,
		}}
		if f.Err != nil {
			e.Programmed = false
			e.notReady(conditions.ReasonNotProgrammed)
			e.addProblem("could not be programmed: " + f.Err.Error())
		}
		for _, finding := range findings[k] {
			e.find(finding, inEffect[m.Namespace+"/"+m.Name])
		}
		all[k] = e
	}
	return all
}

// countEndpoints returns the number of endpoints for each owner, of the family that has more.
func countEndpoints(forwards []*gateway.Forward) map[string]int32 {
	endpoints := map[string]int32{}
	owner, most := "", int32(0) // neighbours mostly have the same owner
	for _, f := range forwards {
		if !f.Direct {
			continue
		}
		n := int32(len(f.Backends))
		if f.Owner == owner && n <= most {
			continue
		}
		owner, most = f.Owner, max(endpoints[f.Owner], n)
		endpoints[owner] = most
	}
	return endpoints
}

// owners returns the owners of forwards.
func owners(forwards []*gateway.Forward) map[string]bool {
	owners, last := map[string]bool{}, "" // neighbours mostly have the same owner
	for _, f := range forwards {
		if f.Owner != last {
			owners[f.Owner], last = true, f.Owner
		}
	}
	return owners
}

// held returns the addresses that this gateway serves, as the Mapping spells them.
func held(texts []string, local map[netip.Addr]bool) []string {
	var addresses []string
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && local[a] {
			addresses = append(addresses, text)
		}
	}
	return addresses
}

// find adds a Finding. A Mapping is not programmed if it is skipped entirely or its rules are refused. If it only loses a port or
// an address, as when another Mapping has the port, it is programmed while the rest is inEffect; the same holds if its Service
// has no backends. In all these cases it is not ready, because some connections are not forwarded.
func (e *Entry) find(f finding.Finding, inEffect bool) {
	switch f.Reason {
	case finding.ReasonAddressNotOnHost, finding.ReasonNotAnUplink:
		return // another gateway's business
	case finding.ReasonPortConflict:
		if f.Condition == v1alpha1.ConditionAccepted {
			return // the condition reports it
		}
	case finding.ReasonInvalid, finding.ReasonTooManyPorts, finding.ReasonTooExpensive, finding.ReasonRuleRefused:
		e.Programmed = false
	case finding.ReasonAddressNotServed, finding.ReasonTooManyAddresses, finding.ReasonPortReserved, finding.ReasonIPv6Disabled, finding.ReasonSCTPNotSupported:
		e.Programmed = e.Programmed && inEffect
	}
	if f.Blocks() {
		e.notReady(f.Reason)
	}
	e.addProblem(f.Field + ": " + f.Message + " (" + f.Reason + ")")
}

// notReady keeps the first reason.
func (e *Entry) notReady(reason string) {
	e.Ready, e.Reason = false, cmp.Or(e.Reason, reason)
}

func (e *Entry) addProblem(text string) {
	if len(e.Problems) >= v1alpha1.MaxProblems {
		return
	}
	if len(text) > v1alpha1.MaxProblemLength {
		text = strings.ToValidUTF8(text[:v1alpha1.MaxProblemLength-3], "") + "..."
	}
	e.Problems = append(e.Problems, text)
}
