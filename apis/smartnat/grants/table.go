// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// maxTable keeps a table below the limit of a ConfigMap, 1 MiB, with room for its metadata.
const maxTable = 1000 << 10

// Table returns the Grants as the data of a ConfigMap. The admission policy in relay/manifests/grants.yaml decides by it as Find and
// RefusesEgress do: it can look up a key and split a text, but parse nothing else. Namespaces are not in it but by name, because the
// policy itself sees the labels of a namespace. The keys:
//
//	required           if every address needs a grant
//	lengths4, lengths6 the prefix lengths of all covered networks
//	covered.NETWORK    a covered network, with "_" for "/" and "-" for ":"
//	namespace.NAME     the numbers of the grants of a namespace
//	selectors          the numbers of the grants with a selector
//	grant.NUMBER       name|addresses|ports|sources|selector|egress, and the beginnings of long lists of ports|sources for messages
//
// It returns an error if a ConfigMap could not hold it.
func (g *Grants) Table() (map[string]string, error) {
	if g == nil || g.index == nil {
		return map[string]string{}, nil
	}
	table := g.covered.table()
	if g.required {
		table["required"] = ""
	}
	numbers := map[string][]string{}
	for i, grant := range g.all {
		number := strconv.Itoa(i)
		keys := make([]string, 0, len(grant.namespaces)+1)
		for _, namespace := range grant.namespaces {
			keys = append(keys, "namespace."+namespace)
		}
		if grant.selector != nil {
			keys = append(keys, "selectors")
		}
		for _, key := range keys {
			numbers[key] = append(numbers[key], number)
		}
		if len(keys) > 0 {
			table["grant."+number] = grant.row()
		}
	}
	for key, list := range numbers {
		table[key] = strings.Join(list, " ")
	}
	size := 0
	for key, value := range table {
		size += len(key) + len(value)
	}
	if size > maxTable {
		return nil, fmt.Errorf("%d PortGrants take %d bytes, of which a ConfigMap holds %d", len(g.all), size, maxTable)
	}
	return table, nil
}

// table returns the keys of covered networks.
func (s addressSet) table() map[string]string {
	table := map[string]string{}
	lengths := map[string][]int{}
	spelling := strings.NewReplacer("/", "_", ":", "-")
	for length, networks := range s {
		key := "lengths6"
		if length.v4 {
			key = "lengths4"
		}
		lengths[key] = append(lengths[key], length.bits)
		for network := range networks {
			table["covered."+spelling.Replace(network.String())] = ""
		}
	}
	for key, list := range lengths {
		slices.Sort(list)
		table[key] = strings.Trim(fmt.Sprint(list), "[]")
	}
	return table
}

func (g *Grant) row() string {
	egress := ""
	if g.Egress {
		egress = "egress"
	}
	return strings.Join([]string{
		g.Name, all(g.addresses, ","), all(g.ports, ", "), all(g.sources, ", "), selectorText(g.selector), egress, ifLong(g.ports), ifLong(g.sources),
	}, "|")
}

// selectorText spells a selector: "KEY in =VALUE =VALUE;KEY notin =VALUE;KEY exists;KEY absent".
func selectorText(selector labels.Selector) string {
	if selector == nil {
		return ""
	}
	requirements, _ := selector.Requirements()
	var texts []string
	for _, r := range requirements {
		words := []string{r.Key()}
		switch r.Operator() {
		case selection.NotIn, selection.NotEquals:
			words = append(words, "notin")
		case selection.Exists:
			words = append(words, "exists")
		case selection.DoesNotExist:
			words = append(words, "absent")
		default:
			words = append(words, "in")
		}
		for _, value := range r.Values().List() {
			words = append(words, "="+value)
		}
		texts = append(texts, strings.Join(words, " "))
	}
	return strings.Join(texts, ";")
}

// all spells a whole list.
func all[T ports | netip.Prefix](list []T, separator string) string {
	var texts []string
	for _, item := range list {
		texts = append(texts, fmt.Sprint(item))
	}
	return strings.Join(texts, separator)
}

// ifLong spells a list as messages do, if they leave out some of it.
func ifLong[T fmt.Stringer](list []T) string {
	if len(list) <= mostNamed {
		return ""
	}
	return join(list)
}
