// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/source"
)

var update = flag.Bool("update", false, "write the golden files")

type fakeStatus daemon.Status

func (s *fakeStatus) Status() daemon.Status { return daemon.Status(*s) }

func at(seconds int64) time.Time { return time.Unix(1700000000+seconds, 0) }

// ours returns our metrics in text format, except for those that depend on the machine.
func ours(t *testing.T, m *Metrics) string {
	t.Helper()
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, family := range families {
		name := family.GetName()
		if !strings.HasPrefix(name, namespace+"_") || name == "smartnat_build_info" || name == "smartnat_iptables_restore_duration_seconds" {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&all, family); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}

// TestAtTheStart expects every counter to start at 0, so that its first increment shows as an increase.
func TestAtTheStart(t *testing.T) {
	m := New("1.2.3", &fakeStatus{})
	m.Program(noTables{})
	compare(t, "testdata/start.golden", ours(t, m))
}

func TestWhatIsToldIsCounted(t *testing.T) {
	m := New("1.2.3", &fakeStatus{
		Ready: true, ItemProcessed: at(5), Queued: 1, Synced: true, CredentialEnds: at(1000),
		Contact: source.Contact{Last: at(4), Failures: 7, Rejected: 3, Servers: []source.Server{
			{Name: "10.10.0.11:8443", Failures: 6}, {Name: "10.10.0.12:8443", InUse: true, Failures: 1},
		}},
	})
	forward := func(owner string, port uint16) *gateway.Forward {
		return &gateway.Forward{Owner: owner, Frontend: gateway.Frontend{
			Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(port),
		}}
	}
	report := &finding.Report{
		Snapshot: objects.Snapshot{Mappings: make([]*v1alpha1.Mapping, 4)},
		Host:     gateway.Host{Links: []gateway.Link{{Name: "eth1", Up: true}, {Name: "eth2"}}},
		State: gateway.State{
			Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}, {Link: "wwan0", Number: 3}},
			Forwards: []*gateway.Forward{forward("a/web", 80), forward("a/web", 81), forward("a/dns", 82), forward("a/web", 83)},
		},
		Findings: []finding.Finding{
			{Namespace: "a", Name: "web", Condition: "ResolvedRefs", Reason: "ServiceNotFound", Field: "spec.serviceName"},
			{Namespace: "a", Name: "bad", Condition: "Accepted", Reason: "Invalid", Field: "spec.addresses"},
			{Namespace: "a", Name: "bad", Condition: "Accepted", Reason: "Invalid", Field: "spec.ports"},
			{Namespace: "a", Name: "dns", Condition: "Programmed", Reason: finding.ReasonAddressNotOnHost, Field: "spec.addresses[0]"},
			{Reason: "NoUplink", Field: "uplinks[0]"},
		},
	}
	wrote := dataplane.Result{Connections: 12, Changes: dataplane.Changes{Sets: 1, Repaired: []dataplane.Repair{
		{Kind: dataplane.KindRoute, Missing: "a route"}, {Kind: dataplane.KindRoute, Missing: "another one"}, {Kind: dataplane.KindIPSet, Missing: "a set"},
	}}}
	m.Applied(controller.Outcome{Err: errors.New("no netlink"), Took: time.Millisecond}, at(1))
	m.Applied(controller.Outcome{Report: report, Result: wrote, Took: 3 * time.Millisecond}, at(2))
	m.Applied(controller.Outcome{Report: report, Took: 40 * time.Second}, at(3))
	m.Applied(controller.Outcome{Report: report, Err: errors.New("locked")}, at(4))
	m.Applied(controller.Outcome{Report: report, Err: context.Canceled}, at(5))
	m.PortsCounted(controller.PortUse{Fullest: 0.83, Short: 2})
	compare(t, "testdata/counted.golden", ours(t, m))
}

func TestObjectsFromTheDiskAreNoContact(t *testing.T) {
	for _, test := range []struct {
		name string
		daemon.Status
		connected, restored, saved string
	}{
		{"not read yet", daemon.Status{}, "0", "0", "0"},
		{"read", daemon.Status{Synced: true}, "1", "0", "0"},
		{"lost", daemon.Status{Synced: true, Contact: source.Contact{Lost: true}}, "0", "0", "0"},
		{"from the disk", daemon.Status{Restored: at(0), Contact: source.Contact{Lost: true}}, "0", "1", "1.7e+09"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := fakeStatus(test.Status)
			got := ours(t, New("1.2.3", &g))
			for _, want := range []string{
				"smartnat_source_connected " + test.connected, "smartnat_source_restored " + test.restored,
				"smartnat_source_restored_saved_timestamp_seconds " + test.saved,
			} {
				if !strings.Contains(got, "\n"+want+"\n") {
					t.Errorf("no line %q in\n%s", want, got)
				}
			}
		})
	}
}

// TestEveryMetricIsDocumented looks for the metrics of the golden files in the table for operators.
func TestEveryMetricIsDocumented(t *testing.T) {
	document, err := os.ReadFile("../../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, golden := range []string{"start", "counted", "traffic", "pair"} {
		text, err := os.ReadFile("testdata/" + golden + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if name, is := strings.CutPrefix(line, "# HELP "); is {
				found++
				if name, _, _ = strings.Cut(name, " "); !strings.Contains(string(document), "`"+name) {
					t.Errorf("systemd/README.md does not mention %s", name)
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("%d metrics in the golden files, want at least 30", found)
	}
}

// TestNamesAreAsPrometheusWantsThem runs Prometheus's own linter.
func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.GatherAndLint(New("1.2.3", &fakeStatus{CredentialEnds: at(0), Contact: source.Contact{Servers: []source.Server{{Name: "a"}}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// noTables is a stub whose Restore returns fail.
type noTables struct {
	iptables.Program
	fail error
}

func (noTables) Families() []gateway.Family {
	return []gateway.Family{gateway.IPv4, gateway.IPv6}
}
func (n noTables) Restore(context.Context, ruleset.Batch) error { return n.fail }

func TestRestoresAreCountedByFamilyAndResult(t *testing.T) {
	m, broken := New("1.2.3", &fakeStatus{}), errors.New("broken")
	good, bad := m.Program(noTables{}), m.Program(noTables{fail: broken})
	for _, call := range []struct {
		on     iptables.Program
		family gateway.Family
		want   error
	}{{good, gateway.IPv4, nil}, {good, gateway.IPv4, nil}, {bad, gateway.IPv6, broken}} {
		if err := call.on.Restore(t.Context(), ruleset.Batch{Family: call.family}); !errors.Is(err, call.want) {
			t.Errorf("err = %v, want %v", err, call.want)
		}
	}
	for labels, want := range map[[2]string]float64{
		{"ipv4", "success"}: 2, {"ipv4", "error"}: 0, {"ipv6", "success"}: 0, {"ipv6", "error"}: 1,
	} {
		if got := testutil.ToFloat64(m.restores.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	if n := testutil.CollectAndCount(m.restoreDuration); n != 1 {
		t.Errorf("%d histograms", n)
	}
}

type fakeMemory struct {
	source.Memory
	fail error
}

func (fakeMemory) Load() (snapshotfile.Saved, error) {
	return snapshotfile.Saved{Origin: []string{"here"}}, nil
}
func (f fakeMemory) Save(snapshotfile.Saved) error { return f.fail }

func TestWritesOfTheSnapshotAreCounted(t *testing.T) {
	m, full := New("1.2.3", &fakeStatus{}), errors.New("disk full")
	if err := m.Memory(fakeMemory{fail: full}).Save(snapshotfile.Saved{}); !errors.Is(err, full) {
		t.Errorf("err = %v", err)
	}
	memory := m.Memory(fakeMemory{})
	if err := memory.Save(snapshotfile.Saved{}); err != nil {
		t.Error(err)
	}
	if saved, err := memory.Load(); err != nil || len(saved.Origin) != 1 {
		t.Errorf("loaded %v, %v", saved, err)
	}
	for result, want := range map[string]float64{success: 1, failure: 1} {
		if got := testutil.ToFloat64(m.snapshotWrites.WithLabelValues(result)); got != want {
			t.Errorf("%s: %v, want %v", result, got, want)
		}
	}
}
