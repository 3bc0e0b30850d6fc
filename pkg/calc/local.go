// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
)

// places says which endpoints of a Service are on this node: the replies of others leave by their own nodes.
type places struct {
	// local are proven to be pods of this node. Another endpoint counts as remote, wherever it says it is: its author could break the
	// connections of others to a pod of another node.
	local []netip.Addr
	// remote are the other ones that may get connections.
	remote []netip.Addr
	// told is set if any endpoint says on which node it is.
	told bool
}

// add takes the endpoints of a slice.
func (p *places) add(s *endpointSlice, proven bool, node string) {
	for _, e := range s.endpoints {
		p.told = p.told || e.node != ""
		switch {
		case proven && e.node != "" && e.node == node:
			p.local = append(p.local, e.address)
		case e.phase < leaving:
			p.remote = append(p.remote, e.address)
		}
	}
}

// sort makes each list sorted and unique.
func (p *places) sort() {
	for _, list := range []*[]netip.Addr{&p.local, &p.remote} {
		slices.SortFunc(*list, netip.Addr.Compare)
		*list = slices.Compact(*list)
	}
	p.remote = slices.DeleteFunc(p.remote, func(a netip.Addr) bool {
		_, local := slices.BinarySearchFunc(p.local, a, netip.Addr.Compare)
		return local
	})
}

// keepsSource reports whether a Mapping asks to keep the clients' addresses on a node, which it can only for pods of this node.
func (c *calculation) keepsSource(m *v1alpha1.Mapping) bool {
	return c.proxy != "" && !c.masquerades(m)
}

// reportRemote says which endpoints of families that are in use do not see the clients' addresses although the Mapping asks for that.
func (c *calculation) reportRemote(m *v1alpha1.Mapping, of places, families []netip.Addr) {
	remote := slices.DeleteFunc(slices.Clone(of.remote), func(a netip.Addr) bool {
		return !slices.ContainsFunc(families, func(f netip.Addr) bool { return f.Is4() == a.Is4() })
	})
	if len(remote) == 0 {
		return
	}
	subject := remote[0].String() + " sees"
	if n := len(remote); n > 1 {
		subject = fmt.Sprintf("%s and %d more see", remote[0], n-1)
	}
	why := fmt.Sprintf("replies of pods on other nodes would not pass this one (%s)", c.cfg.Node)
	switch {
	case of.told:
	case c.cfg.Source.Relay != nil:
		why = fmt.Sprintf("the relay does not tell this gateway which pods are on this node, and replies of others would not pass it; run 'kubectl smartnat enroll GATEWAY --node %s'", c.cfg.Node)
	default:
		why = "no EndpointSlice says which pods are on this node, and replies of others would not pass it"
	}
	c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonRemoteMasqueraded, "spec.masquerade",
		"false keeps the clients' addresses only for pods of this node; %s an address of this gateway, because %s", subject, why)
}

// settleLocal collects the pods of this node that may see the clients' addresses.
func (c *Calculator) settleLocal(r *run) {
	if !r.localChanged {
		return
	}
	var local []netip.Addr
	for _, e := range c.entries {
		local = append(local, e.local...)
	}
	slices.SortFunc(local, netip.Addr.Compare)
	c.state.LocalBackends = slices.Compact(local)
}
