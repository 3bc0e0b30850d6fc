// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// egressClaim is the address with which a pod leaves. Unlike ports, pods are claimed on each host separately: traffic through
// another gateway leaves with an address of that gateway.
type egressClaim struct {
	owner   *v1alpha1.Mapping
	address netip.Addr
}

// egressRequest asks that pods leave with an address.
type egressRequest struct {
	address netip.Addr
	// uplink is the number of the uplink that holds the address, or 0 if this host does not have the address now.
	uplink int
	pods   []netip.Addr
}

// egress returns what a Mapping asks for its pods: the addresses with which they leave.
func (c *calculation) egress(m *v1alpha1.Mapping, addresses []address, pods byFamily[netip.Addr]) []egressRequest {
	if !m.Spec.Egress {
		return nil
	}
	var requests []egressRequest
	for _, v4 := range []bool{true, false} {
		possible := slices.DeleteFunc(slices.Clone(addresses), func(a address) bool { return a.Is4() != v4 || a.place == nowhere })
		candidates := slices.DeleteFunc(slices.Clone(possible), func(a address) bool {
			return a.place != here || !c.cfg.AnyAddress && c.held[a.Addr] == "" && c.uplinkOf[a.Addr] == 0
		})
		if len(candidates) == 0 { // not this host's, or not now
			if len(possible) > 0 {
				requests = append(requests, egressRequest{address: possible[0].Addr, pods: pods.of(possible[0].Addr)})
			}
			continue
		}
		i := slices.IndexFunc(candidates, func(a address) bool { return c.uplinkOf[a.Addr] != 0 })
		if i < 0 {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonNoUplink, "spec.egress",
				"none of the %s addresses is on an uplink of this host; packets from its pods follow this host's own routes", family(v4))
			continue
		}
		// The rules stay while the inside link is down: a flapping link must not affect connections.
		external := candidates[i].Addr
		leaving := pods.of(external)
		known := len(leaving) > 0 && !slices.ContainsFunc(leaving, func(pod netip.Addr) bool { return !contains(c.networks.inside, pod) })
		if !c.inside && !known && !c.cfg.AnyAddress {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonNoInsideLink, "spec.egress",
				"all links of this host are uplinks, and packets from an uplink count as outside; add the network of the pods to insideNetworks in the gateway's config, or connect it by a link that is not an uplink")
		}
		for _, chain := range c.dropping {
			if chain.Family == "inet" || (chain.Family == "ip") == v4 {
				c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonForwardingDropped, "spec.egress",
					"%s drops connections that pods open unless one of its rules accepts them: %s", chain, chain.Remedy(c.cfg.Ownership))
			}
		}
		requests = append(requests, egressRequest{address: external, uplink: c.uplinkOf[external], pods: leaving})
	}
	return requests
}

// egressClaims are the claims by pod. The first Mapping that asks gets the pod.
type egressClaims map[netip.Addr]egressClaim

// claimPods gives a Mapping the pods that no older one has claimed for another address. Mappings must come sorted by age.
func (claims egressClaims) claimPods(e *entry) {
	e.egresses = nil
	e.aboutEgress = slices.DeleteFunc(slices.Clone(e.aboutEgress), func(f finding.Finding) bool { return f.Reason == finding.ReasonEgressConflict })
	for _, request := range e.egress {
		if request.uplink == 0 || e.over != nil {
			continue
		}
		var mine []netip.Addr
		var winners []*v1alpha1.Mapping
		for _, pod := range request.pods {
			claim, taken := claims[pod]
			switch {
			case !taken:
				claims[pod] = egressClaim{e.mapping, request.address}
				mine = append(mine, pod)
			case claim.address != request.address && !slices.Contains(winners, claim.owner):
				winners = append(winners, claim.owner)
				e.aboutEgress = append(e.aboutEgress, finding.New(e.mapping, v1alpha1.ConditionProgrammed, finding.ReasonEgressConflict, "spec.egress",
					"pod %s, and possibly others, leaves with %s of Mapping %s/%s, which %s",
					pod, claim.address, claim.owner.Namespace, claim.owner.Name, conflicts.Precedence(claim.owner, e.mapping)))
			}
		}
		if len(mine) > 0 {
			e.egresses = append(e.egresses, gateway.Egress{
				Address: request.address, Uplink: request.uplink, Owner: e.mapping.Namespace + "/" + e.mapping.Name, Sources: mine,
			})
		}
	}
}

// claimAbsent lets pods of a Mapping leave as before if no other Mapping has claimed them and the host does not have the address. It
// must run after all calls of claimPods.
func (claims egressClaims) claimAbsent(e *entry) {
	for _, request := range e.egress {
		if request.uplink != 0 || e.over != nil {
			continue
		}
		var mine []netip.Addr
		for _, pod := range request.pods {
			if _, taken := claims[pod]; !taken {
				claims[pod] = egressClaim{e.mapping, request.address}
				mine = append(mine, pod)
			}
		}
		if len(mine) > 0 {
			e.egresses = append(e.egresses, gateway.Egress{Address: request.address, Owner: e.mapping.Namespace + "/" + e.mapping.Name, Sources: mine})
		}
	}
}
