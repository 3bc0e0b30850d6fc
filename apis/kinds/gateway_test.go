// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestGatewayLabels proves that a gateway gets only the labels of a slice that prove its endpoints to be pods.
func TestGatewayLabels(t *testing.T) {
	const service, manager = discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy
	for _, test := range []struct {
		name     string
		in, want map[string]string
	}{
		{"none", nil, nil},
		{"others", map[string]string{"team": "a"}, nil},
		{"managed by the controller", map[string]string{service: "web", manager: "endpointslice-controller.k8s.io", "team": "a"},
			map[string]string{service: "web", manager: "endpointslice-controller.k8s.io"}},
		{"handmade", map[string]string{service: "web"}, map[string]string{service: "web"}},
		{"empty", map[string]string{service: "web", manager: ""}, map[string]string{service: "web"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := endpointSliceForGateway(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Labels: test.in}}).Labels
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestGatewayConditionsMeanTheSame proves that dropping conditions does not change their meaning, by the defaults of
// discovery/v1.
func TestGatewayConditionsMeanTheSame(t *testing.T) {
	type meaning struct{ ready, serving, terminating bool }
	means := func(c discoveryv1.EndpointConditions) (m meaning) {
		is := func(condition *bool, otherwise bool) bool {
			if condition == nil {
				return otherwise
			}
			return *condition
		}
		m.ready = is(c.Ready, true)
		if !m.ready { // the other conditions matter only then
			m.serving, m.terminating = is(c.Serving, m.ready), is(c.Terminating, false)
		}
		return m
	}
	some := []*bool{nil, new(true), new(false)}
	for _, ready := range some {
		for _, serving := range some {
			for _, terminating := range some {
				in := discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}
				out := endpointSliceForGateway(&discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Conditions: in}}})
				if got := out.Endpoints[0].Conditions; means(got) != means(in) {
					t.Errorf("%v became %v", in, got)
				}
			}
		}
	}
}
