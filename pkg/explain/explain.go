// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Hop is the next hop of a packet.
type Hop struct {
	// Link is empty if the packet ends on the host itself.
	Link string
	// Gateway is invalid if the destination is on the link.
	Gateway netip.Addr
}

// String returns "by eth1, next hop 198.51.100.1".
func (h Hop) String() string {
	switch {
	case h.Link == "":
		return "to this host itself"
	case h.Gateway.IsValid():
		return fmt.Sprintf("by %s, next hop %s", h.Link, h.Gateway)
	}
	return "by " + h.Link + ", directly"
}

// Router asks the kernel for the route of a packet with a mark.
type Router interface {
	Route(destination netip.Addr, mark uint32) (Hop, error)
}

// Facts are all that an answer relies on.
type Facts struct {
	// Report is what smartnatd wants, and what it found out.
	Report finding.Report
	// Tracer models the rules that are in the kernel now.
	Tracer packet.Tracer
	Router Router
	// Connections are the flow's current ones.
	Connections []Connection
}

// Connection is a connection that the kernel forwards for a Mapping.
type Connection struct {
	Client   netip.AddrPort `json:"client"`
	External netip.AddrPort `json:"external"`
	Backend  netip.AddrPort `json:"backend"`
}

// Verdict is what happens to the first packet of a new connection.
type Verdict string

// The verdicts.
const (
	// Forwarded means that a Mapping forwards the connection and the replies return by the same way.
	Forwarded Verdict = "forwarded"
	// Astray means that the connection is forwarded, but the replies take another way, so that most networks drop them.
	Astray Verdict = "astray"
	// Dropped means silence for the client, and Rejected a refusal.
	Dropped  Verdict = "dropped"
	Rejected Verdict = "rejected"
	// Local means that the host itself answers, because no Mapping has the port.
	Local Verdict = "local"
	// Elsewhere means that the destination is no address of this host, so that the packets do not reach it.
	Elsewhere Verdict = "elsewhere"
	// Passed means that the packet crosses the host without a Mapping, for example from a pod to the outside.
	Passed Verdict = "passed"
)

// Answer says whether a connection gets through.
type Answer struct {
	Flow    string  `json:"flow"`
	Verdict Verdict `json:"verdict"`
	// Sentence is the answer in one sentence, and Advice what to change. Advice is empty if there is nothing to change.
	Sentence string `json:"sentence"`
	Advice   string `json:"advice,omitempty"`
	// Mapping and Service are namespace/name, or empty.
	Mapping string `json:"mapping,omitempty"`
	Service string `json:"service,omitempty"`
	// Steps are the stations of the packet in order.
	Steps       []Step       `json:"steps"`
	Connections []Connection `json:"connections,omitempty"`
	// Rules are those that matched in the kernel, as its data plane spells them, and those of other programs, which are assumed
	// not to match.
	Rules []string `json:"rules,omitempty"`
}

// Step is one station of a packet.
type Step struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Explain returns the answer for a flow.
func Explain(flow Flow, facts Facts) Answer {
	e := &explanation{flow: flow, Facts: facts}
	e.Flow = flow.String()
	e.Answer.Connections = facts.Connections
	e.answer()
	return e.Answer
}

// explanation is an answer in the making.
type explanation struct {
	Facts
	Answer
	flow Flow
	// failed are the routes that the kernel does not have.
	failed []string
}

func (e *explanation) answer() {
	in, onHost := e.incomingLink()
	if !onHost {
		if !e.fromInside(in) {
			e.elsewhere()
			return
		}
		e.pass(in)
		return
	}
	forward := gateway.FindForward(e.Report.State.Forwards, e.flow.Protocol, e.flow.Destination)
	if forward == nil {
		e.unmapped(in)
		return
	}
	e.Mapping, e.Service = forward.Owner, forward.Service
	e.step("mapping", "%s forwards %s to Service %s", forward.Owner, forward.Frontend, forward.Service)
	source := e.source(forward)
	trace := e.trace(in)
	switch {
	case trace.Verdict == packet.Accept && trace.Packet.Destination != e.flow.Destination:
		e.forwarded(forward, in, trace)
	case source != allowed:
		e.conclude(Dropped, "Mapping %s does not allow this source", forward.Owner)
		e.Advice = source.advice(forward, e.flow.Source)
	case len(forward.Backends) == 0:
		e.conclude(Rejected, "Service %s has no endpoint that can be used", forward.Service)
		e.Advice = e.concerningFinding(forward.Owner)
	default:
		e.unexpected(trace)
	}
}

// forwarded explains the way to the Backend and back.
func (e *explanation) forwarded(forward *gateway.Forward, in string, trace packet.Trace) {
	e.step("backends", "%s", e.backends(forward, in))
	e.step("masquerade", "%s", e.masquerade(in))
	if hop, err := e.Router.Route(trace.Packet.Destination.Addr(), trace.Packet.Mark); err == nil {
		e.step("leaves", "%s", hop)
	}
	if len(e.failed) > 0 {
		e.conclude(Dropped, "Mapping %s forwards it, but the kernel has no route to %s", forward.Owner, strings.Join(e.failed, ", "))
		e.Advice = "add a route to the cluster's networks, for example by serviceRoutes in the config"
		return
	}
	back, hop := e.reply(trace, in)
	switch {
	case back.Verdict != packet.Accept:
		e.conclude(Astray, "Mapping %s forwards it, but the rules drop the replies", forward.Owner)
		e.Advice = restore
	case in != "" && back.Out != in:
		e.conclude(Astray, "Mapping %s forwards it, but replies leave %s instead of by %s", forward.Owner, hop, in)
		e.Advice = "compare 'ip rule' and the routing table of the uplink with the config; " + restore
	default:
		e.step("replies", "%s", hop)
		e.conclude(Forwarded, "Mapping %s forwards it to Service %s", forward.Owner, forward.Service)
		e.Advice = e.concerningFinding(forward.Owner)
	}
}

// restore is the advice if the kernel's state is not what smartnatd wants.
const restore = "another program may have changed the rules, or the last change is not in effect yet: see 'smartnatd status' and the journal"

// unexpected concludes for a packet that the rules in the kernel treat unlike the desired state.
func (e *explanation) unexpected(trace packet.Trace) {
	e.verdict(trace)
	e.sentence("Mapping %s should forward it, but the rules that are in the kernel do not", e.Mapping)
	e.Advice = cmp.Or(e.concerningFinding(e.Mapping), restore)
}

// unmapped concludes for an address of this host and a port that no Mapping has in effect.
func (e *explanation) unmapped(in string) {
	trace := e.trace(in)
	e.verdict(trace)
	if m := e.requestingMapping(); m != nil {
		e.Mapping = m.Namespace + "/" + m.Name
		e.sentence("Mapping %s asks for %s, but does not have it", e.Mapping, e.flow.target())
		e.Advice = e.concerningFinding(e.Mapping)
		return
	}
	if listener := e.listener(); listener != "" && trace.Verdict == packet.Accept {
		e.sentence("a program on this gateway listens on %s, and no Mapping has the port", listener)
		return
	}
	e.sentence("no Mapping has %s", e.flow.target())
	e.Advice = e.frontendsOfAddress()
}

// elsewhere concludes for a destination that is no address of this host.
func (e *explanation) elsewhere() {
	e.Verdict = Elsewhere
	address := e.flow.Destination.Addr()
	if m := e.requestingMapping(); m != nil {
		e.Mapping = m.Namespace + "/" + m.Name
		e.sentence("Mapping %s asks for it, but %s is no address of this gateway", e.Mapping, address)
		e.Advice = e.concerningFinding(e.Mapping)
		return
	}
	e.sentence("%s is no address of this gateway, so the packets do not arrive here", address)
	if external := e.uplinkAddresses(); external != "" {
		e.Advice = "the addresses of its uplinks are " + external
	}
}

// pass explains a packet from the inside to somewhere else.
func (e *explanation) pass(in string) {
	trace := e.trace(in)
	e.verdict(trace)
	if trace.Verdict != packet.Accept {
		e.sentence("the rules do not let it out")
		e.Advice = "a Mapping with egress gives pods an external address"
		return
	}
	e.Verdict = Passed
	for _, egress := range e.Report.State.Egresses {
		if slices.Contains(egress.Sources, e.flow.Source) {
			e.Mapping = egress.Owner
			e.step("egress", "leaves with %s", egress.Address)
			e.sentence("it leaves with the external address %s of Mapping %s", egress.Address, egress.Owner)
			return
		}
	}
	e.sentence("it crosses this host without a Mapping")
}

// verdict sets the verdict of a packet that no Mapping forwards.
func (e *explanation) verdict(trace packet.Trace) {
	switch trace.Verdict {
	case packet.Accept:
		e.Verdict = Local
	case packet.Reject:
		e.Verdict = Rejected
	default:
		e.Verdict = Dropped
	}
}

func (e *explanation) conclude(verdict Verdict, format string, args ...any) {
	e.Verdict = verdict
	e.sentence(format, args...)
}

// outcome is the first half of the sentence.
var outcome = map[Verdict]string{
	Forwarded: "%s reaches %s", Astray: "%s gets no reply from %s", Dropped: "%s gets no answer from %s", Rejected: "%s is refused by %s",
	Local: "%s does not reach a pod by %s", Elsewhere: "%s does not reach %s by this gateway", Passed: "%s reaches %s",
}

// sentence completes the answer: the outcome, then the reason.
func (e *explanation) sentence(format string, args ...any) {
	e.Sentence = fmt.Sprintf(outcome[e.Verdict], e.flow.Source, e.flow.target()) + ": " + fmt.Sprintf(format, args...) + "."
}

func (e *explanation) step(name, format string, args ...any) {
	e.Steps = append(e.Steps, Step{name, fmt.Sprintf(format, args...)})
}
