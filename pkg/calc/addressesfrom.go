// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// uplinkAddresses are the addresses of an uplink that addressesFrom may refer to.
type uplinkAddresses struct {
	// names are the names of the uplink and of its ports that the config names.
	names []string
	// here are the addresses to serve. Those in absent are not served, but their existing connections live on.
	here, absent []netip.Addr
}

func (u uplinkAddresses) equal(o uplinkAddresses) bool {
	return slices.Equal(u.names, o.names) && slices.Equal(u.here, o.here) && slices.Equal(u.absent, o.absent)
}

// addressesOfUplinks returns the addresses of all uplinks, in the order of uplinks.
func addressesOfUplinks(host gateway.Host, cfg config.Config, uplinks []gateway.Uplink) []uplinkAddresses {
	var all []uplinkAddresses
	for _, uplink := range uplinks {
		u := uplinkAddresses{names: []string{uplink.Link}}
		for _, l := range host.Links {
			if l.Name != uplink.Link && masterOf(host, l.Name) == uplink.Link && named(cfg, l.Name) {
				u.names = append(u.names, l.Name)
			}
		}
		link, _ := linkNamed(host, uplink.Link)
		for _, p := range link.Addresses {
			switch a := p.Addr(); {
			case !a.IsGlobalUnicast() || slices.Contains(link.Temporary, a):
			case slices.Contains(link.Dormant, a):
				u.absent = append(u.absent, a)
			default:
				u.here = append(u.here, a)
			}
		}
		all = append(all, u)
	}
	return all
}

// Resolved returns the resolved addressesFrom of all Mappings of the last Snapshot that get an address from an uplink. The result must
// not be changed.
func (c *Calculator) Resolved() map[types.NamespacedName]finding.Resolved { return c.resolved }

// resolvedOf returns the resolved addressesFrom of all Mappings that get an address from an uplink.
func resolvedOf(entries []*entry) map[types.NamespacedName]finding.Resolved {
	all := map[types.NamespacedName]finding.Resolved{}
	for _, e := range entries {
		if len(e.resolved.Addresses) > 0 {
			all[conflicts.Key(e.mapping)] = e.resolved
		}
	}
	return all
}

// resolveUplinks appends the addresses of addressesFrom to those that the Mapping names, and reports items without an address.
// It silently skips families that the Service or the allowed sources lack, because the author did not ask for them.
func (c *calculation) resolveUplinks(m *v1alpha1.Mapping, addresses []address) ([]address, finding.Resolved) {
	var resolved finding.Resolved
	explicit := len(addresses)
	for i, from := range m.Spec.AddressesFrom {
		field := fmt.Sprintf("spec.addressesFrom[%d].uplink", i)
		found, served := false, false
		for _, u := range c.fromUplinks {
			if from.Uplink != v1alpha1.AllUplinks && !slices.Contains(u.names, from.Uplink) {
				continue
			}
			found = true
			for _, a := range u.here {
				if c.hasUse(m, a) {
					served = true
					addresses = c.addResolved(m, addresses, address{Addr: a, field: field, place: here, resolved: true})
				}
			}
			for _, a := range u.absent {
				if c.hasUse(m, a) {
					addresses = c.addResolved(m, addresses, address{Addr: a, field: field, place: absent, resolved: true})
				}
			}
		}
		if served {
			resolved.Uplinks = append(resolved.Uplinks, from.Uplink)
		} else {
			c.reportUplink(m, field, from.Uplink, found)
		}
	}
	for _, a := range addresses[explicit:] {
		if a.place == here {
			resolved.Addresses = append(resolved.Addresses, a.Addr)
		}
	}
	return addresses, resolved
}

// addResolved appends an address unless it is there already.
func (c *calculation) addResolved(m *v1alpha1.Mapping, addresses []address, a address) []address {
	switch {
	case slices.ContainsFunc(addresses, func(o address) bool { return o.Addr == a.Addr }):
		return addresses
	case len(addresses) < v1alpha1.MaxAddresses:
		return append(addresses, a)
	case a.place == here:
		c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonTooManyAddresses, a.field, "%s is not served: a Mapping has at most %d addresses", a, v1alpha1.MaxAddresses)
	}
	return addresses
}

// hasUse reports whether the Mapping can use an address that its author did not name.
func (c *calculation) hasUse(m *v1alpha1.Mapping, a netip.Addr) bool {
	if a.Is6() && !c.cfg.IPv6 {
		return false
	}
	if len(m.Spec.AllowedSources) > 0 && !slices.ContainsFunc(m.Spec.AllowedSources, func(text string) bool {
		return netip.MustParsePrefix(text).Addr().Is4() == a.Is4()
	}) {
		return false
	}
	name := serviceNamedBy(m)
	if _, problem := serviceProblem(c.services[name], name, m.Spec.Mode); problem != "" {
		return true // the families of the Service are unknown
	}
	return c.hasFamily(c.services[name], m.Spec.Mode, a.Is4())
}

// reportUplink reports why an item of addressesFrom has no address; found is set if the uplink is one of this host.
func (c *calculation) reportUplink(m *v1alpha1.Mapping, field, uplink string, found bool) {
	all := uplink == v1alpha1.AllUplinks
	reason, message := finding.ReasonNotAnUplink, fmt.Sprintf("%s is not an uplink of this host; to serve its addresses here, add it to uplinks in the gateway's config", uplink)
	switch {
	case c.cfg.AnyAddress:
		message = "only a gateway knows the addresses of its uplinks; run render there, with --config"
	case found:
		reason, message = finding.ReasonNoUplinkAddress, fmt.Sprintf("%s currently has no usable address; ", uplink)
		if all {
			message = "no uplink of this host currently has a usable address; "
		}
		message += "link-local, temporary, tentative and deprecated addresses do not count, nor do those of a family that the Service or allowedSources lack"
	case all:
		message = "this host has no uplinks; add its links to the outside to uplinks in the gateway's config"
	}
	c.report(m, v1alpha1.ConditionProgrammed, reason, field, "%s", message)
}

// names reports whether the Mapping names the address.
func names(m *v1alpha1.Mapping, a netip.Addr) bool {
	return slices.ContainsFunc(m.Spec.Addresses, func(text string) bool {
		named, err := netip.ParseAddr(text)
		return err == nil && named == a
	})
}
