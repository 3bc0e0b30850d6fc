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

// documents maps paths to handlers of discovery and OpenAPI documents.
type documents map[string]http.Handler

// addDiscovery adds the discovery documents: aggregated ones, and one per group and version for older clients.
func (d documents) addDiscovery(served []groupVersion) error {
	groups := &metav1.APIGroupList{TypeMeta: typeMeta("APIGroupList")}
	var core, named []apidiscoveryv2.APIGroupDiscovery
	versions := &metav1.APIVersions{
		TypeMeta: typeMeta("APIVersions"),
		// Required. Empty, because clients should keep using the address that they have.
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
	}
	for _, gv := range served {
		list := &metav1.APIResourceList{TypeMeta: typeMeta("APIResourceList"), GroupVersion: gv.String()}
		version := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, r := range gv.resources {
			list.APIResources = append(list.APIResources, r.apiResource())
			version.Resources = append(version.Resources, r.discovery())
		}
		d[gv.path()] = document(list)
		all := apidiscoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group}, Versions: []apidiscoveryv2.APIVersionDiscovery{version},
		}
		if gv.Group == "" {
			core = append(core, all)
			versions.Versions = append(versions.Versions, gv.Version)
			continue
		}
		named = append(named, all)
		served := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		group := metav1.APIGroup{
			Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served,
		}
		groups.Groups = append(groups.Groups, group)
		group.TypeMeta = typeMeta("APIGroup")
		d["/apis/"+gv.Group] = document(&group)
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

// document serves a constant object.
func document(obj runtime.Object) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { writeObject(w, req, http.StatusOK, obj) })
}

// aggregatedKind is the kind of aggregated discovery (KEP-3352).
var aggregatedKind = apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")

// aggregatedOnly accepts no other kind.
type aggregatedOnly struct{ transforms }

func (aggregatedOnly) AllowsMediaTypeTransform(_, _ string, target *schema.GroupVersionKind) bool {
	return target != nil && *target == aggregatedKind
}

// aggregated serves aggregated discovery to clients that accept it, and next to all others. It answers 304 to clients that
// send the current ETag.
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

// protocolVersion returns the Kubernetes version whose protocol the relay speaks: that of the libraries that it is built
// from.
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
		// Kubernetes v1.37.2 publishes its libraries as v0.37.2.
		rest := strings.TrimPrefix(module.Version, "v0.")
		info.Minor, _, _ = strings.Cut(rest, ".")
		info.GitVersion = "v1." + rest + "+smartnat"
	}
	return info
}
