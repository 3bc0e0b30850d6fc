// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptablestest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// Sets fakes sets of networks.
type Sets struct {
	kernel *Kernel
	// Members holds our sets by name.
	Members map[string]ruleset.Set
	// Observations counts the calls of Observe.
	Observations int
}

// Observe returns the sets. Its step is "observe sets".
func (s *Sets) Observe() ([]ruleset.Set, error) {
	s.Observations++
	if err := s.kernel.read("observe sets"); err != nil {
		return nil, err
	}
	var sets []ruleset.Set
	for _, name := range slices.Sorted(maps.Keys(s.Members)) {
		sets = append(sets, s.Members[name])
	}
	return sets, nil
}

// Sizes returns the number of members of each set.
func (s *Sets) Sizes() (map[string]int, error) {
	sizes := map[string]int{}
	for name, set := range s.Members {
		sizes[name] = len(set.Members)
	}
	return sizes, nil
}

// Put creates the set. Its step is "put set NAME".
func (s *Sets) Put(set ruleset.Set) error {
	if err := s.kernel.write("put set " + set.Name); err != nil {
		return err
	}
	s.Members[set.Name] = set
	return nil
}

// Change changes the members. Its step is "change set NAME +1 -2".
func (s *Sets) Change(set ruleset.Set, add, remove []netip.Prefix) error {
	have, found := s.Members[set.Name]
	if !found {
		return fmt.Errorf("set %s does not exist", set.Name)
	}
	if err := s.kernel.write(fmt.Sprintf("change set %s +%d -%d", set.Name, len(add), len(remove))); err != nil {
		return err
	}
	members := slices.DeleteFunc(slices.Concat(have.Members, add), func(p netip.Prefix) bool { return slices.Contains(remove, p) })
	slices.SortFunc(members, netip.Prefix.Compare)
	have.Members = members
	s.Members[set.Name] = have
	return nil
}

// Destroy removes a set that no rule names. Its step is "destroy set NAME".
func (s *Sets) Destroy(name string) error {
	for family, rs := range s.kernel.Tables.Rulesets {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				if slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return r.SourceSet.Name == name }) {
					return fmt.Errorf("set %s: IPv%d chain %s still names it", name, family, c.Name)
				}
			}
		}
	}
	if _, found := s.Members[name]; !found {
		return fmt.Errorf("set %s does not exist", name)
	}
	if err := s.kernel.write("destroy set " + name); err != nil {
		return err
	}
	delete(s.Members, name)
	return nil
}
