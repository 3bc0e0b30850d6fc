// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// usage is what a Mapping, or a namespace, asks of the host.
type usage struct {
	// ports counts every port of a range, because other Mappings could have had it.
	ports int
	// rules estimates the number of rules.
	rules int
}

func (u usage) plus(o usage) usage  { return usage{u.ports + o.ports, u.rules + o.rules} }
func (u usage) minus(o usage) usage { return usage{u.ports - o.ports, u.rules - o.rules} }

// beyond reports whether usage exceeds the limit of a namespace.
func (u usage) beyond(cfg config.Config) bool {
	return cfg.MaxPortsPerNamespace > 0 && u.ports > cfg.MaxPortsPerNamespace ||
		cfg.MaxRulesPerNamespace > 0 && u.rules > cfg.MaxRulesPerNamespace
}

// cost estimates the number of rules for wants: one that matches the port and one for each endpoint. Affinity with several
// endpoints takes two rules for each endpoint, and a list of clients for each, which counts as a rule: the lists belong to the
// Service, so their number does not grow with its ports. A range costs as much as a port. With endpointChoice: maglev, each
// slot of the table of a Frontend costs as much as an endpoint.
func cost(wants []want) int {
	rules, lists := 0, map[gateway.Backend]struct{}{}
	for i := range wants {
		each, backends := 1, wants[i].Backends
		if wants[i].Consistent && len(backends) > 1 {
			rules += 1 + gateway.MaglevSlots(len(backends))
			continue
		}
		if wants[i].Affinity > 0 && len(backends) > 1 {
			each = 2
			for _, b := range backends {
				b.Port = 0
				lists[b] = struct{}{}
			}
		}
		rules += 1 + each*len(backends)
	}
	return rules + len(lists)
}

// tooExpensive removes all wants of an entry that exceeds the limit of a Mapping.
func (c *calculation) tooExpensive(e *entry) {
	e.usage.rules = cost(e.wants)
	if most := c.cfg.MaxRulesPerMapping; most > 0 && e.usage.rules > most {
		c.report(e.mapping, v1alpha1.ConditionAccepted, finding.ReasonTooExpensive, "spec.ports",
			"the Mapping needs about %d rules (ports x addresses x endpoints, twice with session affinity), but maxRulesPerMapping in the gateway's config allows %d; it is not served: merge ports into ranges, or use mode service",
			e.usage.rules, most)
		for i := range e.wants {
			if e.wants[i].place == here {
				e.refuse(e.wants[i].Frontend, finding.ReasonTooExpensive)
			}
		}
		e.wants, e.aboutPort, e.usage = nil, nil, usage{}
		e.about = append(e.about, c.reported()...)
	}
}

// settleUsage leaves out the youngest Mappings of namespaces that ask for too much.
func (c *Calculator) settleUsage(r *run) {
	beyond := map[string]bool{}
	for namespace, change := range r.usage {
		before := c.used[namespace]
		now := before.plus(change)
		if c.used[namespace] = now; now == (usage{}) {
			delete(c.used, namespace)
		}
		if before.beyond(c.cfg) || now.beyond(c.cfg) {
			beyond[namespace] = true
		}
	}
	if len(beyond) == 0 {
		return
	}
	r.portsChanged, r.egressChanged = true, true
	granted := map[string]usage{}
	for _, e := range c.entries {
		namespace := e.mapping.Namespace
		if !beyond[namespace] {
			continue
		}
		over := c.over(e, granted[namespace])
		if over == nil {
			granted[namespace] = granted[namespace].plus(e.usage)
		}
		if over != nil || e.over != nil {
			r.markUnsettled(e)
			e.over = over
		}
	}
}

// over returns why an entry gets nothing, given what older Mappings of its namespace got, or nil.
func (c *Calculator) over(e *entry, granted usage) *finding.Finding {
	all := granted.plus(e.usage)
	if !all.beyond(c.cfg) || e.usage == (usage{}) {
		return nil
	}
	reason, what, n, most := finding.ReasonTooManyPorts, "ports", all.ports, c.cfg.MaxPortsPerNamespace
	if most == 0 || n <= most {
		reason, what, n, most = finding.ReasonTooExpensive, "rules", all.rules, c.cfg.MaxRulesPerNamespace
	}
	f := finding.New(e.mapping, v1alpha1.ConditionAccepted, reason, "spec.ports", "%s", fmt.Sprintf(
		"with this Mapping, namespace %s would have %d %s, but max%sPerNamespace in the gateway's config allows %d; it is not served, because older Mappings come first",
		e.mapping.Namespace, n, what, map[string]string{"ports": "Ports", "rules": "Rules"}[what], most))
	return &f
}
