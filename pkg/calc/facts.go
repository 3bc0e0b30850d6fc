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

// facts are what a Mapping has to know of the host.
type facts struct {
	sctp bool
	// held are the addresses that are on a link of this host, with its name; local those that it is to forward for.
	held  map[netip.Addr]string
	local map[netip.Addr]bool
	// inside is set when a link that is up, with an address, leads to the inside: it is neither an uplink nor lo.
	inside bool
	// uplinkOf has the number of the uplink that an address is on.
	uplinkOf map[netip.Addr]int
	// fromUplinks are the addresses of uplinks, in the order of these.
	fromUplinks []uplinkAddresses
	// networks know where connections may be led to, ports which are the host's own.
	networks *networks
	ports    *hostPorts
}

func newFacts(host gateway.Host, cfg config.Config, uplinks []gateway.Uplink, outside []string, before *facts) *facts {
	f := &facts{
		// A host that is only imagined lacks nothing.
		sctp:        host.SCTP || cfg.AnyAddress,
		held:        map[netip.Addr]string{},
		local:       map[netip.Addr]bool{},
		uplinkOf:    map[netip.Addr]int{},
		fromUplinks: addressesOfUplinks(host, cfg, uplinks),
		networks:    newNetworks(host, cfg, uplinks, outside, before.networks),
		ports:       newHostPorts(host, cfg, uplinks),
	}
	for _, link := range host.Links {
		uplink := slices.IndexFunc(uplinks, func(u gateway.Uplink) bool { return u.Link == link.Name })
		f.inside = f.inside || uplink < 0 && link.Up && link.Name != "lo" && len(link.Addresses) > 0
		for _, a := range link.Addresses {
			// Of several links that hold an address one that is an uplink counts.
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
	for _, a := range cfg.ServedAddresses {
		if f.held[a] != "" {
			f.local[a] = true
		}
	}
	return f
}

func (f *facts) equal(other *facts) bool {
	return f.sctp == other.sctp && f.inside == other.inside && f.networks.equal(other.networks) && maps.Equal(f.held, other.held) && maps.Equal(f.local, other.local) && maps.Equal(f.uplinkOf, other.uplinkOf) &&
		slices.EqualFunc(f.fromUplinks, other.fromUplinks, uplinkAddresses.equal)
}
