// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"io"
	"net/http"
	"path"
	"slices"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	portGrant = `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"PortGrant","metadata":{"name":"web","resourceVersion":"5"},
		"spec":{"addresses":["198.51.100.10"],"namespaces":["shop"]}}`
	knownToOlder = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v","resources":[{"name":"mappings","namespaced":true,"kind":"Mapping","verbs":["get"]}]}`
)

// TestAnOlderServerHasNoObjectsOfALaterKind expects that a gateway works with a relay whose own list of kinds lacks PortGrants and
// namespaces, whether it answers 404, or 403 since the cluster's roles do not know them either.
func TestAnOlderServerHasNoObjectsOfALaterKind(t *testing.T) {
	for code, reason := range map[int]metav1.StatusReason{http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			server := bareStub(true)
			server.listen(t, nil, func(w http.ResponseWriter, r *http.Request) {
				switch path.Base(r.URL.Path) {
				case "portgrants", "namespaces":
					fail(w, code, reason)
				case "v1", "v1alpha1":
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, knownToOlder)
				default:
					server.serve(w, r)
				}
			})
			server.add("mappings", echoMapping)
			source, hook := startRelay(t, server, func() {})
			eventually(t, "synced", source.HasSynced)
			if contact := source.Contact(); contact.Lost || len(source.Snapshot().PortGrants) != 0 || messages(hook, "lost connection") != 0 {
				t.Errorf("%+v, holds %s", contact, names(source.Snapshot()))
			}
		})
	}
}

// TestAProxyTakesNoPortGrantAway answers every request with the page of a proxy whose backend is away. The known objects must stay.
func TestAProxyTakesNoPortGrantAway(t *testing.T) {
	server := bareStub(true)
	var away atomic.Bool
	server.listen(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "<html>default backend - 404</html>", http.StatusNotFound)
			return
		}
		server.serve(w, r)
	})
	server.add("mappings", echoMapping)
	server.add("portgrants", portGrant)
	source, _ := startRelay(t, server, func() {})
	eventually(t, "the PortGrant", func() bool { return source.HasSynced() && len(source.Snapshot().PortGrants) == 1 })
	away.Store(true)
	server.CloseClientConnections()
	refused := func(resource string) bool {
		c := source.(*cluster).contact
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.ContainsFunc([]string{"list", "watch"}, func(verb string) bool { return c.failing[request{resource, verb}] })
	}
	eventually(t, "the page for each later kind", func() bool { return refused("portgrants") && refused("namespaces") })
	if len(source.Snapshot().PortGrants) != 1 {
		t.Error("the page of a proxy took the PortGrant away")
	}
}
