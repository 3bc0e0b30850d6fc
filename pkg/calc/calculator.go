// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

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
	grants  granted
	// mappings is the last list. entries has one entry for each Mapping, sorted by age.
	mappings []*v1alpha1.Mapping
	entries  []*entry
	// byService has the entries by the Service that they name. It is nil until needed.
	byService map[serviceKey][]*entry
	// used is what each namespace asks for.
	used  map[string]usage
	state gateway.State
	// insideNetworks are the State's without those of API servers.
	insideNetworks []netip.Prefix
	// autoconfigured has the links that ever had an address from a router advertisement.
	autoconfigured map[string]bool
	// resolved are the addressesFrom that give Mappings an address.
	resolved map[types.NamespacedName]finding.Resolved
	// refused is what Mappings do not get, sorted.
	refused []finding.Refused
	// aboutHost are the Findings about the host, findings are all Findings.
	aboutHost, findings []finding.Finding
}

// NewCalculator returns a Calculator without a Snapshot.
func NewCalculator(cfg config.Config) *Calculator {
	return &Calculator{cfg: cfg, facts: &facts{}, grants: newGranted(cfg), used: map[string]usage{}, autoconfigured: map[string]bool{}, resolved: resolvedOf(nil), objects: serviceIndex{
		services: map[serviceKey]*corev1.Service{}, slices: map[serviceKey][]*discoveryv1.EndpointSlice{},
	}}
}

// Calculate returns what the function Calculate would. The State shares unchanged parts with earlier ones and must not be
// changed.
func (c *Calculator) Calculate(snapshot objects.Snapshot, host gateway.Host) (gateway.State, []finding.Finding) {
	var r run
	c.update(&r, snapshot, host)
	// Each step takes only the entries that the steps before it marked.
	c.resolve(&r)
	c.settleUsage(&r)
	c.settlePorts(&r)
	c.settleEgress(&r)
	c.settleLocal(&r)
	c.publish(&r)
	return c.state, c.findings
}

// updateHost updates the facts about the host. It reports whether its Findings changed, and whether Mappings are affected.
func (c *Calculator) updateHost(host gateway.Host) (findingsChanged, factsChanged bool) {
	if c.started && reflect.DeepEqual(host, c.host) {
		return false, false
	}
	c.started, c.host = true, host
	uplinks, aboutUplinks := uplinks(host, c.cfg)
	routes, aboutRoutes := serviceRoutes(host, c.cfg)
	c.state.Uplinks, c.state.ServiceRoutes = uplinks, routes
	aboutBoundary := boundary(&c.state, host, c.cfg)
	insideNetworks, aboutInside := inside(&c.state, host, c.cfg)
	c.insideNetworks = c.state.InsideNetworks
	c.state.OwnPrefixes = c.ownPrefixes(host)
	c.state.Flowtable = flowtable(&c.state, host)
	c.state.BackendNetworks = slices.SortedFunc(slices.Values(c.cfg.BackendNetworks), comparePrefixes)
	sources, aboutSources := masqueradeAddresses(&c.state, host, c.cfg)
	c.state.MasqueradeAddresses = sources
	if pair := c.cfg.HA; pair.Enabled() {
		c.state.Sync = gateway.SyncEndpoint{Address: pair.SyncAddress, Link: pair.SyncLink, Port: uint16(pair.SyncPort)}
	}
	aboutHost := slices.Concat(aboutUplinks, aboutBoundary, droppingChains(host, c.cfg), noFlowtable(host), helpersWithoutNAT(host), aboutInside, aboutRoutes, aboutSources)
	findingsChanged = !slices.Equal(aboutHost, c.aboutHost)
	c.aboutHost = aboutHost
	c.state.ClampMSS, c.state.ForwardedOnly = c.cfg.ClampMSS, c.cfg.ForwardedOnly
	c.state.MasqueradePorts = c.cfg.MasqueradePorts.PortRange
	c.state.Helpers = c.cfg.Helpers.List()

	// In advance: a connection must not meet a Mapping that keeps its source before the rule.
	c.state.MasqueradeRemote = serviceProxy(host, c.cfg) != ""

	facts := newFacts(host, c.cfg, &c.state, insideNetworks, c.facts)
	factsChanged = !facts.equal(c.facts)
	c.facts = facts
	return findingsChanged, factsChanged
}
