// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Uplinks checks the host's links against the config, and returns a line for each finding that is not about a Mapping.
func Uplinks(cfg config.Config, host gateway.Host) []Line {
	const what = "uplinks"
	var lines []Line
	if len(cfg.Uplinks) == 0 {
		lines = one(Warning, what, "none is configured: Mappings get no address of a link unless servedAddresses lists it, and replies leave by the main routing table; list the links to the outside in uplinks")
	}
	state, findings := calc.Calculate(objects.Snapshot{}, host, cfg)
	for _, f := range findings {
		// ServiceRoutes and MasqueradeAddresses report the others.
		if f.Name == "" && f.Reason != finding.ReasonNextHopUnreachable && f.Reason != finding.ReasonNoMasqueradeLink {
			lines = append(lines, Line{levelOf(f, state), what, f.String()})
		}
	}
	if len(lines) == 0 {
		return ok(what, "%d", len(state.Uplinks))
	}
	return lines
}

// Boundary returns on which links the boundary holds. A host that only smartnatd makes forward is closed: packets that come in
// by a link not known to be inside are forwarded for Mappings only. Without uplinks in the config that is probably unintended.
func Boundary(cfg config.Config, host gateway.Host) []Line {
	const what = "boundary"
	state, _ := calc.Calculate(objects.Snapshot{}, host, cfg)
	level := OK
	if len(cfg.Uplinks) == 0 {
		level = Warning
	}
	holds := slices.Clone(state.Outside)
	for _, u := range state.Uplinks {
		holds = append(holds, u.Link)
	}
	if state.ForwardingOwned == (gateway.Families{}) {
		if len(holds) == 0 {
			return one(Warning, what, "it holds on no link, and this host forwards by its own sysctls: list the links to the outside in uplinks")
		}
		return one(level, what, "holds on %s", strings.Join(holds, ", "))
	}
	closed := holds
	for _, l := range host.Links {
		if l.Name != "lo" && l.Master == "" && !slices.Contains(holds, l.Name) && !slices.Contains(state.InsideLinks, l.Name) {
			closed = append(closed, l.Name)
		}
	}
	slices.Sort(closed)
	return one(level, what, "this host forwards %s for smartnatd alone, so it is closed: what comes in by %s is forwarded for Mappings only. "+
		"serviceRoutes opens the links of its next hops, insideNetworks opens networks, and %s opens all links that do not lead to the outside",
		families(state.ForwardingOwned), strings.Join(closed, ", "), opened(state.ForwardingOwned))
}

func families(of gateway.Families) string {
	switch {
	case of.IPv4 && of.IPv6:
		return "IPv4 and IPv6"
	case of.IPv4:
		return "IPv4"
	}
	return "IPv6"
}

// opened returns the sysctls that make the host forward for other purposes too.
func opened(closed gateway.Families) string {
	var sysctls []string
	if closed.IPv4 {
		sysctls = append(sysctls, "net.ipv4.ip_forward=1")
	}
	if closed.IPv6 {
		sysctls = append(sysctls, "net.ipv6.conf.all.forwarding=1")
	}
	return strings.Join(sysctls, " and ") + " in /etc/sysctl.d"
}

// levelOf returns Failed for findings that disable an uplink or the route to ClusterIPs. An uplink that lacks the gateway of
// one family still works with the other.
func levelOf(f finding.Finding, state gateway.State) Level {
	switch f.Reason {
	case finding.ReasonLinkNotFound, finding.ReasonLinkDown, finding.ReasonTooManyUplinks, finding.ReasonClusterCutOff:
		return Failed
	case finding.ReasonNoGateway:
		if !slices.ContainsFunc(state.Uplinks, func(u gateway.Uplink) bool { return len(u.Gateways) > 0 }) {
			return Failed
		}
	}
	return Warning
}

// ServiceRoutes checks that each range of ClusterIPs has a next hop that answers.
func ServiceRoutes(routes []gateway.ServiceRoute, host gateway.Host) []Line {
	const what = "serviceRoutes"
	var lines []Line
	for i, r := range routes {
		silent := 0
		for _, hop := range r.Via {
			if slices.Contains(host.Unreachable, hop) {
				silent++
			}
		}
		at := fmt.Sprintf("%s[%d]", what, i)
		switch silent {
		case 0:
		case len(r.Via):
			lines = append(lines, one(Failed, at, "no next hop of %s answers or is on a link of this host: %v", r.Destination, r.Via)...)
		default:
			lines = append(lines, one(Warning, at, "%d of %d next hops of %s do not answer, and the others carry all traffic", silent, len(r.Via), r.Destination)...)
		}
	}
	if len(lines) == 0 && len(routes) > 0 {
		return ok(what, "%d", len(routes))
	}
	return lines
}

// MasqueradeAddresses returns by which links connections are masqueraded to which addresses of the config, and a line for each
// address without effect.
func MasqueradeAddresses(cfg config.Config, host gateway.Host) []Line {
	const what = "masqueradeAddresses"
	state, findings := calc.Calculate(objects.Snapshot{}, host, cfg)
	var lines []Line
	for _, l := range state.MasqueradeAddresses {
		lines = append(lines, ok(what, "%v for connections that leave by %s", l.Addresses, l.Link)...)
	}
	for _, f := range findings {
		if f.Reason == finding.ReasonNoMasqueradeLink {
			lines = append(lines, Line{Warning, what, f.String()})
		}
	}
	return lines
}

// Mappings returns a line for each finding of each Mapping.
func Mappings(snapshot objects.Snapshot, host gateway.Host, cfg config.Config) []Line {
	_, findings := calc.Calculate(snapshot, host, cfg)
	var lines []Line
	for _, f := range findings {
		if f.Name != "" {
			lines = append(lines, Line{Warning, fmt.Sprintf("Mapping %s/%s", f.Namespace, f.Name), fmt.Sprintf("%s: %s (%s)", f.Field, f.Message, f.Reason)})
		}
	}
	if len(lines) == 0 {
		return ok("Mappings", "%d without findings", len(snapshot.Mappings))
	}
	return lines
}

// Cluster refuses a link to the outside that leads to pods while the boundary drops their packets. Uplinks reports what routes say;
// this says what objects do: in a cloud, only a default route leads to the pods of other nodes.
func Cluster(snapshot objects.Snapshot, host gateway.Host, cfg config.Config) []Line {
	pod, link := calc.CutOff(snapshot, host, cfg)
	if !pod.IsValid() {
		return nil
	}
	return one(Failed, "insideNetworks", "pods such as %s are behind %s, and the boundary drops what they send to pods of this node: "+
		"write insideNetworks: [NODES, PODS] with the networks of the cluster's nodes and pods", pod, link)
}
