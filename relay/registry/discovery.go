// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	goruntime "runtime"
	"runtime/debug"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
)

// documents are what is served beside objects, by path.
type documents map[string]http.Handler

// addDiscovery adds the documents by which clients learn what is served: all of it at once for those who ask for that, and
// a document for each group and version for others.
func (d documents) addDiscovery(resources []*resource) error {
	groups := &metav1.APIGroupList{TypeMeta: typeMeta("APIGroupList")}
	var core, named []apidiscoveryv2.APIGroupDiscovery
	versions := &metav1.APIVersions{
		TypeMeta: typeMeta("APIVersions"),
		// Required. Clients keep to the address that they have.
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
	}
	for _, r := range resources {
		gv := r.GroupVersion()
		all := apidiscoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group},
			Versions: []apidiscoveryv2.APIVersionDiscovery{{
				Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
				Resources: []apidiscoveryv2.APIResourceDiscovery{r.discovery()},
			}},
		}
		if gv.Group == "" {
			core = append(core, all)
			versions.Versions = append(versions.Versions, gv.Version)
		} else {
			named = append(named, all)
			served := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
			group := metav1.APIGroup{
				Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served,
			}
			groups.Groups = append(groups.Groups, group)
			group.TypeMeta = typeMeta("APIGroup")
			d["/apis/"+gv.Group] = document(&group)
		}
		d[r.groupVersionPath()] = document(&metav1.APIResourceList{
			TypeMeta: typeMeta("APIResourceList"), GroupVersion: gv.String(),
			APIResources: []metav1.APIResource{r.apiResource()},
		})
	}
	var err error
	if d["/api"], err = aggregated(document(versions), core); err != nil {
		return err
	}
	if d["/apis"], err = aggregated(document(groups), named); err != nil {
		return err
	}
	text, err := json.MarshalIndent(protocolVersion(), "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the version: %w", err)
	}
	d["/version"] = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		writeBody(w, req, http.StatusOK, runtime.ContentTypeJSON, text)
	})
	return nil
}

// document serves an object that never changes.
func document(obj runtime.Object) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { writeObject(w, req, http.StatusOK, obj) })
}

// aggregatedKind is what those ask for who want to know of all groups at once (KEP-3352).
var aggregatedKind = apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")

// aggregatedOnly allows nobody else.
type aggregatedOnly struct{ transforms }

func (aggregatedOnly) AllowsMediaTypeTransform(_, _ string, target *schema.GroupVersionKind) bool {
	return target != nil && *target == aggregatedKind
}

// aggregated serves groups with all that is in them to those who ask for that, and has others served by next. Clients that
// have it already say so by its tag.
func aggregated(next http.Handler, groups []apidiscoveryv2.APIGroupDiscovery) (http.Handler, error) {
	list := &apidiscoveryv2.APIGroupDiscoveryList{Items: groups}
	list.SetGroupVersionKind(aggregatedKind)
	bodies := map[string][]byte{}
	for mediaType, as := range encodings {
		object, err := as.object(list)
		if err != nil {
			return nil, err
		}
		bodies[mediaType] = object.bytes()
	}
	tag := fmt.Sprintf(`"%X"`, sha256.Sum256(bodies[runtime.ContentTypeJSON]))
	parameters := fmt.Sprintf(";g=%s;v=%s;as=%s", aggregatedKind.Group, aggregatedKind.Version, aggregatedKind.Kind)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, info, err := negotiation.NegotiateOutputMediaType(req, anyEncoding, aggregatedOnly{})
		if err != nil || req.Header.Get("Accept") == "" {
			next.ServeHTTP(w, req)
			return
		}
		w.Header().Set("ETag", tag)
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Cache-Control", "public")
		if req.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		writeBody(w, req, http.StatusOK, info.MediaType+parameters, bodies[info.MediaType])
	}), nil
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
