// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	goruntime "runtime"
	"runtime/debug"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// documents are what is served beside objects, by path.
type documents map[string]http.Handler

// firstPriority is that of the first group; it is higher than that of those after it.
const firstPriority = 1000

// addDiscovery adds the documents by which clients learn what is served: all of it at once for those who ask for that, and
// a document for each group and version for others.
func (d documents) addDiscovery(resources []*resource) {
	groups := &metav1.APIGroupList{TypeMeta: typeMeta("APIGroupList")}
	core, named := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	for i, r := range resources {
		gv := r.GroupVersion()
		manager := named
		if gv.Group == "" {
			manager = core
			versions := &metav1.APIVersions{
				TypeMeta: typeMeta("APIVersions"), Versions: []string{gv.Version},
				// Required. Clients keep to the address that they have.
				ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
			}
			d["/api"] = aggregated.WrapAggregatedDiscoveryToHandler(document(versions), core, nil)
		} else {
			served := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
			group := metav1.APIGroup{
				Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served,
			}
			groups.Groups = append(groups.Groups, group)
			group.TypeMeta = typeMeta("APIGroup")
			d["/apis/"+gv.Group] = document(&group)
		}
		manager.AddGroupVersion(gv.Group, apidiscoveryv2.APIVersionDiscovery{
			Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Resources: []apidiscoveryv2.APIResourceDiscovery{r.discovery()},
		})
		// In the order of the resources, as the document of groups is.
		manager.SetGroupVersionPriority(metav1.GroupVersion(gv), firstPriority-i, 1)
		d[r.groupVersionPath()] = document(&metav1.APIResourceList{
			TypeMeta: typeMeta("APIResourceList"), GroupVersion: gv.String(),
			APIResources: []metav1.APIResource{r.apiResource()},
		})
	}
	d["/apis"] = aggregated.WrapAggregatedDiscoveryToHandler(document(groups), named, nil)
	d["/version"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		responsewriters.WriteRawJSON(http.StatusOK, protocolVersion(), w)
	})
}

// document serves an object that never changes.
func document(obj runtime.Object) http.Handler {
	codecs := Codecs()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		responsewriters.WriteObjectNegotiated(codecs, negotiation.DefaultEndpointRestrictions,
			schema.GroupVersion{Version: "v1"}, w, req, http.StatusOK, obj, false)
	})
}

func typeMeta(kind string) metav1.TypeMeta { return metav1.TypeMeta{Kind: kind, APIVersion: "v1"} }

// protocolVersion says which version of Kubernetes the relay speaks like: that of the libraries that it is built from.
func protocolVersion() version.Info {
	info := version.Info{
		Major: "1", GoVersion: goruntime.Version(), Compiler: goruntime.Compiler,
		Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	for _, module := range build.Deps {
		if module.Path != "k8s.io/apimachinery" {
			continue
		}
		// The libraries of v1.37.2 are v0.37.2.
		rest := strings.TrimPrefix(module.Version, "v0.")
		info.Minor, _, _ = strings.Cut(rest, ".")
		info.GitVersion = "v1." + rest + "+smartnat"
	}
	return info
}
