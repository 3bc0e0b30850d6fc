// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/explain"
)

// Verdict says what the cluster knows about a connection.
type Verdict string

// The verdicts. Forwarded means that no object speaks against the connection; only a gateway knows its rules and routes.
const (
	Forwarded Verdict = "forwarded"
	Dropped   Verdict = "dropped"
	NotReady  Verdict = "notReady"
	Unmapped  Verdict = "unmapped"
)

// Answer is what the cluster knows about a connection.
type Answer struct {
	Verdict  Verdict `json:"verdict"`
	Sentence string  `json:"sentence"`
	// Mapping is the Mapping that decides, if there is one.
	Mapping *MappingState `json:"mapping,omitempty"`
	// Ask lists where to ask for the rest.
	Ask []Command `json:"ask,omitempty"`
}

// Command is a command for a gateway.
type Command struct {
	Gateway string `json:"gateway"`
	Command string `json:"command"`
}

// Explain says what the objects of the cluster mean for a connection.
func Explain(mappings []v1alpha1.Mapping, flow explain.Flow) Answer {
	destination := fmt.Sprintf("%s/%s", flow.Destination, flow.Protocol)
	m, others := owner(mappings, flow)
	if m == nil {
		sentence := "No Mapping exposes " + destination + "."
		if len(others) > 0 {
			sentence += " Mappings of that address expose " + some(others) + "."
		}
		return Answer{Verdict: Unmapped, Sentence: sentence}
	}
	state := stateOf(m)
	name := state.Namespace + "/" + state.Name
	a := Answer{Mapping: &state}
	switch {
	case !allows(m, flow.Source):
		a.Verdict = Dropped
		a.Sentence = fmt.Sprintf("Mapping %s drops it: %s is in none of its allowedSources.", name, flow.Source)
	case state.Ready != metav1.ConditionTrue:
		a.Verdict = NotReady
		a.Sentence = fmt.Sprintf("Mapping %s exposes it, but is not ready: %s (%s)", name, state.Message, state.Reason)
	default:
		a.Verdict = Forwarded
		a.Sentence = fmt.Sprintf("Mapping %s exposes it and is ready: %s leads to Service %s.", name, destination, state.Service)
	}
	for _, g := range serving(state.Gateways, flow.Destination.Addr()) {
		a.Ask = append(a.Ask, Command{g.Name, fmt.Sprintf("smartnatd explain %s %s", flow.Source, destination)})
	}
	return a
}

// owner returns the oldest accepted Mapping that exposes the destination, or else the oldest, and the ports that others expose at its
// address.
func owner(mappings []v1alpha1.Mapping, flow explain.Flow) (found *v1alpha1.Mapping, others []string) {
	var candidates []*v1alpha1.Mapping
	for i := range mappings {
		m := &mappings[i]
		if !holds(m, flow.Destination.Addr()) {
			continue
		}
		exposes := false
		for _, p := range m.Spec.Ports {
			last := p.Port
			if p.EndPort != nil {
				last = max(last, *p.EndPort)
			}
			port := int32(flow.Destination.Port())
			if string(p.Protocol) == string(flow.Protocol) && p.Port <= port && port <= last {
				exposes = true
			}
			others = append(others, portText(p))
		}
		if exposes {
			candidates = append(candidates, m)
		}
	}
	if len(candidates) == 0 {
		slices.Sort(others)
		return nil, slices.Compact(others)
	}
	refused := func(m *v1alpha1.Mapping) int {
		if meta.IsStatusConditionFalse(m.Status.Conditions, v1alpha1.ConditionAccepted) {
			return 1
		}
		return 0
	}
	return slices.MinFunc(candidates, func(a, b *v1alpha1.Mapping) int {
		return cmp.Or(cmp.Compare(refused(a), refused(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}), nil
}

// holds reports whether the Mapping has the address, by itself or by the uplink of a gateway.
func holds(m *v1alpha1.Mapping, address netip.Addr) bool {
	same := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a == address
	}
	if slices.ContainsFunc(m.Spec.Addresses, same) {
		return true
	}
	return len(m.Spec.AddressesFrom) > 0 && slices.ContainsFunc(m.Status.Instances, func(i v1alpha1.InstanceStatus) bool {
		return slices.ContainsFunc(i.Addresses, same)
	})
}

func allows(m *v1alpha1.Mapping, source netip.Addr) bool {
	return len(m.Spec.AllowedSources) == 0 || slices.ContainsFunc(m.Spec.AllowedSources, func(text string) bool {
		network, err := netip.ParsePrefix(text)
		return err == nil && network.Contains(source)
	})
}

// serving returns the gateways that hold the address, or all that report if none says so.
func serving(gateways []GatewayState, address netip.Addr) []GatewayState {
	var holding []GatewayState
	for _, g := range gateways {
		if slices.Contains(g.Addresses, address.String()) {
			holding = append(holding, g)
		}
	}
	if len(holding) == 0 {
		return gateways
	}
	return holding
}

// Connections returns the commands that list the open connections of the Mappings, or of one of them: only gateways know connections.
func Connections(states []MappingState, name string) ([]Command, error) {
	asked := map[string]bool{}
	found := name == ""
	var commands []Command
	for _, s := range states {
		if name != "" && name != s.Namespace+"/"+s.Name {
			continue
		}
		found = true
		for _, g := range s.Gateways {
			if !asked[g.Name] {
				asked[g.Name] = true
				commands = append(commands, Command{g.Name, strings.TrimSpace("smartnatd connections " + name)})
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("there is no Mapping %s", name)
	}
	slices.SortFunc(commands, func(a, b Command) int { return cmp.Compare(a.Gateway, b.Gateway) })
	return commands, nil
}
