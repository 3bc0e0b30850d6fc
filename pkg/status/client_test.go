// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// wire records the requests of a Client.
type wire struct {
	whoami string
	denies error
	asked  []string
	list   v1alpha1.MappingList
	fails  error
}

func (w *wire) List(context.Context) (*v1alpha1.MappingList, error) { return &w.list, w.fails }

func (w *wire) Get(context.Context, types.NamespacedName) (*v1alpha1.Mapping, error) {
	return nil, errors.New("unexpected Get")
}

func (w *wire) Apply(_ context.Context, mapping types.NamespacedName, manager string, body []byte) error {
	w.asked = append(w.asked, manager+" "+mapping.String()+" "+string(body))
	return w.fails
}

func (w *wire) Renew(_ context.Context, lease types.NamespacedName, _, holder string, _ time.Time, duration time.Duration) error {
	w.asked = append(w.asked, "renew "+lease.String()+" of "+holder+" for "+duration.String())
	return nil
}

func (w *wire) Whoami(context.Context) (string, error) {
	w.asked = append(w.asked, "whoami")
	return w.whoami, w.denies
}

// TestTheRelayNamesTheInstance checks that a Client without a name in its config asks the relay once.
func TestTheRelayNamesTheInstance(t *testing.T) {
	resource := schema.GroupResource{Resource: "selfsubjectreviews"}
	for _, test := range []struct {
		name, whoami string
		denies       error
		want         string // the name in writes
		fails        bool
	}{
		{"by the credential", "gw1", nil, "gw1", false},
		{"a server that does not say", "", nil, "host7", false},
		{"an older relay", "", apierrors.NewMethodNotSupported(resource, "create"), "host7", false},
		{"a server that has no such kind", "", apierrors.NewNotFound(resource, ""), "host7", false},
		{"a user who may not ask", "", apierrors.NewForbidden(resource, "", nil), "host7", false},
		{"an unreachable relay", "", errors.New("connection refused"), "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &wire{whoami: test.whoami, denies: test.denies, list: v1alpha1.MappingList{Items: []v1alpha1.Mapping{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
				Status:     v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{{Name: "gw1"}, {Name: "host7"}}},
			}}}}
			c := NewUnnamedClient("host7", w)
			have, err := c.Read(t.Context())
			if (err != nil) != test.fails {
				t.Fatalf("Read() = %v", err)
			}
			if test.fails {
				return
			}
			at := key{Namespace: "shop", Name: "web"}
			if have[at].Name != "host7" {
				t.Errorf("the entry is read as %q, and compared with one of host7", have[at].Name)
			}
			if err := c.Write(t.Context(), at, have[at]); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []string{"whoami", "smartnatd-" + test.want + ` shop/web {"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping",` +
				`"metadata":{"name":"web","namespace":"shop"},"status":{"instances":[{"name":"` + test.want + `","programmed":false,"ready":false}]}}`}
			if diff := cmp.Diff(want, w.asked); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

const (
	lease   = "renew smartnat/smartnatd-gw1 of gw1 for 10m0s"
	written = `smartnatd-gw1 shop/web {"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping",` +
		`"metadata":{"name":"web","namespace":"shop","uid":"uid-of-web"},"status":{"instances":[{"name":"gw1","programmed":false,"ready":false}]}}`
	removed = `smartnatd-gw1 shop/web {"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping",` +
		`"metadata":{"name":"web","namespace":"shop"},"status":{}}`
)

func TestClient(t *testing.T) {
	at := key{Namespace: "shop", Name: "web"}
	e := Entry{"uid-of-web", v1alpha1.InstanceStatus{Name: "gw1"}}
	for _, test := range []struct {
		name   string
		client func(API) *Client
		want   []string
	}{
		{"through a relay, which tracks the gateways", func(api API) *Client { return NewRelayClient("gw1", api) },
			[]string{written, removed, written}},
		{"at the cluster, with a Lease before anything else and again after a minute", func(api API) *Client { return NewClusterClient("gw1", api, "smartnat") },
			[]string{lease, written, removed, lease, written}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &wire{}
			c := test.client(w)
			now := time.Unix(1000, 0)
			c.now = func() time.Time { return now }
			err := errors.Join(c.Write(t.Context(), at, e), c.Remove(t.Context(), at))
			now = now.Add(leaseEvery)
			if err := errors.Join(err, c.Write(t.Context(), at, e)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, w.asked); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			w.fails = apierrors.NewNotFound(schema.GroupResource{}, "web")
			if err := c.Write(t.Context(), at, e); err != nil {
				t.Errorf("a Mapping that is gone: %v", err)
			}
			w.fails = apierrors.NewForbidden(schema.GroupResource{}, "web", nil)
			if err := c.Write(t.Context(), at, e); !notTaken(err) {
				t.Errorf("%v, want an error for which notTaken holds", err)
			}
		})
	}
}

func TestClientReadsItsOwn(t *testing.T) {
	w := &wire{list: v1alpha1.MappingList{Items: []v1alpha1.Mapping{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-of-web"}, Status: v1alpha1.MappingStatus{
			Instances: []v1alpha1.InstanceStatus{{Name: "gw0"}, {Name: "gw1", Endpoints: 2}, {Name: "gw2"}},
		}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "other"}, Status: v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{{Name: "gw0"}}}},
	}}}
	got, err := NewRelayClient("gw1", w).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[key]Entry{{Namespace: "shop", Name: "web"}: {"uid-of-web", v1alpha1.InstanceStatus{Name: "gw1", Endpoints: 2}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
