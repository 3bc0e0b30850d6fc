// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	inShop       = "/api/v1/namespaces/shop/services"
	slicesInShop = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
	mapsInShop   = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings"
	protobuf     = "application/vnd.kubernetes.protobuf"
	table        = "application/json;as=Table;v=v1;g=meta.k8s.io"
	metadataOnly = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	metadataList = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	aggregated   = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	initial      = "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
)

// Sentences in relay/README.md that document the differences.
const (
	wholeLists     = "Lists are served whole"
	foreignVersion = "A version that this relay did not issue is answered 410 Expired"
	verbInPath     = "Deprecated paths that begin with `watch` or `proxy` are answered 404"
	mediaTypes     = "YAML and CBOR are not written"
	malformed      = "A malformed version is answered 400"
	otherWords     = "Messages differ, with the same code and reason"
	unknownGroup   = "A group that is not served is answered with a Status"
	typedVersions  = "The document /api names its version"
	lastBookmark   = "A watch that times out sends a last bookmark to clients that asked for bookmarks"

	notAcceptable = "406 application/json\nv1 Status Failure 406 NotAcceptable " +
		"only the following media types are accepted: application/json, application/vnd.kubernetes.protobuf null\n"
	namesVerb = "404 application/json\nv1 Status Failure 404 NotFound " +
		"the relay does not serve watch or proxy paths, use the path of the list with ?watch=true {}\n"
	badVersion = "400 application/json\nv1 Status Failure 400 BadRequest " +
		`invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax null` + "\n"
	badPage = "410 application/json\nv1 Status Failure 410 Expired " +
		"The provided continue parameter is not from this relay, which does not split lists. null\n"
)

// conformance lists requests that the same user sends to kube-apiserver and to the relay. NOW in a path stands for the
// current version of that server.
var conformance = []struct {
	name, method, path, accept string
	// relay is the relay's response if it differs; why is the sentence in relay/README.md that documents it.
	relay, why string
}{
	{name: "get", path: inShop + "/web"},
	{name: "get as protobuf", path: inShop + "/web", accept: protobuf},
	{name: "get metadata", path: inShop + "/web", accept: metadataOnly},
	{name: "get metadata as protobuf", path: inShop + "/web", accept: protobuf + ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"},
	{name: "get a table", path: inShop + "/web", accept: table},
	{name: "get a Mapping", path: mapsInShop + "/web"},
	{name: "get a Mapping as protobuf or JSON", path: mapsInShop + "/web", accept: protobuf + ",application/json"},
	{name: "get a Mapping as protobuf alone", path: mapsInShop + "/web", accept: protobuf,
		relay: "406 application/vnd.kubernetes.protobuf\nv1 Status Failure 406 NotAcceptable " +
			"only the following media types are accepted: application/json null\n", why: mediaTypes},
	{name: "get a list of metadata", path: inShop + "/web", accept: metadataList,
		relay: notAcceptable, why: otherWords},
	{name: "get nothing", path: inShop + "/none"},
	{name: "get nothing as protobuf", path: inShop + "/none", accept: protobuf},
	{name: "get no Mapping", path: mapsInShop + "/none"},
	{name: "get at a version", path: inShop + "/web?resourceVersion=NOW"},
	{name: "get at any version", path: inShop + "/web?resourceVersion=0"},
	{name: "get at a malformed version", path: inShop + "/web?resourceVersion=x",
		relay: badVersion, why: malformed},
	{name: "get an unknown kind", path: "/api/v1/namespaces/shop/sevrices/web"},
	{name: "get an unknown version", path: "/apis/discovery.k8s.io/v1beta1/namespaces/shop/endpointslices"},
	{name: "get an unknown group", path: "/apis/none/v1/things",
		relay: "404 application/json\nv1 Status Failure 404 NotFound the server could not find the requested resource {}\n", why: unknownGroup},
	{name: "get an unknown subresource", path: inShop + "/web/none"},
	{name: "get with an unknown encoding", path: inShop + "/web", accept: "text/plain",
		relay: notAcceptable, why: mediaTypes},

	{name: "list", path: inShop},
	{name: "list as protobuf", path: inShop, accept: protobuf},
	{name: "list slices as protobuf", path: slicesInShop, accept: protobuf},
	{name: "list Mappings", path: mapsInShop},
	{name: "list in all namespaces", path: "/api/v1/services?fieldSelector=metadata.namespace%3Dshop"},
	{name: "list in an unknown namespace", path: "/api/v1/namespaces/none/services"},
	{name: "list by label", path: inShop + "?labelSelector=tier%3Dmail"},
	{name: "list by absent label", path: inShop + "?labelSelector=%21tier"},
	{name: "list by a malformed selector", path: inShop + "?labelSelector=a+b"},
	{name: "list by name", path: inShop + "?fieldSelector=metadata.name%3Dweb"},
	{name: "list by all but a name", path: mapsInShop + "?fieldSelector=metadata.name%21%3Dweb"},
	{name: "list Mappings by a field", path: mapsInShop + "?fieldSelector=spec.serviceName%3Dweb",
		relay: "400 application/json\nv1 Status Failure 400 BadRequest " +
			`"spec.serviceName" is not a known field selector: only "metadata.name", "metadata.namespace" null` + "\n", why: otherWords},
	{name: "list by a malformed field selector", path: inShop + "?fieldSelector=a"},
	{name: "list a table", path: inShop, accept: table},
	{name: "list a table or JSON", path: mapsInShop, accept: table + ",application/json"},
	{name: "list a table with whole objects", path: inShop + "?includeObject=Object", accept: table},
	{name: "list a table with an unknown includeObject", path: inShop + "?includeObject=Half", accept: table},
	{name: "list a table as protobuf", path: inShop, accept: protobuf + ";as=Table;v=v1;g=meta.k8s.io",
		relay: notAcceptable, why: mediaTypes},
	{name: "list metadata", path: mapsInShop, accept: metadataList},
	{name: "list metadata as protobuf", path: inShop, accept: protobuf + ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
	{name: "list metadata of one", path: inShop, accept: metadataOnly,
		relay: notAcceptable, why: otherWords},
	{name: "list at a version", path: inShop + "?resourceVersion=NOW&resourceVersionMatch=NotOlderThan"},
	{name: "list at exactly a version", path: inShop + "?resourceVersion=NOW&resourceVersionMatch=Exact"},
	{name: "list at any version", path: inShop + "?resourceVersion=0"},
	{name: "list with a match but no version", path: inShop + "?resourceVersionMatch=Exact"},
	{name: "list with an unknown match", path: inShop + "?resourceVersion=NOW&resourceVersionMatch=Almost"},
	{name: "list at exactly any version", path: inShop + "?resourceVersion=0&resourceVersionMatch=Exact"},
	{name: "list with initial events", path: inShop + "?sendInitialEvents=true"},
	{name: "list at a malformed version", path: inShop + "?resourceVersion=x"},
	{name: "list a page", path: inShop + "?limit=1",
		relay: "200 application/json\nv1 ServiceList mail unmapped web, versioned\n", why: wholeLists},
	{name: "list with a malformed limit", path: inShop + "?limit=x"},
	{name: "list from an unknown page", path: inShop + "?limit=1&continue=x",
		relay: badPage, why: wholeLists},
	{name: "list from a page and a version", path: inShop + "?continue=x&resourceVersion=NOW",
		relay: badPage, why: wholeLists},

	{name: "watch from the start", path: inShop + "?watch=1&timeoutSeconds=1"},
	{name: "watch from any version", path: mapsInShop + "?watch=true&timeoutSeconds=1&resourceVersion=0"},
	{name: "watch from a version", path: inShop + "?watch=1&timeoutSeconds=1&resourceVersion=NOW"},
	{name: "watch by the old path", path: "/api/v1/watch/namespaces/shop/services?timeoutSeconds=1", relay: namesVerb, why: verbInPath},
	{name: "watch one by the old path", path: "/api/v1/watch/namespaces/shop/services/web?timeoutSeconds=1", relay: namesVerb, why: verbInPath},
	{name: "watch one", path: inShop + "/web?watch=1&timeoutSeconds=1"},
	{name: "watch with initial events", path: inShop + initial},
	{name: "watch with initial events as protobuf", path: inShop + initial, accept: protobuf},
	{name: "watch Mappings with initial events", path: mapsInShop + initial},
	{name: "watch with initial events from any version", path: inShop + initial + "&resourceVersion=0"},
	{name: "watch with initial events from a version", path: inShop + initial + "&resourceVersion=NOW"},
	{name: "watch with initial events by label", path: inShop + initial + "&labelSelector=tier%3Dmail"},
	{name: "watch a table with initial events", path: inShop + initial, accept: table},
	{name: "watch metadata with initial events", path: inShop + initial, accept: metadataOnly},
	{name: "watch initial events without bookmarks", path: inShop + strings.Replace(initial, "&allowWatchBookmarks=true", "", 1)},
	{name: "watch without initial events", path: inShop + strings.Replace(initial, "Events=true", "Events=false", 1)},
	{name: "watch initial events without a match", path: inShop + "?watch=1&sendInitialEvents=true"},
	{name: "watch exactly a version", path: inShop + "?watch=1&resourceVersion=NOW&resourceVersionMatch=Exact"},
	{name: "watch from a version that is too old", path: inShop + "?watch=1&timeoutSeconds=1&resourceVersion=1",
		relay: "410 application/json\nv1 Status Failure 410 Expired too old resource version: 1 null\n", why: foreignVersion},
	{name: "watch from a malformed version", path: inShop + "?watch=1&resourceVersion=x",
		relay: badVersion, why: malformed},
	{name: "watch with an unknown encoding", path: inShop + "?watch=1&timeoutSeconds=1", accept: "text/plain",
		relay: notAcceptable, why: mediaTypes},
	{name: "watch with a malformed timeout", path: inShop + "?watch=1&timeoutSeconds=x"},

	{name: "discover versions", path: "/api",
		relay: "200 application/json\nv1 APIVersions\n", why: typedVersions},
	{name: "discover as protobuf", path: "/apis/discovery.k8s.io/v1", accept: protobuf},
	{name: "discover a group", path: "/apis/smartnat.aureacentral.com"},
	{name: "discover with a slash", path: "/apis/discovery.k8s.io/"},
	{name: "discover resources", path: "/apis/smartnat.aureacentral.com/v1alpha1"},
	{name: "discover an unknown group", path: "/apis/none"},
	{name: "discover an unknown version", path: "/apis/smartnat.aureacentral.com/v2"},
	{name: "no path", path: "/none"},
}

func TestConformance(t *testing.T) {
	p := startControlPlane(t)
	token := startRelay(t, p)
	p.write("conformance.yaml", []byte(conformanceObjects))
	p.kubectl("apply", "--filename", p.path("conformance.yaml"))
	client := p.client("admin")
	p.eventually("the relay to serve the mapped objects", func() bool {
		return strings.Contains(ask(t, client, "GET", relayURL+slicesInShop, ""), "mail-1") &&
			strings.Contains(ask(t, client, "GET", relayURL+inShop, ""), "mail unmapped web")
	})
	t.Run("requests", func(t *testing.T) {
		documented := readme(t)
		if !strings.Contains(documented, lastBookmark) {
			t.Errorf("relay/README.md does not say: %s", lastBookmark)
		}
		for _, test := range conformance {
			if test.why != "" && !strings.Contains(documented, test.why) {
				t.Errorf("relay/README.md does not say: %s", test.why)
			}
			t.Run(test.name, func(t *testing.T) {
				if strings.Contains(test.path, "timeoutSeconds") {
					t.Parallel() // Each takes a second.
				}
				cluster := withoutLastBookmark(at(t, client, clusterURL, test.path, test.accept))
				relay := withoutLastBookmark(at(t, client, relayURL, test.path, test.accept))
				want := cluster
				if test.relay != "" {
					if want = test.relay; want == cluster {
						t.Error("the documented difference is gone")
					}
				}
				if diff := cmp.Diff(want, relay); diff != "" {
					t.Errorf("-want +relay\n%s\nkube-apiserver:\n%s\nrelay:\n%s", diff, cluster, relay)
				}
			})
		}
	})
	t.Run("kubectl", func(t *testing.T) { testKubectl(t, p, token) })
	t.Run("watches", func(t *testing.T) { testWatches(t, p, client) })
}

// readme returns relay/README.md on one line.
func readme(t *testing.T) string {
	text, err := os.ReadFile("../../relay/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`\s+`).ReplaceAllString(string(text), " ")
}

// at sends a request in which the server's current version replaces NOW, and replaces it back in the response.
func at(t *testing.T, client *http.Client, server, path, accept string) string {
	t.Helper()
	now := versionOf(t, client, server)
	answer := ask(t, client, "GET", server+strings.ReplaceAll(path, "NOW", now), accept)
	return strings.ReplaceAll(answer, now, "NOW")
}

var bookmarkAtTheEnd = regexp.MustCompile(`BOOKMARK [^\n]*, versioned\n$`)

// withoutLastBookmark removes the bookmark at the end of a relay's watch, unless it ends the initial events.
func withoutLastBookmark(answer string) string {
	last := bookmarkAtTheEnd.FindString(answer)
	if strings.Contains(last, "end of the initial events") || strings.Count(answer, "BOOKMARK") == 1 && strings.Contains(last, " Table ") {
		return answer
	}
	return strings.TrimSuffix(answer, last)
}

// versionOf returns the current version of a server, from a list in a namespace that does not change.
func versionOf(t *testing.T, client *http.Client, server string) string {
	resp := open(t, client, "GET", server+"/api/v1/namespaces/none/services", "")
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil || a.Metadata.ResourceVersion == "" {
		t.Fatalf("%v in %q", err, body)
	}
	return a.Metadata.ResourceVersion
}

// conformanceObjects are the other objects in the namespace shop. All of them are mapped. Their names sort in the order of
// their creation, because a new relay sends its initial events sorted by name.
const conformanceObjects = `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: mail, namespace: shop, labels: {tier: mail}}
spec: {addresses: [192.0.2.1], serviceName: mail, ports: [{port: 25}]}
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: unmapped, namespace: shop}
spec: {addresses: [192.0.2.1], serviceName: unmapped, ports: [{port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: mail, namespace: shop, labels: {tier: mail}}
spec: {ports: [{port: 25}], clusterIP: 10.96.0.25}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: mail-1, namespace: shop, labels: {kubernetes.io/service-name: mail}}
addressType: IPv4
ports: [{port: 2525}]
endpoints: [{addresses: [10.244.1.3]}]
`
