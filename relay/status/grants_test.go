// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// grantServer has the PortGrants of a fake API server, with optimistic locking. Two replicas have their own cache.
type grantServer struct {
	*cluster
	live    map[string]*v1alpha1.PortGrant
	writers []*GrantWriter
	gets    int
	patches []string
	fails   error
	// noStatus is a CRD without the subresource.
	noStatus bool
	// before is called before a write.
	before func()
}

var portGrantsResource = schema.GroupResource{Group: v1alpha1.GroupName, Resource: "portgrants"}

func newGrantServer(t *testing.T) *grantServer {
	t.Helper()
	s := &grantServer{cluster: newCluster(t, 2), live: map[string]*v1alpha1.PortGrant{}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	for _, cache := range s.caches {
		s.writers = append(s.writers, &GrantWriter{PortGrants: s, Cache: cache, Grants: GrantsOpen, Log: log})
	}
	return s
}

func (s *grantServer) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.PortGrant, error) {
	s.gets++
	if s.live[name] == nil {
		return nil, apierrors.NewNotFound(portGrantsResource, name)
	}
	return s.live[name].DeepCopy(), nil
}

func (s *grantServer) Patch(_ context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*v1alpha1.PortGrant, error) {
	if s.before != nil {
		s.before()
	}
	if s.fails != nil {
		return nil, s.fails
	}
	var body struct {
		Metadata struct{ UID, ResourceVersion string }
		Status   v1alpha1.PortGrantStatus
	}
	if err := json.Unmarshal(data, &body); err != nil || how != types.ApplyPatchType || options.FieldManager != "smartnat" || !slices.Equal(subresources, []string{"status"}) {
		s.t.Errorf("%s patch of %v by %s: %v", how, subresources, options.FieldManager, err)
	}
	live := s.live[name]
	if live == nil || s.noStatus {
		return nil, apierrors.NewNotFound(portGrantsResource, name)
	}
	if body.Metadata.UID != string(live.UID) || body.Metadata.ResourceVersion != live.ResourceVersion {
		return nil, apierrors.NewConflict(portGrantsResource, name, errors.New("it has changed"))
	}
	live.Status = body.Status
	s.patches = append(s.patches, name)
	s.store(live)
	return live, nil
}

// store is what the watches of both replicas bring.
func (s *grantServer) store(g *v1alpha1.PortGrant) {
	s.version++
	g.ResourceVersion = strconv.Itoa(s.version)
	s.live[g.Name] = g
	for _, cache := range s.caches {
		if err := cache.PortGrants().Store().Update(g.DeepCopy()); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *grantServer) grant(name string, spec v1alpha1.PortGrantSpec) {
	g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-of-" + name), Generation: 1}, Spec: spec}
	if before := s.live[name]; before != nil {
		g.Generation, g.Status = before.Generation+1, before.Status
	}
	s.store(g)
}

func (s *grantServer) namespace(name string) {
	for _, cache := range s.caches {
		if err := cache.Namespaces().Store().Update(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// report changes the status of a Mapping.
func (s *grantServer) report(name string) {
	if _, err := s.ApplyStatus(s.t.Context(), "smartnat", conditions.AppliedMetadata{Namespace: "shop", Name: name}, v1alpha1.MappingStatus{Ports: "80/tcp"}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *grantServer) says(name string) string {
	status := s.live[name].Status
	if len(status.Conditions) != 1 || status.Namespaces == nil || status.Mappings == nil || status.Ports == nil {
		return fmt.Sprintf("incomplete: %+v", status)
	}
	c := status.Conditions[0]
	return fmt.Sprintf("%s=%s %s (generation %d): %d namespaces, %d Mappings, %d ports", c.Type, c.Status, c.Reason, c.ObservedGeneration, *status.Namespaces, *status.Mappings, *status.Ports)
}

// sync lets both replicas look, twice, and returns what was written.
func (s *grantServer) sync() []string {
	s.t.Helper()
	s.patches = nil
	for range 2 {
		for _, w := range s.writers {
			if err := w.Sync(s.t.Context()); err != nil {
				s.t.Error(err)
			}
		}
	}
	return s.patches
}

// TestGrantStatus follows the status of a PortGrant while the cluster changes. Only one of two replicas writes each change.
func TestGrantStatus(t *testing.T) {
	s := newGrantServer(t)
	one := []string{"192.0.2.1"}
	for _, step := range []struct {
		name   string
		change func()
		want   string
		writes int
	}{
		{"no namespace", func() { s.grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"shop"}}) },
			"Accepted=True NoNamespaces (generation 1): 0 namespaces, 0 Mappings, 0 ports", 1},
		{"one without a Mapping", func() { s.namespace("shop") }, "Accepted=True Accepted (generation 1): 1 namespaces, 0 Mappings, 0 ports", 1},
		{"one that is not granted", func() { s.namespace("bank") }, "Accepted=True Accepted (generation 1): 1 namespaces, 0 Mappings, 0 ports", 0},
		{"a Mapping", func() { s.put(mapping("web", 1, 80, 81)) }, "Accepted=True Accepted (generation 1): 1 namespaces, 1 Mappings, 2 ports", 1},
		{"the status of a Mapping", func() { s.report("web") }, "Accepted=True Accepted (generation 1): 1 namespaces, 1 Mappings, 2 ports", 0},
		{"another spec", func() {
			s.grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"shop"}, MaxPorts: 1})
		},
			"Accepted=True Accepted (generation 2): 1 namespaces, 1 Mappings, 1 ports", 1},
		{"what slipped past the schema", func() { s.grant("a", v1alpha1.PortGrantSpec{Addresses: one}) },
			"Accepted=False Invalid (generation 3): 0 namespaces, 0 Mappings, 0 ports", 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.change()
			if got := s.sync(); len(got) != step.writes {
				t.Errorf("wrote %q, want %d writes", got, step.writes)
			}
			if diff := cmp.Diff(step.want, s.says("a")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			before := s.gets
			if got := s.sync(); len(got) > 0 || s.gets != before {
				t.Errorf("without a change: wrote %q, read %d times", got, s.gets-before)
			}
		})
	}
}

func TestGrantStatusIsWrittenByAnother(t *testing.T) {
	spec := v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}}
	t.Run("it changed meanwhile", func(t *testing.T) {
		s := newGrantServer(t)
		s.grant("a", spec)
		s.before = func() {
			s.before = nil
			s.version++
			s.live["a"].ResourceVersion = strconv.Itoa(s.version)
		}
		if err := s.writers[0].Sync(t.Context()); !apierrors.IsConflict(err) {
			t.Errorf("%v, want a conflict", err)
		}
		if got := s.sync(); len(got) != 1 {
			t.Errorf("then wrote %q", got)
		}
	})
	t.Run("a restart finds it written", func(t *testing.T) {
		s := newGrantServer(t)
		s.grant("a", spec)
		s.sync()
		s.writers[0].found = nil
		if got := s.sync(); len(got) > 0 {
			t.Errorf("wrote %q", got)
		}
	})
	t.Run("the cluster refuses one", func(t *testing.T) {
		s := newGrantServer(t)
		s.grant("a", spec)
		s.fails = apierrors.NewForbidden(portGrantsResource, "a", errors.New("no"))
		if err := s.writers[0].Sync(t.Context()); err == nil {
			t.Error("no error")
		}
		s.fails = nil
		if got := s.sync(); len(got) != 1 {
			t.Errorf("then wrote %q", got)
		}
	})
	t.Run("deleted before the write", func(t *testing.T) {
		s := newGrantServer(t)
		s.grant("a", spec)
		s.before = func() { delete(s.live, "a") }
		if got := s.sync(); len(got) > 0 {
			t.Errorf("wrote %q", got)
		}
	})
	t.Run("deleted, or another of that name", func(t *testing.T) {
		s := newGrantServer(t)
		s.grant("a", spec)
		s.grant("b", spec)
		delete(s.live, "a")
		s.live["b"].UID = "other"
		if got := s.sync(); len(got) > 0 {
			t.Errorf("wrote %q", got)
		}
	})
}

// TestGrantStatusWithoutSubresource has a CRD of an earlier version, and then the present one.
func TestGrantStatusWithoutSubresource(t *testing.T) {
	s := newGrantServer(t)
	for i := range 20 {
		s.grant(fmt.Sprint("a", i), v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}})
	}
	s.noStatus = true
	for range 2 {
		before := s.gets
		if err := s.writers[0].Sync(t.Context()); !errors.Is(err, errNoStatus) || strings.Count(err.Error(), "apis/crds") != 1 {
			t.Errorf("%v, want one error that names the CRD", err)
		}
		if s.gets > before+2 {
			t.Errorf("read %d times", s.gets-before)
		}
	}
	s.noStatus = false
	if got := s.sync(); len(got) != 20 {
		t.Errorf("then wrote %d of 20", len(got))
	}
}

// TestGrantStatusIsRepaired clears each status, which the Cache does not show, and lets a resync go by.
func TestGrantStatusIsRepaired(t *testing.T) {
	const all = 1000
	s := newGrantServer(t)
	for i := range all {
		s.grant(fmt.Sprint("a", i), v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}})
	}
	s.sync()
	for _, live := range s.live {
		live.Status = v1alpha1.PortGrantStatus{}
	}
	if got := s.sync(); len(got) > 0 {
		t.Errorf("without a resync: wrote %d", len(got))
	}
	s.gets = 0
	written := 0
	for range resyncShares {
		before := s.gets
		s.writers[0].forget()
		written += len(s.sync())
		if share := s.gets - before; share > 2*all/resyncShares {
			t.Errorf("read %d of %d at once", share, all)
		}
	}
	if written != all || s.gets != all {
		t.Errorf("wrote %d, read %d of %d", written, s.gets, all)
	}
}

// TestGrantStatusWakesNoWatcher writes a status, which must be an event for no client of the relay.
func TestGrantStatusWakesNoWatcher(t *testing.T) {
	s := newGrantServer(t)
	s.grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}})
	_, version := s.caches[0].PortGrants().List()
	changed := s.caches[0].PortGrants().Changed()
	if got := s.sync(); len(got) != 1 {
		t.Fatalf("wrote %q", got)
	}
	events, _, _, err := s.caches[0].PortGrants().Since(version)
	if err != nil || len(events) > 0 {
		t.Errorf("%d events, %v", len(events), err)
	}
	select {
	case <-changed:
		t.Error("watchers were woken")
	default:
	}
	s.grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"bank"}})
	if events, _, _, err := s.caches[0].PortGrants().Since(version); err != nil || len(events) != 1 {
		t.Errorf("a change of the spec: %d events, %v", len(events), err)
	}
}
