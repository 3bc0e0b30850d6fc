// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// facts is what the calculation of Mappings needs to know of the host.
type facts struct {
	sctp bool
	// held are the addresses on links of this host, with the link's name; local are the addresses that it forwards for.
	held  map[netip.Addr]string
	local map[netip.Addr]bool
	// inside is set if a link that is up and has an address leads inside: it is neither an uplink nor lo.
	inside bool
	// uplinkOf has the number of the uplink for each address on one, and for those that a pair moves there: a takeover must find their
	// egress in place, since the kernel translates a connection as its first packet.
	uplinkOf map[netip.Addr]int
	// fromUplinks are the addresses of uplinks, in the order of uplinks.
	fromUplinks []uplinkAddresses
	// networks decides which destinations are allowed, ports which ports belong to the host.
	networks *networks
	ports    *hostPorts
	// dropping are the chains of other programs that drop connections of Mappings.
	dropping []gateway.BaseChain
	// proxy is what translates ClusterIPs on this host, or "".
	proxy string
}

func newFacts(host gateway.Host, cfg config.Config, state *gateway.State, inside []netip.Prefix, before *facts) *facts {
	uplinks := state.Uplinks
	f := &facts{
		// Without a real host, nothing is missing.
		sctp:        host.SCTP || cfg.AnyAddress,
		held:        map[netip.Addr]string{},
		local:       map[netip.Addr]bool{},
		uplinkOf:    map[netip.Addr]int{},
		fromUplinks: addressesOfUplinks(host, cfg, uplinks),
		networks:    newNetworks(host, cfg, uplinks, state.Outside, inside, before.networks),
		ports:       newHostPorts(host, cfg, uplinks),
		dropping:    host.Others.Chains.Dropping,
		proxy:       serviceProxy(host, cfg),
	}
	for _, link := range host.Links {
		uplink := slices.IndexFunc(uplinks, func(u gateway.Uplink) bool { return u.Link == link.Name })
		f.inside = f.inside || uplink < 0 && link.Up && link.Name != "lo" && len(link.Addresses) > 0
		for _, a := range link.Addresses {
			// If several links hold an address, an uplink wins.
			if uplink >= 0 || f.uplinkOf[a.Addr()] == 0 {
				f.held[a.Addr()] = link.Name
			}
			if uplink < 0 {
				continue
			}
			f.local[a.Addr()] = true
			if n := uplinks[uplink].Number; f.uplinkOf[a.Addr()] == 0 || n < f.uplinkOf[a.Addr()] {
				f.uplinkOf[a.Addr()] = n
			}
		}
	}
	for _, a := range cfg.StandbyAddresses {
		f.local[a] = true
	}
	for _, l := range cfg.HA.Links {
		for _, u := range uplinks {
			for _, a := range l.VirtualAddresses {
				if u.Link == l.Interface && f.uplinkOf[a] == 0 {
					f.uplinkOf[a] = u.Number
				}
			}
		}
	}
	for _, a := range cfg.ServedAddresses {
		if f.held[a] != "" {
			f.local[a] = true
		}
	}
	return f
}

func (f *facts) equal(other *facts) bool {
	return f.sctp == other.sctp && f.inside == other.inside && f.proxy == other.proxy && f.networks.equal(other.networks) &&
		maps.Equal(f.held, other.held) && maps.Equal(f.local, other.local) && maps.Equal(f.uplinkOf, other.uplinkOf) &&
		slices.EqualFunc(f.fromUplinks, other.fromUplinks, uplinkAddresses.equal) && slices.Equal(f.dropping, other.dropping)
}
