// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// changed returns the Mappings, as namespace/name, whose entries may differ between two reports. It returns false if all may.
func changed(before, now *finding.Report) (map[string]struct{}, bool) {
	if before == nil || before.Err != nil || now.Err != nil || !reflect.DeepEqual(before.Host.Links, now.Host.Links) ||
		!maps.EqualFunc(before.Resolved, now.Resolved, func(a, b finding.Resolved) bool { return reflect.DeepEqual(a, b) }) {
		return nil, false
	}
	some := map[string]struct{}{}
	mappings := delta.Diff(before.Snapshot.Mappings, now.Snapshot.Mappings)
	for _, m := range slices.Concat(mappings.Removed, mappings.Added) {
		some[m.Namespace+"/"+m.Name] = struct{}{}
	}
	findings := delta.Diff(before.Findings, now.Findings)
	for _, f := range slices.Concat(findings.Removed, findings.Added) {
		some[f.Namespace+"/"+f.Name] = struct{}{}
	}
	for was, is := range gateway.DifferingForwards(before.State.Forwards, now.State.Forwards) {
		for _, f := range []*gateway.Forward{was, is} {
			if f != nil {
				some[f.Owner] = struct{}{}
			}
		}
	}
	return some, true
}

// about returns the part of a report that is about some Mappings.
func about(f finding.Report, some map[string]struct{}) finding.Report {
	has := func(owner string) bool { _, found := some[owner]; return found }
	f.Snapshot.Mappings = only(f.Snapshot.Mappings, func(m *v1alpha1.Mapping) bool { return has(m.Namespace + "/" + m.Name) })
	f.Findings = only(f.Findings, func(f finding.Finding) bool { return has(f.Namespace + "/" + f.Name) })
	last, wanted := "", has("") // neighbours mostly have the same owner
	f.State.Forwards = only(f.State.Forwards, func(f *gateway.Forward) bool {
		if f.Owner != last {
			last, wanted = f.Owner, has(f.Owner)
		}
		return wanted
	})
	return f
}

func only[T any](list []T, wanted func(T) bool) []T {
	var some []T
	for _, item := range list {
		if wanted(item) {
			some = append(some, item)
		}
	}
	return some
}

// keyOf returns the key of namespace/name.
func keyOf(owner string) key {
	namespace, name, _ := strings.Cut(owner, "/")
	return key{Namespace: namespace, Name: name}
}
