// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"reflect"
	"testing"

	"github.com/smartnat/smartnat/apis/kinds"
)

// TestEachKindHasARow proves that the table is complete: it has a row for each kind that a gateway reads and for each list of
// a Snapshot, with a key of its own, and a Store keeps the objects of each row in that list.
func TestEachKindHasARow(t *testing.T) {
	all, keys := Kinds(), map[string]bool{}
	if lists := reflect.TypeFor[Snapshot]().NumField(); len(all) != lists || len(all) != len(kinds.All()) {
		t.Fatalf("%d rows, want one for each of %d lists and %d kinds", len(all), lists, len(kinds.All()))
	}
	for i, kind := range kinds.All() {
		row := all[i]
		if row.Kind != kind || row.Key == "" || keys[row.Key] {
			t.Errorf("row %d: %s with key %q, want %s with a key of its own", i, row.Names.Kind, row.Key, kind.Kind)
		}
		keys[row.Key] = true
		var s Store
		object := kind.New()
		if !kind.ClusterScoped {
			object.SetNamespace("default")
		}
		object.SetName("echo")
		s.Set(object)
		now := s.Snapshot()
		for j := range all {
			if n := reflect.ValueOf(now).Field(j).Len(); (n == 1) != (i == j) || len(all[j].All(&now)) != n {
				t.Errorf("%s: list %d holds %d objects", kind.Kind, j, n)
			}
		}
		if got := row.All(&now); len(got) != 1 || got[0] != object {
			t.Errorf("%s: holds %v", kind.Kind, got)
		}
		if err := Validate(object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		s.Remove(object)
		if now = s.Snapshot(); len(row.All(&now)) != 0 {
			t.Errorf("%s: still there after it was removed", kind.Kind)
		}
	}
}
