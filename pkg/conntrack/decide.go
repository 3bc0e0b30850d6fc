// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// flow is a connection as far as it is decided by.
type flow struct {
	// protocol is empty where it is none that can be exposed.
	protocol gateway.Protocol
	// source and destination are those of the first packet, as it came in. Ports are 0 where the protocol has none.
	source, destination netip.AddrPort
	// answeredBy and answeredTo are the source and the destination of the answers: what source and destination were
	// translated to, the other way round.
	answeredBy, answeredTo netip.AddrPort
	// answered is set once there was an answer.
	answered bool
	// expected is set when a helper foresaw the connection as a part of another one.
	expected bool
}

// translated reports whether source or destination were translated.
func (f flow) translated() bool {
	return f.answeredBy != f.destination || f.answeredTo != f.source
}

// judge knows what a State makes of connections.
type judge struct {
	// here are the Forwards of addresses that are here, forwards all of them.
	here, forwards []*gateway.Forward
	// egress has the external address of each pod that has one.
	egress map[netip.Addr]netip.Addr
}

func newJudge(state gateway.State) judge {
	return judge{here: state.Forwards, forwards: everywhere(state), egress: egressAddresses(state)}
}

// egressAddresses has the external address of each pod that has one, whether it is here or away.
func egressAddresses(state gateway.State) map[netip.Addr]netip.Addr {
	addresses := map[netip.Addr]netip.Addr{}
	for _, egresses := range [][]gateway.Egress{state.Egresses, state.Away.Egresses} {
		for _, e := range egresses {
			for _, source := range e.Sources {
				addresses[source] = e.Address
			}
		}
	}
	return addresses
}

// keeps decides on a connection that carries our mark: would the State make it, or let it go on?
func (j judge) keeps(f flow) bool {
	if f.expected {
		// Where it leads was agreed on inside the other connection, so the State says nothing of it.
		return true
	}
	if forward, found := forwardOf(j.forwards, f); found {
		return allows(forward, f.source.Addr()) && leadsTo(forward, f)
	}
	external, found := j.egress[f.source.Addr()]
	return found && f.answeredBy == f.destination && f.answeredTo.Addr() == external
}

// takesOver decides on a connection that carries no mark of ours: does it miss a Forward or its external address only because
// it began before the rules were there? The kernel looks at them for the first packet alone, and takes a SYN that is sent again
// for another packet of the same. Where there was no Forward TCP was refused, and has ended.
//
// A flow of UDP that never pauses goes on to where another program's rule translated it, long after that rule went; as
// kube-proxy does, what answers from somewhere else than a backend is ended (k8s.io/kubernetes, pkg/proxy/conntrack). Where such a rule does stand before ours, the flow comes back as it was: it is ended
// once for each time that the Forward comes.
func (j judge) takesOver(f flow) bool {
	if f.expected {
		return false
	}
	if _, found := j.egress[f.source.Addr()]; found {
		return !f.answered && !f.translated()
	}
	// The host's own service answers, or what is masqueraded alone passes through.
	if f.answeredBy == f.destination && (f.answered || f.translated()) {
		return false
	}
	forward, found := forwardOf(j.here, f)
	return found && f.protocol == gateway.UDP && len(forward.Backends) > 0 && allows(forward, f.source.Addr()) && !leadsTo(forward, f)
}

// forwardOf returns the Forward of the address and port that the connection was made to.
func forwardOf(forwards []*gateway.Forward, f flow) (*gateway.Forward, bool) {
	// The last one that does not begin behind the port.
	i, found := slices.BinarySearchFunc(forwards, f, func(forward *gateway.Forward, f flow) int {
		return cmp.Or(
			forward.Address.Compare(f.destination.Addr()),
			strings.Compare(string(forward.Protocol), string(f.protocol)),
			cmp.Compare(forward.Ports.First, f.destination.Port()),
		)
	})
	if !found {
		i--
	}
	if i < 0 {
		return nil, false
	}
	forward := forwards[i]
	return forward, forward.Address == f.destination.Addr() && forward.Protocol == f.protocol && forward.Ports.Contains(f.destination.Port())
}

func allows(forward *gateway.Forward, source netip.Addr) bool {
	if forward.SourcesDeny {
		return false
	}
	return len(forward.Sources) == 0 ||
		slices.ContainsFunc(forward.Sources, func(p netip.Prefix) bool { return p.Contains(source) })
}

// leadsTo reports whether the connection goes where the Forward leads, or where it may stay until it ends: TCP ends by
// itself when an endpoint does, while UDP would follow it into the void.
func leadsTo(forward *gateway.Forward, f flow) bool {
	backend := gateway.Backend{Address: f.answeredBy.Addr(), Port: f.answeredBy.Port()}
	if forward.Shift {
		backend.Port -= f.destination.Port() - forward.Ports.First
	}
	return slices.Contains(forward.Backends, backend) ||
		f.protocol == gateway.TCP && slices.Contains(forward.Draining, backend)
}
