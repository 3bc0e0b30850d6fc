// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestUpgradeKeepsEndpoints loads a file without selectors and managed-by labels, which proves no endpoint. A gateway that
// boots with it while its relay is unreachable must use all endpoints as before.
func TestUpgradeKeepsEndpoints(t *testing.T) {
	old, err := os.ReadFile("testdata/before-proofs.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "objects.jsonl")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	saved, err := fileAt(t, path).Load()
	if err != nil {
		t.Fatal(err)
	}
	expectEndpoints(t, saved.Snapshot, "10.244.1.10")
}

// TestSavedProofsAreKept checks that a file of this version proves exactly what the objects proved.
func TestSavedProofsAreKept(t *testing.T) {
	for _, test := range []struct {
		name     string
		selector map[string]string
		manager  string
		want     []string
	}{
		{"proven", map[string]string{"app": "echo"}, calc.SliceController, []string{"10.244.1.10"}},
		{"without a selector", nil, calc.SliceController, nil},
		{"written by hand", map[string]string{"app": "echo"}, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := example()
			s.Mappings[0].Spec.Mode = "endpoints"
			s.Services[0].Spec.Selector = test.selector
			s.EndpointSlices[0].Labels = map[string]string{discoveryv1.LabelServiceName: "echo", discoveryv1.LabelManagedBy: test.manager}
			saved, err := decode(text(t, s))
			if err != nil {
				t.Fatal(err)
			}
			expectEndpoints(t, saved.Snapshot, test.want...)
		})
	}
}

// TestDowngradeReadsTheFile checks the format for a version without proofs: it only accepts version 1, and ignores unknown
// keys.
func TestDowngradeReadsTheFile(t *testing.T) {
	first, _, _ := strings.Cut(string(text(t, example())), "\n")
	if !strings.Contains(first, `"version":1,`) || !strings.HasSuffix(first, `"proofs":true}`) {
		t.Errorf("the file begins with %s", first)
	}
}

// expectEndpoints checks the backends of the only Mapping.
func expectEndpoints(t *testing.T, s objects.Snapshot, want ...string) {
	t.Helper()
	cfg := config.Default()
	cfg.BackendNetworks = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	cfg.StandbyAddresses = []netip.Addr{netip.MustParseAddr("198.51.100.10")}
	state, findings := calc.Calculate(s, gateway.Host{}, cfg)
	var got []string
	for _, f := range state.Forwards {
		for _, b := range f.Backends {
			got = append(got, b.Address.String())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("leads to %v, want %v; findings: %v", got, want, findings)
	}
}
