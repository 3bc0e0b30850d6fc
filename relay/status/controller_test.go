// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

const (
	accepted   = v1alpha1.ConditionAccepted
	resolved   = v1alpha1.ConditionResolvedRefs
	programmed = v1alpha1.ConditionProgrammed
)

// settleAll settles all Mappings once.
func settleAll(t *testing.T, c *Controller) {
	t.Helper()
	entries, _ := c.Cache.Mappings().List()
	for k := range c.view.replace(entries) {
		if err := c.settle(context.Background(), k); err != nil {
			t.Error(err)
		}
	}
}

func TestStatusFollowsTheCluster(t *testing.T) {
	c := newCluster(t, 1)
	relay, _ := c.controller(0)
	c.put(mapping("old", 1, 8080))
	run(t, relay)
	expect := func(name, condition, want string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s of %s to be %s", condition, name, want), func() bool { return c.says(name, condition) == want })
	}
	expect("old", accepted, "True Accepted")
	expect("old", resolved, "False ServiceNotFound")
	c.putService(service("old"))
	expect("old", resolved, "True ResolvedRefs")

	c.put(mapping("new", 2, 8080))
	expect("new", accepted, "False PortConflict")
	expect("new", programmed, "False NotAccepted")
	c.put(mapping("old", 1, 8081))
	expect("new", accepted, "True Accepted")
	c.put(mapping("old", 1, 8080))
	expect("new", accepted, "False PortConflict")
	c.remove("shop", "old")
	expect("new", accepted, "True Accepted")
	c.put(mapping("new", 2))
	expect("new", accepted, "False Invalid")

	if _, err := c.ApplyStatus(t.Context(), "smartnatd-gw1", at("new"), v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{
		{Name: "gw1", Addresses: []string{"192.0.2.1"}, ObservedGeneration: 2, Programmed: true},
	}}); err != nil {
		t.Fatal(err)
	}
	c.put(mapping("new", 2, 8080))
	expect("new", programmed, "False Pending")
	if _, err := c.ApplyStatus(t.Context(), "smartnatd-gw1", at("new"), v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{
		{Name: "gw1", Addresses: []string{"192.0.2.1"}, ObservedGeneration: 3, Programmed: true, Reason: "NoReadyEndpoints"},
	}}); err != nil {
		t.Fatal(err)
	}
	expect("new", programmed, "True Programmed")
	expect("new", v1alpha1.ConditionReady, "False ServiceNotFound")
	c.putService(service("new"))
	expect("new", v1alpha1.ConditionReady, "False NoReadyEndpoints")
	c.put(mapping("elsewhere", 3, 8082))
	expect("elsewhere", programmed, "False AddressNotHeld")
	// Without any report it is unknown whether there are gateways.
	if _, err := c.ApplyStatus(t.Context(), "smartnatd-gw1", at("new"), v1alpha1.MappingStatus{}); err != nil {
		t.Fatal(err)
	}
	expect("elsewhere", programmed, "Unknown NotReported")
}

// TestAServiceAloneIsFollowed changes only a Service, after the Controller has handled all changes of the Mapping.
func TestAServiceAloneIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		relay, _ := c.controller(0)
		c.put(mapping("web", 1, 8080))
		run(t, relay)
		other := service("web")
		other.Spec.Ports[0].Port = 443
		for _, step := range []struct {
			name string
			do   func()
			want string
		}{
			{"none", func() {}, "False ServiceNotFound"},
			{"created", func() { c.putService(service("web")) }, "True ResolvedRefs"},
			{"changed", func() { c.putService(other) }, "False ServicePortNotFound"},
			{"deleted", func() { c.removeService(other) }, "False ServiceNotFound"},
		} {
			step.do()
			time.Sleep(time.Minute)
			if got := c.says("web", resolved); got != step.want {
				t.Errorf("%s: ResolvedRefs is %s, want %s", step.name, got, step.want)
			}
		}
	})
}

// TestNothingIsWrittenTwice checks that an up-to-date status is neither written nor read.
func TestNothingIsWrittenTwice(t *testing.T) {
	c := newCluster(t, 2)
	first, events1 := c.controller(0)
	second, events2 := c.controller(1)
	for i := range 20 {
		c.put(mapping(fmt.Sprint("m", i), i, int32(8000+i/2)))
	}
	settleAll(t, first)
	if got := len(c.written()); got != 20 {
		t.Errorf("%d writes for 20 new Mappings, want 20", got)
	}
	c.reads = nil
	settleAll(t, first)
	settleAll(t, second)
	if got := len(c.written()); got != 20 || len(c.reads) != 0 {
		t.Errorf("%d writes and %d reads more, want none: the status is up to date", got-20, len(c.reads))
	}
	// Every Service is missing, and every other Mapping has a conflict.
	if one, other := len(recorded(events1)), len(recorded(events2)); one != 30 || other != 0 {
		t.Errorf("%d and %d events, want 30 by the relay that wrote", one, other)
	}
}

// TestTwoRelaysAtOnce lets both relays decide before either has seen the write of the other.
func TestTwoRelaysAtOnce(t *testing.T) {
	c := newCluster(t, 2)
	first, _ := c.controller(0)
	second, _ := c.controller(1)
	c.put(mapping("web", 1, 8080))
	c.before = func() {
		c.before = nil
		settleAll(t, second)
	}
	entries, _ := first.Cache.Mappings().List()
	first.view.replace(entries)
	k := key{Namespace: "shop", Name: "web"}
	if err := first.settle(t.Context(), k); err == nil {
		t.Error("the second relay overwrote a status that it had not seen")
	}
	if diff := cmp.Diff([]string{"smartnat shop/web"}, c.written()); diff != "" {
		t.Errorf("writes (-want +got)\n%s", diff)
	}
	if err := first.settle(t.Context(), k); err != nil || len(c.written()) != 1 {
		t.Errorf("%v, %d writes; want the second try to find it written", err, len(c.written()))
	}
}

func TestWhatFailsIsTriedAgain(t *testing.T) {
	c := newCluster(t, 1)
	relay, _ := c.controller(0)
	c.fails = errors.New("no room")
	c.put(mapping("web", 1, 8080))
	run(t, relay)
	k := key{Namespace: "shop", Name: "web"}
	eventually(t, "some failures", func() bool { return relay.queue.NumRequeues(k) > 2 })
	c.mu.Lock()
	c.fails = nil
	c.mu.Unlock()
	eventually(t, "the status to be written", func() bool { return c.says("web", accepted) == "True Accepted" })
}

// TestAMappingThatIsAhead has a change that the relay has not seen: other Mappings may own its ports by then.
func TestAMappingThatIsAhead(t *testing.T) {
	c := newCluster(t, 1)
	relay, _ := c.controller(0)
	c.put(mapping("web", 1, 8080))
	entries, _ := relay.Cache.Mappings().List()
	relay.view.replace(entries)
	c.put(mapping("web", 1, 8081))
	if err := relay.settle(t.Context(), key{Namespace: "shop", Name: "web"}); err != nil || len(c.written()) != 0 {
		t.Errorf("%v, %d writes; want none before the change is known", err, len(c.written()))
	}
	c.remove("shop", "web")
	if err := relay.settle(t.Context(), key{Namespace: "shop", Name: "web"}); err != nil || len(c.written()) != 0 {
		t.Errorf("%v, %d writes; want none to a deleted Mapping", err, len(c.written()))
	}
}

// TestOnlyWhatChangedIsLookedAt checks exact sets: a change must not settle ten thousand Mappings again.
func TestOnlyWhatChangedIsLookedAt(t *testing.T) {
	c := newCluster(t, 1)
	relay, _ := c.controller(0)
	c.put(mapping("old", 1, 8080))
	c.put(mapping("new", 2, 8080))
	c.put(mapping("other", 3, 8082))
	entries, version := relay.Cache.Mappings().List()
	relay.view.replace(entries)
	for _, step := range []struct {
		name string
		do   func()
		want []string
	}{
		{"a status", func() { settleAll(t, relay) }, []string{"new", "old", "other"}},
		{"a port without conflict", func() { c.put(mapping("other", 3, 8083)) }, []string{"other"}},
		{"a port that is freed", func() { c.put(mapping("old", 1, 8081)) }, []string{"new", "old"}},
		{"a port that is taken", func() { c.put(mapping("other", 3, 8081)) }, []string{"other"}},
		{"a deleted Mapping", func() { c.remove("shop", "old") }, []string{"old", "other"}},
		{"a Service of a Mapping", func() { c.putService(service("new")) }, []string{"new"}},
		{"a Service of no Mapping", func() { c.putService(service("unused")) }, nil},
	} {
		step.do()
		var err error
		if version, _, _, err = relay.catchUp(version); err != nil {
			t.Fatal(err)
		}
		var got []string
		for relay.queue.Len() > 0 {
			k, _ := relay.queue.Get()
			got = append(got, k.Name)
			relay.queue.Done(k)
		}
		slices.Sort(got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", step.name, diff)
		}
	}
}
