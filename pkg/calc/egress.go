// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// egressClaim says with which address a pod leaves. Unlike ports, pods are claimed on each host for itself: what reaches
// the outside through another gateway leaves with an address that is there.
type egressClaim struct {
	owner   *v1alpha1.Mapping
	address netip.Addr
}

// egress has the pods of a Mapping leave with its addresses. Mappings must come by age.
func (c *calculation) egress(m *v1alpha1.Mapping, addresses []address, pods byFamily[netip.Addr]) {
	if !m.Spec.Egress {
		return
	}
	for _, v4 := range []bool{true, false} {
		candidates := slices.DeleteFunc(slices.Clone(addresses), func(a address) bool {
			return a.Is4() != v4 || !a.local || !c.cfg.AnyAddress && !c.held[a.Addr]
		})
		if len(candidates) == 0 {
			continue // not this host's, or not yet
		}
		i := slices.IndexFunc(candidates, func(a address) bool { return c.uplinkOf[a.Addr] != 0 })
		if i < 0 {
			c.report(m, v1alpha1.ConditionProgrammed, ReasonNoUplink, "spec.egress",
				"none of its %s addresses is on an uplink of this host; what its pods send leaves as this host routes it", family(v4))
			continue
		}
		external := candidates[i].Addr
		if sources := c.claimPods(m, external, pods.of(external)); len(sources) > 0 {
			c.egresses = append(c.egresses, gateway.Egress{
				Address: external, Uplink: c.uplinkOf[external], Owner: m.Namespace + "/" + m.Name, Sources: sources,
			})
		}
	}
}

// claimPods returns those of the pods that no older Mapping has leave with an address of its own.
func (c *calculation) claimPods(m *v1alpha1.Mapping, external netip.Addr, pods []netip.Addr) []netip.Addr {
	var mine []netip.Addr
	var winners []*v1alpha1.Mapping
	for _, pod := range pods {
		claim, taken := c.egressClaims[pod]
		switch {
		case !taken:
			c.egressClaims[pod] = egressClaim{m, external}
			mine = append(mine, pod)
		case claim.address != external && !slices.Contains(winners, claim.owner):
			winners = append(winners, claim.owner)
			c.report(m, v1alpha1.ConditionProgrammed, ReasonEgressConflict, "spec.egress",
				"pod %s, and maybe others, leaves with %s by Mapping %s/%s, which %s", pod, claim.address, claim.owner.Namespace, claim.owner.Name, precedence(claim.owner, m))
		}
	}
	return mine
}
