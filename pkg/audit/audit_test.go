// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/audit"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

var address = netip.MustParseAddr("198.51.100.10")

// with returns a report with these Mappings, all of which kubectl wrote, and what change adds.
func with(mappings string, change ...func(*finding.Report)) *finding.Report {
	r := &finding.Report{}
	for _, name := range strings.Fields(mappings) {
		r.Snapshot.Mappings = append(r.Snapshot.Mappings, mapping(name, "kubectl"))
	}
	for _, f := range change {
		f(r)
	}
	slices.SortFunc(r.State.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	slices.SortFunc(r.Refused, finding.Refused.Compare)
	return r
}

func mapping(key, manager string) *v1alpha1.Mapping {
	namespace, name, _ := strings.Cut(key, "/")
	return &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, Time: &metav1.Time{Time: time.Unix(1, 0).UTC()}},
	}}}
}

// open adds a Forward.
func open(owner string, first, last uint16, change ...func(*gateway.Forward)) func(*finding.Report) {
	return func(r *finding.Report) {
		f := gatewaytest.Forward(address, gateway.TCP, first, last, gatewaytest.Backends("10.244.1.2:8080")...)
		f.Owner = owner
		for _, c := range change {
			c(f)
		}
		r.State.Forwards = append(r.State.Forwards, f)
	}
}

func sources(networks ...string) func(*gateway.Forward) {
	return func(f *gateway.Forward) { f.Sources = gatewaytest.Prefixes(networks...) }
}

func by(grant, pin string) func(*gateway.Forward) {
	return func(f *gateway.Forward) { f.AllowedBy = &gateway.Allowance{Grant: grant, Pin: pin} }
}

// refuse adds a refusal.
func refuse(owner, reason string, first, last uint16) func(*finding.Report) {
	return func(r *finding.Report) {
		r.Refused = append(r.Refused, finding.Refused{Owner: owner, Reason: reason, Frontend: gateway.Frontend{
			Address: address, Protocol: gateway.TCP, Ports: gateway.PortRange{First: first, Last: last},
		}})
	}
}

func writtenBy(key, manager string) func(*finding.Report) {
	return func(r *finding.Report) {
		for i, m := range r.Snapshot.Mappings {
			if m.Namespace+"/"+m.Name == key {
				r.Snapshot.Mappings[i] = mapping(key, manager)
			}
		}
	}
}

func away(r *finding.Report) {
	r.State.Absent.Forwards, r.State.Forwards = r.State.Forwards, nil
	r.State.Absent.Egresses, r.State.Egresses = r.State.Egresses, nil
}

// asking makes a Mapping ask for egress by an address.
func asking(key, by string) func(*finding.Report) {
	return func(r *finding.Report) {
		for _, m := range r.Snapshot.Mappings {
			if m.Namespace+"/"+m.Name == key {
				m.Spec.Egress, m.Spec.Addresses = true, []string{by}
			}
		}
	}
}

// resolving gives a Mapping an address of an uplink.
func resolving(key, address string) func(*finding.Report) {
	return func(r *finding.Report) {
		namespace, name, _ := strings.Cut(key, "/")
		r.Resolved = map[types.NamespacedName]finding.Resolved{{Namespace: namespace, Name: name}: {Addresses: []netip.Addr{netip.MustParseAddr(address)}}}
	}
}

// leaving lets a pod of a Mapping leave with the address.
func leaving(owner, pod string) func(*finding.Report) {
	return func(r *finding.Report) {
		asking(owner, address.String())(r)
		r.State.Egresses = append(r.State.Egresses, gateway.Egress{Address: address, Uplink: 1, Owner: owner, Sources: []netip.Addr{netip.MustParseAddr(pod)}})
	}
}

// noEgress adds a finding about the egress of a Mapping.
func noEgress(key, reason string) func(*finding.Report) {
	return func(r *finding.Report) {
		namespace, name, _ := strings.Cut(key, "/")
		r.Findings = append(r.Findings, finding.Finding{Namespace: namespace, Name: name, Reason: reason, Field: "spec.egress"})
	}
}

// spell returns a Record on one line.
func spell(r audit.Record) string {
	front := "everything"
	switch {
	case r.Egress:
		front = fmt.Sprintf("egress by %s", r.Address)
	case r.Address.IsValid():
		front = r.String()
	}
	text := fmt.Sprintf("%s %s %s of %s by %s %s", r.Result, r.Reason, front, r.Mapping, r.Writer.Manager, r.Writer.Operation)
	if r.SourcesDeny || len(r.Sources) > 0 {
		text += fmt.Sprint(" from ", r.Sources)
	}
	if r.AllowedBy != (gateway.Allowance{}) {
		text += fmt.Sprintf(" grant %q pin %q", r.AllowedBy.Grant, r.AllowedBy.Pin)
	}
	return text
}

func TestDiff(t *testing.T) {
	type test struct {
		name        string
		before, now *finding.Report
		want        []string
	}
	cases := []test{
		{name: "nothing at all", before: with(""), now: with("")},
		{"opened", with(""), with("shop/web", open("shop/web", 80, 80)), []string{"opened Requested 198.51.100.10:80/tcp of shop/web by kubectl Apply"}},
		{"opened for some, by a grant and a pin", with(""), with("shop/web", open("shop/web", 80, 80, sources("10.0.0.0/8"), by("web", "pinnedGrants[0]"))),
			[]string{`opened Requested 198.51.100.10:80/tcp of shop/web by kubectl Apply from [10.0.0.0/8] grant "web" pin "pinnedGrants[0]"`}},
		{"a range is one frontend", with(""), with("shop/web", open("shop/web", 20000, 29999)), []string{"opened Requested 198.51.100.10:20000-29999/tcp of shop/web by kubectl Apply"}},
		{"a restart changes nothing", with("shop/web", open("shop/web", 80, 80, sources("10.0.0.0/8"), by("web", "")), refuse("shop/web", finding.ReasonNotGranted, 81, 81)),
			with("shop/web", open("shop/web", 80, 80, sources("10.0.0.0/8"), by("web", "")), refuse("shop/web", finding.ReasonNotGranted, 81, 81)), nil},
		{"another endpoint is no change", with("shop/web", open("shop/web", 80, 80)), with("shop/web", open("shop/web", 80, 80, func(f *gateway.Forward) { f.Backends = nil })), nil},
		{"another writer of the same is no change", with("shop/web", open("shop/web", 80, 80)), with("shop/web", open("shop/web", 80, 80), writtenBy("shop/web", "argocd")), nil},
		{"withdrawn", with("shop/web", open("shop/web", 80, 80, by("web", ""))), with("shop/web", writtenBy("shop/web", "argocd")),
			[]string{`closed Withdrawn 198.51.100.10:80/tcp of shop/web by argocd Apply grant "web" pin ""`}},
		{"deleted", with("shop/web", open("shop/web", 80, 80)), with(""), []string{"closed Deleted 198.51.100.10:80/tcp of shop/web by kubectl Apply"}},
		{"another owner", with("a/old b/new", open("a/old", 80, 80)), with("b/new", open("b/new", 80, 80)),
			[]string{"closed Deleted 198.51.100.10:80/tcp of a/old by kubectl Apply", "opened Requested 198.51.100.10:80/tcp of b/new by kubectl Apply"}},
		{"another grant", with("shop/web", open("shop/web", 80, 80, by("web", ""))), with("shop/web", open("shop/web", 80, 80, by("all", ""))),
			[]string{`changed GrantChanged 198.51.100.10:80/tcp of shop/web by kubectl Apply grant "all" pin ""`}},
		{"no grant is needed any longer", with("shop/web", open("shop/web", 80, 80, by("web", ""))), with("shop/web", open("shop/web", 80, 80)),
			[]string{"changed GrantChanged 198.51.100.10:80/tcp of shop/web by kubectl Apply"}},
		{"other sources, and another grant", with("shop/web", open("shop/web", 80, 80, sources("10.0.0.0/8"), by("web", ""))), with("shop/web", open("shop/web", 80, 80, by("all", ""))),
			[]string{`changed SourcesChanged 198.51.100.10:80/tcp of shop/web by kubectl Apply grant "all" pin ""`}},
		{"no source of the family", with("shop/web", open("shop/web", 80, 80)), with("shop/web", open("shop/web", 80, 80, func(f *gateway.Forward) { f.SourcesDeny = true })),
			[]string{"changed SourcesChanged 198.51.100.10:80/tcp of shop/web by kubectl Apply from []"}},
		{"egress", with(""), with("shop/web", leaving("shop/web", "10.244.1.2")), []string{"opened Requested egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress of other pods is no change", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", leaving("shop/web", "10.244.1.3")), nil},
		{"egress withdrawn", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web"), []string{"closed Withdrawn egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"the address of egress withdrawn", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", asking("shop/web", "198.51.100.11")),
			[]string{"closed Withdrawn egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress without pods", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", asking("shop/web", "198.51.100.10")),
			[]string{"closed NoPods egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress by another address of the Mapping", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", leaving("shop/web", "10.244.1.2"), func(r *finding.Report) {
			r.State.Egresses[0].Address = netip.MustParseAddr("198.51.100.11")
		}), []string{"closed AddressChanged egress by 198.51.100.10 of shop/web by kubectl Apply", "opened Requested egress by 198.51.100.11 of shop/web by kubectl Apply"}},
		{"egress by an address that an uplink had", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", asking("shop/web", ""), resolving("shop/web", "198.51.100.11")),
			[]string{"closed Withdrawn egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress by an address of an uplink, without pods", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", asking("shop/web", ""), resolving("shop/web", "198.51.100.10")),
			[]string{"closed NoPods egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress of a deleted Mapping", with("shop/web", leaving("shop/web", "10.244.1.2")), with(""), []string{"closed Deleted egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress whose address goes away", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", leaving("shop/web", "10.244.1.2"), away),
			[]string{"closed AddressNotOnHost egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress loses its grant", with("shop/web", leaving("shop/web", "10.244.1.2")), with("shop/web", asking("shop/web", "198.51.100.10"), noEgress("shop/web", finding.ReasonNotGranted)),
			[]string{"closed NotGranted egress by 198.51.100.10 of shop/web by kubectl Apply"}},
		{"egress of a Mapping with too many ports", with("shop/web", leaving("shop/web", "10.244.1.2")),
			with("shop/web", asking("shop/web", "198.51.100.10"), refuse("shop/web", finding.ReasonTooManyPorts, 80, 80)),
			[]string{"closed TooManyPorts egress by 198.51.100.10 of shop/web by kubectl Apply", "refused TooManyPorts 198.51.100.10:80/tcp of shop/web by kubectl Apply"}},
		{"egress refused", with("shop/web"), with("shop/web", asking("shop/web", "198.51.100.10"), noEgress("shop/web", finding.ReasonEgressConflict)),
			[]string{"refused EgressConflict egress by invalid IP of shop/web by kubectl Apply"}},
		{"egress still refused, for two reasons", with("shop/web", noEgress("shop/web", finding.ReasonNotGranted), noEgress("shop/web", finding.ReasonEgressConflict)),
			with("shop/web", noEgress("shop/web", finding.ReasonNotGranted), noEgress("shop/web", finding.ReasonEgressConflict)), nil},
		{"egress without an uplink is no refusal", with("shop/web"), with("shop/web", noEgress("shop/web", finding.ReasonNoUplink)), nil},
		{"the address goes to another gateway", with("shop/web", open("shop/web", 80, 80)), with("shop/web", open("shop/web", 80, 80), away),
			[]string{"closed AddressNotOnHost 198.51.100.10:80/tcp of shop/web by kubectl Apply"}},
		{"the Mapping becomes invalid", with("shop/web", open("shop/web", 80, 80)),
			with("shop/web", func(r *finding.Report) {
				r.Refused = []finding.Refused{{Owner: "shop/web", Reason: finding.ReasonInvalid}}
			}),
			[]string{"closed Invalid 198.51.100.10:80/tcp of shop/web by kubectl Apply", "refused Invalid everything of shop/web by kubectl Apply"}},
		{"a part of a range is lost", with("shop/web", open("shop/web", 100, 199)), with("shop/web", open("shop/web", 100, 149), refuse("shop/web", finding.ReasonPortConflict, 150, 199)),
			[]string{
				"closed PortConflict 198.51.100.10:100-199/tcp of shop/web by kubectl Apply", "opened Requested 198.51.100.10:100-149/tcp of shop/web by kubectl Apply",
				"refused PortConflict 198.51.100.10:150-199/tcp of shop/web by kubectl Apply",
			}},
		{"a refusal of a neighbouring port is no reason", with("shop/web", open("shop/web", 80, 80)),
			with("shop/web", refuse("shop/web", finding.ReasonNotGranted, 79, 79), refuse("shop/web", finding.ReasonNotGranted, 81, 81)), []string{
				"closed Withdrawn 198.51.100.10:80/tcp of shop/web by kubectl Apply",
				"refused NotGranted 198.51.100.10:79/tcp of shop/web by kubectl Apply", "refused NotGranted 198.51.100.10:81/tcp of shop/web by kubectl Apply",
			}},
		{"two are refused the same", with("a/x b/y"), with("a/x b/y", refuse("a/x", finding.ReasonNotGranted, 80, 80), refuse("b/y", finding.ReasonPortConflict, 80, 80)),
			[]string{"refused NotGranted 198.51.100.10:80/tcp of a/x by kubectl Apply", "refused PortConflict 198.51.100.10:80/tcp of b/y by kubectl Apply"}},
		{"refused for another reason", with("a/x", refuse("a/x", finding.ReasonNotGranted, 80, 80)), with("a/x", refuse("a/x", finding.ReasonPortConflict, 80, 80)),
			[]string{"refused PortConflict 198.51.100.10:80/tcp of a/x by kubectl Apply"}},
		{"a refused one is withdrawn", with("a/x", refuse("a/x", finding.ReasonNotGranted, 80, 80)), with("a/x"), nil},
		{"a refused one is granted", with("a/x", refuse("a/x", finding.ReasonNotGranted, 80, 80)), with("a/x", open("a/x", 80, 80, by("web", ""))),
			[]string{`opened Requested 198.51.100.10:80/tcp of a/x by kubectl Apply grant "web" pin ""`}},
	}
	for _, reason := range finding.RefusalReasons() {
		cases = append(cases, test{"refused: " + reason, with("a/x"), with("a/x", refuse("a/x", reason, 80, 80)), []string{"refused " + reason + " 198.51.100.10:80/tcp of a/x by kubectl Apply"}})
		cases = append(cases, test{"closed: " + reason, with("a/x", open("a/x", 80, 80)), with("a/x", refuse("a/x", reason, 80, 80)), []string{"closed " + reason + " 198.51.100.10:80/tcp of a/x by kubectl Apply"}})
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, r := range audit.Diff(tc.before, tc.now) {
				got = append(got, spell(r))
				if !slices.ContainsFunc(audit.Kinds(), func(k audit.Record) bool { return k.Result == r.Result && k.Reason == r.Reason }) {
					t.Errorf("Kinds lacks %s %s", r.Result, r.Reason)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if again := audit.Diff(tc.now, tc.now); len(again) > 0 {
				t.Errorf("a report differs from itself: %v", again)
			}
		})
	}
}

// TestUnknownWriter expects a Record of a Mapping whose object does not say who wrote it.
func TestUnknownWriter(t *testing.T) {
	now := with("shop/web", open("shop/web", 80, 80))
	now.Snapshot.Mappings[0].ManagedFields = nil
	if got := audit.Diff(with(""), now); len(got) != 1 || got[0].Writer != (audit.Writer{}) {
		t.Errorf("%+v", got)
	}
}

// BenchmarkDiff compares two reports of 100,000 Forwards: the same one, and one with another Mapping.
func BenchmarkDiff(b *testing.B) {
	var all []func(*finding.Report)
	for i := range 100_000 {
		all = append(all, func(r *finding.Report) {
			f := gatewaytest.Forward(netip.AddrFrom4([4]byte{198, 51, 100, byte(i / 50_000)}), gateway.TCP, uint16(1+i%50_000), uint16(1+i%50_000))
			f.Owner = "shop/web"
			r.State.Forwards = append(r.State.Forwards, f)
		})
	}
	before := with("shop/web", all...)
	changed := *before
	changed.State.Forwards = slices.Clone(before.State.Forwards)
	changed.State.Forwards[70_000] = gatewaytest.With(changed.State.Forwards[70_000], by("web", ""))
	for name, now := range map[string]*finding.Report{"same": before, "one": &changed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				audit.Diff(before, now)
			}
		})
	}
}
