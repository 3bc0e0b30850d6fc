// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// hostPorts are the ports that no Mapping gets on this host: the administrator's ssh takes precedence over tenants. They depend
// on the current state only, not on history, so that a restart changes nothing.
type hostPorts struct {
	// reserved is by protocol, sorted by first port; those of the config come before listeners.
	reserved map[gateway.Protocol][]reservation
}

// reservation is a range of ports of some addresses.
type reservation struct {
	gateway.PortRange
	// address restricts it to one address, or to one family if unspecified. The zero value means all addresses.
	address netip.Addr
	// link, if set, restricts it to the addresses of that link.
	link string
	// configured is set if reservedPorts of the config lists it. A PortGrant may lift that.
	configured bool
	// why is the reason for the finding's text.
	why string
}

func newHostPorts(host gateway.Host, cfg config.Config, uplinks []gateway.Uplink) *hostPorts {
	h := &hostPorts{reserved: map[gateway.Protocol][]reservation{}}
	if cfg.AnyAddress {
		return h
	}
	for _, r := range cfg.ReservedPorts {
		h.add(r.Protocol, reservation{PortRange: r.Ports, configured: true, why: fmt.Sprintf("reserved by reservedPorts (%s) in the gateway's config", r)})
	}
	if port, ok := metricsPort(cfg.Metrics.Address); ok {
		h.add(gateway.TCP, reservation{PortRange: gateway.Port(port), why: "used by metrics.address in the gateway's config"})
	}
	for _, l := range host.Listeners {
		r := reservation{PortRange: gateway.Port(l.Port), address: l.Address, why: fmt.Sprintf(
			"a program on this host listens on %s; bind it to other addresses, or use another port", l)}
		if !slices.ContainsFunc(uplinks, func(u gateway.Uplink) bool { return u.Link == l.Link }) {
			r.link = l.Link // packets from an uplink do not reach it
		}
		h.add(l.Protocol, r)
	}
	for _, c := range host.Others.Claims {
		h.add(c.Protocol, reservation{PortRange: c.Ports, address: c.Address, why: fmt.Sprintf(
			"a %s of the cluster has it; use another port", c.Kind)})
	}
	for _, list := range h.reserved {
		slices.SortStableFunc(list, func(a, b reservation) int { return cmp.Compare(a.First, b.First) })
	}
	return h
}

func (h *hostPorts) add(protocol gateway.Protocol, r reservation) {
	h.reserved[protocol] = append(h.reserved[protocol], r)
}

func metricsPort(address string) (uint16, bool) {
	for i := len(address) - 1; i >= 0; i-- {
		if address[i] == ':' {
			port, err := strconv.ParseUint(address[i+1:], 10, 16)
			return uint16(port), err == nil && port > 0
		}
	}
	return 0, false
}

// reserved returns the ports of a Frontend that this host keeps from Mappings, and reports them if it would serve them.
func (c *calculation) reserved(m *v1alpha1.Mapping, port int, front gateway.Frontend, where place, by allowance) []gateway.PortRange {
	if where != here {
		return nil
	}
	var reserved []gateway.PortRange
	for _, r := range c.ports.of(front, c.held[front.Address], by) {
		lost := front
		lost.Ports = gateway.PortRange{First: max(r.First, front.Ports.First), Last: min(r.Last, front.Ports.Last)}
		c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonPortReserved, portField(port, "port"), "%s is not served here: %s", lost, r.why)
		reserved = append(reserved, lost.Ports)
	}
	return reserved
}

// of returns the reservations that overlap a Frontend whose address is on the link, and that its allowance does not lift.
func (h *hostPorts) of(front gateway.Frontend, link string, by allowance) []reservation {
	var found []reservation
	for _, r := range h.reserved[front.Protocol] {
		if r.First > front.Ports.Last {
			break
		}
		if !r.Overlaps(front.Ports) || !r.covers(front.Address, link) || r.configured && by.reservedPorts() {
			continue
		}
		if n := len(found); n == 0 || found[n-1].Last < r.Last {
			found = append(found, r) // one reason is enough
		}
	}
	return found
}

func (r reservation) covers(a netip.Addr, link string) bool {
	if r.link != "" && r.link != link {
		return false
	}
	return !r.address.IsValid() || r.address == a || r.address.IsUnspecified() && r.address.Is4() == a.Is4()
}

func (h *hostPorts) equal(o *hostPorts) bool {
	return maps.EqualFunc(h.reserved, o.reserved, slices.Equal[[]reservation])
}

// affects reports whether any of the wants gets other ports than with o.
func (h *hostPorts) affects(wants []want, o *hostPorts, held map[netip.Addr]string) bool {
	for i := range wants {
		w := &wants[i]
		if link := held[w.Address]; w.place == here && !slices.Equal(h.of(w.Frontend, link, w.allowance), o.of(w.Frontend, link, w.allowance)) {
			return true
		}
	}
	return false
}
