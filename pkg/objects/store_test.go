// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func serviceAt(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
}

func names(services []*corev1.Service) (all []string) {
	for _, s := range services {
		all = append(all, s.Namespace+"/"+s.Name)
	}
	return all
}

// TestStoreIsAMap is a random walk that compares the store with a map after each step, and checks that earlier Snapshots
// do not change.
func TestStoreIsAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var s Store
	model := map[string]*corev1.Service{}
	type given struct{ list, copied []*corev1.Service }
	var all []given
	for step := range 2000 {
		o := serviceAt(fmt.Sprint("ns", random.IntN(3)), fmt.Sprint("s", random.IntN(12)), fmt.Sprint(step))
		key := o.Namespace + "/" + o.Name
		if random.IntN(2) == 0 {
			s.Set(o)
			model[key] = o
		} else {
			s.Remove(o)
			delete(model, key)
		}
		if random.IntN(3) > 0 {
			continue
		}
		list := s.Snapshot().Services
		all = append(all, given{list, slices.Clone(list)})
		var want []*corev1.Service
		for _, o := range model {
			want = append(want, o)
		}
		slices.SortFunc(want, func(a, b *corev1.Service) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
		if !slices.Equal(want, list) {
			t.Fatalf("step %d: holds %s, want %s", step, names(list), names(want))
		}
	}
	for i, g := range all {
		if !slices.Equal(g.list, g.copied) {
			t.Fatalf("Snapshot %d changed after it was returned", i)
		}
	}
}

func TestReplaceKeepsWhatSaysTheSame(t *testing.T) {
	a, b := serviceAt("ns", "a", "10.96.0.1"), serviceAt("ns", "b", "10.96.0.2")
	for _, test := range []struct {
		name string
		with []*corev1.Service
		want bool
		kept []string
	}{
		{"unchanged", []*corev1.Service{a.DeepCopy(), b.DeepCopy()}, false, []string{"a", "b"}},
		{"one changed", []*corev1.Service{a.DeepCopy(), serviceAt("ns", "b", "10.96.0.3")}, true, []string{"a"}},
		{"one gone", []*corev1.Service{b.DeepCopy()}, true, []string{"b"}},
		{"one more", []*corev1.Service{a.DeepCopy(), serviceAt("ns", "aa", ""), b.DeepCopy()}, true, []string{"a", "b"}},
		{"none left", nil, true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s Store
			s.Set(a)
			s.Set(b)
			if got := s.Replace(Snapshot{Services: test.with}); got != test.want {
				t.Errorf("differs: %t, want %t", got, test.want)
			}
			got := s.Snapshot().Services
			var kept []string
			for _, o := range got {
				if o == a || o == b {
					kept = append(kept, o.Name)
				}
			}
			if diff := cmp.Diff(test.kept, kept); diff != "" || len(got) != len(test.with) {
				t.Errorf("%d objects, want %d; kept objects (-want +got):\n%s", len(got), len(test.with), diff)
			}
		})
	}
}

// TestAQuietSnapshotCostsNothing proves that a Snapshot without changes allocates nothing, and that one with a changed
// object allocates one list.
func TestAQuietSnapshotCostsNothing(t *testing.T) {
	var s Store
	for i := range 1000 {
		s.Set(serviceAt("ns", fmt.Sprint("s", i), ""))
	}
	s.Snapshot()
	if n := testing.AllocsPerRun(100, func() { s.Snapshot() }); n != 0 {
		t.Errorf("%v allocations without a change, want none", n)
	}
	changed := serviceAt("ns", "s500", "10.96.0.1")
	if n := testing.AllocsPerRun(100, func() { s.Set(changed); s.Snapshot() }); n != 1 {
		t.Errorf("%v allocations for one change, want 1 (the list)", n)
	}
}
