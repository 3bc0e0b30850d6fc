// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// resource is one served kind.
type resource struct {
	*kinds.Names
	kind *kinds.Kind
	// whole is all that the cache shows of the kind. Its watchers wake on any change.
	whole   *watchcache.Resource
	columns columns
	// offer holds the encodings of the kind.
	offer offer
	// envelope is the protobuf head of each object.
	envelope []byte
	// streams are the open watches.
	streams streams
}

// groupVersion is a version of an API group and its resources.
type groupVersion struct {
	schema.GroupVersion
	resources []*resource
}

// path returns the path of the group and version.
func (gv groupVersion) path() string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// newResources returns a resource for each kind of the cache, the core group first.
func newResources(cache *watchcache.Cache) ([]groupVersion, error) {
	byGroup := map[schema.GroupVersion][]*resource{}
	for _, cached := range cache.Resources() {
		kind := cached.Kind()
		r := &resource{Names: &kind.Names, kind: kind, whole: cached, columns: columnsOf(kind), offer: onlyJSON}
		if kind.Protobuf {
			r.offer = anyEncoding
		}
		var err error
		if r.envelope, err = envelope(r.TypeMeta()); err != nil {
			return nil, err
		}
		byGroup[kind.GroupVersion()] = append(byGroup[kind.GroupVersion()], r)
	}
	var all []groupVersion
	for gv, resources := range byGroup {
		all = append(all, groupVersion{gv, resources})
	}
	slices.SortFunc(all, func(a, b groupVersion) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version))
	})
	return all, nil
}

// verbs returns the verbs of all resources.
func verbs() metav1.Verbs { return metav1.Verbs{"get", "list", "watch"} }

func (r *resource) apiResource() metav1.APIResource {
	return metav1.APIResource{
		Name: r.Resource, SingularName: r.Singular, Namespaced: !r.ClusterScoped, Kind: r.Kind,
		Verbs: verbs(), ShortNames: r.ShortNames, Categories: r.Categories,
	}
}

// discovery is apiResource in the form of aggregated discovery.
func (r *resource) discovery() apidiscoveryv2.APIResourceDiscovery {
	scope := apidiscoveryv2.ScopeNamespace
	if r.ClusterScoped {
		scope = apidiscoveryv2.ScopeCluster
	}
	return apidiscoveryv2.APIResourceDiscovery{
		Resource: r.Resource, SingularResource: r.Singular, Scope: scope,
		ResponseKind: &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind},
		Verbs:        verbs(), ShortNames: r.ShortNames, Categories: r.Categories,
	}
}
