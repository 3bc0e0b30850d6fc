// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// events keeps Events by name, as the API server does.
type events struct {
	kept  map[string]*corev1.Event
	fails error
	tries int
}

func (e *events) in(string) Events { return e }

func (e *events) Create(_ context.Context, event *corev1.Event, _ metav1.CreateOptions) (*corev1.Event, error) {
	e.tries++
	if e.fails != nil {
		return nil, e.fails
	}
	if e.kept[event.Name] != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, event.Name)
	}
	e.kept[event.Name] = event
	return event, nil
}

// inEffect is a Mapping that gateways forward.
func inEffect(name string) *v1alpha1.Mapping {
	m := mapping(name, 1, 8080)
	m.Status = with("Ready True Ready")
	m.Status.Addresses, m.Status.Ports = "192.0.2.1", "8080/tcp"
	m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "ten ant", Operation: metav1.ManagedFieldsOperationApply}}
	return m
}

// TestDeletedMappings deletes Mappings while two relays follow them. One Event is kept of each that was in effect.
func TestDeletedMappings(t *testing.T) {
	written := &events{kept: map[string]*corev1.Event{}}
	c := newCluster(t, 2)
	c.put(inEffect("web"))
	c.put(mapping("idle", 2, 8081))
	type follower struct {
		*Controller
		version watchcache.Version
	}
	var relays []follower
	for i := range 2 {
		relay, _ := c.controller(i)
		relay.Events = written.in
		entries, version := relay.Cache.Mappings().List()
		relay.view.replace(entries)
		relays = append(relays, follower{relay, version})
	}
	c.remove("shop", "web")
	c.remove("shop", "idle")
	for _, relay := range relays {
		if _, _, _, err := relay.catchUp(relay.version); err != nil {
			t.Fatal(err)
		}
		if n := relay.queue.Len(); n != 2 {
			t.Errorf("%d Mappings are queued, want the 2 deleted ones", n)
		}
		for _, name := range []string{"web", "idle"} {
			if err := relay.settle(t.Context(), key{Namespace: "shop", Name: name}); err != nil {
				t.Error(err)
			}
		}
		if n := len(relay.view.deleted); n > 0 {
			t.Errorf("%d deleted Mappings are still known", n)
		}
	}
	if written.tries != 2 || len(written.kept) != 1 {
		t.Fatalf("%d tries, %d Events kept, want 2 and 1", written.tries, len(written.kept))
	}
	got := written.kept["smartnat-deleted-uid-of-web"]
	if got == nil {
		t.Fatalf("the Events are %v", written.kept)
	}
	if diff := cmp.Diff([]string{"shop", "web", "uid-of-web", "Deleted", `closed: 192.0.2.1 8080/tcp; spec last written by "ten ant" (Apply)`},
		[]string{got.InvolvedObject.Namespace, got.InvolvedObject.Name, string(got.InvolvedObject.UID), got.Reason, got.Message}); diff != "" {
		t.Errorf("the Event (-want +got)\n%s", diff)
	}
}

// TestMappingsDeletedUnseen has the relay read all Mappings again: one is gone, and one has become another of that name.
func TestMappingsDeletedUnseen(t *testing.T) {
	written := &events{kept: map[string]*corev1.Event{}}
	c := newCluster(t, 1)
	c.put(inEffect("gone"))
	c.put(inEffect("again"))
	relay, _ := c.controller(0)
	relay.Events = written.in
	entries, _ := relay.Cache.Mappings().List()
	relay.view.replace(entries)
	c.remove("shop", "gone")
	again := mapping("again", 1, 8080)
	again.UID = "another"
	c.store(again)
	entries, _ = relay.Cache.Mappings().List()
	for k := range relay.view.replace(entries) {
		if err := relay.settle(t.Context(), k); err != nil {
			t.Error(err)
		}
	}
	if written.kept["smartnat-deleted-uid-of-gone"] == nil || written.kept["smartnat-deleted-uid-of-again"] == nil || len(written.kept) != 2 {
		t.Errorf("the Events are %v", written.kept)
	}
}

func TestDeletionThatCannotBeWritten(t *testing.T) {
	for _, test := range []struct {
		name  string
		fails error
		tries int
	}{
		{"no right, or a namespace that is being deleted", apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", nil), 1},
		{"a namespace that is gone", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"), 1},
		{"an API server that is down", errors.New("connection refused"), maxEventRetries + 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			written := &events{fails: test.fails}
			c := newCluster(t, 1)
			relay, _ := c.controller(0)
			relay.Events = written.in
			relay.view.remember(inEffect("web"))
			k := key{Namespace: "shop", Name: "web"}
			for relay.settle(t.Context(), k) != nil {
				relay.queue.AddRateLimited(k)
			}
			if written.tries != test.tries || len(relay.view.deleted) > 0 {
				t.Errorf("%d tries, %d kept, want %d and none", written.tries, len(relay.view.deleted), test.tries)
			}
		})
	}
}
