// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/watchcache"
)

const gatewayHeader = "Test-Gateway"

// serveGateways serves a Cache to gateways that say their name, until the test ends.
func serveGateways(t *testing.T, cache *watchcache.Cache) (url string) {
	t.Helper()
	stopping := make(chan struct{})
	api, err := New(cache, stopping)
	if err != nil {
		t.Fatal(err)
	}
	api.Gateway = func(req *http.Request) (string, bool) {
		name := req.Header.Get(gatewayHeader)
		return name, name != ""
	}
	server := httptest.NewServer(withRequestInfo(api))
	t.Cleanup(func() { close(stopping); server.Close() })
	return server.URL
}

// askAs returns the status and the body of an answer.
func askAs(t *testing.T, gateway, url string) (int, io.Reader) {
	t.Helper()
	return askAccepting(t, gateway, "", url)
}

func askAccepting(t *testing.T, gateway, accept, url string) (int, io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(gatewayHeader, gateway)
	req.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response.StatusCode, response.Body
}

func readAs(t *testing.T, gateway, url string) (status int, body string) {
	t.Helper()
	return readAccepting(t, gateway, "", url)
}

func readAccepting(t *testing.T, gateway, accept, url string) (status int, body string) {
	t.Helper()
	status, answer := askAccepting(t, gateway, accept, url)
	text, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	return status, string(text)
}

func limitedTo(t *testing.T, addresses string) filter.Scope {
	t.Helper()
	scope, err := filter.ScopeOf(map[string]string{v1alpha1.AddressesAnnotation: addresses})
	if err != nil {
		t.Fatal(err)
	}
	return scope
}

const (
	mappingsPath = "/apis/smartnat.aureacentral.com/v1alpha1/mappings"
	slicesPath   = "/apis/discovery.k8s.io/v1/endpointslices"
)

// TestBytesOfFiftyGateways lists everything as each of 50 gateways with an address each, and as one that is enrolled for all. All bytes
// of objects that the 50 get together are exactly those that the one gets: each object leaves once.
func TestBytesOfFiftyGateways(t *testing.T) {
	const gateways = 50
	cache := syncedCache(t, 8)
	cache.ExpectGateways()
	scopes := map[string]filter.Scope{"all": filter.Everything(), "none": limitedTo(t, "203.0.113.1")}
	for i := range gateways {
		name, address := fmt.Sprintf("web-%02d", i), fmt.Sprintf("192.0.2.%d", 100+i)
		m := newMapping(name, name)
		m.Spec.Addresses = []string{address}
		put(t, cache, newService(name), newSlice(name, name, "10.244.1.1", "10.244.1.2", "10.244.1.3"), m)
		scopes[name] = limitedTo(t, address)
	}
	cache.SetGateways(scopes)
	url := serveGateways(t, cache)
	bytes := func(gateway, path string) int {
		status, body := readAs(t, gateway, url+path)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", gateway, status, body)
		}
		return len(body)
	}
	const commas = gateways - 1
	var one, all int // of objects
	for _, path := range []string{mappingsPath, "/api/v1/services", slicesPath} {
		empty, parts := bytes("none", path), 0
		for i := range gateways {
			parts += bytes(fmt.Sprintf("web-%02d", i), path) - empty
		}
		whole := bytes("all", path) - empty - commas
		if parts != whole {
			t.Errorf("%s: %d gateways get %d bytes together, one for all gets %d", path, gateways, parts, whole)
		}
		one, all = one+bytes("web-07", path)-empty, all+whole
	}
	// All objects of a kind have the same size.
	if t.Logf("one gateway of %d: %d bytes of objects, one for all: %d", gateways, one, all); one*gateways != all {
		t.Errorf("one gateway of %d gets %d bytes of %d", gateways, one, all)
	}
}

// TestNothingOfOtherGateways asks for a Mapping of another gateway, and its Service and slice, in all ways.
func TestNothingOfOtherGateways(t *testing.T) {
	cache := syncedCache(t, 8)
	cache.ExpectGateways()
	other := newMapping("secret", "secret")
	other.Spec.Addresses, other.Labels = []string{"192.0.2.2"}, map[string]string{"tier": "secret"}
	cache.SetGateways(map[string]filter.Scope{"edge-1": limitedTo(t, "192.0.2.1"), "edge-2": limitedTo(t, "192.0.2.2")})
	_, start := cache.Mappings().List()
	put(t, cache, newService("secret"), newSlice("secret", "secret", "10.244.1.66"), other)
	put(t, cache, newService("web"), newSlice("web", "web", "10.244.1.1"), newMapping("web", "web"))
	url := serveGateways(t, cache)
	for _, resource := range []string{mappingsPath, "/api/v1/services", slicesPath} {
		group := strings.TrimSuffix(resource, resource[strings.LastIndex(resource, "/"):])
		named := group + "/namespaces/shop" + strings.TrimPrefix(resource, group)
		for _, ask := range []string{
			resource, resource + "?labelSelector=tier=secret", resource + "?labelSelector=kubernetes.io/service-name=secret",
			resource + "?fieldSelector=metadata.name=secret", named, named + "/secret", named + "?fieldSelector=metadata.name=secret",
			resource + "?watch=true&timeoutSeconds=1", resource + "?watch=true&timeoutSeconds=1&resourceVersion=" + start.String(),
			resource + "?watch=true&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan",
			named + "?watch=true&timeoutSeconds=1&fieldSelector=metadata.name=secret",
			resource + "?resourceVersionMatch=Exact&resourceVersion=" + start.String(),
		} {
			t.Run(ask, func(t *testing.T) {
				t.Parallel() // each watch takes a second
				status, body := readAs(t, "edge-1", url+ask)
				if strings.HasSuffix(ask, "/secret") && status != http.StatusNotFound {
					t.Errorf("status %d, want 404", status)
				} else if !strings.HasSuffix(ask, "/secret") && strings.Contains(body, "secret") || strings.Contains(body, "192.0.2.2") || strings.Contains(body, "10.244.1.66") {
					t.Errorf("status %d\n%s", status, body)
				}
			})
		}
		if _, body := readAs(t, "edge-1", url+resource); !strings.Contains(body, `"web"`) {
			t.Errorf("%s shows nothing: %s", resource, body)
		}
		if _, body := readAs(t, "edge-2", url+resource); !strings.Contains(body, `"secret"`) || strings.Contains(body, `"web"`) {
			t.Errorf("%s, as its own gateway: %s", resource, body)
		}
	}
	if status, body := readAs(t, "edge-3", url+mappingsPath); status != http.StatusTooManyRequests {
		t.Errorf("a gateway that is not known: %d %s", status, body)
	}
}

// TestRunningWatchFollowsItsGateway changes what a gateway is enrolled for while it watches, from everything on.
func TestRunningWatchFollowsItsGateway(t *testing.T) {
	cache := syncedCache(t, 64)
	cache.ExpectGateways()
	cache.SetGateways(map[string]filter.Scope{"edge-1": filter.Everything()})
	b := newMapping("b", "b")
	b.Spec.Addresses = []string{"192.0.2.2"}
	granting := func(name, addresses string) *v1alpha1.PortGrant {
		return &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PortGrantSpec{Addresses: []string{addresses}, Namespaces: []string{"shop"}}}
	}
	put(t, cache, newService("a"), newService("b"), newMapping("a", "a"), b, granting("a", "192.0.2.0/31"), granting("b", "192.0.2.2/31"))
	url := serveGateways(t, cache)
	watches := map[string]*bufio.Scanner{}
	for _, path := range []string{mappingsPath, "/api/v1/services", "/apis/smartnat.aureacentral.com/v1alpha1/portgrants"} {
		_, events := askAs(t, "edge-1", url+path+"?watch=true")
		watches[path] = bufio.NewScanner(events)
	}
	expect := func(want ...string) {
		t.Helper()
		for path, lines := range watches {
			var got []string
			for range want {
				if !lines.Scan() {
					t.Fatalf("%s ended: %v", path, lines.Err())
				}
				var event struct {
					Type   string
					Object struct{ Metadata struct{ Name string } }
				}
				if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
					t.Fatal(err)
				}
				got = append(got, event.Type+" "+event.Object.Metadata.Name)
			}
			slices.Sort(got) // one change of addresses has no order
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", path, diff)
			}
		}
	}
	expect("ADDED a", "ADDED b")
	cache.SetGateway("edge-1", limitedTo(t, "192.0.2.1"))
	expect("DELETED b")
	cache.SetGateway("edge-1", limitedTo(t, "192.0.2.2"))
	expect("ADDED b", "DELETED a")
	cache.SetGateway("edge-1", filter.Everything())
	expect("ADDED a")
	// A removed gateway gets nothing until it is back. Then it gets what a watch of before lacks.
	cache.RemoveGateway("edge-1")
	put(t, cache, newService("c"), newMapping("c", "c"), granting("c", "192.0.2.0/24"))
	cache.SetGateway("edge-1", filter.Everything())
	expect("ADDED a", "ADDED b", "ADDED c", "DELETED a", "DELETED b")
}

// TestWatchOfALimitedGatewayIsWoken exposes a Service that another gateway sees already, so that only the view of this one changes.
func TestWatchOfALimitedGatewayIsWoken(t *testing.T) {
	cache := syncedCache(t, 64)
	cache.ExpectGateways()
	cache.SetGateways(map[string]filter.Scope{"edge-1": limitedTo(t, "192.0.2.1")})
	other := newMapping("other", "web")
	other.Spec.Addresses = []string{"192.0.2.2"}
	put(t, cache, newService("web"), other)
	_, events := askAs(t, "edge-1", serveGateways(t, cache)+"/api/v1/services?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	lines := bufio.NewScanner(events)
	if !lines.Scan() || !strings.Contains(lines.Text(), "BOOKMARK") {
		t.Fatalf("%s, want the end of the list: %v", lines.Text(), lines.Err())
	}
	put(t, cache, newMapping("mine", "web"))
	arrived := make(chan string)
	go func() {
		lines.Scan()
		arrived <- lines.Text()
	}()
	select {
	case text := <-arrived:
		if !strings.Contains(text, `"ADDED"`) {
			t.Errorf("%s, want the Service", text)
		}
	case <-time.After(40 * time.Second): // bookmarks come once a minute
		t.Error("the watch sleeps")
	}
}

// TestNodesOfEndpoints lets a gateway become a node and be none again. Only the profile of gateways shows a node the nodes of endpoints.
// Whatever a gateway knows from before, it has to list again: nothing else would tell it the nodes of endpoints that do not change.
func TestNodesOfEndpoints(t *testing.T) {
	cache := syncedCache(t, 8)
	cache.ExpectGateways()
	onNode := func(node string) *discoveryv1.EndpointSlice {
		s := newSlice("web", "web", "10.244.1.1", "10.244.1.2")
		s.Endpoints[0].NodeName = &node
		return s
	}
	put(t, cache, newService("web"), newMapping("web", "web"), onNode("worker-1"))
	node, err := filter.ScopeOf(map[string]string{v1alpha1.NodeAnnotation: "worker-1"})
	if err != nil {
		t.Fatal(err)
	}
	cache.SetGateways(map[string]filter.Scope{"node": filter.Everything(), "other": filter.Everything()})
	url := serveGateways(t, cache)
	listed := func(gateway, accept string) string {
		status, body := readAccepting(t, gateway, accept, url+slicesPath+"?includeObject=Object")
		if status != http.StatusOK {
			t.Fatalf("%s as %s: %d %s", gateway, accept, status, body)
		}
		return body
	}
	const gatewayJSON, gatewayProtobuf = "application/json;profile=gateway", "application/vnd.kubernetes.protobuf;profile=gateway"
	other := []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
	before := cache.EndpointSlices()
	for _, step := range []struct {
		name  string
		scope filter.Scope
		shown bool
	}{{"becomes a node", node, true}, {"stays one", node, true}, {"is none", filter.Everything(), false}} {
		_, version := before.List()
		watch := url + slicesPath + "?watch=true&timeoutSeconds=1&resourceVersion=" + version.String()
		_, wasNode := cache.NodesFor("node")
		cache.SetGateway("node", step.scope)
		_, isNode := cache.NodesFor("node")
		for _, accept := range []string{gatewayJSON, gatewayProtobuf} {
			if body := listed("node", accept); strings.Contains(body, "worker-1") != step.shown {
				t.Errorf("%s, %s: %q", step.name, accept, body)
			}
			if body := listed("other", accept); strings.Contains(body, "worker-1") {
				t.Errorf("%s: another gateway sees it as %s: %q", step.name, accept, body)
			}
		}
		for _, accept := range other {
			if body := listed("node", accept); strings.Contains(body, "worker-1") {
				t.Errorf("%s, %s: %q", step.name, accept, body)
			}
		}
		status, body := readAccepting(t, "node", gatewayJSON, watch)
		if expired := status == http.StatusGone; expired != (isNode != wasNode) {
			t.Errorf("%s: a watch from before answers %d %s", step.name, status, body)
		}
	}
	cache.SetGateway("node", node)
	_, version := before.List()
	watch := url + slicesPath + "?watch=true&timeoutSeconds=60&resourceVersion=" + version.String()
	_, events := askAccepting(t, "node", gatewayJSON, watch)
	lines := bufio.NewScanner(events)
	put(t, cache, onNode("worker-2"))
	if !lines.Scan() || !strings.Contains(lines.Text(), `"MODIFIED"`) || !strings.Contains(lines.Text(), `"nodeName":"worker-2"`) {
		t.Errorf("a pod on another node: %s", lines.Text())
	}
	cache.SetGateway("node", filter.Everything())
	if !lines.Scan() || !strings.Contains(lines.Text(), `"code":410`) {
		t.Errorf("no longer a node: %s", lines.Text())
	}
}

// TestListWhileItsGatewayBecomesANode changes the enrollment between the look at it and the list, whose version would hide that.
func TestListWhileItsGatewayBecomesANode(t *testing.T) {
	cache := syncedCache(t, 8)
	h, err := New(cache, t.Context().Done())
	if err != nil {
		t.Fatal(err)
	}
	r := h.resources[discoveryv1.SchemeGroupVersion.WithResource("endpointslices")]
	for _, became := range []watchcache.Version{0, 7} {
		looks := 0
		source := func() (served, bool) {
			s := served{Resource: cache.EndpointSlices()}
			if looks++; looks > 1 {
				s.nodesSince = became
			}
			return s, true
		}
		err := h.list(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, slicesPath, nil), r, source, &request.RequestInfo{Verb: "list"})
		if apierrors.IsTooManyRequests(err) != (became > 0) || err != nil && became == 0 {
			t.Errorf("a change at version %d: %v", became, err)
		}
	}
}
