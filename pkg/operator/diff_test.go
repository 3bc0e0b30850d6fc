// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/plan"
)

// differing returns a daemon whose kernel lacks a rule of shop/db and has a route too many.
func differing() *fakeDaemon {
	d := inEffect()
	d.plan = func(gateway.State) dataplane.Plan {
		frontend := gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(5432)}
		return dataplane.Plan{Total: 7, Differences: []dataplane.Difference{
			{Kind: dataplane.KindNFTables, Family: gateway.IPv4, Difference: packet.Difference{Missing: true, Place: "map frontends", Text: "one", Frontend: frontend}},
			{Kind: dataplane.KindRoute, Family: gateway.IPv4, Difference: packet.Difference{Text: "ip route add default"}},
		}}
	}
	return d
}

func TestDiff(t *testing.T) {
	client, _ := serve(t, differing())
	got, err := client.Diff(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Diff{Total: 7, Kernel: []plan.Difference{
		{Kind: "route", Family: 4, Text: "ip route add default"},
		{Mapping: "shop/db", Missing: true, Kind: "nftables", Family: 4, Place: "map frontends", Text: "one"},
	}}
	if diff := cmp.Diff(want, got); diff != "" || got.Empty() {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiffOfDocuments(t *testing.T) {
	d := inEffect()
	var planned gateway.State
	d.plan = func(state gateway.State) dataplane.Plan { planned = state; return dataplane.Plan{} }
	client, _ := serve(t, d)
	added := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new"},
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"198.51.100.99"}, ServiceName: "postgres", Ports: []v1alpha1.MappingPort{{Port: 1}}},
	}
	got, err := client.Diff(t.Context(), &objects.Snapshot{Mappings: []*v1alpha1.Mapping{added}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Mappings) != 1 || got.Mappings[0].Mapping != "shop/new" || len(got.Mappings[0].Problems) == 0 || len(planned.Uplinks) != 1 {
		t.Errorf("%+v for the State %+v, want a problem of shop/new", got, planned)
	}
}

func TestWrongDiffs(t *testing.T) {
	broken := inEffect()
	broken.err = errors.New("no netlink\nno iptables")
	for _, tc := range []struct {
		name, body, want string
		daemon           Daemon
	}{
		{"nothing is programmed yet", `{}`, "programmed nothing yet", &fakeDaemon{}},
		{"the kernel cannot be read", `{}`, "comparing with the kernel: no netlink; no iptables", broken},
		{"no JSON", `mapping`, "reading the documents: invalid character", inEffect()},
		{"an absent document", `{"Mappings": [null]}`, "one is null", inEffect()},
		{"a name that none can have", `{"Mappings": [{"metadata": {"name": "a/b", "namespace": "x"}}]}`, "x/a/b", inEffect()},
		{"too many documents", `{"Mappings": [` + strings.Repeat(" ", maxDocuments) + `]}`, "they take more than 16 MiB", inEffect()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, _ := serve(t, tc.daemon)
			err := client.ask(t.Context(), http.MethodPost, diffPath, strings.NewReader(tc.body), new(plan.Diff))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tc.want)
			}
		})
	}
}

// TestOtherVersions expects one clear line from a daemon that does not know a question, or answers in another shape.
func TestOtherVersions(t *testing.T) {
	client, _ := serve(t, inEffect())
	for _, tc := range []struct {
		name, method, path, want string
		answer                   any
	}{
		{"a question that it does not know", http.MethodGet, "/v9/questions", "of another version than this command", new(plan.Diff)},
		{"a way to ask that it does not know", http.MethodDelete, statusPath, "of another version than this command", new(plan.Diff)},
		{"another shape", http.MethodGet, statusPath, "reading the answer of smartnatd", new([]string)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := client.ask(t.Context(), tc.method, tc.path, nil, tc.answer)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tc.want)
			}
		})
	}
}
