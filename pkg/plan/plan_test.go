// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/objects"
)

var (
	early = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = early.Add(time.Hour)
)

// mapping returns a Mapping to the Service db, whose ClusterIP is 10.96.0.10.
func mapping(name string, created time.Time, sources []string, ports ...int32) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"198.51.100.10"}, ServiceName: "db", AllowedSources: sources},
	}
	for _, p := range ports {
		m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: p, ServicePort: 5432})
	}
	return m
}

// current is a report of a gateway with the Mapping shop/db, port 5432.
func current(t *testing.T) (finding.Report, config.Config) {
	t.Helper()
	cfg := config.Default()
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	host := gateway.Host{Links: []gateway.Link{{Name: "eth1", Up: true, Addresses: gatewaytest.Prefixes("198.51.100.10/24")}, {Name: "eth0", Up: true}},
		Routes: []gateway.Route{{Destination: netip.MustParsePrefix("10.96.0.0/16"), Link: "eth0"}}}
	snapshot := objects.Snapshot{
		Mappings: []*v1alpha1.Mapping{mapping("db", early, nil, 5432)},
		Services: []*corev1.Service{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{{Port: 5432}}, Selector: map[string]string{"app": "db"}},
		}},
	}
	state, findings := calc.Calculate(snapshot, host, cfg)
	if len(state.Forwards) != 1 {
		t.Fatalf("no Forward: %v", findings)
	}
	return finding.Report{Snapshot: snapshot, Host: host, State: state, Findings: findings}, cfg
}

func TestPreview(t *testing.T) {
	cluster := &Target{Backends: []string{"10.96.0.10:5432"}}
	for _, tc := range []struct {
		name      string
		documents []*v1alpha1.Mapping
		want      []Mapping
	}{
		{"nothing", nil, nil},
		{"the same, without the time of creation", []*v1alpha1.Mapping{mapping("db", time.Time{}, nil, 5432)}, nil},
		{"a port more", []*v1alpha1.Mapping{mapping("db", time.Time{}, nil, 5432, 5433)}, []Mapping{
			{Mapping: "shop/db", Changes: []Change{{Of: "198.51.100.10:5433/tcp", After: cluster}}},
		}},
		{"another port", []*v1alpha1.Mapping{mapping("db", time.Time{}, nil, 5433)}, []Mapping{
			{Mapping: "shop/db", Changes: []Change{{Of: "198.51.100.10:5432/tcp", Before: cluster}, {Of: "198.51.100.10:5433/tcp", After: cluster}}},
		}},
		{"other sources", []*v1alpha1.Mapping{mapping("db", time.Time{}, []string{"192.0.2.0/24"}, 5432)}, []Mapping{
			{Mapping: "shop/db", Changes: []Change{
				{Of: "198.51.100.10:5432/tcp", Before: cluster, After: &Target{Backends: cluster.Backends, Sources: []string{"192.0.2.0/24"}}},
			}},
		}},
		{"a new Mapping never wins a conflict", []*v1alpha1.Mapping{mapping("a", time.Time{}, nil, 5432)}, []Mapping{
			{Mapping: "shop/a", Problems: []string{"spec.ports[0].port: 198.51.100.10:5432/tcp belongs to Mapping shop/db, which is older (PortConflict)"}},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			report, cfg := current(t)
			state, got, err := Preview(report, cfg, objects.Snapshot{Mappings: tc.documents}, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			ports := 0
			for _, m := range tc.want {
				for _, c := range m.Changes {
					if c.Before == nil {
						ports++
					}
					if c.After == nil {
						ports--
					}
				}
			}
			if len(state.Forwards) != 1+ports || len(state.Uplinks) != 1 {
				t.Errorf("%d Forwards, %d uplinks", len(state.Forwards), len(state.Uplinks))
			}
		})
	}
}

// TestPreviewLeavesOutWhatIsRefused expects that a Mapping that the kernel refuses, and that no document changes, stays out.
func TestPreviewLeavesOutWhatIsRefused(t *testing.T) {
	report, cfg := current(t)
	report.State.Forwards = nil
	state, changes, err := Preview(report, cfg, objects.Snapshot{Mappings: []*v1alpha1.Mapping{mapping("other", time.Time{}, nil, 99)}}, now)
	if err != nil || len(state.Forwards) != 1 || state.Forwards[0].Owner != "shop/other" || len(changes) != 1 {
		t.Errorf("%v, %v, %v; want shop/other alone", state.Forwards, changes, err)
	}
}

func TestPreviewOfEgress(t *testing.T) {
	m := mappings{}
	before := gateway.State{Egresses: []gateway.Egress{{Address: netip.MustParseAddr("198.51.100.10"), Owner: "shop/db", Sources: gatewaytest.Addrs("10.244.1.2")}}}
	after := gateway.State{Egresses: []gateway.Egress{{Address: netip.MustParseAddr("198.51.100.11"), Owner: "shop/db", Sources: gatewaytest.Addrs("10.244.1.2")}}}
	m.compare(before, after)
	pods := &Target{Sources: []string{"10.244.1.2"}}
	want := []Mapping{{Mapping: "shop/db", Changes: []Change{{Of: "egress 198.51.100.10", Before: pods}, {Of: "egress 198.51.100.11", After: pods}}}}
	if diff := cmp.Diff(want, m.sorted()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInvalidDocument(t *testing.T) {
	report, cfg := current(t)
	_, _, err := Preview(report, cfg, objects.Snapshot{Mappings: []*v1alpha1.Mapping{mapping("no name/", now, nil, 80)}}, now)
	if err == nil || !strings.Contains(err.Error(), "no name/") {
		t.Errorf("error %v, want one that names the document", err)
	}
}
