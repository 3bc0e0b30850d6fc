// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// needs are what a State asks of the host beside netfilter.
type needs struct {
	routing policyrouting.Set
	// uplinks are the links whose parameters are looked after.
	uplinks []string
	// ownPrefixes are the links that take no prefixes from routers.
	ownPrefixes []string
	// ipv6 is set when IPv6 is forwarded, nextHops when one of its routes has several next hops.
	ipv6, nextHops bool
}

func (n needs) equal(o needs) bool {
	return n.ipv6 == o.ipv6 && n.nextHops == o.nextHops && slices.Equal(n.uplinks, o.uplinks) && slices.Equal(n.ownPrefixes, o.ownPrefixes) && slices.Equal(n.routing.Rules, o.routing.Rules) &&
		slices.EqualFunc(n.routing.Routes, o.routing.Routes, policyrouting.Route.Equal)
}

// hostChange brings routes, rules of policy routing and the kernel's parameters to what a State needs, in the three steps
// before, while and after netfilter is brought there. Where they are known to be so already, nothing is read.
type hostChange struct {
	*Dataplane
	needs
	settled bool
	changes policyrouting.Changes
}

func (d *Dataplane) newHostChange(state gateway.State) *hostChange {
	n := needs{routing: policyrouting.Build(state, d.opts.Ownership), ipv6: forwardsIPv6(state), ownPrefixes: state.OwnPrefixes}
	n.nextHops = n.ipv6 && slices.ContainsFunc(state.ServiceRoutes, func(r gateway.ServiceRoute) bool {
		return r.Destination.Addr().Is6() && len(r.Via) > 1
	})
	for _, uplink := range state.Uplinks {
		n.uplinks = append(n.uplinks, uplink.Link)
	}
	return &hostChange{Dataplane: d, needs: n, settled: d.settled != nil && d.settled.equal(n)}
}

// prepare adds what rules rely on. First it puts back what is not needed any more: a link that is no uplink now filters
// strictly again, and a family that is not forwarded now is not, before the boundary leaves them alone.
func (h *hostChange) prepare(result *Result) error {
	if h.settled {
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

// startForwarding lets in, now that the boundary is there, what it was kept from before.
func (h *hostChange) startForwarding(family netfilter.Family, result *Result) error {
	if h.settled {
		return nil
	}
	var err error
	if family == netfilter.IPv4 {
		err = h.setSysctls(h.filtering, result)
	}
	return errors.Join(err, h.Dataplane.startForwarding(family, h.needs, result))
}

// finish removes what no rule relies on any more.
func (h *hostChange) finish(result *Result) error {
	if h.settled {
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
