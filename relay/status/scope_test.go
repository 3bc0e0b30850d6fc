// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

func scopeOf(t *testing.T, addresses string) filter.Scope {
	t.Helper()
	scope, err := filter.ScopeOf(map[string]string{v1alpha1.AddressesAnnotation: addresses})
	if err != nil {
		t.Fatal(err)
	}
	return scope
}

// TestReportsOfWhatAGatewayMaySee has the Mapping web at 192.0.2.1.
func TestReportsOfWhatAGatewayMaySee(t *testing.T) {
	const gw1 = "system:serviceaccount:smartnat:gw1"
	for name, test := range map[string]struct {
		scopes map[string]filter.Scope
		taken  bool
	}{
		"enrolled for all":            {map[string]filter.Scope{"gw1": filter.Everything()}, true},
		"enrolled for its address":    {map[string]filter.Scope{"gw1": scopeOf(t, "192.0.2.1")}, true},
		"enrolled for another":        {map[string]filter.Scope{"gw1": scopeOf(t, "192.0.2.2")}, false},
		"with a malformed list":       {map[string]filter.Scope{"gw1": {}}, false},
		"no longer, or not yet known": {map[string]filter.Scope{"gw2": filter.Everything()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.caches[0].ExpectGateways()
			d.caches[0].SetGateways(test.scopes)
			_, err := d.report(token(gw1), applyPatch, good)
			if test.taken && err != nil || !test.taken && !apierrors.IsNotFound(err) {
				t.Errorf("taken: %v", err)
			}
			if got := len(d.written()) > 0; got != test.taken {
				t.Errorf("written: %v", got)
			}
		})
	}
}

// TestEntriesOfWhatAGatewayMayNotSee removes the entry of a gateway that was limited to other addresses, and no other.
func TestEntriesOfWhatAGatewayMayNotSee(t *testing.T) {
	d := newDesk(t)
	d.caches[0].ExpectGateways()
	d.caches[0].SetGateways(map[string]filter.Scope{"gw1": filter.Everything()})
	if _, err := d.report(token("system:serviceaccount:smartnat:gw1"), applyPatch, good); err != nil {
		t.Fatal(err)
	}
	relay, _ := d.controller(0)
	relay.aging = newAging(10 * time.Minute)
	entries := func() int { return len(d.mappings[key{Namespace: "shop", Name: "web"}].Status.Instances) }
	look := func() {
		t.Helper()
		list, _ := d.caches[0].Mappings().List()
		relay.view.replace(list)
		relay.forget(t.Context(), time.Now())
	}
	if look(); entries() != 1 {
		t.Fatalf("%d entries, want 1", entries())
	}
	d.caches[0].SetGateway("gw1", scopeOf(t, "192.0.2.1"))
	if look(); entries() != 1 {
		t.Fatalf("%d entries, want 1: it sees the Mapping", entries())
	}
	d.caches[0].SetGateway("gw1", scopeOf(t, "192.0.2.2"))
	if look(); entries() != 0 {
		t.Errorf("%d entries, want none", entries())
	}
}
