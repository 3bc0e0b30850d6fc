// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// flow holds the properties of a connection that matter for decisions.
type flow struct {
	// protocol is empty if it is one that cannot be exposed.
	protocol gateway.Protocol
	// source and destination are those of the first packet, before translation. Ports are 0 for protocols without ports.
	source, destination netip.AddrPort
	// answeredBy and answeredTo are the source and destination of the answers: the translated destination and source.
	answeredBy, answeredTo netip.AddrPort
	// answered means that there was an answer.
	answered bool
	// expected means that a helper announced the connection as part of another one.
	expected bool
}

// translated reports whether source or destination were translated.
func (f flow) translated() bool {
	return f.answeredBy != f.destination || f.answeredTo != f.source
}

// judge decides whether a State makes a connection.
type judge struct {
	// here holds the Forwards of addresses on this host, forwards all of them.
	here, forwards []*gateway.Forward
	// egress maps pods to their external address.
	egress map[netip.Addr]netip.Addr
}

func newJudge(state gateway.State) judge {
	return judge{here: state.Forwards, forwards: everywhere(state), egress: egressAddresses(state)}
}

// egressAddresses maps pods to their external address, on this host or absent.
func egressAddresses(state gateway.State) map[netip.Addr]netip.Addr {
	addresses := map[netip.Addr]netip.Addr{}
	for _, egresses := range [][]gateway.Egress{state.Egresses, state.Absent.Egresses} {
		for _, e := range egresses {
			for _, source := range e.Sources {
				addresses[source] = e.Address
			}
		}
	}
	return addresses
}

// keeps reports whether the State makes, or tolerates, a connection that carries our mark.
func (j judge) keeps(f flow) bool {
	if f.expected {
		// The other connection negotiated the destination, so the State does not know it.
		return true
	}
	if forward := gateway.FindForward(j.forwards, f.protocol, f.destination); forward != nil {
		return allows(forward, f.source.Addr()) && leadsTo(forward, f)
	}
	external, found := j.egress[f.source.Addr()]
	return found && f.answeredBy == f.destination && f.answeredTo.Addr() == external
}

// takesOver reports whether a connection without our mark misses a Forward or its external address only because it is older
// than the rules. The kernel applies nat rules only to the first packet, and a repeated SYN is not a first packet. It considers
// TCP only for egress: to an address without a Forward, TCP was refused and has ended.
//
// A UDP flow that never pauses keeps the translation of another program's rule long after the rule is gone. Like kube-proxy,
// takesOver ends a flow that is answered by an address that is not a backend (k8s.io/kubernetes, pkg/proxy/conntrack). If such
// a rule still precedes ours, the flow returns as it was; it is ended once each time the Forward appears.
func (j judge) takesOver(f flow) bool {
	if f.expected {
		return false
	}
	if _, found := j.egress[f.source.Addr()]; found {
		return !f.answered && !f.translated()
	}
	// The host's own service answers, or the flow is only masqueraded.
	if f.answeredBy == f.destination && (f.answered || f.translated()) {
		return false
	}
	forward := gateway.FindForward(j.here, f.protocol, f.destination)
	return forward != nil && f.protocol == gateway.UDP && len(forward.Backends) > 0 && allows(forward, f.source.Addr()) && !leadsTo(forward, f)
}

func allows(forward *gateway.Forward, source netip.Addr) bool {
	if forward.SourcesDeny {
		return false
	}
	return len(forward.Sources) == 0 ||
		slices.ContainsFunc(forward.Sources, func(p netip.Prefix) bool { return p.Contains(source) })
}

// leadsTo reports whether the connection leads to a backend of the Forward, or to one where it may stay until it ends. TCP may
// stay on a draining endpoint, because it ends with the endpoint. UDP would continue to send to an endpoint that no longer
// exists.
func leadsTo(forward *gateway.Forward, f flow) bool {
	backend := gateway.Backend{Address: f.answeredBy.Addr(), Port: f.answeredBy.Port()}
	if forward.Shift {
		backend.Port -= f.destination.Port() - forward.Ports.First
	}
	return slices.Contains(forward.Backends, backend) ||
		f.protocol == gateway.TCP && slices.Contains(forward.Draining, backend)
}
