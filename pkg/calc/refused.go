// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Refused returns what Mappings of the last Snapshot ask this host for and do not get, sorted. The result must not be changed.
func (c *Calculator) Refused() []finding.Refused { return c.refused }

func frontend(port v1alpha1.MappingPort, a address) gateway.Frontend {
	return gateway.Frontend{Address: a.Addr, Protocol: gateway.Protocol(port.Protocol), Ports: portRange(port)}
}

// refusal returns the reason why this host, which has the address, refuses a port of it, or "".
func (a address) refusal(supported, allowed bool) string {
	switch {
	case a.refused != "":
		return a.refused
	case a.place != here:
	case !supported:
		return finding.ReasonSCTPNotSupported
	case !allowed:
		return finding.ReasonNotGranted
	}
	return ""
}

// refuse records a Frontend that the Mapping does not get, whatever others ask for.
func (e *entry) refuse(front gateway.Frontend, reason string) {
	e.unwanted = append(e.unwanted, finding.Refused{Owner: e.mapping.Namespace + "/" + e.mapping.Name, Frontend: front, Reason: reason})
}

func (e *entry) refuseAll(m *v1alpha1.Mapping, addresses []address, reason string) {
	for _, port := range m.Spec.Ports {
		for _, a := range addresses {
			if a.place == here {
				e.refuse(frontend(port, a), reason)
			}
		}
	}
}

// collectRefusals collects all that the Mapping does not get.
func (e *entry) collectRefusals() {
	e.refusals = slices.Clip(e.unwanted)
	for i := range e.wants {
		w := &e.wants[i]
		switch {
		case w.place != here:
		case e.over != nil:
			e.refuseParts(w, e.over.Reason, w.Ports)
		case w.refused != "":
			e.refuseParts(w, finding.ReasonNotGranted, w.Ports)
		case !w.whole():
			var lost []gateway.PortRange
			if !w.share.Whole() {
				free := make([]gateway.PortRange, 0, len(w.share.Free))
				for _, f := range w.share.Free {
					free = append(free, gateway.PortRange{First: f.First, Last: f.Last})
				}
				lost = w.Ports.Subtract(free...)
				e.refuseParts(w, finding.ReasonPortConflict, lost...)
			}
			for _, r := range w.reserved {
				e.refuseParts(w, finding.ReasonPortReserved, r.Subtract(lost...)...)
			}
		}
	}
}

func (e *entry) refuseParts(w *want, reason string, parts ...gateway.PortRange) {
	for _, ports := range parts {
		front := w.Frontend
		front.Ports = ports
		e.refusals = append(e.refusals, finding.Refused{Owner: w.Owner, Frontend: front, Reason: reason})
	}
}

func refusedOf(entries []*entry) []finding.Refused {
	var all []finding.Refused
	for _, e := range entries {
		all = append(all, e.refusals...)
	}
	slices.SortStableFunc(all, finding.Refused.Compare)
	return all
}
