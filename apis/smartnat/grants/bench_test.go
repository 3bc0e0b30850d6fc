// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// BenchmarkNew measures 10,000 PortGrants for 10,000 namespaces: the first build, a namespace with another label, and a PortGrant more.
func BenchmarkNew(b *testing.B) {
	const n = 10000
	for _, shape := range []struct {
		name string
		spec func(i int) v1alpha1.PortGrantSpec
	}{
		{"names", func(i int) v1alpha1.PortGrantSpec {
			return v1alpha1.PortGrantSpec{Namespaces: []string{fmt.Sprint("team-", i)}}
		}},
		{"labels", func(i int) v1alpha1.PortGrantSpec {
			return v1alpha1.PortGrantSpec{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(i)}}}
		}},
		{"one label", func(int) v1alpha1.PortGrantSpec {
			return v1alpha1.PortGrantSpec{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}}
		}},
	} {
		var list []*v1alpha1.PortGrant
		var namespaces []*corev1.Namespace
		for i := range n {
			spec := shape.spec(i)
			spec.Addresses = []string{fmt.Sprintf("198.51.%d.%d", i/250, i%250)}
			list = append(list, grant(fmt.Sprint("grant-", i), spec))
			namespaces = append(namespaces, namespace(fmt.Sprint("team-", i), map[string]string{"team": fmt.Sprint(i), "tier": []string{"gold", "silver"}[i%2]}))
		}
		before := grants.New(list, namespaces, grants.Options{})
		relabelled := slices.Clone(namespaces)
		relabelled[7] = namespace("team-7", map[string]string{"team": "8", "tier": "gold"})
		for _, change := range []struct {
			name       string
			list       []*v1alpha1.PortGrant
			namespaces []*corev1.Namespace
			before     *grants.Grants
		}{
			{"first", list, namespaces, nil},
			{"label", list, relabelled, before},
			{"grant", list[:n-1], namespaces, before},
		} {
			b.Run(shape.name+"/"+change.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					grants.New(change.list, change.namespaces, grants.Options{Before: change.before})
				}
			})
		}
	}
}
