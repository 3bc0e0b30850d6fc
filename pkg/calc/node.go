// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Bits of the widest network that a node's pods have: 4096 addresses, or 256 networks of IPv6. A wider route leads elsewhere.
const widestPods4, widestPods6 = 20, 56

// serviceProxy returns what translates ClusterIPs on this host, or "". A host where something does is a node of the cluster.
func serviceProxy(host gateway.Host, cfg config.Config) string {
	if cfg.AnyAddress {
		return ""
	}
	if host.Others.ServiceProxy != "" {
		return host.Others.ServiceProxy
	}
	for _, l := range host.Links {
		switch l.Name {
		case "kube-ipvs0":
			return "kube-proxy (IPVS)"
		case "kube-dummy-if":
			return "kube-router"
		case "cilium_host":
			return "Cilium"
		case "bpfin.cali":
			return "Calico (eBPF)"
		}
	}
	if k := cfg.Source.Kubeconfig; k != nil && k.Path == "" { // it runs in a pod
		return "the cluster"
	}
	return ""
}

// behindUplinks returns the pod networks of other nodes that this host routes out of links to the outside, and these nodes: a
// node's pods are private, in a network of moderate size, and their next hop is not the way to the Internet. A route that a neighbour
// announced does not count: any neighbour could open the boundary for itself.
func behindUplinks(host gateway.Host, state *gateway.State) (pods, nodes []netip.Prefix) {
	outside := map[string]bool{}
	routers := map[netip.Addr]bool{}
	for _, u := range state.Uplinks {
		outside[u.Link] = true
		for _, g := range u.Gateways {
			routers[g] = true
		}
	}
	for _, name := range state.Outside {
		outside[name] = true
	}
	for _, r := range host.DefaultRoutes {
		routers[r.Gateway] = true
	}
	for _, r := range host.Routes {
		widest := widestPods4
		if r.Destination.Addr().Is6() {
			widest = widestPods6
		}
		if !outside[r.Link] || r.Announced || !r.Gateway.IsValid() || routers[r.Gateway] || !isPrivate(r.Destination.Addr()) || r.Destination.Bits() < widest {
			continue
		}
		pods = append(pods, r.Destination)
		nodes = append(nodes, netip.PrefixFrom(r.Gateway, r.Gateway.BitLen()))
	}
	return aggregate(pods), aggregate(nodes)
}

// aggregate returns the fewest sorted networks with the same addresses.
func aggregate(networks []netip.Prefix) []netip.Prefix {
	list := slices.Clone(networks)
	slices.SortFunc(list, comparePrefixes)
	var merged []netip.Prefix
	for _, p := range list {
		if n := len(merged); n > 0 && merged[n-1].Contains(p.Addr()) {
			continue
		}
		for len(merged) > 0 && p.Bits() > 0 {
			before := merged[len(merged)-1]
			both, err := p.Addr().Prefix(p.Bits() - 1)
			if err != nil || before.Bits() != p.Bits() || !both.Contains(before.Addr()) {
				break
			}
			merged, p = merged[:len(merged)-1], both
		}
		merged = append(merged, p)
	}
	return merged
}

// isWithin reports whether one of the networks contains the whole network.
func isWithin(networks []netip.Prefix, network netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Bits() <= network.Bits() && p.Contains(network.Addr()) })
}

// inside sets the networks of the cluster behind links to the outside: those of the config or, on a node without any there, what it
// routes to. A node forwards for its pods, so the boundary is never closed to them.
func inside(state *gateway.State, host gateway.Host, cfg config.Config) (networks []netip.Prefix, findings []finding.Finding) {
	networks = slices.SortedFunc(slices.Values(cfg.InsideNetworks), comparePrefixes)
	state.InsideNetworks = networks
	if serviceProxy(host, cfg) == "" {
		return networks, nil
	}
	state.ForwardingOwned = gateway.Families{}
	pods, nodes := behindUplinks(host, state)
	if len(networks) == 0 {
		state.InsideNetworks = aggregate(slices.Concat(pods, nodes))
		return pods, nil
	}
	missing := slices.DeleteFunc(slices.Concat(pods, nodes), func(p netip.Prefix) bool { return isWithin(networks, p) })
	if len(missing) > 0 {
		findings = append(findings, finding.Finding{Reason: finding.ReasonClusterCutOff, Field: "insideNetworks", Message: fmt.Sprintf(
			"this node reaches pods or nodes in %s by a link to the outside, and the boundary drops what they send to its pods; add these networks, or remove the key",
			join(missing))})
	}
	return networks, findings
}

func join(networks []netip.Prefix) string {
	var list []string
	for _, p := range networks {
		list = append(list, p.String())
	}
	return strings.Join(list, ", ")
}

// maxAPIServers bounds the API servers of a cluster: an EndpointSlice with more addresses is not believed.
const maxAPIServers = 16

// findsAPIServers reports whether the objects say where the API servers are. The API server itself answers by a kubeconfig; a relay
// could name any address, and with it open the boundary.
func findsAPIServers(host gateway.Host, cfg config.Config) bool {
	return len(cfg.InsideNetworks) == 0 && cfg.Source.Kubeconfig != nil && serviceProxy(host, cfg) != ""
}

// apiServers adds the addresses of the API servers that this node reaches by a link to the outside, if the config leaves it to
// smartnatd to find the cluster: an API server calls webhooks in pods, and may run where no pod does. Only the EndpointSlice that API
// servers write themselves counts (pkg/controlplane/reconcilers in k8s.io/kubernetes): others may have the label of its Service.
func (c *Calculator) apiServers() {
	c.state.InsideNetworks = c.insideNetworks
	if !findsAPIServers(c.host, c.cfg) {
		return
	}
	var servers []netip.Prefix
	for _, s := range c.objects.slices[serviceKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}] {
		if s.Name != "kubernetes" || len(s.Endpoints) > maxAPIServers {
			continue
		}
		for _, e := range readSlice(s).endpoints {
			if uplink, _ := c.facts.networks.outside(e.address); uplink != "" && !isSpecial(e.address) && !c.facts.networks.own[e.address] {
				servers = append(servers, netip.PrefixFrom(e.address, e.address.BitLen()))
			}
		}
	}
	if len(servers) > 0 {
		c.state.InsideNetworks = aggregate(slices.Concat(c.insideNetworks, servers))
	}
}

// NeedsObjects reports whether the boundary of a host has to wait for the objects: on a node whose cluster is behind a link to the
// outside, they say where the API servers are, and without them the boundary would cut these off from webhooks in pods.
func NeedsObjects(host gateway.Host, cfg config.Config) bool {
	if !findsAPIServers(host, cfg) {
		return false
	}
	state, _ := Calculate(objects.Snapshot{}, host, cfg)
	return len(state.InsideNetworks) > 0
}

// resolveOnNode makes a Mapping in mode service lead to the endpoints on a node: what translates ClusterIPs there is in the same
// hook as smartnatd, and the kernel translates a connection once. It stays as it is if serviceRoutes leads the ClusterIPs to other
// nodes.
func (c *calculation) resolveOnNode(m *v1alpha1.Mapping) {
	if c.proxy == "" || m.Spec.Mode != v1alpha1.ModeService {
		return
	}
	if service := c.services[serviceNamedBy(m)]; service != nil {
		addresses := serviceAddresses(service)
		if len(addresses) > 0 && !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !contains(c.networks.routed, a) }) {
			return
		}
	}
	m.Spec.Mode = v1alpha1.ModeEndpoints
	c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonResolvedToEndpoints, "spec.mode",
		"this gateway is a node, where %s translates ClusterIPs, and a connection is translated only once; mode service leads straight to the endpoints here", c.proxy)
}

// providerOf returns the uplink to whose provider packets for a ClusterIP would go, because only a default route leads there and
// the config does not say that the cluster is behind it.
func (n *networks) providerOf(a netip.Addr) string {
	if n.any || isSpecial(a) || contains(n.routed, a) || contains(n.inside, a) || contains(n.listed, a) {
		return ""
	}
	for _, bits := range n.lengths.of(a) {
		if to, err := a.Prefix(bits); err == nil {
			if _, found := n.links[to]; found {
				return ""
			}
		}
	}
	if by := n.defaults.of(a); len(by) > 0 && by[0].uplink {
		return by[0].name
	}
	return ""
}

// CutOff returns a pod that this node reaches only by a link to the outside, and the link: the boundary drops what such pods send to
// those of this node, unless insideNetworks has them. It returns nothing on other hosts.
func CutOff(snapshot objects.Snapshot, host gateway.Host, cfg config.Config) (pod netip.Addr, link string) {
	if serviceProxy(host, cfg) == "" {
		return netip.Addr{}, ""
	}
	c := NewCalculator(cfg)
	state, _ := c.Calculate(snapshot, host)
	for _, s := range snapshot.EndpointSlices {
		read := readSlice(s)
		for _, e := range read.endpoints {
			by, _ := c.facts.networks.outside(e.address)
			known := contains(state.InsideNetworks, e.address) || c.facts.networks.own[e.address] || c.facts.networks.isNeighbour(e.address)
			if by != "" && read.managed && isPrivate(e.address) && !known && (!pod.IsValid() || e.address.Less(pod)) {
				pod, link = e.address, by
			}
		}
	}
	return pod, link
}
