// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// API is the part of the API of Mappings that this package uses.
type API interface {
	List(ctx context.Context) (*v1alpha1.MappingList, error)
	Get(ctx context.Context, mapping types.NamespacedName) (*v1alpha1.Mapping, error)
	// Apply applies the status of a Mapping server-side, by force.
	Apply(ctx context.Context, mapping types.NamespacedName, manager string, body []byte) error
	// Whoami returns the instance of the credential, or "" if the server does not report it.
	Whoami(ctx context.Context) (instance string, err error)
	// Renew applies a Lease that is valid for the duration from now.
	Renew(ctx context.Context, lease types.NamespacedName, manager, holder string, now time.Time, duration time.Duration) error
}

// restAPI implements API by plain requests. Clientsets would load all kinds of Kubernetes into memory.
type restAPI struct{ client rest.Interface }

// NewAPI returns the API of a server.
func NewAPI(cfg *rest.Config) (API, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering Mapping: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = "/apis"
	cfg.QPS = -1 // callers have their own limits
	cfg.ContentConfig = rest.ContentConfig{
		AcceptContentTypes: runtime.ContentTypeJSON,
		GroupVersion:       &v1alpha1.SchemeGroupVersion, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
	}
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return restAPI{client}, nil
}

// List implements API.
func (a restAPI) List(ctx context.Context) (*v1alpha1.MappingList, error) {
	list := &v1alpha1.MappingList{}
	return list, a.client.Get().Resource("mappings").Do(ctx).Into(list)
}

// Get implements API.
func (a restAPI) Get(ctx context.Context, mapping types.NamespacedName) (*v1alpha1.Mapping, error) {
	m := &v1alpha1.Mapping{}
	return m, a.client.Get().Namespace(mapping.Namespace).Resource("mappings").Name(mapping.Name).Do(ctx).Into(m)
}

// Whoami implements API by a SelfSubjectReview, and reads only the instance.
func (a restAPI) Whoami(ctx context.Context) (string, error) {
	raw, err := a.client.Post().AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").
		Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)).SetHeader("Content-Type", runtime.ContentTypeJSON).Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Extra map[string][]string `json:"extra"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	if err := json.Unmarshal(raw, &review); err != nil {
		return "", fmt.Errorf("decoding a SelfSubjectReview: %w", err)
	}
	if names := review.Status.UserInfo.Extra[v1alpha1.InstanceExtra]; len(names) == 1 {
		return names[0], nil
	}
	return "", nil
}

// Apply implements API.
func (a restAPI) Apply(ctx context.Context, mapping types.NamespacedName, manager string, body []byte) error {
	return a.apply(manager, body).Namespace(mapping.Namespace).Resource("mappings").Name(mapping.Name).SubResource("status").Do(ctx).Error()
}

// Renew implements API.
func (a restAPI) Renew(ctx context.Context, lease types.NamespacedName, manager, holder string, now time.Time, duration time.Duration) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "coordination.k8s.io/v1",
		"kind":       "Lease",
		"metadata": map[string]any{
			"namespace": lease.Namespace, "name": lease.Name, "labels": map[string]string{v1alpha1.LeaseLabel: v1alpha1.LeaseLabelValue},
		},
		"spec": map[string]any{
			"holderIdentity": holder, "leaseDurationSeconds": int(duration.Seconds()), "renewTime": metav1.NewMicroTime(now),
		},
	})
	if err != nil {
		return err
	}
	return a.apply(manager, body).AbsPath("/apis/coordination.k8s.io/v1/namespaces", lease.Namespace, "leases", lease.Name).Do(ctx).Error()
}

func (a restAPI) apply(manager string, body []byte) *rest.Request {
	return a.client.Patch(types.ApplyPatchType).Param("fieldManager", manager).Param("force", "true").Body(body)
}
