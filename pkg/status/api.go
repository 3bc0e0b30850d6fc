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

// API is what is asked of the server that holds Mappings.
type API interface {
	List(ctx context.Context) (*v1alpha1.MappingList, error)
	Get(ctx context.Context, mapping types.NamespacedName) (*v1alpha1.Mapping, error)
	// Apply is a server-side apply of a Mapping's status, by force.
	Apply(ctx context.Context, mapping types.NamespacedName, manager string, body []byte) error
	// Whoami returns the instance that the credential is of, nothing where the server does not say.
	Whoami(ctx context.Context) (instance string, err error)
	// Renew applies a Lease that holds for so long from now.
	Renew(ctx context.Context, lease types.NamespacedName, manager, holder string, now time.Time, duration time.Duration) error
}

// restAPI is the API by plain requests. The clientsets would bring all kinds that Kubernetes has into memory.
type restAPI struct{ client rest.Interface }

// NewAPI returns the API of a server.
func NewAPI(cfg *rest.Config) (API, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering Mapping: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = "/apis"
	cfg.QPS = -1 // those who write have a limit of their own
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

// Whoami implements API by a SelfSubjectReview, of which it reads the instance alone.
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
