// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Preview returns the State that would be in effect after the documents were applied at a time, and what that changes about each
// Mapping. A part that the kernel refuses now, and that the documents do not change, stays out.
func Preview(report finding.Report, cfg config.Config, documents objects.Snapshot, now time.Time) (gateway.State, []Mapping, error) {
	next, err := Overlay(report.Snapshot, documents, now)
	if err != nil {
		return gateway.State{}, nil, err
	}
	before, problems := calc.Calculate(report.Snapshot, report.Host, cfg)
	after, problemsAfter := calc.Calculate(next, report.Host, cfg)
	m := mappings{}
	m.compare(before, after)
	m.compareFindings(problems, problemsAfter)
	// All that depends on the host and its past stays.
	state := report.State
	state.Egresses, state.Absent = after.Egresses, after.Absent
	state.Forwards = slices.DeleteFunc(slices.Clone(after.Forwards), func(f *gateway.Forward) bool {
		return has(before.Forwards, f) && !has(report.State.Forwards, f)
	})
	return state, m.sorted(), nil
}

// has reports whether sorted Forwards have an equal one.
func has(forwards []*gateway.Forward, f *gateway.Forward) bool {
	at, found := slices.BinarySearchFunc(forwards, f.Frontend, func(o *gateway.Forward, want gateway.Frontend) int { return o.Compare(want) })
	return found && gateway.EqualForwards(forwards[at], f)
}

// mappings are the changes by Mapping.
type mappings map[string]*Mapping

func (m mappings) of(owner string) *Mapping {
	if m[owner] == nil {
		m[owner] = &Mapping{Mapping: owner}
	}
	return m[owner]
}

func (m mappings) sorted() []Mapping {
	var all []Mapping
	for _, owner := range slices.Sorted(maps.Keys(m)) {
		all = append(all, *m[owner])
	}
	return all
}

// compare adds the changes from one State to another.
func (m mappings) compare(before, after gateway.State) {
	for was, is := range delta.Join(before.Forwards, after.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) }) {
		var old, now *gateway.Forward
		if was != nil {
			old = *was
		}
		if is != nil {
			now = *is
		}
		if reflect.DeepEqual(old, now) {
			continue
		}
		if old != nil && now != nil && old.Owner == now.Owner {
			m.add(old.Owner, Change{Of: old.String(), Before: targetOf(old), After: targetOf(now)})
			continue
		}
		if old != nil {
			m.add(old.Owner, Change{Of: old.String(), Before: targetOf(old)})
		}
		if now != nil {
			m.add(now.Owner, Change{Of: now.String(), After: targetOf(now)})
		}
	}
	was, is := egresses(before), egresses(after)
	for _, key := range slices.SortedFunc(maps.Keys(merged(was, is)), egressKey.compare) {
		if old, now := was[key], is[key]; !reflect.DeepEqual(old, now) {
			m.add(key.owner, Change{Of: "egress " + key.address.String(), Before: old, After: now})
		}
	}
}

func merged[K comparable, V any](a, b map[K]V) map[K]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func (m mappings) add(owner string, c Change) {
	of := m.of(owner)
	of.Changes = append(of.Changes, c)
}

// egressKey identifies an external address of a Mapping.
type egressKey struct {
	owner   string
	address netip.Addr
}

func (k egressKey) compare(o egressKey) int {
	return cmp.Or(strings.Compare(k.owner, o.owner), k.address.Compare(o.address))
}

func egresses(state gateway.State) map[egressKey]*Target {
	all := map[egressKey]*Target{}
	for _, e := range state.Egresses {
		t := &Target{}
		for _, pod := range e.Sources {
			t.Sources = append(t.Sources, pod.String())
		}
		all[egressKey{e.Owner, e.Address}] = t
	}
	return all
}

func targetOf(f *gateway.Forward) *Target {
	t := &Target{}
	for _, b := range f.Backends {
		t.Backends = append(t.Backends, netip.AddrPortFrom(b.Address, b.Port).String())
	}
	for _, s := range f.Sources {
		t.Sources = append(t.Sources, s.String())
	}
	for _, option := range []struct {
		set  bool
		text string
	}{
		{len(f.Backends) == 0, "no endpoint: refuses connections"},
		{f.SourcesDeny, "no allowed source of this family"},
		{!f.Masquerade, "keeps the client's address"},
		{f.Affinity > 0, "session affinity " + f.Affinity.String()},
		{len(f.Draining) > 0, "endpoints that end"},
	} {
		if option.set {
			t.Options = append(t.Options, option.text)
		}
	}
	return t
}

// compareFindings adds the Findings that begin and end.
func (m mappings) compareFindings(before, after []finding.Finding) {
	count := map[finding.Finding]int{}
	for _, f := range before {
		count[f]--
	}
	for _, f := range after {
		count[f]++
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b finding.Finding) int { return strings.Compare(a.String(), b.String()) })
	for _, f := range all {
		if f.Name == "" || count[f] == 0 {
			continue
		}
		of := m.of(f.Namespace + "/" + f.Name)
		text := f.Field + ": " + f.Message + " (" + f.Reason + ")"
		if count[f] > 0 {
			of.Problems = append(of.Problems, text)
		} else {
			of.Solved = append(of.Solved, text)
		}
	}
}
