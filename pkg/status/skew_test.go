// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/scripts/skew"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// reports are the requests of a gateway that reads its entries, writes one and removes it.
var reports = []string{"whoami", "entries-list", "entry-report", "removal-report"}

// TestReportsOfThisVersion compares the requests with the golden ones, which later relays must answer, and reads the answers of relays
// of all versions.
func TestReportsOfThisVersion(t *testing.T) {
	for _, version := range skew.Versions(t) {
		t.Run(version, func(t *testing.T) {
			var asked []skew.Request
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || len(asked) == len(reports) {
					t.Errorf("%s %s: %v", r.Method, r.URL, err)
					return
				}
				name := reports[len(asked)]
				asked = append(asked, skew.Request{
					Name: name, Method: r.Method, URL: r.URL.String(), Accept: r.Header.Get("Accept"),
					ContentType: r.Header.Get("Content-Type"), Body: strings.TrimSpace(string(body)),
				})
				mediaType, answer := "application/json", []byte("{}")
				if !*update {
					mediaType, answer = skew.Answer(t, version, name)
				} else if name == "whoami" {
					answer = []byte(`{"status":{"userInfo":{"extra":{"` + v1alpha1.InstanceExtra + `":["gateway.x509"]}}}}`)
				}
				w.Header().Set("Content-Type", mediaType)
				_, _ = w.Write(answer)
			}))
			defer server.Close()
			have := report(t, server.URL)
			if version == skew.Current {
				text, err := yaml.Marshal(asked)
				if err != nil {
					t.Fatal(err)
				}
				skew.Golden(t, "reporter.yaml", text, *update)
			}
			if diff := cmp.Diff(full("gateway-1"), have.InstanceStatus); diff != "" && !*update {
				t.Errorf("the entry that the relay has: -want +got\n%s", diff)
			}
		})
	}
}

// report reads the entries of a gateway, writes one, removes it, and returns what it read.
func report(t *testing.T, server string) Entry {
	t.Helper()
	api, err := NewAPI(&rest.Config{Host: server})
	if err != nil {
		t.Fatal(err)
	}
	client := NewUnnamedClient("gateway-1", api)
	web := key{Namespace: "shop", Name: "web"}
	have, err := client.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Write(t.Context(), web, Entry{"uid-of-web", full("gateway-1")}); err != nil {
		t.Error(err)
	}
	if err := client.Remove(t.Context(), web); err != nil {
		t.Error(err)
	}
	return have[web]
}

// full returns an entry with a value in each field of version 0.1.
func full(name string) v1alpha1.InstanceStatus {
	return v1alpha1.InstanceStatus{
		Name: name, Addresses: []string{"198.51.100.10"}, Uplinks: []string{"eth1"}, Endpoints: 2, ObservedGeneration: 3, Programmed: true,
		Reason: "PortConflict", Problems: []string{"198.51.100.10:80/tcp belongs to default/other"},
	}
}
