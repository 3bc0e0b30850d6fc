// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestABodyGoesToTheNextRelay proves that the next relay gets the whole body, even if the first one has read part of it.
func TestABodyGoesToTheNextRelay(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	var got []string
	servers, err := newServers([]string{"https://one:8443", "https://two:8443", "https://one:8443/"})
	if err != nil {
		t.Fatal(err)
	}
	f := &failover{log: log, servers: servers,
		next: roundTripper(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			got = append(got, r.URL.Hostname()+": "+string(body))
			if r.URL.Hostname() == "one" {
				return nil, errors.New("connection reset")
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "https://one/", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := f.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if diff := cmp.Diff([]string{"one: body", "two: body"}, got); diff != "" {
		t.Errorf("requests (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]Server{{Name: "one:8443", Failures: 1}, {Name: "two:8443", InUse: true}}, servers.list()); diff != "" {
		t.Errorf("servers (-want +got)\n%s", diff)
	}
}
