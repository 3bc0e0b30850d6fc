// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/relay/watchcache"
)

type key = types.NamespacedName

// view is the known state of all Mappings. It determines which of them a change affects.
type view struct {
	mu       sync.RWMutex
	mappings map[key]*known
	lost     map[key]conflicts.Lost
	// granted are the PortGrants; nil refuses nothing.
	granted *grants.Grants
	// reporting is set while any Mapping has the entry of a gateway.
	reporting bool
	// deleted are Mappings that are gone, until their Event is written.
	deleted map[key]*v1alpha1.Mapping
}

type known struct {
	*v1alpha1.Mapping
	valid bool
}

// replace replaces all Mappings, and returns them and those that are gone.
func (v *view) replace(entries []*watchcache.Entry) sets.Set[key] {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.mappings
	v.mappings = make(map[key]*known, len(entries))
	for _, e := range entries {
		if m, ok := e.Object.(*v1alpha1.Mapping); ok {
			v.mappings[conflicts.Key(m)] = newKnown(m)
		}
	}
	touched := sets.KeySet(v.mappings)
	for k, m := range before {
		if now := v.mappings[k]; now == nil || now.UID != m.UID {
			v.remember(m.Mapping)
			touched.Insert(k)
		}
	}
	v.resolve()
	v.hear()
	return touched
}

// remember keeps a deleted Mapping for its Event.
func (v *view) remember(m *v1alpha1.Mapping) {
	if v.deleted == nil {
		v.deleted = map[key]*v1alpha1.Mapping{}
	}
	v.deleted[conflicts.Key(m)] = m
}

// deletedAt returns the last deleted Mapping of that name whose Event is not written, or nil.
func (v *view) deletedAt(k key) *v1alpha1.Mapping {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.deleted[k]
}

// forget drops a deleted Mapping, unless another one of that name is deleted meanwhile.
func (v *view) forget(k key, m *v1alpha1.Mapping) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.deleted[k] == m {
		delete(v.deleted, k)
	}
}

// follow applies changes of Mappings, and returns those whose status may change, the changed ones and those that win or lose a port; and the
// deleted ones.
func (v *view) follow(events []watchcache.Event) sets.Set[key] {
	v.mu.Lock()
	defer v.mu.Unlock()
	touched, contested := sets.New[key](), false
	for _, e := range events {
		m, ok := e.Object.Object.(*v1alpha1.Mapping)
		if !ok {
			continue
		}
		k := conflicts.Key(m)
		before := v.mappings[k]
		if e.Type == watch.Deleted {
			delete(v.mappings, k)
			v.remember(m)
			touched.Insert(k)
			contested = true
			continue
		}
		touched.Insert(k)
		if before != nil && before.UID == m.UID && before.Generation == m.Generation {
			// Only the status changed.
			v.mappings[k] = &known{m, before.valid}
			continue
		}
		v.mappings[k] = newKnown(m)
		contested = true
	}
	if contested {
		touched = touched.Union(v.resolve())
	}
	if v.hear() {
		return sets.KeySet(v.mappings)
	}
	return touched
}

// regrant replaces the PortGrants, and returns the Mappings whose status may change.
func (v *view) regrant(list []*v1alpha1.PortGrant, namespaces []*corev1.Namespace, required bool) sets.Set[key] {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.granted = grants.New(list, namespaces, grants.Options{Required: required, Before: v.granted})
	return v.resolve()
}

// hear updates reporting, and reports whether it changed.
func (v *view) hear() bool {
	before := v.reporting
	v.reporting = false
	for _, m := range v.mappings {
		if len(m.Status.Instances) > 0 {
			v.reporting = true
			break
		}
	}
	return v.reporting != before
}

// resolve computes the conflicts of ports, and returns the Mappings whose conflicts changed.
func (v *view) resolve() sets.Set[key] {
	valid := make([]*v1alpha1.Mapping, 0, len(v.mappings))
	for _, m := range v.mappings {
		if m.valid {
			valid = append(valid, m.Mapping)
		}
	}
	lost, changed := conflicts.Find(valid, v.granted), sets.New[key]()
	for k := range sets.KeySet(v.lost).Union(sets.KeySet(lost)) {
		if _, known := v.mappings[k]; known && !v.lost[k].Equal(lost[k]) {
			changed.Insert(k)
		}
	}
	v.lost = lost
	return changed
}

func newKnown(m *v1alpha1.Mapping) *known {
	return &known{m, len(validation.ValidateMapping(m)) == 0}
}

// get returns the inputs of the status of a Mapping except for its Service, or the zero value without such a Mapping.
func (v *view) get(k key) conditions.Facts {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if m := v.mappings[k]; m != nil {
		return conditions.Facts{Mapping: m.Mapping, Conflicts: v.lost[k], Reporting: v.reporting}
	}
	return conditions.Facts{}
}

// grantsOf returns the sorted names of the PortGrants by which a Mapping may use its ports.
func (v *view) grantsOf(m *v1alpha1.Mapping) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	names := sets.New[string]()
	for _, r := range conflicts.Requests(m) {
		if g, _ := v.granted.Find(r); g != nil {
			names.Insert(g.Name)
		}
	}
	return sets.List(names)
}

// naming returns the Mappings that name one of the Services.
func (v *view) naming(services sets.Set[key]) sets.Set[key] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	found := sets.New[key]()
	for k, m := range v.mappings {
		if services.Has(key{Namespace: k.Namespace, Name: m.Spec.ServiceName}) {
			found.Insert(k)
		}
	}
	return found
}

// instances returns the Mappings with an entry of each gateway.
func (v *view) instances() map[string][]*v1alpha1.Mapping {
	v.mu.RLock()
	defer v.mu.RUnlock()
	entries := map[string][]*v1alpha1.Mapping{}
	for _, m := range v.mappings {
		for i := range m.Status.Instances {
			entries[m.Status.Instances[i].Name] = append(entries[m.Status.Instances[i].Name], m.Mapping)
		}
	}
	return entries
}
