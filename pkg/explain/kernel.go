// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// clientPort is a source port as clients have them. No rule depends on it.
const clientPort = 50000

// maxOutcomes bounds the random choices that an answer follows: a Service may have thousands of endpoints.
const maxOutcomes = 256

// route returns the route of a packet with a mark. It takes the host itself for a route that the kernel does not have, and
// remembers that.
func (e *explanation) route(destination netip.Addr, mark uint32) Hop {
	hop, err := e.Router.Route(destination, mark)
	if err != nil {
		if text := destination.String(); !slices.Contains(e.failed, text) {
			e.failed = append(e.failed, text)
		}
	}
	return hop
}

// trace follows the first packet through the rules in the kernel.
func (e *explanation) trace(in string) packet.Trace {
	e.failed = nil // a source without a route is no fault of the way to the Backend
	trace := e.Tracer.Trace(e.first(in))
	for _, s := range trace.Steps {
		e.Rules = append(e.Rules, fmt.Sprintf("%s %s %d: %s", s.Table, s.Chain, s.Number, s.Rule))
	}
	return trace
}

func (e *explanation) first(in string) packet.Packet {
	return packet.Packet{
		In: in, Protocol: e.flow.Protocol, Source: netip.AddrPortFrom(e.flow.Source, clientPort), Destination: e.flow.Destination,
		State: packet.New, Direction: packet.Original, SYN: e.flow.Protocol == gateway.TCP,
		Route: func(destination netip.Addr, mark uint32) string { return e.route(destination, mark).Link },
	}
}

// reply follows the answer of the Backend, and returns the hop that the kernel has for it.
func (e *explanation) reply(first packet.Trace, in string) (packet.Trace, Hop) {
	p := e.first(first.Out)
	p.Source, p.Destination = first.Packet.Destination, p.Source
	p.State, p.Direction, p.ConnMark = packet.Established|packet.DNAT, packet.Reply, first.Packet.ConnMark
	if first.Masqueraded || first.Packet.Source.Addr() != e.flow.Source {
		p.State |= packet.SNAT
	}
	trace := e.Tracer.Trace(p)
	hop := e.route(e.flow.Source, trace.Packet.Mark)
	if in == "" {
		return trace, Hop{}
	}
	return trace, hop
}

// backends names the destinations that the rules in the kernel choose from, with their shares if there are few.
func (e *explanation) backends(f *gateway.Forward, in string) string {
	type share struct {
		backend netip.AddrPort
		part    float64
	}
	var shares []share
	n, all := 0, true
	for trace := range e.Tracer.Outcomes(e.first(in)) {
		if n++; n > maxOutcomes {
			all = false
			break
		}
		i := slices.IndexFunc(shares, func(s share) bool { return s.backend == trace.Packet.Destination })
		if i < 0 {
			shares = append(shares, share{backend: trace.Packet.Destination})
			i = len(shares) - 1
		}
		shares[i].part += trace.Probability
	}
	slices.SortFunc(shares, func(a, b share) int { return a.backend.Compare(b.backend) })
	var texts []string
	for _, s := range shares[:min(listed, len(shares))] {
		text := s.backend.String()
		if all {
			text += fmt.Sprintf(" (%.0f %%)", 100*s.part)
		}
		texts = append(texts, text)
	}
	text := strings.Join(texts, ", ")
	if more := len(f.Backends) - len(texts); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if !f.Direct {
		return "the ClusterIP " + text
	}
	return text
}

// masquerade says which source the endpoints see, by the rules in the kernel. On a node, some may see the client and others not.
func (e *explanation) masquerade(in string) string {
	var keep []string
	var shared []netip.Addr
	n, hidden := 0, false
	for trace := range e.Tracer.Outcomes(e.first(in)) {
		if n++; n > maxOutcomes {
			break
		}
		source := trace.Packet.Source.Addr()
		switch to := trace.Packet.Destination.String(); {
		case trace.Masqueraded:
			hidden = true
		case source != e.flow.Source:
			if hidden = true; !slices.Contains(shared, source) {
				shared = append(shared, source)
			}
		case !slices.Contains(keep, to):
			keep = append(keep, to)
		}
	}
	seen := "an address of this gateway"
	if len(shared) > 0 {
		slices.SortFunc(shared, netip.Addr.Compare)
		var texts []string
		for _, a := range shared {
			texts = append(texts, a.String())
		}
		seen = strings.Join(texts, " or ") + " (masqueradeAddresses)"
	}
	switch {
	case !hidden:
		return fmt.Sprintf("none: the endpoint sees %s", e.flow.Source)
	case len(keep) == 0:
		return fmt.Sprintf("the endpoint sees %s as the source", seen)
	}
	slices.Sort(keep)
	only := strings.Join(keep[:min(listed, len(keep))], ", ")
	if more := len(keep) - listed; more > 0 {
		only += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("none for %s, which sees %s; an endpoint on another node sees %s", only, e.flow.Source, seen)
}
