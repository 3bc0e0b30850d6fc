// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// needs is what a State requires of the host in addition to netfilter.
type needs struct {
	routing policyrouting.Set
	// uplinks lists the links whose parameters are managed.
	uplinks []string
	// ownPrefixes lists the links that ignore the prefixes of router advertisements.
	ownPrefixes []string
	// ipv6 means that IPv6 is forwarded, nextHops that an IPv6 route has several next hops.
	ipv6, nextHops bool
	// flows means that there is a flowtable.
	flows bool
}

func (n needs) equal(o needs) bool {
	return n.ipv6 == o.ipv6 && n.nextHops == o.nextHops && n.flows == o.flows && slices.Equal(n.uplinks, o.uplinks) && slices.Equal(n.ownPrefixes, o.ownPrefixes) && slices.Equal(n.routing.Rules, o.routing.Rules) &&
		slices.EqualFunc(n.routing.Routes, o.routing.Routes, policyrouting.Route.Equal)
}

// hostChange brings routes, policy routing rules and kernel parameters to what a State needs, in three steps: before, during
// and after the netfilter changes. It reads nothing if they are known to be in place.
type hostChange struct {
	*Dataplane
	needs
	inSync  bool
	changes policyrouting.Changes
}

func (d *Dataplane) newHostChange(state gateway.State) *hostChange {
	n := needs{routing: policyrouting.Build(state, d.opts.Ownership), ipv6: forwardsIPv6(state), ownPrefixes: state.OwnPrefixes,
		flows: len(state.Flowtable.Links) > 0}
	n.nextHops = n.ipv6 && slices.ContainsFunc(state.ServiceRoutes, func(r gateway.ServiceRoute) bool {
		return r.Destination.Addr().Is6() && len(r.Via) > 1
	})
	for _, uplink := range state.Uplinks {
		n.uplinks = append(n.uplinks, uplink.Link)
	}
	return &hostChange{Dataplane: d, needs: n, inSync: d.hostInSync != nil && d.hostInSync.equal(n)}
}

// prepare adds the routing on which rules rely. First it restores parameters that are no longer needed, before the boundary
// stops covering them: the strict filter of a link that is not an uplink any more, and the forwarding of a family that is not
// forwarded any more.
func (h *hostChange) prepare(result *Result) error {
	if h.inSync {
		return nil
	}
	started := time.Now()
	var linkErr error
	h.filtering, linkErr = h.filteringLinks(h.uplinks)
	sysctlErr := errors.Join(linkErr, h.restoreSysctls(h.needs, result))
	have, err := h.opts.Routes.Observe()
	result.Took.Observe += time.Since(started)
	if err != nil {
		return errors.Join(sysctlErr, err)
	}
	h.changes = policyrouting.Diff(have, h.needs.routing)
	err = h.route(h.changes.Additions(), result)
	result.Repaired = append(result.Repaired, missingRouting(result.Routing, h.Dataplane.routing)...)
	if err == nil {
		h.Dataplane.routing = h.needs.routing
	}
	return errors.Join(sysctlErr, err)
}

// startForwarding sets the parameters that let in packets, now that the boundary is in place.
func (h *hostChange) startForwarding(family gateway.Family, result *Result) error {
	if h.inSync {
		return nil
	}
	var err error
	if family == gateway.IPv4 {
		err = h.setSysctls(h.filtering, result)
		if h.opts.CountTraffic {
			h.startCounting(result)
		}
		if h.opts.RecordTimes {
			h.ensureIfPermitted(recordTimes, "1", result)
		}
		if h.opts.TakeOver {
			h.ensureIfPermitted(liberalTCP, "1", result)
		}
		if h.flows {
			h.keepIdleFlows(result)
		}
	}
	return errors.Join(err, h.Dataplane.startForwarding(family, h.needs, result))
}

// finish removes the routing on which no rule relies any more.
func (h *hostChange) finish(result *Result) error {
	if h.inSync {
		return nil
	}
	return h.route(h.changes.Removals(), result)
}

func (d *Dataplane) route(changes policyrouting.Changes, result *Result) error {
	if changes.Empty() {
		return nil
	}
	done, err := d.opts.Routes.Apply(changes)
	result.Routing = result.Routing.Append(done)
	return err
}
