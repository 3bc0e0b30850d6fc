// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Calculator computes the same as Calculate, incrementally: the cost depends on the number of changed objects. It detects
// changes by pointer, so the objects of a Snapshot must not be changed. It is not safe for concurrent use.
//
// Each calculation has two steps. The request of a Mapping depends on itself, its Service, the Service's slices and the host; it
// is resolved again when one of them changes. The result also depends on older Mappings; it is settled again for all
// Mappings when one of them has another request.
type Calculator struct {
	cfg     config.Config
	started bool
	host    gateway.Host
	facts   *facts
	objects serviceIndex
	// mappings is the last list. entries has one entry for each Mapping, sorted by age.
	mappings []*v1alpha1.Mapping
	entries  []*entry
	// byService has the entries by the Service that they name. It is nil until needed.
	byService map[serviceKey][]*entry
	// used is what each namespace asks for.
	used  map[string]usage
	state gateway.State
	// autoconfigured has the links that ever had an address from a router advertisement.
	autoconfigured map[string]bool
	// aboutHost are the Findings about the host, findings are all Findings.
	aboutHost, findings []finding.Finding
}

// NewCalculator returns a Calculator without a Snapshot.
func NewCalculator(cfg config.Config) *Calculator {
	return &Calculator{cfg: cfg, facts: &facts{}, used: map[string]usage{}, autoconfigured: map[string]bool{}, objects: serviceIndex{
		services: map[serviceKey]*corev1.Service{}, slices: map[serviceKey][]*discoveryv1.EndpointSlice{},
	}}
}

// Calculate returns what the function Calculate would. The State shares unchanged parts with earlier ones and must not be
// changed.
func (c *Calculator) Calculate(snapshot objects.Snapshot, host gateway.Host) (gateway.State, []finding.Finding) {
	var r run
	before := c.facts
	about, elsewhere := c.observe(host)
	services := c.objects.update(snapshot)
	c.follow(snapshot.Mappings, &r)
	if elsewhere {
		r.doubt(c.entries...)
	} else if c.facts != before && !c.facts.ports.equal(before.ports) {
		for _, e := range c.entries {
			if c.facts.ports.affects(e.wants, before.ports, c.facts.held) {
				r.doubt(e)
			}
		}
	}
	for service := range services {
		r.doubt(c.naming(service)...)
	}
	r.resolve(&calculation{cfg: c.cfg, facts: c.facts, serviceIndex: &c.objects, read: map[serviceKey]*serviceEndpoints{}})
	c.settleUsage(&r)
	if r.ports {
		r.settlePorts(c.entries)
	}
	if r.egress {
		r.settleEgress(c.entries)
		c.state.Egresses, c.state.Away.Egresses = egresses(c.entries)
	}
	r.finish()
	if about || r.about {
		c.findings = slices.Concat(c.aboutHost, findings(c.entries))
	}
	c.state.Forwards, c.state.Away.Forwards = r.here.apply(c.state.Forwards), r.away.apply(c.state.Away.Forwards)
	return c.state, c.findings
}

// observe updates the facts about the host. It reports whether its Findings changed, and whether Mappings are affected.
func (c *Calculator) observe(host gateway.Host) (about, elsewhere bool) {
	if c.started && reflect.DeepEqual(host, c.host) {
		return false, false
	}
	c.started, c.host = true, host
	uplinks, aboutUplinks := uplinks(host, c.cfg)
	routes, aboutRoutes := serviceRoutes(host, c.cfg)
	c.state.Uplinks, c.state.ServiceRoutes = uplinks, routes
	aboutBoundary := boundary(&c.state, host, c.cfg)
	c.state.OwnPrefixes = c.ownPrefixes(host)
	aboutHost := slices.Concat(aboutUplinks, aboutBoundary, aboutRoutes)
	about = !slices.Equal(aboutHost, c.aboutHost)
	c.aboutHost = aboutHost
	c.state.BackendNetworks = slices.SortedFunc(slices.Values(c.cfg.BackendNetworks), comparePrefixes)
	c.state.InsideNetworks = slices.SortedFunc(slices.Values(c.cfg.InsideNetworks), comparePrefixes)
	c.state.ClampMSS, c.state.ForwardedOnly = c.cfg.ClampMSS, c.cfg.ForwardedOnly
	c.state.MasqueradePorts = c.cfg.MasqueradePorts.PortRange
	c.state.Helpers = c.cfg.Helpers.List()

	facts := newFacts(host, c.cfg, uplinks, c.state.Outside, c.facts)
	elsewhere = !facts.equal(c.facts)
	c.facts = facts
	return about, elsewhere
}

// follow updates the entries, one for each Mapping, sorted by age: the order in which they may take ports.
func (c *Calculator) follow(mappings []*v1alpha1.Mapping, r *run) {
	gone, come := differ(c.mappings, mappings)
	c.mappings = mappings
	if len(gone)+len(come) == 0 {
		return
	}
	c.byService = nil
	left := map[*v1alpha1.Mapping]int{}
	for _, m := range gone {
		left[m]++
	}
	// A new version of a Mapping keeps its entry.
	free := map[types.NamespacedName][]*entry{}
	c.entries = slices.DeleteFunc(c.entries, func(e *entry) bool {
		if left[e.mapping] == 0 {
			return false
		}
		left[e.mapping]--
		free[conflicts.Key(e.mapping)] = append(free[conflicts.Key(e.mapping)], e)
		return true
	})
	for _, m := range come {
		e := &entry{}
		if same := free[conflicts.Key(m)]; len(same) > 0 {
			e, free[conflicts.Key(m)] = same[0], same[1:]
			r.ports = r.ports || !e.mapping.CreationTimestamp.Equal(&m.CreationTimestamp)
		}
		e.mapping = m
		c.entries = append(c.entries, e)
		r.doubt(e)
	}
	for _, same := range free {
		for _, e := range same {
			r.leave(e)
		}
	}
	slices.SortFunc(c.entries, func(x, y *entry) int { return conflicts.Compare(x.mapping, y.mapping) })
}

// naming returns the entries of the Mappings that name a Service.
func (c *Calculator) naming(service serviceKey) []*entry {
	if c.byService == nil {
		c.byService = make(map[serviceKey][]*entry, len(c.entries))
		for _, e := range c.entries {
			key := serviceNamedBy(e.mapping)
			c.byService[key] = append(c.byService[key], e)
		}
	}
	return c.byService[service]
}
