// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// resource is one of the kinds that are served.
type resource struct {
	*watchcache.Resource
	schema.GroupVersionResource
	kind, singular string
	shortNames     []string
	categories     []string
	columns        columns
}

func newResources(cache *watchcache.Cache) ([]*resource, error) {
	mappingColumns, err := newMappingColumns()
	if err != nil {
		return nil, err
	}
	return []*resource{{
		Resource:             cache.Services(),
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"),
		kind:                 "Service", singular: "service",
		shortNames: []string{"svc"},
		categories: []string{"all"},
		columns:    serviceColumns,
	}, {
		Resource:             cache.EndpointSlices(),
		GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
		kind:                 "EndpointSlice", singular: "endpointslice",
		columns: sliceColumns,
	}, {
		Resource:             cache.Mappings(),
		GroupVersionResource: v1alpha1.SchemeGroupVersion.WithResource("mappings"),
		kind:                 "Mapping", singular: "mapping",
		shortNames: []string{"smap"},
		categories: []string{"smartnat"},
		columns:    mappingColumns,
	}}, nil
}

// verbs are all that the relay can do.
func verbs() metav1.Verbs { return metav1.Verbs{"get", "list", "watch"} }

func (r *resource) apiResource() metav1.APIResource {
	return metav1.APIResource{
		Name: r.GroupVersionResource.Resource, SingularName: r.singular, Namespaced: true, Kind: r.kind,
		Verbs: verbs(), ShortNames: r.shortNames, Categories: r.categories,
	}
}
