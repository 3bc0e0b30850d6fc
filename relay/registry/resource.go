// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// resource is one served kind.
type resource struct {
	*watchcache.Resource
	schema.GroupVersionResource
	kind, singular string
	shortNames     []string
	categories     []string
	columns        columns
	// offer holds the encodings of the kind.
	offer offer
	// envelope is the protobuf head of each object.
	envelope []byte
	// streams are the open watches.
	streams streams
}

func (r *resource) typeMeta() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: r.kind, APIVersion: r.GroupVersion().String()}
}

// groupVersionPath returns the path of the group and version.
func (r *resource) groupVersionPath() string {
	if r.Group == "" {
		return "/api/" + r.Version
	}
	return "/apis/" + r.GroupVersion().String()
}

func newResources(cache *watchcache.Cache) ([]*resource, error) {
	resources := []*resource{{
		Resource:             cache.Services(),
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"),
		kind:                 "Service", singular: "service",
		shortNames: []string{"svc"},
		categories: []string{"all"},
		columns:    serviceColumns,
		offer:      anyEncoding,
	}, {
		Resource:             cache.EndpointSlices(),
		GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
		kind:                 "EndpointSlice", singular: "endpointslice",
		columns: sliceColumns,
		offer:   anyEncoding,
	}, {
		Resource:             cache.Mappings(),
		GroupVersionResource: v1alpha1.SchemeGroupVersion.WithResource("mappings"),
		kind:                 "Mapping", singular: "mapping",
		shortNames: []string{"smap"},
		categories: []string{"smartnat"},
		columns:    mappingColumns,
		// Kinds of a CustomResourceDefinition have no protobuf message.
		offer: onlyJSON,
	}}
	for _, r := range resources {
		var err error
		if r.envelope, err = envelope(r.typeMeta()); err != nil {
			return nil, err
		}
	}
	return resources, nil
}

// verbs returns the verbs of all resources.
func verbs() metav1.Verbs { return metav1.Verbs{"get", "list", "watch"} }

func (r *resource) apiResource() metav1.APIResource {
	return metav1.APIResource{
		Name: r.GroupVersionResource.Resource, SingularName: r.singular, Namespaced: true, Kind: r.kind,
		Verbs: verbs(), ShortNames: r.shortNames, Categories: r.categories,
	}
}

// discovery is apiResource in the form of aggregated discovery.
func (r *resource) discovery() apidiscoveryv2.APIResourceDiscovery {
	return apidiscoveryv2.APIResourceDiscovery{
		Resource: r.GroupVersionResource.Resource, SingularResource: r.singular, Scope: apidiscoveryv2.ScopeNamespace,
		ResponseKind: &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.kind},
		Verbs:        verbs(), ShortNames: r.shortNames, Categories: r.categories,
	}
}
