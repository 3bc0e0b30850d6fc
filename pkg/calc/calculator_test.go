// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// world is a small cluster and a host with few addresses, ports and pods, so that Mappings often conflict.
type world struct {
	random *rand.Rand
	objects.Snapshot
	host gateway.Host
}

// step makes a few random changes. It replaces objects and never modifies them.
func (w *world) step() {
	w.Mappings, w.Services, w.EndpointSlices = slices.Clone(w.Mappings), slices.Clone(w.Services), slices.Clone(w.EndpointSlices)
	w.host.Listeners = slices.Clone(w.host.Listeners)
	for range 1 + w.random.IntN(3) {
		switch w.random.IntN(13) {
		case 0, 1:
			w.Mappings = change(w.random, w.Mappings, w.mapping(w.random.IntN(12)))
		case 2, 3:
			w.Services = change(w.random, w.Services, w.service(w.random.IntN(8)))
		case 4, 5, 6, 7:
			w.EndpointSlices = change(w.random, w.EndpointSlices, w.slice(w.random.IntN(16)))
		case 8:
			w.observe()
		case 9:
			shuffle(w.random, w.Mappings)
			shuffle(w.random, w.Services)
			shuffle(w.random, w.EndpointSlices)
		case 10:
			if n := len(w.Mappings); n > 0 {
				i := w.random.IntN(n)
				w.Mappings[i] = w.Mappings[i].DeepCopy() // another version with the same content, or another age
				if w.random.IntN(2) == 0 {
					w.Mappings[i].CreationTimestamp = w.meta("").CreationTimestamp
				}
			}
		case 12: // only listeners change
			links, sctp, others := w.host.Links, w.host.SCTP, w.host.Others
			w.observe()
			w.host.Links, w.host.SCTP, w.host.Others = links, sctp, others
		case 11:
			w.host.Unreachable = nil
			if w.random.IntN(2) == 0 {
				w.host.Unreachable = []netip.Addr{netip.MustParseAddr("10.10.0.11")}
			}
		}
	}
}

// change replaces the object of the same name, or removes it.
func change[T metav1.Object](random *rand.Rand, objects []T, object T) []T {
	i := slices.IndexFunc(objects, func(o T) bool { return o.GetName() == object.GetName() })
	switch {
	case i < 0:
		return append(objects, object)
	case random.IntN(4) == 0:
		return slices.Delete(objects, i, i+1)
	}
	objects[i] = object
	return objects
}

func (w *world) pick(of ...string) string { return of[w.random.IntN(len(of))] }

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(w.random.IntN(6)), 0))}
}

func (w *world) mapping(n int) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{ObjectMeta: w.meta(fmt.Sprintf("m%d", n)), Spec: v1alpha1.MappingSpec{
		ServiceName: fmt.Sprintf("s%d", w.random.IntN(8)), Mode: v1alpha1.ModeEndpoints, Egress: w.random.IntN(3) == 0,
		Addresses: []string{w.pick("198.51.100.10", "198.51.100.11", "203.0.113.9", "nonsense")},
	}}
	if w.random.IntN(3) == 0 {
		m.Spec.Mode = v1alpha1.ModeService
	}
	if w.random.IntN(3) == 0 {
		m.Spec.Addresses = append(m.Spec.Addresses, "2001:db8:1::10")
	}
	if w.random.IntN(4) == 0 {
		m.Spec.AddressesFrom = []v1alpha1.AddressSource{{Uplink: w.pick("eth1", "eth2", "eth9", "*")}}
		if w.random.IntN(2) == 0 {
			m.Spec.Addresses = nil
		}
	}
	if w.random.IntN(2) == 0 {
		m.Spec.Masquerade = ptr.To(w.random.IntN(2) == 0)
	}
	if w.random.IntN(3) == 0 {
		m.Spec.AllowedSources = []string{w.pick("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32")}
	}
	for range 1 + w.random.IntN(3) {
		p := v1alpha1.MappingPort{Port: int32(80 + w.random.IntN(12)), ServicePort: int32(80 + w.random.IntN(2))}
		if w.random.IntN(4) == 0 && m.Spec.Mode == v1alpha1.ModeEndpoints {
			p.EndPort = ptr.To(p.Port + int32(w.random.IntN(4)))
		}
		if w.random.IntN(4) == 0 {
			p.Protocol = v1alpha1.Protocol(w.pick("udp", "sctp"))
		}
		m.Spec.Ports = append(m.Spec.Ports, p)
	}
	return m
}

func (w *world) service(n int) *corev1.Service {
	s := &corev1.Service{ObjectMeta: w.meta(fmt.Sprintf("s%d", n)), Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.0.%d", 1+n)}}
	for port := range 1 + w.random.IntN(2) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", port), Port: int32(80 + port), Protocol: corev1.ProtocolTCP})
	}
	if w.random.IntN(8) > 0 {
		s.Spec.Selector = map[string]string{"app": s.Name}
	}
	if w.random.IntN(16) == 0 {
		s.Spec.ClusterIP = "192.0.2.1" // not inside
	}
	if w.random.IntN(3) == 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	return s
}

func (w *world) slice(n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: w.meta(fmt.Sprintf("e%d", n)), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", w.random.IntN(8))}
	if w.random.IntN(8) > 0 {
		s.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
	}
	for port := range 2 {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To(fmt.Sprintf("p%d", port)), Port: ptr.To(int32(8000 + port))})
	}
	for range w.random.IntN(4) {
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.0.%d", 1+w.random.IntN(20))}}
		if w.random.IntN(16) == 0 {
			e.Addresses[0] = w.pick("10.10.0.2", "10.10.0.11", "10.10.0.99", "8.8.8.8", "168.63.129.16")
		}
		if w.random.IntN(4) == 0 {
			e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(w.random.IntN(2) == 0), Terminating: ptr.To(true)}
		}
		if w.random.IntN(2) == 0 {
			e.NodeName = ptr.To(w.pick("node1", "node2"))
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// observe changes the uplinks of the host at random, with some of the addresses.
func (w *world) observe() {
	w.host.SCTP, w.host.Others.ServiceProxy = w.random.IntN(2) == 0, w.pick("", "kube-proxy (iptables)")
	w.host.Links = []gateway.Link{{Name: "eth0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24")}}}
	w.host.Routes = []gateway.Route{{
		Destination: netip.MustParsePrefix("10.244.0.0/16"), Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.11"),
	}}
	w.host.Listeners = nil
	for _, text := range []string{"0.0.0.0:85", "198.51.100.10:86", "203.0.113.9:87", "[::]:88"} {
		if a := netip.MustParseAddrPort(text); w.random.IntN(3) == 0 {
			w.host.Listeners = append(w.host.Listeners, gateway.Listener{Protocol: gateway.TCP, Address: a.Addr(), Port: a.Port()})
		}
	}
	for i, link := range [][]string{{"198.51.100.10/24", "2001:db8:1::10/64"}, {"198.51.100.11/24", "203.0.113.9/24"}} {
		l := gateway.Link{Name: fmt.Sprintf("eth%d", 1+i), Up: w.random.IntN(4) > 0}
		for _, a := range link {
			if w.random.IntN(4) > 0 {
				p := netip.MustParsePrefix(a)
				l.Addresses = append(l.Addresses, p)
				if w.random.IntN(6) == 0 {
					l.Dormant = append(l.Dormant, p.Addr())
				}
			}
		}
		w.host.Links = append(w.host.Links, l)
	}
}

// TestCalculatorCalculatesWhatCalculateDoes makes random changes to a small cluster, and compares the incremental result with a
// fresh one.
func TestCalculatorCalculatesWhatCalculateDoes(t *testing.T) {
	cfg := config.Default()
	cfg.Node = "node1"
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}, {Interface: "eth2"}}
	cfg.ServiceRoutes = []gateway.ServiceRoute{{
		Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: []netip.Addr{netip.MustParseAddr("10.10.0.11"), netip.MustParseAddr("10.10.0.12")},
	}}
	cfg.ReservedPorts = []config.ReservedPorts{{Protocol: gateway.TCP, Ports: gateway.PortRange{First: 90, Last: 91}}}
	cfg.MaxPortsPerNamespace, cfg.MaxRulesPerMapping, cfg.MaxRulesPerNamespace = 20, 24, 80
	reasons, refused := map[string]int{}, map[string]int{}
	forwards, egresses, local := 0, 0, 0
	for seed := range uint64(10) {
		w := &world{random: rand.New(rand.NewPCG(seed, 5))}
		w.observe()
		calculator := calc.NewCalculator(cfg)
		for step := range 400 {
			w.step()
			state, findings := calculator.Calculate(w.Snapshot, w.host)
			fresh := calc.NewCalculator(cfg)
			want, wantFindings := fresh.Calculate(w.Snapshot, w.host)
			if diff := cmp.Diff(fresh.Resolved(), calculator.Resolved(), addresses); diff != "" {
				t.Fatalf("seed %d, step %d: the addresses of uplinks differ from a fresh calculation (-want +got):\n%s", seed, step, diff)
			}
			if diff := cmp.Diff(want, state, addresses); diff != "" {
				t.Fatalf("seed %d, step %d: the State differs from a fresh calculation (-want +got):\n%s", seed, step, diff)
			}
			if diff := cmp.Diff(fresh.Refused(), calculator.Refused(), addresses); diff != "" {
				t.Fatalf("seed %d, step %d: what is refused differs from a fresh calculation (-want +got):\n%s", seed, step, diff)
			}
			for _, r := range fresh.Refused() {
				if refused[r.Reason]++; !slices.Contains(finding.RefusalReasons(), r.Reason) {
					t.Fatalf("%s is no reason of a refusal", r.Reason)
				}
			}
			if diff := cmp.Diff(wantFindings, findings); diff != "" {
				t.Fatalf("seed %d, step %d: the Findings differ from a fresh calculation (-want +got):\n%s", seed, step, diff)
			}
			forwards, egresses, local = forwards+len(state.Forwards), egresses+len(state.Egresses), local+len(state.LocalBackends)
			for _, f := range findings {
				reasons[f.Reason]++
			}
		}
	}
	for _, reason := range []string{
		finding.ReasonNotAnUplink, finding.ReasonNoUplinkAddress, finding.ReasonPortReserved, finding.ReasonTooManyPorts, finding.ReasonTooExpensive, finding.ReasonEndpointNotAllowed,
		finding.ReasonRemoteMasqueraded,
	} {
		if reasons[reason] < 100 {
			t.Errorf("%s was found %d times, too few for a meaningful test", reason, reasons[reason])
		}
	}
	for _, reason := range []string{finding.ReasonPortConflict, finding.ReasonPortReserved, finding.ReasonTooManyPorts, finding.ReasonTooExpensive} {
		if refused[reason] < 100 {
			t.Errorf("%d frontends were refused for %s, too few for a meaningful test", refused[reason], reason)
		}
	}
	if forwards < 10000 || egresses < 1000 || local < 500 || reasons[finding.ReasonPortConflict] < 1000 || reasons[finding.ReasonEgressConflict] < 100 || reasons[finding.ReasonNoReadyEndpoints] < 1000 {
		t.Errorf("%d forwards, %d egresses, %d pods of this node, findings %v: too few for a meaningful test", forwards, egresses, local, reasons)
	}
}

// TestCalculatorSharesWhatDidNotChange counts the Forwards that change with one endpoint.
func TestCalculatorSharesWhatDidNotChange(t *testing.T) {
	cfg := config.Default()
	cfg.AnyAddress = true
	calculator := calc.NewCalculator(cfg)
	snapshot := bigSnapshot(100, 10, v1alpha1.ModeEndpoints)
	before, _ := calculator.Calculate(snapshot, gateway.Host{})
	if again, _ := calculator.Calculate(snapshot, gateway.Host{}); &again.Forwards[0] != &before.Forwards[0] {
		t.Error("the Forwards changed without a change of objects")
	}
	elsewhere, _ := calculator.Calculate(snapshot, gateway.Host{Links: []gateway.Link{{Name: "docker0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}})
	if !slices.Equal(elsewhere.Forwards, before.Forwards) {
		t.Error("Forwards were replaced by equal ones, because an address came")
	}
	after, _ := calculator.Calculate(lessOneEndpoint(snapshot), gateway.Host{})
	others := 0
	for i := range after.Forwards {
		if after.Forwards[i] != before.Forwards[i] {
			others++
		}
	}
	if others != 10 || len(after.Forwards) != len(before.Forwards) {
		t.Errorf("%d of %d Forwards changed, want the 10 of one Mapping", others, len(after.Forwards))
	}
}

// TestARangeLosesOnlyWhatIsTaken lets an older Mapping take a port in the middle of a range, change, and leave.
func TestARangeLosesOnlyWhatIsTaken(t *testing.T) {
	cfg := config.Default()
	cfg.AnyAddress = true
	mapping := func(name string, born int64, port v1alpha1.MappingPort) *v1alpha1.Mapping {
		return &v1alpha1.Mapping{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(born, 0))},
			Spec: v1alpha1.MappingSpec{
				Addresses: []string{"198.51.100.10"}, ServiceName: "s", Mode: v1alpha1.ModeEndpoints, Ports: []v1alpha1.MappingPort{port},
			},
		}
	}
	pbx := mapping("pbx", 2, v1alpha1.MappingPort{Port: 16384, EndPort: ptr.To[int32](32767), ServicePort: 1000, Protocol: "udp"})
	snapshot := objects.Snapshot{
		Mappings: []*v1alpha1.Mapping{pbx},
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.10.0.21"}}},
		}},
	}
	calculator := calc.NewCalculator(cfg)
	see := func(want string, mappings ...*v1alpha1.Mapping) gateway.State {
		t.Helper()
		snapshot.Mappings = mappings
		state, findings := calculator.Calculate(snapshot, gateway.Host{})
		var got []string
		for _, f := range state.Forwards {
			if f.Owner == "default/pbx" {
				got = append(got, fmt.Sprintf("%s>%d", f.Ports, f.Backends[0].Port))
			}
		}
		for _, f := range findings {
			if f.Name == "pbx" {
				got = append(got, f.Message)
			}
		}
		if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		return state
	}
	game := mapping("game", 1, v1alpha1.MappingPort{Port: 19132, EndPort: ptr.To[int32](19132), Protocol: "udp"})
	see("16384-32767>1000", pbx)
	before := see("16384-19131>1000, 19133-32767>3749, 198.51.100.10:19132/udp belongs to Mapping default/game, which is older", game, pbx)
	other := mapping("other", 3, v1alpha1.MappingPort{Port: 80, EndPort: ptr.To[int32](80)})
	after := see("16384-19131>1000, 19133-32767>3749, 198.51.100.10:19132/udp belongs to Mapping default/game, which is older", game, pbx, other)
	for _, f := range before.Forwards {
		if !slices.Contains(after.Forwards, f) {
			t.Errorf("%s was replaced without a change", f.Frontend)
		}
	}
	see("16384-32766>1000, 198.51.100.10:32767/udp belongs to Mapping default/game, which is older",
		mapping("game", 1, v1alpha1.MappingPort{Port: 32767, EndPort: ptr.To[int32](32768), Protocol: "udp"}), pbx)
	see("16384-32767>1000", pbx)
}

// lessOneEndpoint returns the Snapshot without one endpoint; it shares everything else.
func lessOneEndpoint(s objects.Snapshot) objects.Snapshot {
	s.EndpointSlices = slices.Clone(s.EndpointSlices)
	i := len(s.EndpointSlices) / 2
	changed := s.EndpointSlices[i].DeepCopy()
	changed.Endpoints = changed.Endpoints[1:]
	s.EndpointSlices[i] = changed
	return s
}
