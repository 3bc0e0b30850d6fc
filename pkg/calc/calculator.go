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
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Calculator computes what Calculate does, again and again as objects change, and at the cost of what changed. An object that
// changed is another one by its address; those that a Snapshot holds must not be changed. It is not safe for several
// goroutines.
//
// What a Mapping asks for depends on itself, its Service, the Service's slices and the host, and is computed anew when one of
// these is another one. What it has of that depends on older Mappings too, and is settled anew for all when one of them
// asks for something else.
type Calculator struct {
	cfg     config.Config
	started bool
	host    gateway.Host
	facts   *facts
	objects objects
	// mappings are those that the entries are of; the entries come by age.
	mappings []*v1alpha1.Mapping
	entries  []*entry
	// byService are the entries of the Mappings that name a Service, nil until that is asked.
	byService map[serviceKey][]*entry
	// used is what namespaces ask for.
	used  map[string]usage
	state gateway.State
	// autoconfigured are the links that were seen with an address made from a router advertisement.
	autoconfigured map[string]bool
	// aboutHost are the Findings about the host, findings all.
	aboutHost, findings []Finding
}

// NewCalculator returns a Calculator that has seen nothing yet.
func NewCalculator(cfg config.Config) *Calculator {
	return &Calculator{cfg: cfg, facts: &facts{}, used: map[string]usage{}, autoconfigured: map[string]bool{}, objects: objects{
		services: map[serviceKey]*corev1.Service{}, slices: map[serviceKey][]*discoveryv1.EndpointSlice{},
	}}
}

// Calculate returns what the function Calculate would. The State shares what did not change with earlier ones, and must not
// be changed.
func (c *Calculator) Calculate(snapshot Snapshot, host gateway.Host) (gateway.State, []Finding) {
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
	r.resolve(&calculation{cfg: c.cfg, facts: c.facts, objects: &c.objects, read: map[serviceKey]*serviceEndpoints{}})
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

// observe follows the host, and reports whether there is anything else to say of it, and whether Mappings have to know.
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

// follow has an entry for each Mapping, by age: the order in which they may take ports.
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
	// Who is only another version of what it was stays.
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
