// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// TestRequests checks the exact requests, and that responses are read.
func TestRequests(t *testing.T) {
	const mapping = `"metadata":{"namespace":"shop","name":"echo"},"spec":{"serviceName":"echo"}`
	echo := types.NamespacedName{Namespace: "shop", Name: "echo"}
	for _, test := range []struct {
		name, answer string
		ask          func(context.Context, API) (string, error)
		want         string
	}{
		{
			"list", `{"kind":"MappingList","apiVersion":"smartnat.aureacentral.com/v1alpha1","items":[{` + mapping + `}]}`,
			func(ctx context.Context, a API) (string, error) {
				list, err := a.List(ctx)
				return list.Items[0].Spec.ServiceName, err
			},
			"GET /apis/smartnat.aureacentral.com/v1alpha1/mappings application/json ",
		},
		{
			"get", `{"kind":"Mapping","apiVersion":"smartnat.aureacentral.com/v1alpha1",` + mapping + `}`,
			func(ctx context.Context, a API) (string, error) {
				m, err := a.Get(ctx, echo)
				return m.Spec.ServiceName, err
			},
			"GET /apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings/echo application/json ",
		},
		{
			"whoami", `{"kind":"SelfSubjectReview","status":{"userInfo":{"username":"u","extra":{"smartnat.aureacentral.com/instance":["gw1"]}}}}`,
			func(ctx context.Context, a API) (string, error) {
				instance, err := a.Whoami(ctx)
				if instance != "gw1" {
					t.Errorf("the instance is %q, want gw1", instance)
				}
				return "echo", err
			},
			"POST /apis/authentication.k8s.io/v1/selfsubjectreviews application/json " +
				`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`,
		},
		{
			"apply", `{}`,
			func(ctx context.Context, a API) (string, error) {
				return "echo", a.Apply(ctx, echo, "me", []byte(`{"a":1}`))
			},
			"PATCH /apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings/echo/status?fieldManager=me&force=true application/apply-patch+yaml " + `{"a":1}`,
		},
		{
			"renew", `{}`,
			func(ctx context.Context, a API) (string, error) {
				return "echo", a.Renew(ctx, echo, "me", "gw1", time.Unix(1700000000, 0), time.Minute)
			},
			"PATCH /apis/coordination.k8s.io/v1/namespaces/shop/leases/echo?fieldManager=me&force=true application/apply-patch+yaml " +
				`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"labels":{"app.kubernetes.io/name":"smartnatd"},"name":"echo","namespace":"shop"},` +
				`"spec":{"holderIdentity":"gw1","leaseDurationSeconds":60,"renewTime":"2023-11-14T22:13:20.000000Z"}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				media := r.Header.Get("Content-Type")
				if r.Method == http.MethodGet {
					media = r.Header.Get("Accept")
				}
				got = r.Method + " " + r.URL.String() + " " + media + " " + string(body)
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, test.answer)
			}))
			defer server.Close()
			api, err := NewAPI(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := test.ask(t.Context(), api)
			if err != nil || answer != "echo" {
				t.Errorf("read %q, %v; want echo", answer, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRefusals checks that errors keep the reason of the server.
func TestRefusals(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"gone"}`)
	}))
	defer server.Close()
	api, err := NewAPI(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "shop", Name: "echo"}
	if _, err := api.Get(t.Context(), name); !apierrors.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
	if err := api.Apply(t.Context(), name, "me", nil); !apierrors.IsNotFound(err) {
		t.Errorf("apply: %v", err)
	}
}
