// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/source"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// TestScenarios calculates testdata/NAME/objects.yaml with host.yaml and config.yaml, or for any address without them, in many
// orders, and compares the result with want.txt.
func TestScenarios(t *testing.T) {
	for _, folder := range scenarios(t) {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			snapshot, host, cfg := readScenario(t, folder)
			calculator := calc.NewCalculator(cfg)
			state, findings := calculator.Calculate(snapshot, host)
			checkState(t, state, cfg)
			for _, f := range state.Forwards {
				if len(f.Backends) == 0 && !slices.ContainsFunc(findings, func(found finding.Finding) bool {
					return found.Namespace+"/"+found.Name == f.Owner && found.Blocks()
				}) {
					t.Errorf("%s rejects connections, and %s counts as ready", f.Frontend, f.Owner)
				}
			}
			for _, r := range calculator.Refused() {
				if !slices.ContainsFunc(findings, func(f finding.Finding) bool { return f.Namespace+"/"+f.Name == r.Owner && f.Reason == r.Reason }) {
					t.Errorf("no finding says that %s is refused to %s for %s", r.Frontend, r.Owner, r.Reason)
				}
			}
			compareGolden(t, filepath.Join(folder, "want.txt"), render(state, findings, calculator.Refused()))

			random := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				shuffle(random, snapshot.Mappings)
				shuffle(random, snapshot.Services)
				shuffle(random, snapshot.EndpointSlices)
				shuffle(random, host.Links)
				again, findingsAgain := calc.Calculate(snapshot, host, cfg)
				if diff := cmp.Diff(state, again, addresses); diff != "" {
					t.Fatalf("the State depends on the order of the objects (-first +shuffled):\n%s", diff)
				}
				if diff := cmp.Diff(findings, findingsAgain); diff != "" {
					t.Fatalf("the Findings depend on the order of the objects (-first +shuffled):\n%s", diff)
				}
			}
		})
	}
}

// scenarios returns the folders that hold objects; the fuzzer's corpus is next to them.
func scenarios(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*/objects.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for i, file := range files {
		files[i] = filepath.Dir(file)
	}
	return files
}

func readScenario(t testing.TB, folder string) (objects.Snapshot, gateway.Host, config.Config) {
	t.Helper()
	snapshot, err := source.ReadFiles([]string{filepath.Join(folder, "objects.yaml")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.AnyAddress = true
	var host gateway.Host
	if path := filepath.Join(folder, "config.yaml"); exists(path) {
		if cfg, err = config.Load(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(folder, "host.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, &host); err != nil {
			t.Fatal(err)
		}
	}
	return snapshot, host, cfg
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func shuffle[T any](random *rand.Rand, items []T) {
	random.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update accepts it):\n%s", path, diff)
	}
}

func render(state gateway.State, findings []finding.Finding, refused []finding.Refused) string {
	var b strings.Builder
	for _, f := range state.Forwards {
		fmt.Fprintf(&b, "%s -> %s\n", f.Frontend, strings.Join(describe(f), " "))
	}
	for _, e := range state.Egresses {
		fmt.Fprintf(&b, "egress %s by uplink %d for %s (%s)\n", e.Address, e.Uplink, e.Sources, e.Owner)
	}
	for _, f := range state.Absent.Forwards {
		fmt.Fprintf(&b, "away %s -> %s\n", f.Frontend, strings.Join(describe(f), " "))
	}
	for _, e := range state.Absent.Egresses {
		fmt.Fprintf(&b, "away egress %s for %s (%s)\n", e.Address, e.Sources, e.Owner)
	}
	if state.ClampMSS {
		fmt.Fprintln(&b, "clamp MSS")
	}
	if p := state.MasqueradePorts; p != config.Default().MasqueradePorts.PortRange {
		fmt.Fprintf(&b, "masquerade ports %s\n", p)
	}
	if state.MasqueradeRemote && slices.ContainsFunc(state.Forwards, func(f *gateway.Forward) bool { return !f.Masquerade }) {
		fmt.Fprintf(&b, "keeps clients only for %s\n", state.LocalBackends)
	}
	for _, l := range state.MasqueradeAddresses {
		fmt.Fprintf(&b, "masquerade by %s to %s\n", l.Link, l.Addresses)
	}
	if state.ForwardedOnly {
		fmt.Fprintln(&b, "forwarded only")
	}
	for _, u := range state.Uplinks {
		fmt.Fprintf(&b, "uplink %d %s connected %s gateways %s\n", u.Number, u.Link, u.Connected, u.Gateways)
		for _, d := range u.Defaults {
			fmt.Fprintf(&b, "uplink %d default ipv6 %t via %s\n", u.Number, d.IPv6, d.Gateway)
		}
	}
	for _, r := range state.ServiceRoutes {
		fmt.Fprintf(&b, "route %s via %s\n", r.Destination, r.Via)
	}
	if len(state.InsideNetworks) > 0 {
		fmt.Fprintf(&b, "inside %s\n", state.InsideNetworks)
	}
	if state.ForwardingOwned != (gateway.Families{}) {
		fmt.Fprintf(&b, "closed %+v\n", state.ForwardingOwned)
	}
	if len(findings) > 0 {
		fmt.Fprintln(&b, "\nfindings")
	}
	for _, f := range findings {
		fmt.Fprintf(&b, "%s %s\n", f.Condition, f)
	}
	if len(refused) > 0 {
		fmt.Fprintln(&b, "\nrefused")
	}
	for _, r := range refused {
		front := "everything"
		if r.Address.IsValid() {
			front = r.String()
		}
		fmt.Fprintf(&b, "%s %s (%s)\n", r.Reason, front, r.Owner)
	}
	return b.String()
}

func describe(f *gateway.Forward) []string {
	words := spell(f.Backends)
	if len(f.Backends) == 0 {
		words = append(words, "reject")
	}
	for flag, set := range map[string]bool{"direct": f.Direct, "shift": f.Shift, "masquerade": f.Masquerade, "consistent": f.Consistent, "from no source": f.SourcesDeny} {
		if set {
			words = append(words, flag)
		}
	}
	slices.Sort(words[max(1, len(f.Backends)):])
	if len(f.Sources) > 0 {
		words = append(words, fmt.Sprint("from ", f.Sources))
	}
	if f.Affinity > 0 {
		words = append(words, "affinity "+f.Affinity.String())
	}
	if len(f.Draining) > 0 {
		words = append(words, fmt.Sprint("draining ", spell(f.Draining)))
	}
	if by := f.AllowedBy; by != nil {
		words = append(words, "by "+strings.Join(slices.DeleteFunc([]string{by.Grant, by.Pin}, func(name string) bool { return name == "" }), " and "))
	}
	return append(words, "("+f.Owner+")")
}

func spell(backends []gateway.Backend) []string {
	var words []string
	for _, b := range backends {
		words = append(words, netip.AddrPortFrom(b.Address, b.Port).String())
	}
	return words
}

// TestSnapshotIsNotChanged checks that Calculate does not write to objects, which are shared with caches.
func TestSnapshotIsNotChanged(t *testing.T) {
	for _, name := range []string{"example", "endpoints", "conflicts"} {
		snapshot, host, cfg := readScenario(t, filepath.Join("testdata", name))
		before, _, _ := readScenario(t, filepath.Join("testdata", name))
		calc.Calculate(snapshot, host, cfg)
		if diff := cmp.Diff(before, snapshot); diff != "" {
			t.Errorf("%s: Calculate changed the snapshot (-before +after):\n%s", name, diff)
		}
	}
}

// TestTakeover deletes the winner of a conflict: the next Mapping by age gets the port.
func TestTakeover(t *testing.T) {
	snapshot, host, cfg := readScenario(t, "testdata/conflicts")
	owner := func() string {
		state, _ := calc.Calculate(snapshot, host, cfg)
		for _, f := range state.Forwards {
			if f.Address == netip.MustParseAddr("198.51.100.10") && f.Protocol == gateway.TCP && f.Ports.Contains(80) {
				return f.Owner
			}
		}
		return "none"
	}
	for _, want := range []string{"b/oldest", "a/range", "a/newest", "none"} {
		if got := owner(); got != want {
			t.Fatalf("198.51.100.10:80/tcp belongs to %s, want %s", got, want)
		}
		snapshot.Mappings = slices.DeleteFunc(snapshot.Mappings, func(m *v1alpha1.Mapping) bool { return m.Namespace+"/"+m.Name == want })
	}
}

func BenchmarkCalculate(b *testing.B) {
	cfg := config.Default()
	cfg.AnyAddress = true
	for _, mode := range []v1alpha1.Mode{v1alpha1.ModeService, v1alpha1.ModeEndpoints} {
		for _, ports := range []int{10, 1000, 10000, 30000} {
			b.Run(fmt.Sprintf("mode=%s/ports=%d", mode, ports), func(b *testing.B) {
				snapshot := bigSnapshot(ports/10, 10, mode)
				b.ReportAllocs()
				for b.Loop() {
					if state, findings := calc.Calculate(snapshot, gateway.Host{}, cfg); len(state.Forwards) != ports || len(findings) != 0 {
						b.Fatalf("%d forwards, findings %v", len(state.Forwards), findings)
					}
				}
			})
		}
	}
}

func BenchmarkCalculateOneEndpoint(b *testing.B) {
	cfg := config.Default()
	cfg.AnyAddress = true
	for _, ports := range []int{10, 1000, 10000, 30000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			snapshot := bigSnapshot(ports/10, 10, v1alpha1.ModeEndpoints)
			snapshots := [2]objects.Snapshot{snapshot, lessOneEndpoint(snapshot)}
			calculator := calc.NewCalculator(cfg)
			calculator.Calculate(snapshot, gateway.Host{})
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				if state, findings := calculator.Calculate(snapshots[i%2], gateway.Host{}); len(state.Forwards) != ports || len(findings) != 0 {
					b.Fatalf("%d forwards, findings %v", len(state.Forwards), findings)
				}
			}
		})
	}
}

// bigSnapshot has Mappings, each to a Service of three endpoints. They share one address while it has enough ports.
func bigSnapshot(mappings, ports int, mode v1alpha1.Mode) objects.Snapshot {
	const most = 50000
	var s objects.Snapshot
	for i := range mappings {
		meta := metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("m%05d", i), CreationTimestamp: metav1.NewTime(time.Unix(int64(i), 0))}
		m := &v1alpha1.Mapping{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{fmt.Sprintf("198.51.100.%d", 10+i*ports/most)}, ServiceName: meta.Name, Mode: mode,
		}}
		service := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)}}
		meta.Labels = map[string]string{discoveryv1.LabelServiceName: meta.Name}
		slice := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}
		for e := range 3 {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 244+e, i/250, i%250+1)}})
		}
		for p := range ports {
			name, port := fmt.Sprintf("p%d", p), int32(8000+p)
			m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: int32(1 + i*ports%most + p), ServicePort: port})
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: name, Port: port, Protocol: corev1.ProtocolTCP})
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port})
		}
		s.Mappings = append(s.Mappings, m)
		s.Services = append(s.Services, service)
		s.EndpointSlices = append(s.EndpointSlices, slice)
	}
	return s
}
