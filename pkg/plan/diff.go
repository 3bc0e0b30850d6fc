// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"strings"
)

// Diff is how a gateway differs from what is desired.
type Diff struct {
	// Mappings are those that the documents change, sorted.
	Mappings []Mapping `json:"mappings,omitempty"`
	// Total counts the differences in the kernel. Kernel has the first ones, sorted by Mapping.
	Total  int          `json:"total"`
	Kernel []Difference `json:"kernel,omitempty"`
}

// Empty reports whether nothing differs.
func (d Diff) Empty() bool { return len(d.Mappings) == 0 && d.Total == 0 }

// Mapping is what documents change about a Mapping.
type Mapping struct {
	// Mapping is namespace/name.
	Mapping string   `json:"mapping"`
	Changes []Change `json:"changes,omitempty"`
	// Problems are the Findings that the change causes, and Solved those that it ends.
	Problems []string `json:"problems,omitempty"`
	Solved   []string `json:"solved,omitempty"`
}

// Change is the change of a Frontend, or of an external address for connections of pods.
type Change struct {
	// Of is ADDRESS:PORT/PROTOCOL, or "egress ADDRESS".
	Of string `json:"of"`
	// Before and After are nil if it is added or removed.
	Before *Target `json:"before,omitempty"`
	After  *Target `json:"after,omitempty"`
}

// Target is where a Frontend leads, and for which clients. An egress has only Sources, which are pods.
type Target struct {
	Backends []string `json:"backends,omitempty"`
	Sources  []string `json:"sources,omitempty"`
	// Options are what else differs from a Mapping without options, such as "keeps the client's address".
	Options []string `json:"options,omitempty"`
}

// Difference is an object in the kernel that is missing, or that is there and should not be.
type Difference struct {
	// Mapping is namespace/name, or "" if the object serves several Mappings or the whole gateway.
	Mapping string `json:"mapping,omitempty"`
	Missing bool   `json:"missing"`
	// Kind is iptables, ipset, nftables, route, ip_rule or sysctl.
	Kind string `json:"kind"`
	// Family is 4 or 6, or 0 if the object has none.
	Family int `json:"family,omitempty"`
	// Place is the table and chain, the set, or the parameter. Text spells the object.
	Place string `json:"place,omitempty"`
	Text  string `json:"text"`
}

// Sort orders Differences by Mapping, those of the whole gateway first, and keeps the order of each.
func Sort(differences []Difference) {
	slices.SortStableFunc(differences, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.Mapping, b.Mapping), strings.Compare(a.Kind, b.Kind))
	})
}
