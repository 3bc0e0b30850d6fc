// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"flag"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/scripts/skew"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestRequestsOfThisVersion compares the requests of a gateway with the golden ones, which later relays must answer.
func TestRequestsOfThisVersion(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]skew.Request{}
	for _, watchList := range []bool{true, false} {
		server := bareStub(watchList)
		server.listen(t, nil, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked[skew.NameOf(r.URL)] = skew.Request{
				Name: skew.NameOf(r.URL), Method: r.Method, URL: skew.WithoutChance(r.URL.String()), Accept: r.Header.Get("Accept"),
			}
			mu.Unlock()
			server.serve(w, r)
		})
		startRelay(t, server, func() {})
		for _, kind := range kinds.All() {
			eventually(t, kind.Resource+" watched", func() bool { return server.watched(kind.Resource) })
		}
	}
	mu.Lock()
	defer mu.Unlock()
	requests := slices.SortedFunc(maps.Values(asked), func(a, b skew.Request) int { return cmp.Compare(a.Name, b.Name) })
	text, err := yaml.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	skew.Golden(t, "gateway.yaml", text, *update)
}
