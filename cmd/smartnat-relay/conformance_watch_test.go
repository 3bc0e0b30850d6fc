// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// followed are the watches on both servers while the cluster changes.
var followed = []struct{ name, path, accept string }{
	{"Services", inShop, ""},
	{"Services as protobuf", inShop, protobuf},
	{"EndpointSlices", slicesInShop, protobuf},
	{"Mappings", mapsInShop, ""},
	{"a table", inShop, table},
	{"metadata", mapsInShop, metadataOnly},
	{"those with a label", inShop + "?labelSelector=tier%3Dmail", ""},
	{"those without a label", inShop + "?labelSelector=tier%21%3Dmail", protobuf},
	{"one", inShop + "/web", ""},
	{"all but one", slicesInShop + "?fieldSelector=metadata.name%21%3Dweb-1", ""},
	{"all namespaces", "/apis/smartnat.aureacentral.com/v1alpha1/mappings", ""},
}

// changes are changes of visible objects, as arguments of kubectl.
var changes = []string{
	"label service web tier=mail",
	"label service unmapped tier=web",
	"patch service web --type=json --patch=[{\"op\":\"add\",\"path\":\"/spec/ports/-\",\"value\":{\"name\":\"x\",\"port\":82}},{\"op\":\"add\",\"path\":\"/spec/ports/0/name\",\"value\":\"y\"}]",
	"label endpointslice mail-1 tier=mail",
	"label mapping mail tier-",
	"label service web tier-",
	"delete endpointslice mail-1",
	"delete service mail",
	"delete mapping mail",
}

// testWatches changes the cluster during watches on both servers and proves that both send the same events in the same
// order.
func testWatches(t *testing.T, p *controlPlane, client *http.Client) {
	pairs := make([][2]*transcript, len(followed))
	for i, watch := range followed {
		for j, server := range []string{clusterURL, relayURL} {
			separator := "?"
			if strings.Contains(watch.path, "?") {
				separator = "&"
			}
			url := server + watch.path + separator + "watch=1&resourceVersion=" + versionOf(t, client, server)
			pairs[i][j] = follow(t, send(t, client, "GET", url, watch.accept)) //nolint:bodyclose // closed when the test ends
		}
	}
	for _, change := range changes {
		p.kubectl(append([]string{"--namespace=shop"}, strings.Fields(change)...)...)
	}
	for i, watch := range followed {
		t.Run(watch.name, func(t *testing.T) {
			// Wait until no event has arrived for a while.
			var cluster, relay string
			for end, quiet := time.Now().Add(patience), 0; quiet < 20 && time.Now().Before(end); quiet++ {
				time.Sleep(50 * time.Millisecond)
				before := cluster
				if cluster, relay = pairs[i][0].read(), pairs[i][1].read(); cluster != before || cluster != relay {
					quiet = 0
				}
			}
			if diff := cmp.Diff(cluster, relay); diff != "" || cluster == "" {
				t.Errorf("-kube-apiserver +relay\n%s\nkube-apiserver:\n%s", diff, cluster)
			}
		})
	}
}

// transcript holds the events of a watch so far.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

// follow records a watch until the test ends.
func follow(t *testing.T, resp *http.Response) *transcript {
	t.Helper()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	s := &transcript{}
	done := make(chan struct{})
	next := eventsIn(resp)
	go func() {
		defer close(done)
		for {
			eventType, object, err := next()
			if err != nil {
				return // closed by the test, or ended early, which the comparison shows
			}
			s.write(eventType + " " + describe(t, object) + "\n")
		}
	}()
	t.Cleanup(func() { _ = resp.Body.Close(); <-done })
	return s
}

func (s *transcript) write(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.WriteString(line)
}

func (s *transcript) read() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
