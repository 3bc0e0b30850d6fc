// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// facts returns finding.Report for a host that holds 192.0.2.1 and 2001:db8::1, and Mappings with these names and addresses.
func facts(mappings map[string][]string) finding.Report {
	f := finding.Report{Host: gateway.Host{Links: []gateway.Link{{Name: "eth0", Addresses: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"),
	}}}}}
	for name, addresses := range mappings {
		f.Snapshot.Mappings = append(f.Snapshot.Mappings, &v1alpha1.Mapping{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-of-" + name), Generation: 3},
			Spec:       v1alpha1.MappingSpec{Addresses: addresses},
		})
	}
	return f
}

func TestEntries(t *testing.T) {
	found := func(reason string) finding.Finding {
		return finding.Finding{Namespace: "shop", Name: "web", Reason: reason, Field: "spec", Message: "because"}
	}
	good := v1alpha1.InstanceStatus{Name: "gw1", Addresses: []string{"192.0.2.1"}, ObservedGeneration: 3, Programmed: true, Ready: true}
	with := func(change func(*v1alpha1.InstanceStatus)) *v1alpha1.InstanceStatus {
		e := good.DeepCopy()
		change(e)
		return e
	}
	bad := func(problem string) *v1alpha1.InstanceStatus {
		return with(func(e *v1alpha1.InstanceStatus) {
			e.Programmed, e.Ready, e.Problems = false, false, []string{problem}
			e.Reason = conditions.ReasonNotProgrammed
			if _, reason, ok := strings.Cut(strings.TrimSuffix(problem, ")"), " ("); ok {
				e.Reason = reason
			}
		})
	}
	// part is the entry of a Mapping that is partly in effect; partly returns such facts.
	part := func(problem string) *v1alpha1.InstanceStatus {
		e := bad(problem)
		e.Programmed = true
		return e
	}
	partly := func(f finding.Report, found finding.Finding) finding.Report {
		f.Findings, f.State.Forwards = []finding.Finding{found}, []*gateway.Forward{{Owner: "shop/web"}}
		return f
	}
	for _, test := range []struct {
		name      string
		addresses []string
		change    func(*finding.Report)
		want      *v1alpha1.InstanceStatus // nil if this gateway has nothing to report
	}{
		{"one of its addresses", []string{"192.0.2.1", "192.0.2.9"}, nil, &good},
		{"none of its addresses", []string{"192.0.2.9"}, nil, nil},
		{"an address in another spelling", []string{"2001:DB8:0::1"}, nil, with(func(e *v1alpha1.InstanceStatus) { e.Addresses = []string{"2001:DB8:0::1"} })},
		{"a standby address", []string{"192.0.2.7"}, nil, with(func(e *v1alpha1.InstanceStatus) { e.Addresses = []string{"192.0.2.7"} })},
		{"the endpoints of either family", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.State.Forwards = []*gateway.Forward{
				{Owner: "shop/web", Direct: true, Backends: make([]gateway.Backend, 2)},
				{Owner: "shop/web", Direct: true, Backends: make([]gateway.Backend, 3)},
				{Owner: "shop/other", Direct: true, Backends: make([]gateway.Backend, 9)},
			}
		}, with(func(e *v1alpha1.InstanceStatus) { e.Endpoints = 3 })},
		{"a ClusterIP is no endpoint", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.State.Forwards = []*gateway.Forward{{Owner: "shop/web", Backends: make([]gateway.Backend, 1)}}
		}, &good},
		{"a finding about another gateway", []string{"192.0.2.1"}, func(f *finding.Report) {
			known := found(finding.ReasonPortConflict)
			known.Condition = v1alpha1.ConditionAccepted
			f.Findings = []finding.Finding{found(finding.ReasonAddressNotOnHost), found(finding.ReasonNotAnUplink), known}
		}, &good},
		{"a conflict on this host only", []string{"192.0.2.1"}, func(f *finding.Report) {
			local := found(finding.ReasonPortConflict)
			local.Condition = v1alpha1.ConditionProgrammed
			f.Findings = []finding.Finding{local}
		}, with(func(e *v1alpha1.InstanceStatus) {
			e.Ready, e.Reason, e.Problems = false, finding.ReasonPortConflict, []string{"spec: because (PortConflict)"}
		})},
		{"addresses of uplinks", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.Resolved = map[key]finding.Resolved{
				{Namespace: "shop", Name: "web"}:   {Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, Uplinks: []string{"eth0", "*"}},
				{Namespace: "shop", Name: "other"}: {Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}, Uplinks: []string{"eth0"}},
			}
		}, with(func(e *v1alpha1.InstanceStatus) {
			e.Addresses, e.Uplinks = []string{"192.0.2.1", "2001:db8::1"}, []string{"eth0", "*"}
		})},
		{"an uplink without address", nil, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonNoUplinkAddress)} },
			with(func(e *v1alpha1.InstanceStatus) {
				e.Addresses, e.Ready, e.Reason, e.Problems = nil, false, finding.ReasonNoUplinkAddress, []string{"spec: because (NoUplinkAddress)"}
			})},
		{"too many addresses", []string{"192.0.2.1"}, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonTooManyAddresses)} },
			bad("spec: because (TooManyAddresses)")},
		{"another gateway's uplink", nil, func(f *finding.Report) {
			f.Findings = []finding.Finding{found(finding.ReasonNotAnUplink), found(finding.ReasonServiceNotFound)}
		}, nil},
		{"of another Mapping", []string{"192.0.2.1"}, func(f *finding.Report) {
			other := found(finding.ReasonTooManyPorts)
			other.Name = "other"
			f.Findings = []finding.Finding{other, {Reason: finding.ReasonLinkDown}}
		}, &good},
		{"in effect, but not as intended", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.Findings = []finding.Finding{found(finding.ReasonNoReadyEndpoints)}
		}, with(func(e *v1alpha1.InstanceStatus) {
			e.Ready, e.Reason, e.Problems = false, finding.ReasonNoReadyEndpoints, []string{"spec: because (NoReadyEndpoints)"}
		})},
		{"the first reason counts", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.Findings = []finding.Finding{found(finding.ReasonEgressConflict), found(finding.ReasonServiceNotFound), found(finding.ReasonNoSources)}
		}, with(func(e *v1alpha1.InstanceStatus) {
			e.Ready, e.Reason = false, finding.ReasonServiceNotFound
			e.Problems = []string{"spec: because (EgressConflict)", "spec: because (ServiceNotFound)", "spec: because (NoSources)"}
		})},
		{"findings that stop no connection", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.Findings = []finding.Finding{found(finding.ReasonMasqueradeIgnored)}
		}, with(func(e *v1alpha1.InstanceStatus) { e.Problems = []string{"spec: because (MasqueradeIgnored)"} })},
		{"too many ports", []string{"192.0.2.1"}, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonTooManyPorts)} },
			bad("spec: because (TooManyPorts)")},
		{"no IPv6", []string{"192.0.2.1"}, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonIPv6Disabled)} },
			bad("spec: because (IPv6Disabled)")},
		{"no SCTP", []string{"192.0.2.1"}, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonSCTPNotSupported)} },
			bad("spec: because (SCTPNotSupported)")},
		{"all of its ports are the host's", []string{"192.0.2.1"}, func(f *finding.Report) {
			f.Findings = []finding.Finding{found(finding.ReasonPortReserved)}
			f.State.Forwards = []*gateway.Forward{{Owner: "shop/other"}}
		}, bad("spec: because (PortReserved)")},
		{"a port of a range is the host's", []string{"192.0.2.1"}, func(f *finding.Report) { *f = partly(*f, found(finding.ReasonPortReserved)) },
			part("spec: because (PortReserved)")},
		{"one of its addresses is not served", []string{"192.0.2.1"}, func(f *finding.Report) { *f = partly(*f, found(finding.ReasonAddressNotServed)) },
			part("spec: because (AddressNotServed)")},
		{"IPv4 alone", []string{"192.0.2.1"}, func(f *finding.Report) { *f = partly(*f, found(finding.ReasonIPv6Disabled)) },
			part("spec: because (IPv6Disabled)")},
		{"all but SCTP", []string{"192.0.2.1"}, func(f *finding.Report) { *f = partly(*f, found(finding.ReasonSCTPNotSupported)) },
			part("spec: because (SCTPNotSupported)")},
		{"rules of one family are refused", []string{"192.0.2.1"}, func(f *finding.Report) { *f = partly(*f, found(finding.ReasonRuleRefused)) },
			bad("spec: because (RuleRefused)")},
		{"a rule that is refused", []string{"192.0.2.1"}, func(f *finding.Report) { f.Findings = []finding.Finding{found(finding.ReasonRuleRefused)} },
			bad("spec: because (RuleRefused)")},
		{"an apply that failed", []string{"192.0.2.1"}, func(f *finding.Report) { f.Err = errors.New("no iptables") },
			bad("could not be programmed: no iptables")},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := facts(map[string][]string{"web": test.addresses})
			if test.change != nil {
				test.change(&f)
			}
			want := map[key]Entry{}
			if test.want != nil {
				want[key{Namespace: "shop", Name: "web"}] = Entry{"uid-of-web", *test.want}
			}
			got := entries("gw1", []netip.Addr{netip.MustParseAddr("192.0.2.7")}, f)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestAnEntryFits has more problems than a status holds.
func TestAnEntryFits(t *testing.T) {
	f := facts(map[string][]string{"web": {"192.0.2.1"}})
	for range 2 * v1alpha1.MaxProblems {
		f.Findings = append(f.Findings, finding.Finding{Namespace: "shop", Name: "web", Reason: finding.ReasonNoSources,
			Message: strings.Repeat("ä", v1alpha1.MaxProblemLength)})
	}
	got := entries("gw1", nil, f)[key{Namespace: "shop", Name: "web"}]
	if len(got.Problems) != v1alpha1.MaxProblems {
		t.Errorf("%d problems, want %d", len(got.Problems), v1alpha1.MaxProblems)
	}
	for _, p := range got.Problems {
		if len(p) > v1alpha1.MaxProblemLength || !strings.HasSuffix(p, "ä...") {
			t.Errorf("a problem of %d bytes: %.20q", len(p), p)
		}
	}
}

// TestEqualLooksAtEveryField checks all fields, including future ones.
func TestEqualLooksAtEveryField(t *testing.T) {
	full := Entry{"uid", v1alpha1.InstanceStatus{
		Name: "gw1", Addresses: []string{"192.0.2.1"}, Uplinks: []string{"eth0"}, Endpoints: 1, ObservedGeneration: 1, Programmed: true, Ready: true, Reason: "Why", Problems: []string{"one"},
	}}
	if !full.equal(full) || !(Entry{}).equal(Entry{}) {
		t.Error("an entry does not equal itself")
	}
	if full.equal(Entry{"other", full.InstanceStatus}) {
		t.Error("the UID is not compared")
	}
	for i := range reflect.TypeFor[v1alpha1.InstanceStatus]().NumField() {
		less := full
		field := reflect.ValueOf(&less.InstanceStatus).Elem().Field(i)
		if field.IsZero() {
			t.Errorf("%s is not in this test", reflect.TypeFor[v1alpha1.InstanceStatus]().Field(i).Name)
		}
		field.SetZero()
		if full.equal(less) {
			t.Errorf("%s is not compared", reflect.TypeFor[v1alpha1.InstanceStatus]().Field(i).Name)
		}
	}
}
