// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"math/rand/v2"
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
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestStatusAndGatewayAgree compares the status of random Mappings with the findings of a gateway: validity, lost ports and
// their winners, and references to Services.
func TestStatusAndGatewayAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	seen := map[string]int{}
	for range 300 {
		snapshot := randomSnapshot(random)
		_, findings := calc.Calculate(snapshot, gateway.Host{}, config.Config{AnyAddress: true, IPv6: true})
		var valid []*v1alpha1.Mapping
		for _, m := range snapshot.Mappings {
			if len(validation.ValidateMapping(m)) == 0 {
				valid = append(valid, m)
			}
		}
		lost := conflicts.Find(valid, nil)
		for _, m := range snapshot.Mappings {
			var service *corev1.Service
			for _, s := range snapshot.Services {
				if s.Name == m.Spec.ServiceName {
					service = s
				}
			}
			status := conditions.Decide(conditions.Facts{Mapping: m, Conflicts: lost[conflicts.Key(m)], Service: service}, metav1.Now())
			var conflictTexts, reasons []string
			for _, f := range findings {
				switch {
				case f.Name != m.Name:
				case f.Reason == finding.ReasonPortConflict:
					conflictTexts = append(conflictTexts, f.Message)
				default:
					reasons = append(reasons, f.Reason)
				}
			}
			var want []string
			for _, c := range lost[conflicts.Key(m)].Conflicts {
				want = append(want, fmt.Sprintf("%s belongs to Mapping %s, which %s", c.Ports, conflicts.Key(c.Winner), conflicts.Precedence(c.Winner, m)))
			}
			if diff := cmp.Diff(want, conflictTexts); diff != "" {
				t.Fatalf("conflicts of %s (-status +gateway)\n%s", m.Name, diff)
			}
			accepted := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionAccepted)
			resolved := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionResolvedRefs)
			found := strings.Join(reasons, " ") + " "
			for reason, says := range map[string]bool{
				conditions.ReasonInvalid:             accepted.Reason == conditions.ReasonInvalid,
				conditions.ReasonServiceNotFound:     resolved.Reason == conditions.ReasonServiceNotFound,
				conditions.ReasonServicePortNotFound: resolved.Reason == conditions.ReasonServicePortNotFound,
				conditions.ReasonServiceHeadless:     resolved.Reason == conditions.ReasonServiceHeadless,
			} {
				if says != strings.Contains(found, reason+" ") {
					t.Fatalf("%s of %+v with %+v: the status reports %t, the gateway found %s", reason, m.Spec, service, says, found)
				}
				if says {
					seen[reason]++
				}
			}
			if len(want) > 0 {
				seen["conflicts"]++
			}
		}
	}
	for _, reason := range []string{"conflicts", conditions.ReasonInvalid, conditions.ReasonServiceNotFound, conditions.ReasonServicePortNotFound, conditions.ReasonServiceHeadless} {
		if seen[reason] < 10 {
			t.Errorf("%s came up only %d times: the Mappings are not random enough", reason, seen[reason])
		}
	}
}

func randomSnapshot(r *rand.Rand) objects.Snapshot {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	var s objects.Snapshot
	for i := range 1 + r.IntN(6) {
		m := &v1alpha1.Mapping{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("m", i), CreationTimestamp: metav1.NewTime(time.Unix(int64(r.IntN(3)), 0))},
			Spec: v1alpha1.MappingSpec{
				Addresses: []string{pick("192.0.2.1", "192.0.2.2")}, ServiceName: pick("web", "db", "headless", "gone"), Mode: v1alpha1.ModeService,
			},
		}
		if r.IntN(2) == 0 {
			m.Spec.Addresses = append(m.Spec.Addresses, "192.0.2.3")
		}
		for range 1 + r.IntN(3) {
			p := v1alpha1.MappingPort{Port: int32(80 + r.IntN(5)), ServicePort: int32(80 + r.IntN(2)), Protocol: v1alpha1.Protocol(pick("", "TCP", "udp"))}
			if r.IntN(3) == 0 {
				m.Spec.Mode = v1alpha1.ModeEndpoints
				end := p.Port + int32(r.IntN(3))
				p.EndPort = &end
			}
			m.Spec.Ports = append(m.Spec.Ports, p)
		}
		s.Mappings = append(s.Mappings, m)
	}
	for _, name := range []string{"web", "db", "headless"} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Port: 80}, {Port: 80, Protocol: corev1.ProtocolUDP}},
		}}
		if name == "db" {
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Port: 81})
		}
		if name == "headless" {
			service.Spec.ClusterIP, service.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		}
		s.Services = append(s.Services, service)
	}
	return s
}
