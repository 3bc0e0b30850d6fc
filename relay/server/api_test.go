// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/watchcache"
)

const mappingsPath = "/apis/smartnat.aureacentral.com/v1alpha1/mappings"

func as(token string) http.Header {
	if token == "" {
		return http.Header{}
	}
	return http.Header{"Authorization": {"Bearer " + token}}
}

func TestStatus(t *testing.T) {
	f := newFixture(t, nil)
	f.populate(t)
	for _, test := range []struct {
		name, method, path, token string
		want                      metav1.Status
	}{
		{"unauthenticated read", "GET", "/api/v1/services", "", metav1.Status{Code: 401, Reason: "Unauthorized", Message: "Unauthorized"}},
		{"unauthenticated write", "DELETE", "/api/v1/services", "", metav1.Status{Code: 401, Reason: "Unauthorized", Message: "Unauthorized"}},
		{"unauthenticated read of another path", "GET", "/metrics", "", metav1.Status{Code: 401, Reason: "Unauthorized", Message: "Unauthorized"}},
		{"forbidden read", "GET", "/api/v1/namespaces/shop/services/mapped", strangerToken, metav1.Status{Code: 403, Reason: "Forbidden",
			Message: `services "mapped" is forbidden: User "stranger" cannot get resource "services" in API group "" in the namespace "shop"`}},
		{"forbidden discovery", "GET", "/apis", strangerToken, metav1.Status{Code: 403, Reason: "Forbidden",
			Message: `forbidden: User "stranger" cannot get path "/apis"`}},
		{"object that does not exist", "GET", "/api/v1/namespaces/shop/services/none", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: `services "none" not found`}},
		{"object that no Mapping names", "GET", "/api/v1/namespaces/shop/services/hidden", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: `services "hidden" not found`}},
		{"another kind", "GET", "/api/v1/namespaces/shop/secrets/s", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: "the server could not find the requested resource"}},
		{"a subresource", "GET", "/api/v1/namespaces/shop/services/mapped/proxy", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: "the server could not find the requested resource"}},
		{"a name without its namespace", "GET", "/api/v1/services/mapped", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: "the server could not find the requested resource"}},
		{"unauthenticated watch without a resource", "GET", "/api/v1/watch", "", metav1.Status{Code: 401, Reason: "Unauthorized", Message: "Unauthorized"}},
		{"another version", "GET", "/apis/discovery.k8s.io/v1beta1/endpointslices", gatewayToken, metav1.Status{Code: 404, Reason: "NotFound",
			Message: "the server could not find the requested resource"}},
		{"version of another server", "GET", "/api/v1/services?resourceVersion=5&resourceVersionMatch=NotOlderThan", gatewayToken,
			metav1.Status{Code: 410, Reason: "Expired", Message: "too old resource version: 5"}},
		{"watch from a version of another server", "GET", "/api/v1/services?watch=1&resourceVersion=5", gatewayToken,
			metav1.Status{Code: 410, Reason: "Expired", Message: "too old resource version: 5"}},
		{"initial events from a version of another server", "GET",
			"/api/v1/services?watch=1&resourceVersion=5&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", gatewayToken,
			metav1.Status{Code: 410, Reason: "Expired", Message: "too old resource version: 5"}},
		{"continue token of another server", "GET", "/api/v1/services?continue=x", gatewayToken, metav1.Status{Code: 410, Reason: "Expired",
			Message: "The provided continue parameter is not from this relay, which does not split lists."}},
		{"malformed version", "GET", "/api/v1/services?resourceVersion=x", gatewayToken, metav1.Status{Code: 400, Reason: "BadRequest",
			Message: `invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax`}},
		{"selector of an unknown field", "GET", "/api/v1/services?fieldSelector=spec.clusterIP%3Dx", gatewayToken,
			metav1.Status{Code: 400, Reason: "BadRequest",
				Message: `"spec.clusterIP" is not a known field selector: only "metadata.name", "metadata.namespace"`}},
		{"initial events without a match", "GET", "/api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", gatewayToken,
			metav1.Status{Code: 422, Reason: "Invalid"}},
		{"POST", "POST", "/api/v1/namespaces/shop/services", gatewayToken, metav1.Status{Code: 405, Reason: "MethodNotAllowed",
			Message: `create is not supported on resources of kind "services"`}},
		{"DELETE", "DELETE", mappingsPath, gatewayToken, metav1.Status{Code: 405, Reason: "MethodNotAllowed",
			Message: `deletecollection is not supported on resources of kind "mappings.smartnat.aureacentral.com"`}},
		{"forbidden PATCH", "PATCH", "/api/v1/namespaces/shop/services/mapped", strangerToken, metav1.Status{Code: 405,
			Reason: "MethodNotAllowed", Message: `patch is not supported on resources of kind "services"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, body := f.do(t, test.method, test.path, as(test.token))
			var got metav1.Status
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("%v in %q", err, body)
			}
			if got.Kind != "Status" || got.APIVersion != "v1" || got.Status != "Failure" || resp.status != int(got.Code) {
				t.Errorf("status %d, body %s", resp.status, body)
			}
			got = metav1.Status{Code: got.Code, Reason: got.Reason, Message: got.Message}
			if test.want.Message == "" {
				got.Message = ""
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestAWatchOfNothingDoesNotExist(t *testing.T) {
	f := newFixture(t, nil)
	if resp, body := f.do(t, "GET", "/api/v1/watch", as(gatewayToken)); resp.status != http.StatusNotFound {
		t.Errorf("%d %s, want 404", resp.status, body)
	}
}

func TestProbes(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		if resp, body := f.do(t, "GET", path, http.Header{}); resp.status != 200 || string(body) != "ok" {
			t.Errorf("%s: %d %q", path, resp.status, body)
		}
	}
}

func TestNothingIsServedBeforeTheClusterIsKnown(t *testing.T) {
	server := httptest.NewServer(handlerOf(t, watchcache.New(watchcache.NewEpoch(), 1)))
	defer server.Close()
	for path, want := range map[string]int{"/readyz": 503, "/livez": 200, mappingsPath: 429, mappingsPath + "?watch=1": 429} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = as(gatewayToken)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// handlerOf returns the handler of a relay without its server, for tests of behavior that a server hides.
func handlerOf(t *testing.T, cache *watchcache.Cache) http.Handler {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	api, err := registry.New(cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newHandler(&Config{
		Authenticator: authenticator.RequestFunc(fakeAuthentication), Authorizer: authorizer.AuthorizerFunc(fakeAuthorization),
		Cache: cache, Log: log,
	}, api, nil)
}

func TestSelectors(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	for _, m := range []struct{ namespace, name, label string }{{"shop", "a", "1"}, {"shop", "b", "2"}, {"bank", "a", "2"}} {
		mapping := newMapping(m.namespace, m.name, "web")
		mapping.Labels = map[string]string{"tier": m.label}
		if _, err := f.smartnat.SmartnatV1alpha1().Mappings(m.namespace).Create(ctx, mapping, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all Mappings", func() bool { all, _ := f.cache.Mappings().List(); return len(all) == 3 })
	client := f.smartnatClient(t).SmartnatV1alpha1()
	for _, test := range []struct {
		name, namespace string
		options         metav1.ListOptions
		want            string
	}{
		{"all", "", metav1.ListOptions{}, "bank/a shop/a shop/b"},
		{"one namespace", "shop", metav1.ListOptions{}, "shop/a shop/b"},
		{"a namespace without any", "other", metav1.ListOptions{}, ""},
		{"a label", "", metav1.ListOptions{LabelSelector: "tier=2"}, "bank/a shop/b"},
		{"a label and a namespace", "shop", metav1.ListOptions{LabelSelector: "tier in (2)"}, "shop/b"},
		{"a name", "", metav1.ListOptions{FieldSelector: "metadata.name=a"}, "bank/a shop/a"},
		{"a namespace by field", "", metav1.ListOptions{FieldSelector: "metadata.namespace!=bank"}, "shop/a shop/b"},
		{"a limit, which is ignored", "", metav1.ListOptions{Limit: 1}, "bank/a shop/a shop/b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := client.Mappings(test.namespace).List(ctx, test.options)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range list.Items {
				got = append(got, m.Namespace+"/"+m.Name)
			}
			if strings.Join(got, " ") != test.want || list.Continue != "" {
				t.Errorf("%v, want %s", got, test.want)
			}
		})
	}
}

func TestListAtAnExactVersion(t *testing.T) {
	f := newFixture(t, nil)
	f.populate(t)
	ctx := context.Background()
	mappings := f.smartnatClient(t).SmartnatV1alpha1().Mappings("")
	first, err := mappings.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	exact := metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	again, err := mappings.List(ctx, exact)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("-first +again\n%s", diff)
	}
	if err := f.smartnat.SmartnatV1alpha1().Mappings("shop").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion", func() bool { return f.cache.Mappings().Get("shop", "web") == nil })
	if _, err := mappings.List(ctx, exact); !apierrors.IsResourceExpired(err) {
		t.Errorf("List() at a version that is no longer current = %v, want Expired", err)
	}
}

func TestTables(t *testing.T) {
	f := newFixture(t, nil)
	f.populate(t)
	header := as(gatewayToken)
	header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	for path, want := range map[string]string{
		mappingsPath:       `Name Addresses Service Ports Ready Reason Age Mode Endpoints Gateways: web <nil> mapped <nil> <nil> <nil> <nil> <nil> <nil> <nil>`,
		"/api/v1/services": "Name Type Cluster-IP Port(s) Age: mapped ClusterIP 10.96.0.1 80/TCP <unknown>",
		"/apis/discovery.k8s.io/v1/endpointslices": "Name AddressType Ports Endpoints Age: mapped-1 IPv4 <none> 10.244.0.1 <unknown>",
	} {
		_, body := f.do(t, "GET", path, header)
		var table metav1.Table
		if err := json.Unmarshal(body, &table); err != nil || len(table.Rows) != 1 {
			t.Fatalf("%s: %v in %s", path, err, body)
		}
		var names []string
		for _, c := range table.ColumnDefinitions {
			names = append(names, c.Name)
		}
		got := strings.Join(names, " ") + ":"
		for _, cell := range table.Rows[0].Cells {
			got += fmt.Sprint(" ", cell)
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
		if !strings.Contains(string(table.Rows[0].Object.Raw), `"PartialObjectMetadata"`) {
			t.Errorf("%s: a row without its metadata: %s", path, body)
		}
	}
}

func TestAccept(t *testing.T) {
	f := newFixture(t, nil)
	const services = "/api/v1/services"
	for _, test := range []struct {
		path, accept string
		want         int
		mediaType    string
	}{
		{mappingsPath, "application/vnd.kubernetes.protobuf", 406, "application/vnd.kubernetes.protobuf"},
		{mappingsPath, "application/vnd.kubernetes.protobuf,application/json", 200, "application/json"},
		{services, "application/vnd.kubernetes.protobuf", 200, "application/vnd.kubernetes.protobuf"},
		{services, "application/json,application/vnd.kubernetes.protobuf", 200, "application/json"},
		{services, "*/*", 200, "application/json"},
		{services, "application/yaml", 406, "application/json"},
		{services, "application/cbor", 406, "application/json"},
		{services, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", 200, "application/json"},
		{services, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 406, "application/json"},
		{services, "application/json;as=Table;v=v1beta1;g=meta.k8s.io", 406, "application/json"},
		{services, "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", 406, "application/json"},
		{services, "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", 200, "application/json"},
		{services, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;q=.9", 200, "application/json"},
		{"/apis", "application/vnd.kubernetes.protobuf", 200, "application/vnd.kubernetes.protobuf"},
	} {
		header := as(gatewayToken)
		header.Set("Accept", test.accept)
		resp, body := f.do(t, "GET", test.path, header)
		if got := resp.header.Get("Content-Type"); resp.status != test.want || got != test.mediaType {
			t.Errorf("%s as %s: %d in %s, want %d in %s: %.200s", test.path, test.accept, resp.status, got, test.want, test.mediaType, body)
		}
	}
}

func TestLongListsAreCompressed(t *testing.T) {
	f := newFixture(t, nil)
	for i := range 300 {
		m := newMapping("shop", fmt.Sprint("m", i), "web")
		m.Labels = map[string]string{"filling": strings.Repeat("x", 500)}
		if err := f.cache.Mappings().Store().Add(m); err != nil {
			t.Fatal(err)
		}
	}
	header := as(gatewayToken)
	_, plain := f.do(t, "GET", mappingsPath, header)
	header = as(gatewayToken)
	header.Set("Accept-Encoding", "gzip")
	resp, compressed := f.do(t, "GET", mappingsPath, header)
	if resp.header.Get("Content-Encoding") != "gzip" || len(compressed) > len(plain)/10 {
		t.Fatalf("%d of %d bytes, encoding %q", len(compressed), len(plain), resp.header.Get("Content-Encoding"))
	}
	reader, err := gzip.NewReader(strings.NewReader(string(compressed)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != string(plain) {
		t.Errorf("%v: the compressed list differs from the plain one", err)
	}
}

func TestDiscovery(t *testing.T) {
	f := newFixture(t, nil)
	client := f.coreClient(t).Discovery()
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, list := range lists {
		for _, r := range list.APIResources {
			got = append(got, fmt.Sprint(list.GroupVersion, " ", r.Name, " ", r.Kind, " ", r.Namespaced, " ", r.Verbs, " ", r.ShortNames))
		}
	}
	slices.Sort(got) // client-go does not
	want := []string{
		"discovery.k8s.io/v1 endpointslices EndpointSlice true [get list watch] []",
		"smartnat.aureacentral.com/v1alpha1 mappings Mapping true [get list watch] [smap]",
		"smartnat.aureacentral.com/v1alpha1 portgrants PortGrant false [get list watch] [pgrant]",
		"v1 namespaces Namespace false [get list watch] [ns]",
		"v1 services Service true [get list watch] [svc]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if v, err := client.ServerVersion(); err != nil || v.Major != "1" {
		t.Errorf("ServerVersion() = %v, %v", v, err)
	}
	var group metav1.APIGroup
	if code := f.get(t, "/apis/smartnat.aureacentral.com/", &group); code != 200 || group.PreferredVersion.Version != "v1alpha1" {
		t.Errorf("the group, with a trailing slash: %d %v", code, group)
	}
}
