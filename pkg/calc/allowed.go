// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
)

// SliceController is the value of the label endpointslice.kubernetes.io/managed-by on slices that the cluster's own controller
// creates for the pods that a Service selects (k8s.io/kubernetes/pkg/controller/endpointslice).
const SliceController = "endpointslice-controller.k8s.io"

// serviceEndpoints are the endpoints of a Service that may get traffic.
type serviceEndpoints struct {
	slices []*endpointSlice
	// pods are all endpoints that are proven to be pods of the namespace, regardless of their ports and conditions.
	pods byFamily[netip.Addr]
	// places are those that may get traffic.
	places places
	// problems describe invalid slices. refused are endpoints that get no traffic, refusedPods those that do not leave as pods.
	problems             []string
	refused, refusedPods refusals
	// outside are endpoints that get traffic although this host currently routes them outside.
	outside refusals
}

// refusals are grouped by their cause, in the order of first occurrence.
type refusals []refusal

type refusal struct {
	first, why string
	more       int
}

func (r *refusals) add(what, why string) {
	if i := slices.IndexFunc(*r, func(known refusal) bool { return known.why == why }); i >= 0 {
		(*r)[i].more++
		return
	}
	*r = append(*r, refusal{first: what, why: why})
}

func (r refusal) String() string { return r.subject() + " ignored: " + r.why }

// subject includes the verb.
func (r refusal) subject() string {
	if r.more > 0 {
		return fmt.Sprintf("%s and %d more are", r.first, r.more)
	}
	return r.first + " is"
}

// readKey identifies endpoints that were read: those that are not proven to be pods may count or not.
type readKey struct {
	serviceKey
	anyEndpoint bool
}

// endpointsOf returns the endpoints of a Service, and reports those that are left out.
func (c *calculation) endpointsOf(m *v1alpha1.Mapping, service *corev1.Service) *serviceEndpoints {
	name := serviceKey{Namespace: service.Namespace, Name: service.Name}
	key := readKey{name, c.anyEndpoint}
	known := c.read[key]
	if known == nil {
		known = c.readEndpoints(service, name)
		c.read[key] = known
	}
	for _, problem := range known.problems {
		c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonEndpointSliceInvalid, "spec.serviceName",
			"%s; invalid parts of the slice are ignored", problem)
	}
	if m.Spec.Mode == v1alpha1.ModeEndpoints {
		for _, r := range known.refused {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonEndpointNotAllowed, "spec.serviceName", "Service %s: %s", name, r)
		}
		for _, r := range known.outside {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonRoutedOutside, "spec.serviceName", "Service %s: %s %s", name, r.subject(), r.why)
		}
	}
	if m.Spec.Egress {
		for _, r := range known.refusedPods {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonEndpointNotAllowed, "spec.egress", "Service %s: %s", name, r)
		}
	}
	return known
}

func (c *calculation) readEndpoints(service *corev1.Service, name serviceKey) *serviceEndpoints {
	read := make([]*endpointSlice, 0, len(c.slices[name]))
	for _, s := range c.slices[name] {
		read = append(read, readSlice(s))
	}
	slices.SortFunc(read, func(a, b *endpointSlice) int { return strings.Compare(a.name, b.name) })
	known := &serviceEndpoints{}
	for _, s := range read {
		if s.problem != "" {
			known.problems = append(known.problems, fmt.Sprintf("EndpointSlice %s/%s: %s", name.Namespace, s.name, s.problem))
		}
		unproven := c.unproven(service, s)
		if unproven != "" && len(s.endpoints) > 0 {
			slice := "EndpointSlice " + s.name
			known.refusedPods.add(slice, unproven)
			if !c.anyEndpoint {
				known.refused.add(slice, unproven+", or set endpointsWithoutSelector: true in the gateway's config")
			}
		}
		if unproven == "" {
			c.addPods(known, s)
		}
		if unproven == "" || c.anyEndpoint {
			c.addEndpoints(known, s)
			known.places.add(s, unproven == "", c.cfg.Node)
		}
	}
	known.places.sort()
	for _, list := range []*[]netip.Addr{&known.pods.v4, &known.pods.v6} {
		slices.SortFunc(*list, netip.Addr.Compare)
		*list = slices.Compact(*list)
	}
	return known
}

// unproven returns why endpoints do not count as pods of the namespace, or "" if they do.
func (c *calculation) unproven(service *corev1.Service, s *endpointSlice) string {
	switch {
	case c.trusted():
		return ""
	case len(service.Spec.Selector) == 0:
		return "the Service has no selector, so its endpoints may not be pods of its namespace; add a selector"
	case !s.managed:
		return "its label endpointslice.kubernetes.io/managed-by is not " + SliceController + ", so its endpoints may not be pods of the namespace; let the cluster manage the slices of the Service"
	}
	return ""
}

// trusted reports whether this host's administrator wrote the objects.
func (c *calculation) trusted() bool { return c.cfg.AnyAddress || c.cfg.Source.Files != nil }

// unprovenBehind returns why a ClusterIP may lead to more than pods of the namespace, or "". The cluster takes all slices of a
// Service alike, so a user who may write one sends a node, and with it the client, to any address that the node reaches
// (CVE-2021-25740).
func (c *calculation) unprovenBehind(service *corev1.Service, behind []*endpointSlice) string {
	if c.anyEndpoint {
		return ""
	}
	if problem := c.unproven(service, &endpointSlice{managed: true}); problem != "" {
		return problem
	}
	for _, s := range behind {
		if problem := c.unproven(service, s); problem != "" && len(s.endpoints) > 0 {
			return "EndpointSlice " + s.name + ": " + problem
		}
	}
	return ""
}

func (c *calculation) addPods(known *serviceEndpoints, s *endpointSlice) {
	for _, e := range s.endpoints {
		if problem := c.networks.podProblem(e.address); problem != "" {
			known.refusedPods.add("pod "+e.address.String(), problem)
		} else {
			known.pods.add(e.address, e.address)
		}
	}
}

func (c *calculation) addEndpoints(known *serviceEndpoints, s *endpointSlice) {
	s.endpoints = slices.DeleteFunc(slices.Clone(s.endpoints), func(e endpoint) bool {
		problem := c.networks.problem(e.address)
		if problem != "" {
			known.refused.add("endpoint "+e.address.String(), problem)
		} else if why := c.networks.outsideProblem(e.address); why != "" {
			known.outside.add("endpoint "+e.address.String(), why)
		}
		return problem != ""
	})
	known.slices = append(known.slices, s)
}

// clusterIPs returns the addresses of a Service that may get traffic, and reports the others.
func (c *calculation) clusterIPs(m *v1alpha1.Mapping, service *corev1.Service, behind []*endpointSlice) []netip.Addr {
	if m.Spec.Mode != v1alpha1.ModeService {
		return nil
	}
	if problem := c.unprovenBehind(service, behind); problem != "" {
		c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonClusterIPNotAllowed, "spec.serviceName",
			"Service %s/%s: connections are rejected: %s, or set endpointsWithoutSelector: true in the gateway's config",
			service.Namespace, service.Name, problem)
		return nil
	}
	return slices.DeleteFunc(serviceAddresses(service), func(a netip.Addr) bool {
		if uplink := c.networks.providerOf(a); uplink != "" {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonRoutedOutside, "spec.serviceName",
				"clusterIP %s of Service %s/%s: only the default route of %s leads there, so packets would go to the provider, and connections are rejected; "+
					"lead the range of ClusterIPs to nodes by serviceRoutes in the gateway's config, or use mode endpoints",
				a, service.Namespace, service.Name, c.networks.called(uplink))
			return true
		}
		problem := c.networks.problem(a)
		if problem != "" {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonClusterIPNotAllowed, "spec.serviceName",
				"clusterIP %s of Service %s/%s is ignored, and connections are rejected: %s",
				a, service.Namespace, service.Name, problem)
		} else if why := c.networks.outsideProblem(a); why != "" {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonRoutedOutside, "spec.serviceName",
				"clusterIP %s of Service %s/%s is %s", a, service.Namespace, service.Name, why)
		}
		return problem != ""
	})
}
