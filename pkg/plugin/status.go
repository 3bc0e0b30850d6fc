// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// MappingState is what the cluster knows about a Mapping.
type MappingState struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Service   string   `json:"service"`
	Addresses []string `json:"addresses,omitempty"`
	Ports     []string `json:"ports"`
	// Ready is the status of the condition: True, False or Unknown.
	Ready    metav1.ConditionStatus `json:"ready"`
	Reason   string                 `json:"reason,omitempty"`
	Message  string                 `json:"message,omitempty"`
	Gateways []GatewayState         `json:"gateways,omitempty"`
}

// GatewayState is what a gateway reports about a Mapping.
type GatewayState struct {
	Name       string   `json:"name"`
	Addresses  []string `json:"addresses,omitempty"`
	Ready      bool     `json:"ready"`
	Programmed bool     `json:"programmed"`
	// Current is set if the report is about the present generation of the Mapping.
	Current   bool     `json:"current"`
	Endpoints int32    `json:"endpoints"`
	Reason    string   `json:"reason,omitempty"`
	Problems  []string `json:"problems,omitempty"`
}

// ReadMappings reads the Mappings of a namespace, or of all if it is empty, and sets their defaults.
func ReadMappings(ctx context.Context, client dynamic.Interface, namespace string) ([]v1alpha1.Mapping, error) {
	mappings := schema.GroupVersionResource{Group: v1alpha1.SchemeGroupVersion.Group, Version: v1alpha1.SchemeGroupVersion.Version, Resource: "mappings"}
	all, err := list[v1alpha1.Mapping](ctx, client.Resource(mappings).Namespace(namespace), "")
	if err != nil {
		return nil, fmt.Errorf("reading the Mappings: %w", err)
	}
	for i := range all {
		v1alpha1.SetDefaults(&all[i])
	}
	return all, nil
}

// Status returns the state of each Mapping, by namespace and name.
func Status(mappings []v1alpha1.Mapping) []MappingState {
	states := make([]MappingState, 0, len(mappings))
	for i := range mappings {
		states = append(states, stateOf(&mappings[i]))
	}
	slices.SortFunc(states, func(a, b MappingState) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return states
}

func stateOf(m *v1alpha1.Mapping) MappingState {
	s := MappingState{
		Namespace: m.Namespace, Name: m.Name, Service: m.Spec.ServiceName, Addresses: m.Spec.Addresses,
		Ready: metav1.ConditionUnknown, Reason: "Pending", Message: "the relay has not written a status yet: is it running?",
	}
	for _, from := range m.Spec.AddressesFrom {
		s.Addresses = append(s.Addresses[:len(s.Addresses):len(s.Addresses)], "uplink "+from.Uplink)
	}
	for _, p := range m.Spec.Ports {
		s.Ports = append(s.Ports, portText(p))
	}
	if ready := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		s.Ready, s.Reason, s.Message = ready.Status, ready.Reason, ready.Message
		if ready.ObservedGeneration < m.Generation {
			s.Ready, s.Reason, s.Message = metav1.ConditionUnknown, "Pending", "the status is that of an earlier version of the Mapping"
		}
	}
	for _, i := range m.Status.Instances {
		s.Gateways = append(s.Gateways, GatewayState{
			Name: i.Name, Addresses: i.Addresses, Ready: i.Ready, Programmed: i.Programmed, Current: i.ObservedGeneration >= m.Generation,
			Endpoints: i.Endpoints, Reason: i.Reason, Problems: i.Problems,
		})
	}
	slices.SortFunc(s.Gateways, func(a, b GatewayState) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// portText returns "8080/tcp" or "20000-20999/udp".
func portText(p v1alpha1.MappingPort) string {
	text := strconv.Itoa(int(p.Port))
	if p.EndPort != nil && *p.EndPort > p.Port {
		text += "-" + strconv.Itoa(int(*p.EndPort))
	}
	return text + "/" + string(p.Protocol)
}

// StatusRows returns a table: a line for each Mapping and gateway.
func StatusRows(states []MappingState) [][]string {
	rows := [][]string{{"MAPPING", "SERVICE", "ADDRESSES", "PORTS", "READY", "GATEWAY", "FORWARDS", "WHY"}}
	for _, s := range states {
		why := ""
		if s.Ready != metav1.ConditionTrue {
			why = s.Reason + ": " + s.Message
		}
		row := []string{s.Namespace + "/" + s.Name, s.Service, some(s.Addresses), some(s.Ports), string(s.Ready), "-", "-", why}
		if len(s.Gateways) == 0 {
			rows = append(rows, printable(row))
		}
		for _, g := range s.Gateways {
			row[5], row[6] = g.Name, "no"
			if g.Ready {
				row[6] = "yes"
			}
			if !g.Current {
				row[6] += ", before the last change"
			}
			if len(g.Problems) > 0 && !g.Ready {
				row[7] = g.Reason + ": " + g.Problems[0]
			}
			rows = append(rows, printable(row))
			row = []string{"", "", "", "", "", "", "", ""}
		}
	}
	return rows
}

// some joins the first items.
func some(items []string) string {
	const most = 3
	text := strings.Join(items[:min(most, len(items))], ",")
	if more := len(items) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return cmp.Or(text, "-")
}

// printable returns cells without control characters: gateways write some of the texts.
func printable(cells []string) []string {
	clean := make([]string, 0, len(cells))
	for _, cell := range cells {
		clean = append(clean, Printable(cell))
	}
	return clean
}

// Printable replaces characters that a terminal would not print by their escapes.
func Printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
