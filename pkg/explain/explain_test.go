// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
)

var own = gateway.DefaultOwnership()

// network routes as a gateway with two uplinks does: pods are behind eth0, and marks select an uplink.
type network struct {
	// lost are the destinations without a route, and unmarked ignores marks as a host without our `ip rule` entries does.
	lost     string
	unmarked bool
}

func (n network) Route(destination netip.Addr, mark uint32) (Hop, error) {
	switch {
	case destination.String() == n.lost:
		return Hop{}, errors.New("network is unreachable")
	case netip.MustParsePrefix("10.0.0.0/8").Contains(destination):
		return Hop{"eth0", netip.MustParseAddr("10.0.0.12")}, nil
	case destination.Is6():
		return Hop{"eth1", netip.MustParseAddr("2001:db8:1::1")}, nil
	case destination == netip.MustParseAddr("198.51.100.10"), destination == netip.MustParseAddr("203.0.113.10"):
		return Hop{}, nil
	case mark&own.UplinkMask() == own.Uplink(1).Value && !n.unmarked:
		return Hop{"eth1", netip.MustParseAddr("198.51.100.1")}, nil
	}
	return Hop{"eth2", netip.MustParseAddr("203.0.113.1")}, nil
}

func host() gateway.Host {
	link := func(name string, addresses ...string) gateway.Link {
		return gateway.Link{Name: name, Up: true, Addresses: gatewaytest.Prefixes(addresses...)}
	}
	return gateway.Host{
		Links: []gateway.Link{
			link("eth0", "10.0.0.1/24"), link("eth1", "198.51.100.10/24", "2001:db8:1::10/64"), link("eth2", "203.0.113.10/24"),
		},
		Listeners: []gateway.Listener{{Protocol: gateway.TCP, Address: netip.MustParseAddr("0.0.0.0"), Port: 22}},
	}
}

func mapping(name, address string, ports ...int32) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.MappingSpec{Addresses: []string{address}}}
	for _, port := range ports {
		m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: port})
	}
	return m
}

func report() finding.Report {
	forward := func(address string, port uint16, change func(*gateway.Forward), backends ...string) *gateway.Forward {
		f := gatewaytest.Forward(netip.MustParseAddr(address), gateway.TCP, port, port, gatewaytest.Backends(backends...)...)
		f.Owner, f.Service, f.Direct = "shop/db", "shop/postgres", true
		if change != nil {
			change(f)
		}
		return f
	}
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("10.244.%d.%d:80", 1+i/100, i%100))
	}
	listed := func(f *gateway.Forward) { f.Sources = gatewaytest.Prefixes("192.0.2.0/24") }
	return finding.Report{
		Host: host(),
		State: gateway.State{
			Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}},
			Egresses: []gateway.Egress{
				{Address: netip.MustParseAddr("203.0.113.10"), Uplink: 2, Owner: "shop/mail", Sources: gatewaytest.Addrs("10.244.1.9")},
			},
			Forwards: gatewaytest.Sort([]*gateway.Forward{
				forward("198.51.100.10", 5432, nil, "10.244.1.5:5432", "10.244.2.7:5432"),
				forward("198.51.100.10", 5433, listed, "10.244.1.5:5432"),
				forward("198.51.100.10", 5434, nil),
				forward("198.51.100.10", 5436, nil, many...),
				forward("198.51.100.10", 5435, func(f *gateway.Forward) { f.Masquerade, f.Direct = false, false }, "10.96.1.1:80"),
				forward("2001:db8:1::10", 5433, func(f *gateway.Forward) { f.SourcesDeny = true }, "[fd00:244::5]:5432"),
			}),
		},
		Snapshot: objects.Snapshot{Mappings: []*v1alpha1.Mapping{
			mapping("db", "198.51.100.10", 5432, 5433, 5434, 5435, 5436), mapping("late", "198.51.100.10", 6000), mapping("moved", "192.0.2.77", 80),
		}},
		Findings: []finding.Finding{
			{
				Namespace: "shop", Name: "db", Field: "spec.ports[2]", Reason: finding.ReasonNoReadyEndpoints,
				Message: "Service shop/postgres has no ready endpoints",
			},
			{
				Namespace: "shop", Name: "late", Field: "spec.ports[0]", Reason: finding.ReasonPortConflict,
				Message: "Mapping shop/early has the port and is older",
			},
			{
				Namespace: "shop", Name: "moved", Field: "spec.addresses[0]", Reason: finding.ReasonAddressNotOnHost,
				Message: "192.0.2.77 is not on this host",
			},
		},
	}
}

func TestExplain(t *testing.T) {
	const client = "203.0.113.7"
	for _, tc := range []struct {
		name, source, to string
		network          network
		// inKernel, if set, changes the state whose rules are in the kernel.
		inKernel func(*gateway.State)
		verdict  Verdict
		sentence string
		advice   string
	}{
		{
			name: "forwarded", source: client, to: "198.51.100.10:5432", verdict: Forwarded,
			sentence: "203.0.113.7 reaches 198.51.100.10:5432/tcp: Mapping shop/db forwards it to Service shop/postgres.",
		},
		{
			name: "an allowed source", source: "192.0.2.9", to: "198.51.100.10:5433", verdict: Forwarded,
			sentence: "192.0.2.9 reaches 198.51.100.10:5433/tcp: Mapping shop/db forwards it to Service shop/postgres.",
		},
		{
			name: "a source that is not allowed", source: client, to: "198.51.100.10:5433", verdict: Dropped,
			sentence: "203.0.113.7 gets no answer from 198.51.100.10:5433/tcp: Mapping shop/db does not allow this source.",
			advice:   "add 203.0.113.7/32, or a network with it, to spec.allowedSources of Mapping shop/db",
		},
		{
			name: "no source of the family", source: "2001:db8::7", to: "[2001:db8:1::10]:5433", verdict: Dropped,
			sentence: "2001:db8::7 gets no answer from [2001:db8:1::10]:5433/tcp: Mapping shop/db does not allow this source.",
			advice:   "add 2001:db8::7/128, or a network with it, to spec.allowedSources of Mapping shop/db, which has no network of this family",
		},
		{
			name: "no endpoints", source: client, to: "198.51.100.10:5434", verdict: Rejected,
			sentence: "203.0.113.7 is refused by 198.51.100.10:5434/tcp: Service shop/postgres has no endpoint that can be used.",
			advice:   "spec.ports[2]: Service shop/postgres has no ready endpoints",
		},
		{
			name: "a port that a Mapping lost", source: client, to: "198.51.100.10:6000", verdict: Local,
			sentence: "203.0.113.7 does not reach a pod by 198.51.100.10:6000/tcp: Mapping shop/late asks for 198.51.100.10:6000/tcp, but does not have it.",
			advice:   "spec.ports[0]: Mapping shop/early has the port and is older",
		},
		{
			name: "a port of the host", source: client, to: "198.51.100.10:22", verdict: Local,
			sentence: "203.0.113.7 does not reach a pod by 198.51.100.10:22/tcp: a program on this gateway listens on 0.0.0.0:22/tcp, and no Mapping has the port.",
		},
		{
			name: "a port without a Mapping", source: client, to: "198.51.100.10:7", verdict: Local,
			sentence: "203.0.113.7 does not reach a pod by 198.51.100.10:7/tcp: no Mapping has 198.51.100.10:7/tcp.",
			advice:   "the address has 198.51.100.10:5432/tcp, 198.51.100.10:5433/tcp, 198.51.100.10:5434/tcp, 198.51.100.10:5435/tcp, 198.51.100.10:5436/tcp",
		},
		{
			name: "an address of another gateway", source: client, to: "192.0.2.77:80", verdict: Elsewhere,
			sentence: "203.0.113.7 does not reach 192.0.2.77:80/tcp by this gateway: Mapping shop/moved asks for it, but 192.0.2.77 is no address of this gateway.",
			advice:   "spec.addresses[0]: 192.0.2.77 is not on this host",
		},
		{
			name: "an unknown address", source: client, to: "192.0.2.78:80", verdict: Elsewhere,
			sentence: "203.0.113.7 does not reach 192.0.2.78:80/tcp by this gateway: 192.0.2.78 is no address of this gateway, so the packets do not arrive here.",
			advice:   "the addresses of its uplinks are 198.51.100.10, 203.0.113.10",
		},
		{
			name: "no route to the endpoints", source: client, to: "198.51.100.10:5432", network: network{lost: "10.244.2.7"}, verdict: Dropped,
			sentence: "203.0.113.7 gets no answer from 198.51.100.10:5432/tcp: Mapping shop/db forwards it, but the kernel has no route to 10.244.2.7.",
			advice:   "add a route to the cluster's networks, for example by serviceRoutes in the config",
		},
		{
			name: "replies by another uplink", source: client, to: "198.51.100.10:5432", network: network{unmarked: true}, verdict: Astray,
			sentence: "203.0.113.7 gets no reply from 198.51.100.10:5432/tcp: Mapping shop/db forwards it, but replies leave by eth2, next hop 203.0.113.1 instead of by eth1.",
			advice:   "compare 'ip rule' and the routing table of the uplink with the config; " + restore,
		},
		{
			name: "rules that are not in effect", source: client, to: "198.51.100.10:5432", verdict: Local,
			inKernel: func(s *gateway.State) { s.Forwards = nil },
			sentence: "203.0.113.7 does not reach a pod by 198.51.100.10:5432/tcp: Mapping shop/db should forward it, but the rules that are in the kernel do not.",
			advice:   restore,
		},
		{
			name: "a pod that leaves", source: "10.244.1.9", to: "192.0.2.200:25", verdict: Passed,
			sentence: "10.244.1.9 reaches 192.0.2.200:25/tcp: it leaves with the external address 203.0.113.10 of Mapping shop/mail.",
		},
		{
			name: "a pod of a host that forwards only for Mappings", source: "10.244.1.8", to: "192.0.2.200:25", verdict: Dropped,
			inKernel: func(s *gateway.State) { s.ForwardingOwned = gateway.Families{IPv4: true} },
			sentence: "10.244.1.8 gets no answer from 192.0.2.200:25/tcp: the rules do not let it out.",
			advice:   "a Mapping with egress gives pods an external address",
		},
		{
			name: "a pod without an egress", source: "10.244.1.8", to: "192.0.2.200:25", verdict: Passed,
			sentence: "10.244.1.8 reaches 192.0.2.200:25/tcp: it crosses this host without a Mapping.",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := report()
			flow := Flow{Protocol: gateway.TCP, Source: netip.MustParseAddr(tc.source), Destination: netip.MustParseAddrPort(tc.to)}
			inKernel := r.State
			if tc.inKernel != nil {
				tc.inKernel(&inKernel)
			}
			family := gateway.IPv4
			if flow.Source.Is6() {
				family = gateway.IPv6
			}
			tracer := ruleset.NewTracer(rules.Build(inKernel, family, own), own.TableName(), rules.BridgedMark(own))
			got := Explain(flow, Facts{Report: r, Tracer: tracer, Router: tc.network})
			want := [3]string{string(tc.verdict), tc.sentence, tc.advice}
			if diff := cmp.Diff(want, [3]string{string(got.Verdict), got.Sentence, got.Advice}); diff != "" {
				t.Errorf("(-want +got)\n%s\nsteps: %+v\nrules:\n%s", diff, got.Steps, strings.Join(got.Rules, "\n"))
			}
		})
	}
}

// TestSteps expects the stations of a forwarded packet, by name.
func TestSteps(t *testing.T) {
	for _, tc := range []struct {
		name, to string
		want     []Step
		change   func(*gateway.State)
	}{
		{"endpoints", "198.51.100.10:5432", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5432/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "10.244.1.5:5432 (50 %), 10.244.2.7:5432 (50 %)"},
			{"masquerade", "the endpoint sees an address of this gateway as the source"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, nil},
		{"more endpoints than random choices that are followed", "198.51.100.10:5436", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5436/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "10.244.1.0:80, 10.244.1.1:80, 10.244.1.2:80, 10.244.1.3:80, 10.244.1.4:80 and 295 more"},
			{"masquerade", "the endpoint sees an address of this gateway as the source"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, nil},
		{"a ClusterIP with the client's address", "198.51.100.10:5435", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5435/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "the ClusterIP 10.96.1.1:80 (100 %)"},
			{"masquerade", "none: the endpoint sees 203.0.113.7"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, nil},
		{"masquerade addresses", "198.51.100.10:5432", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5432/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "10.244.1.5:5432 (50 %), 10.244.2.7:5432 (50 %)"},
			{"masquerade", "the endpoint sees 10.0.0.100 or 10.0.0.101 (masqueradeAddresses) as the source"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, func(s *gateway.State) {
			s.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: gatewaytest.Addrs("10.0.0.100", "10.0.0.101")}}
		}},
		{"masquerade addresses of another link", "198.51.100.10:5432", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5432/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "10.244.1.5:5432 (50 %), 10.244.2.7:5432 (50 %)"},
			{"masquerade", "the endpoint sees an address of this gateway as the source"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, func(s *gateway.State) {
			s.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth3", Addresses: gatewaytest.Addrs("10.0.0.100")}}
		}},
		{"a node with one of two pods", "198.51.100.10:5432", []Step{
			{"arrives", "by eth1, uplink 1"},
			{"mapping", "shop/db forwards 198.51.100.10:5432/tcp to Service shop/postgres"},
			{"source", "allowed: all sources are"},
			{"backends", "10.244.1.5:5432 (50 %), 10.244.2.7:5432 (50 %)"},
			{"masquerade", "none for 10.244.1.5:5432, which sees 203.0.113.7; an endpoint on another node sees an address of this gateway"},
			{"leaves", "by eth0, next hop 10.0.0.12"},
			{"replies", "by eth1, next hop 198.51.100.1"},
		}, func(s *gateway.State) {
			s.MasqueradeRemote, s.LocalBackends = true, gatewaytest.Addrs("10.244.1.5")
			for i, f := range s.Forwards {
				s.Forwards[i] = gatewaytest.With(f, func(f *gateway.Forward) { f.Masquerade = false })
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := report()
			if tc.change != nil {
				tc.change(&r.State)
			}
			flow := Flow{Protocol: gateway.TCP, Source: netip.MustParseAddr("203.0.113.7"), Destination: netip.MustParseAddrPort(tc.to)}
			tracer := ruleset.NewTracer(rules.Build(r.State, gateway.IPv4, own), own.TableName(), rules.BridgedMark(own))
			got := Explain(flow, Facts{Report: r, Tracer: tracer, Router: network{}})
			if diff := cmp.Diff(tc.want, got.Steps); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(got.Rules) == 0 {
				t.Error("no rules of the kernel")
			}
		})
	}
}
