// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	goruntime "runtime"
	"runtime/debug"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
)

// discovery returns the documents by which clients learn what is served, by path. A trailing slash makes no difference.
func discovery(resources []*resource) map[string]any {
	documents := map[string]any{"/version": protocolVersion()}
	groups := metav1.APIGroupList{TypeMeta: typeMeta("APIGroupList")}
	for _, r := range resources {
		gv := r.GroupVersion()
		path := "/apis/" + gv.String()
		if gv.Group == "" {
			path = "/api/" + gv.Version
			documents["/api"] = metav1.APIVersions{
				TypeMeta: metav1.TypeMeta{Kind: "APIVersions"},
				Versions: []string{gv.Version},
				// Required. Clients keep to the address that they have.
				ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
			}
		} else {
			served := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
			group := metav1.APIGroup{
				Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served,
			}
			groups.Groups = append(groups.Groups, group)
			group.TypeMeta = typeMeta("APIGroup")
			documents["/apis/"+gv.Group] = group
		}
		documents[path] = metav1.APIResourceList{
			TypeMeta: typeMeta("APIResourceList"), GroupVersion: gv.String(),
			APIResources: []metav1.APIResource{r.apiResource()},
		}
	}
	documents["/apis"] = groups
	return documents
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
