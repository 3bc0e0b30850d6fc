// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Plan is what an Apply would write.
type Plan struct {
	// Changes counts the writes of packet rules.
	Changes
	// Total counts all Differences; Differences has the first ones of each kind and family.
	Total       int
	Differences []Difference
}

// Difference is an object in the kernel that differs from what a State requires.
type Difference struct {
	Kind Kind
	// Family is 0 for kernel parameters.
	Family gateway.Family
	packet.Difference
}

// Add adds Differences of a kind.
func (p *Plan) Add(kind Kind, family gateway.Family, found packet.Differences) {
	p.Total += found.Total
	for _, d := range found.First {
		p.Differences = append(p.Differences, Difference{kind, family, d})
	}
}

// Plan compares the kernel with a State: packet rules and sets, routes, policy routing rules and kernel parameters to set. It writes
// nothing. It compares neither Leftovers, nor connections, nor parameters that would get their old values back.
func (d *Dataplane) Plan(ctx context.Context, state gateway.State) (Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var plan Plan
	var errs []error
	for _, family := range d.opts.Ruleset.Families() {
		one, err := d.opts.Ruleset.Plan(ctx, family, state)
		if err != nil {
			if !d.harmless(family) {
				errs = append(errs, err)
			}
			continue
		}
		plan.Changes = plan.append(one.Changes)
		plan.Total += one.Total
		plan.Differences = append(plan.Differences, one.Differences...)
	}
	host := d.newHostChange(state)
	have, err := d.opts.Routes.Observe()
	if err == nil {
		plan.addRouting(have, host.needs.routing)
	}
	return plan, errors.Join(append(errs, err, d.planSysctls(host.needs, &plan))...)
}

// addRouting adds routes and policy routing rules.
func (p *Plan) addRouting(have, want policyrouting.Set) {
	type found struct{ v4, v6 packet.Differences }
	var rules, routes found
	add := func(to *found, v6, missing bool, text string) {
		one := packet.Difference{Missing: missing, Text: text}
		if v6 {
			to.v6.Add(one)
			return
		}
		to.v4.Add(one)
	}
	changes := policyrouting.Diff(have, want)
	for _, r := range changes.AddRules {
		add(&rules, r.IPv6, true, r.String())
	}
	for _, r := range changes.DeleteRules {
		add(&rules, r.IPv6, false, r.String())
	}
	isNew := func(r policyrouting.Route) bool { return !slices.ContainsFunc(have.Routes, r.Equal) }
	for _, r := range want.Routes {
		if isNew(r) {
			add(&routes, r.Destination.Addr().Is6(), true, r.String())
		}
	}
	for _, r := range have.Routes {
		if !slices.ContainsFunc(want.Routes, r.Equal) {
			add(&routes, r.Destination.Addr().Is6(), false, r.String())
		}
	}
	p.Add(KindIPRule, gateway.IPv4, rules.v4)
	p.Add(KindIPRule, gateway.IPv6, rules.v6)
	p.Add(KindRoute, gateway.IPv4, routes.v4)
	p.Add(KindRoute, gateway.IPv6, routes.v6)
}

// planSysctls adds the parameters that an Apply would set, by setting them on a model of the host.
func (d *Dataplane) planSysctls(n needs, plan *Plan) error {
	model := &modelSysctls{Sysctls: d.opts.Sysctls, set: map[string]string{}}
	opts := d.opts
	opts.Sysctls = model
	dry := &Dataplane{opts: opts, sysctls: maps.Clone(d.sysctls)}
	host := &hostChange{Dataplane: dry, needs: n}
	var err error
	dry.filtering, err = dry.filteringLinks(n.uplinks)
	errs := []error{err}
	var result Result
	for _, family := range d.opts.Ruleset.Families() {
		errs = append(errs, host.startForwarding(family, &result))
	}
	var found packet.Differences
	for _, key := range slices.Sorted(maps.Keys(model.set)) {
		if _, permitted := d.sysctls[key]; !permitted && slices.Contains([]string{countTraffic, recordTimes, liberalTCP, flowTimeout}, key) {
			continue // a host that does not permit these forwards all the same
		}
		is, err := d.opts.Sysctls.Get(key)
		errs = append(errs, err)
		found.Add(packet.Difference{Missing: true, Place: key, Text: fmt.Sprintf("%s (it is %s)", model.set[key], is)})
	}
	plan.Add(KindSysctl, 0, found)
	return errors.Join(errs...)
}

// modelSysctls are the parameters of the host with changes that only it knows.
type modelSysctls struct {
	Sysctls
	set map[string]string
}

// Get implements Sysctls.
func (m *modelSysctls) Get(key string) (string, error) {
	if value, found := m.set[key]; found {
		return value, nil
	}
	return m.Sysctls.Get(key)
}

// Set implements Sysctls.
func (m *modelSysctls) Set(key, value string) error {
	m.set[key] = value
	return nil
}

// Restore implements Sysctls.
func (m *modelSysctls) Restore(...string) ([]string, error) { return nil, nil }
