// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

var (
	before = metav1.NewTime(time.Unix(1000, 0))
	now    = metav1.NewTime(time.Unix(2000, 0))
)

// decide decides the status of a Mapping of generation 3 for the Service web with ports 80/tcp and 53/udp, after f has
// changed them.
func decide(f func(m *v1alpha1.Mapping, s *corev1.Service, facts *conditions.Facts)) v1alpha1.MappingStatus {
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 3, CreationTimestamp: now},
		Spec: v1alpha1.MappingSpec{
			Addresses: []string{"192.0.2.1"}, ServiceName: "web", Ports: []v1alpha1.MappingPort{{Port: 8080, ServicePort: 80}},
		},
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80}, {Port: 53, Protocol: corev1.ProtocolUDP}},
		},
	}
	facts := conditions.Facts{Mapping: m, Service: s}
	if f != nil {
		f(m, s, &facts)
	}
	return conditions.Decide(facts, now)
}

var fromEth1 = []v1alpha1.AddressSource{{Uplink: "eth1"}}

// says returns a condition on one line.
func says(status v1alpha1.MappingStatus, condition string) string {
	c := meta.FindStatusCondition(status.Conditions, condition)
	if c == nil {
		return "no such condition"
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

type (
	mapping = *v1alpha1.Mapping
	service = *corev1.Service
	facts   = *conditions.Facts
)

func TestAccepted(t *testing.T) {
	old := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "old", CreationTimestamp: before}}
	for _, test := range []struct {
		name   string
		change func(mapping, service, facts)
		want   string
	}{
		{"valid", nil, "True Accepted: valid, and in conflict with no other Mapping"},
		{"a setting without effect is reported", func(m mapping, _ service, _ facts) { m.Spec.Masquerade = new(bool) },
			"True Accepted: valid, and in conflict with no other Mapping; masquerade: false has no effect in mode service, " +
				"because the cluster replaces the client's address with a node's: use mode endpoints to keep it"},
		{"addresses of uplinks are decided about elsewhere", func(m mapping, _ service, _ facts) { m.Spec.AddressesFrom = fromEth1 },
			"True Accepted: valid, and no older Mapping names its addresses and ports; gateways check the addresses of uplinks"},
		{"client addresses are kept", func(m mapping, _ service, _ facts) {
			m.Spec.Masquerade, m.Spec.Mode = new(bool), v1alpha1.ModeEndpoints
		},
			"True Accepted: valid, and in conflict with no other Mapping"},
		{"invalid", func(m mapping, _ service, _ facts) { m.Spec.Ports[0].Port = 0 },
			"False Invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535"},
		{"many errors are shortened", func(m mapping, _ service, _ facts) { m.Spec.Addresses = []string{"a", "b", "c", "d", "e", "f"} },
			`False Invalid: spec.addresses[0]: Invalid value: "a": must be an IP address such as 192.0.2.10 or 2001:db8::10; ` +
				`spec.addresses[1]: Invalid value: "b": must be an IP address such as 192.0.2.10 or 2001:db8::10; ` +
				`spec.addresses[2]: Invalid value: "c": must be an IP address such as 192.0.2.10 or 2001:db8::10; ` +
				`spec.addresses[3]: Invalid value: "d": must be an IP address such as 192.0.2.10 or 2001:db8::10; and 2 more`},
		{"in conflict", func(m mapping, _ service, f facts) {
			f.Conflicts.Conflicts = []conflicts.Conflict{{Ports: firstPort(m), Winner: old}}
		}, "False PortConflict: 192.0.2.1:8080/tcp belongs to Mapping bank/old, which is older"},
		{"many conflicts are shortened", func(m mapping, _ service, f facts) {
			f.Conflicts.Conflicts, f.Conflicts.More = slices.Repeat([]conflicts.Conflict{{Ports: firstPort(m), Winner: old}}, 5), 7
		}, "False PortConflict: " + strings.Repeat("192.0.2.1:8080/tcp belongs to Mapping bank/old, which is older; ", 4) + "and 8 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, says(decide(test.change), v1alpha1.ConditionAccepted)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestResolvedRefs(t *testing.T) {
	endPort := int32(90)
	for _, test := range []struct {
		name   string
		change func(mapping, service, facts)
		want   string
	}{
		{"resolved", nil, "True ResolvedRefs: Service shop/web has all ports"},
		{"invalid", func(m mapping, _ service, _ facts) { m.Spec.Ports = nil }, "Unknown Invalid: the Mapping is invalid"},
		{"no Service", func(_ mapping, _ service, f facts) { f.Service = nil },
			"False ServiceNotFound: Service shop/web does not exist; connections are rejected"},
		{"ExternalName", func(_ mapping, s service, _ facts) { s.Spec.Type = corev1.ServiceTypeExternalName },
			"False ServiceExternalName: Service shop/web is of type ExternalName, which has no address in the cluster; connections are rejected"},
		{"headless", func(_ mapping, s service, _ facts) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
			"False ServiceHeadless: Service shop/web is headless (clusterIP: None), which requires mode endpoints; connections are rejected"},
		{"headless in mode endpoints", func(m mapping, s service, _ facts) {
			m.Spec.Mode, s.Spec.ClusterIP, s.Spec.ClusterIPs = v1alpha1.ModeEndpoints, "None", []string{"None"}
		}, "True ResolvedRefs: Service shop/web has all ports"},
		{"no clusterIP yet", func(_ mapping, s service, _ facts) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
			"False NoClusterIP: Service shop/web has no clusterIP yet; connections are rejected"},
		{"a port is missing, by number and by protocol", func(m mapping, _ service, _ facts) {
			m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: 80, Protocol: "UDP"}, v1alpha1.MappingPort{Port: 81}, v1alpha1.MappingPort{Port: 53, Protocol: "udp"})
		}, "False ServicePortNotFound: Service shop/web has no port 80/udp, 81/tcp, only 80/tcp, 53/udp; connections are rejected"},
		{"a Service without ports", func(_ mapping, s service, _ facts) { s.Spec.Ports = nil },
			"False ServicePortNotFound: Service shop/web has no port 80/tcp, only none; connections are rejected"},
		{"a range needs no port of the Service", func(m mapping, _ service, _ facts) {
			m.Spec.Mode, m.Spec.Ports = v1alpha1.ModeEndpoints, []v1alpha1.MappingPort{{Port: 81, EndPort: &endPort}}
		}, "True ResolvedRefs: Service shop/web has all ports"},
		{"another family", func(m mapping, _ service, _ facts) { m.Spec.Addresses = []string{"192.0.2.1", "2001:db8::1"} },
			"False IPFamilyNotSupported: Service shop/web has only IPv4 addresses, so 2001:db8::1 has no backends; connections are rejected"},
		{"another family of endpoints", func(m mapping, s service, _ facts) {
			m.Spec.Mode, s.Spec.IPFamilies = v1alpha1.ModeEndpoints, []corev1.IPFamily{corev1.IPv6Protocol}
		}, "False IPFamilyNotSupported: Service shop/web has only IPv6 addresses, so 192.0.2.1 has no backends; connections are rejected"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, says(decide(test.change), v1alpha1.ConditionResolvedRefs)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestReady(t *testing.T) {
	entry := func(name string, addresses ...string) v1alpha1.InstanceStatus {
		return v1alpha1.InstanceStatus{Name: name, ObservedGeneration: 3, Programmed: true, Ready: true, Addresses: addresses}
	}
	not := func(reason string, problems ...string) v1alpha1.InstanceStatus {
		e := entry("gw3", "192.0.2.1")
		e.Ready, e.Reason, e.Problems = false, reason, problems
		return e
	}
	resolved := func(name string, addresses ...string) v1alpha1.InstanceStatus {
		e := entry(name, addresses...)
		e.Uplinks = []string{"eth1"}
		return e
	}
	bare := not("NoUplinkAddress", "eth1 has none now")
	bare.Addresses = nil
	old := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "old", CreationTimestamp: before}}
	for _, test := range []struct {
		name      string
		instances []v1alpha1.InstanceStatus
		change    func(mapping, service, facts)
		want      string
		gateways  string
	}{
		{"all forward", []v1alpha1.InstanceStatus{entry("gw2", "192.0.2.1"), entry("gw1", "192.0.2.1")}, nil, "True Ready: forwarded by gw1, gw2", "gw1,gw2"},
		{"no gateway reports at all", nil, nil,
			"Unknown NotReported: no gateway reports status, so it is unknown whether one forwards for 192.0.2.1", ""},
		{"no gateway holds it", nil, func(_ mapping, _ service, f facts) { f.Reporting = true },
			"False AddressNotHeld: no reporting gateway holds 192.0.2.1, neither on a link nor in standbyAddresses", ""},
		{"one of its addresses is on no gateway", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1")},
			func(m mapping, _ service, _ facts) { m.Spec.Addresses = []string{"192.0.2.1", "192.0.2.2"} },
			"False AddressNotHeld: no reporting gateway holds 192.0.2.2, neither on a link nor in standbyAddresses", "gw1"},
		{"programmed to reject", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1"), not("NoReadyEndpoints", "no endpoint")}, nil,
			"False NoReadyEndpoints: gw3: no endpoint", "gw1"},
		{"rejects without a reason", []v1alpha1.InstanceStatus{not("")}, nil, "False NotReady: gw3", ""},
		{"no Service", []v1alpha1.InstanceStatus{not("ServiceNotFound", "no Service")}, func(_ mapping, _ service, f facts) { f.Service = nil },
			"False ServiceNotFound: Service shop/web does not exist; connections are rejected", ""},
		{"the wrong family", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1", "2001:db8::1")},
			func(m mapping, _ service, _ facts) { m.Spec.Addresses = []string{"192.0.2.1", "2001:db8::1"} },
			"False IPFamilyNotSupported: Service shop/web has only IPv4 addresses, so 2001:db8::1 has no backends; connections are rejected", "gw1"},
		{"a port of another Mapping", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1")}, func(m mapping, _ service, f facts) {
			f.Conflicts.Conflicts = []conflicts.Conflict{{Ports: firstPort(m), Winner: old}}
		}, "False PortConflict: 192.0.2.1:8080/tcp belongs to Mapping bank/old, which is older", "gw1"},
		{"not valid", nil, func(m mapping, _ service, _ facts) { m.Spec.Ports[0].Port = 0 },
			"False Invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535", ""},
		{"addresses of an uplink", []v1alpha1.InstanceStatus{resolved("gw2", "2001:db8::7", "192.0.2.7"), resolved("gw1", "192.0.2.7")},
			func(m mapping, _ service, _ facts) { m.Spec.Addresses, m.Spec.AddressesFrom = nil, fromEth1 },
			"True Ready: forwarded by gw1, gw2", "gw1,gw2"},
		{"an uplink that no gateway has", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1")},
			func(m mapping, _ service, _ facts) { m.Spec.AddressesFrom = fromEth1 },
			"False AddressNotHeld: no reporting gateway has a usable address on uplink eth1", "gw1"},
		{"an uplink without address", []v1alpha1.InstanceStatus{bare},
			func(m mapping, _ service, f facts) {
				m.Spec.Addresses, m.Spec.AddressesFrom, f.Reporting = nil, fromEth1, true
			},
			"False AddressNotHeld: no reporting gateway has a usable address on uplink eth1; gw3: eth1 has none now", ""},
		{"an uplink without address at one of two", []v1alpha1.InstanceStatus{resolved("gw1", "192.0.2.7"), bare},
			func(m mapping, _ service, _ facts) { m.Spec.Addresses, m.Spec.AddressesFrom = nil, fromEth1 },
			"False NoUplinkAddress: gw3: eth1 has none now", "gw1"},
		{"the last change is not seen yet", []v1alpha1.InstanceStatus{entry("gw1", "192.0.2.1")}, func(m mapping, _ service, _ facts) {
			m.Generation = 4
		}, "False Pending: the last change is not in effect yet on gw1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			status := decide(func(m mapping, s service, f facts) {
				m.Status.Instances = test.instances
				if test.change != nil {
					test.change(m, s, f)
				}
			})
			if diff := cmp.Diff(test.want, says(status, v1alpha1.ConditionReady)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if status.Gateways != test.gateways {
				t.Errorf("gateways %q, want %q", status.Gateways, test.gateways)
			}
		})
	}
}

func TestProgrammed(t *testing.T) {
	entry := func(name string, generation int64, programmed bool, addresses ...string) v1alpha1.InstanceStatus {
		return v1alpha1.InstanceStatus{Name: name, ObservedGeneration: generation, Programmed: programmed, Addresses: addresses}
	}
	failing := entry("gw3", 3, false, "192.0.2.1")
	failing.Problems = []string{"the kernel cannot translate sctp"}
	for _, test := range []struct {
		name      string
		instances []v1alpha1.InstanceStatus
		change    func(mapping, service, facts)
		want      string
	}{
		{"no reports", nil, nil, "Unknown NotReported: no gateway reports status, so it is unknown whether one forwards for 192.0.2.1"},
		{"a gateway without the address does not count", []v1alpha1.InstanceStatus{entry("gw1", 3, true)}, nil,
			"Unknown NotReported: no gateway reports status, so it is unknown whether one forwards for 192.0.2.1"},
		{"gateways report other addresses", nil, func(_ mapping, _ service, f facts) { f.Reporting = true },
			"False AddressNotHeld: no reporting gateway holds 192.0.2.1, neither on a link nor in standbyAddresses"},
		{"all have programmed it", []v1alpha1.InstanceStatus{entry("gw2", 3, true, "192.0.2.1"), entry("gw1", 3, true, "192.0.2.1")}, nil,
			"True Programmed: in effect on gw1, gw2"},
		{"one has not seen the last change", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1"), entry("gw2", 2, true, "192.0.2.1")}, nil,
			"False Pending: the last change is not in effect yet on gw2"},
		{"one cannot, whatever the others do", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1"), entry("gw2", 2, true, "192.0.2.1"), failing}, nil,
			"False NotProgrammed: gw3: the kernel cannot translate sctp"},
		{"an address on no gateway", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1")},
			func(m mapping, _ service, _ facts) { m.Spec.Addresses = []string{"192.0.2.1", "192.0.2.2"} },
			"True Programmed: in effect on gw1; no reporting gateway holds 192.0.2.2, neither on a link nor in standbyAddresses"},
		{"not valid", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1")},
			func(m mapping, _ service, _ facts) { m.Spec.Ports = nil }, "False NotAccepted: the Mapping is not accepted"},
		{"all ports lost", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1")},
			func(m mapping, _ service, f facts) {
				f.Conflicts = conflicts.Lost{Conflicts: []conflicts.Conflict{{Ports: firstPort(m), Winner: m}}, All: true}
			}, "False NotAccepted: the Mapping is not accepted"},
		{"some ports lost", []v1alpha1.InstanceStatus{entry("gw1", 3, true, "192.0.2.1")},
			func(m mapping, _ service, f facts) {
				m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: 80})
				f.Conflicts.Conflicts = []conflicts.Conflict{{Ports: firstPort(m), Winner: m}}
			}, "True Programmed: in effect on gw1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := says(decide(func(m mapping, s service, f facts) {
				m.Status.Instances = test.instances
				if test.change != nil {
					test.change(m, s, f)
				}
			}), v1alpha1.ConditionProgrammed)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	endPort := int32(20999)
	got := decide(func(m mapping, _ service, _ facts) {
		m.Spec.Mode, m.Spec.Addresses = v1alpha1.ModeEndpoints, []string{"192.0.2.1", "192.0.2.2"}
		m.Spec.Ports = []v1alpha1.MappingPort{{Port: 443}, {Port: 8081, ServicePort: 8080, Protocol: "UDP"}, {Port: 20000, EndPort: &endPort, Protocol: "sctp"}, {Port: 5}}
	})
	if want := "192.0.2.1,192.0.2.2"; got.Addresses != want {
		t.Errorf("addresses %q, want %q", got.Addresses, want)
	}
	if want := "443/tcp,8081->8080/udp,20000-20999/sctp + 1 more..."; got.Ports != want {
		t.Errorf("ports %q, want %q", got.Ports, want)
	}
	if got.ServiceVIP != "" {
		t.Errorf("serviceVIP %q in mode endpoints, want none", got.ServiceVIP)
	}
	if got := decide(nil); got.ServiceVIP != "10.96.0.1" {
		t.Errorf("serviceVIP %q, want 10.96.0.1", got.ServiceVIP)
	}
}

// TestColumnOfAddresses proves that the column shows the addresses that gateways serve, and the uplinks that no gateway serves.
func TestColumnOfAddresses(t *testing.T) {
	for _, test := range []struct {
		name      string
		addresses []string
		instances []v1alpha1.InstanceStatus
		want      string
	}{
		{"not resolved", nil, nil, "uplink:*,uplink:eth1"},
		{"not resolved, and a named one", []string{"192.0.2.1"}, nil, "192.0.2.1,uplink:*,uplink:eth1"},
		{"resolved on two gateways", []string{"192.0.2.1"}, []v1alpha1.InstanceStatus{
			{Name: "gw2", Addresses: []string{"198.51.100.9", "192.0.2.1"}, Uplinks: []string{"*"}},
			{Name: "gw1", Addresses: []string{"198.51.100.10"}, Uplinks: []string{"*", "eth1"}},
		}, "192.0.2.1,198.51.100.9,198.51.100.10"},
		{"one is not resolved", nil, []v1alpha1.InstanceStatus{{Name: "gw1", Addresses: []string{"2001:db8::7"}, Uplinks: []string{"*"}}},
			"2001:db8::7,uplink:eth1"},
	} {
		got := decide(func(m mapping, _ service, _ facts) {
			m.Spec.Addresses, m.Spec.AddressesFrom = test.addresses, []v1alpha1.AddressSource{{Uplink: "eth1"}, {Uplink: "*"}}
			m.Status.Instances = test.instances
		})
		if got.Addresses != test.want {
			t.Errorf("%s: %q, want %q", test.name, got.Addresses, test.want)
		}
	}
}

// TestTransitions proves that an unchanged condition keeps its transition time.
func TestTransitions(t *testing.T) {
	first := decide(nil)
	again := decide(func(m mapping, _ service, _ facts) {
		first.DeepCopyInto(&m.Status)
		for i := range m.Status.Conditions {
			m.Status.Conditions[i].LastTransitionTime = before
		}
	})
	for _, c := range again.Conditions {
		if !c.LastTransitionTime.Equal(&before) || c.ObservedGeneration != 3 {
			t.Errorf("%s: since %v, generation %d; want the previous time and generation 3", c.Type, c.LastTransitionTime, c.ObservedGeneration)
		}
	}
	if !conditions.Holds(again, again) {
		t.Error("a status does not hold itself")
	}
	changed := decide(func(m mapping, _ service, f facts) {
		again.DeepCopyInto(&m.Status)
		f.Service = nil
	})
	if conditions.Holds(again, changed) {
		t.Error("the old status holds the decision about another Service")
	}
	for _, c := range changed.Conditions {
		want := before
		if c.Type == v1alpha1.ConditionResolvedRefs || c.Type == v1alpha1.ConditionReady {
			want = now
		}
		if !c.LastTransitionTime.Equal(&want) {
			t.Errorf("%s: since %v, want %v", c.Type, c.LastTransitionTime, want)
		}
	}
}

func TestHoldsLooksAtEverything(t *testing.T) {
	decided := decide(nil)
	for name, change := range map[string]func(*v1alpha1.MappingStatus){
		"addresses":                func(s *v1alpha1.MappingStatus) { s.Addresses = "" },
		"ports":                    func(s *v1alpha1.MappingStatus) { s.Ports = "" },
		"serviceVIP":               func(s *v1alpha1.MappingStatus) { s.ServiceVIP = "" },
		"endpoints":                func(s *v1alpha1.MappingStatus) { s.Endpoints = new(int32) },
		"gateways":                 func(s *v1alpha1.MappingStatus) { s.Gateways = "gw1" },
		"a condition's generation": func(s *v1alpha1.MappingStatus) { s.Conditions[0].ObservedGeneration = 2 },
		"a missing condition":      func(s *v1alpha1.MappingStatus) { s.Conditions = s.Conditions[:3] },
	} {
		have := decided.DeepCopy()
		change(have)
		if conditions.Holds(*have, decided) {
			t.Errorf("%s: holds although it differs", name)
		}
	}
	have := decided.DeepCopy()
	have.Instances = []v1alpha1.InstanceStatus{{Name: "gw1"}}
	have.Conditions = append(have.Conditions, metav1.Condition{Type: "SomebodyElses"})
	if !conditions.Holds(*have, decided) {
		t.Error("fields of other writers change the result of Holds")
	}
}

// firstPort returns the first port that a Mapping asks for.
func firstPort(m *v1alpha1.Mapping) conflicts.Ports {
	r := conflicts.Requests(m)[0]
	return conflicts.Ports{Address: r.Address, Protocol: r.Protocol, First: r.First, Last: r.Last}
}
