// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func TestGatewaysThatWentAreForgotten(t *testing.T) {
	c := newCluster(t, 1)
	relay, _ := c.controller(0)
	relay.aging = newAging(10 * time.Minute)
	c.put(mapping("web", 1, 8080))
	for _, name := range []string{"gone", "here"} {
		if _, err := c.ApplyStatus(t.Context(), v1alpha1.InstanceFieldManagerPrefix+name, at("web"), v1alpha1.MappingStatus{
			Instances: []v1alpha1.InstanceStatus{{Name: name, Addresses: []string{"192.0.2.1"}, ObservedGeneration: 1, Programmed: name == "here"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	look := func() {
		entries, _ := relay.Cache.Mappings().List()
		relay.view.replace(entries)
	}
	start := time.Unix(0, 0)
	for _, step := range []struct {
		minutes int
		want    []string
	}{
		{0, []string{"gone", "here"}}, // both are seen for the first time
		{9, []string{"gone", "here"}},
		{10, []string{"here"}},
		{18, []string{"here"}},
	} {
		now := start.Add(time.Duration(step.minutes) * time.Minute)
		if step.minutes > 0 {
			relay.aging.hear("here", now.Add(-time.Minute))
		}
		look()
		relay.forget(t.Context(), now)
		var got []string
		for _, i := range c.mappings[key{Namespace: "shop", Name: "web"}].Status.Instances {
			got = append(got, i.Name)
		}
		slices.Sort(got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("after %d minutes (-want +got)\n%s", step.minutes, diff)
		}
	}
	look()
	settleAll(t, relay)
	if got := c.says("web", programmed); got != "True Programmed" {
		t.Errorf("Programmed is %s, want True: the failing gateway does not count any more", got)
	}
}

// fakeLeases makes client-go not use WatchList, which a fake does not support.
type fakeLeases struct{ LeaseClient }

func (fakeLeases) IsWatchListSemanticsUnSupported() bool { return true }

func TestLeases(t *testing.T) {
	client := fake.NewClientset()
	leases := NewLeases(fakeLeases{client.CoordinationV1().Leases("smartnat")}, "smartnat", 10*time.Minute)
	now := time.Unix(1000, 0)
	leases.now = func() time.Time { return now }

	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	heard := map[string]int{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		leases.watch(ctx, func(instance string) { mu.Lock(); defer mu.Unlock(); heard[instance]++ })
	}()
	defer func() { cancel(); <-done }()

	times := func(instance string) int { mu.Lock(); defer mu.Unlock(); return heard[instance] }
	renew := func(instance string) {
		t.Helper()
		if err := leases.Renew(ctx, instance); err != nil {
			t.Fatal(err)
		}
	}
	renew("gw1")
	eventually(t, "gw1 to be heard of", func() bool { return times("gw1") == 1 })
	lease, err := client.CoordinationV1().Leases("smartnat").Get(ctx, "smartnatd-gw1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := lease.Spec; *s.HolderIdentity != "gw1" || *s.LeaseDurationSeconds != 600 || !s.RenewTime.Time.Equal(now) {
		t.Errorf("Lease of %s for %d seconds from %v", *s.HolderIdentity, *s.LeaseDurationSeconds, s.RenewTime)
	}
	// Reports within the interval do not renew the Lease.
	count := len(client.Actions())
	for range 10 {
		now = now.Add(5 * time.Second)
		renew("gw1")
	}
	if got := len(client.Actions()); got != count {
		t.Errorf("%d requests within a minute of a renewal, want none", got-count)
	}
	now = now.Add(time.Minute)
	if lease, err = client.CoordinationV1().Leases("smartnat").Get(ctx, "smartnatd-gw1", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	lease.Annotations = map[string]string{"changed": "by another client"}
	if _, err := client.CoordinationV1().Leases("smartnat").Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	renew("gw1")
	renew("gw2")
	eventually(t, "both to be heard of", func() bool { return times("gw1") == 2 && times("gw2") == 1 })
}
