// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/smartnat/smartnat/relay/watchcache"
)

func TestDefects(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		status  int // 0 if the response breaks off
		counted float64
	}{
		{"before the response", func(http.ResponseWriter, *http.Request) { panic("oh") }, 500, 1},
		{"within the response", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic("oh")
		}, 0, 1},
		{"within a watch", func(_ http.ResponseWriter, req *http.Request) {
			holdWatch(req, func() { panic("oh") })
		}, 500, 1},
		{"an aborted response", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, 0},
		{"none", ok, 200, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var output bytes.Buffer
			log := logrus.New()
			log.SetOutput(&output)
			c := &Config{Cache: watchcache.New(watchcache.NewEpoch(), 1), Log: log}
			c.instrument()
			server := httptest.NewServer(&recoverAndRecord{next: test.handler, hasSynced: func() bool { return true }, metrics: c.metrics, log: log})
			resp, err := server.Client().Get(server.URL)
			status := 0
			if err == nil {
				if _, err = io.ReadAll(resp.Body); err == nil {
					status = resp.StatusCode
				}
				_ = resp.Body.Close()
			}
			server.Close()
			if status != test.status {
				t.Errorf("status %d, want %d (%v)", status, test.status, err)
			}
			if got := c.count(t, "panics_total"); got != test.counted {
				t.Errorf("counted %v panics, want %v", got, test.counted)
			}
			if told := strings.Contains(output.String(), "level=error"); told != (test.counted > 0) {
				t.Errorf("logged at error level: %v\n%s", told, output.String())
			}
			if where := strings.Contains(output.String(), "TestDefects.func"); where != (test.counted > 0) {
				t.Errorf("logged the stack: %v\n%s", where, output.String())
			}
		})
	}
}

// TestBeforeTheClusterWasRead proves that before the first sync the relay authenticates no client and sends no review: the
// API server is busy enough with the lists.
func TestBeforeTheClusterWasRead(t *testing.T) {
	config := &Config{
		Cache: watchcache.New(watchcache.NewEpoch(), 1), Log: logrus.New(),
		Authenticator: authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			t.Error("a client was authenticated before the first sync")
			return nil, false, nil
		}),
	}
	handler := newHandler(config, http.NotFoundHandler(), nil)
	answer := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w
	}
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
		if got := answer(path).Code; got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	const requests = 100
	again := map[string]int{}
	for range requests {
		resp := answer(mappingsPath + "?watch=true")
		var status metav1.Status
		if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
			t.Fatal(err)
		}
		after := resp.Header().Get("Retry-After")
		if status.Reason != metav1.StatusReasonTooManyRequests || strconv.Itoa(int(status.Details.RetryAfterSeconds)) != after {
			t.Fatalf("Retry-After %s, status %+v", after, status)
		}
		again[after]++
	}
	if len(again) < 2 || again["0"] > 0 {
		t.Errorf("retries are not spread: %v seconds", again)
	}
	if got := config.count(t, "rejections_total", "reason=unsynced"); got != requests {
		t.Errorf("counted %v rejections, want %d", got, requests)
	}
}

// TestWhatIsCounted proves that clients cannot create time series: the labels are few, whatever the requests ask for.
func TestWhatIsCounted(t *testing.T) {
	var config *Config
	f := newFixture(t, func(c *Config) { config = c })
	for _, request := range []struct{ method, path, token string }{
		{"GET", mappingsPath, gatewayToken}, {"GET", mappingsPath, gatewayToken}, {"GET", mappingsPath, strangerToken}, {"GET", mappingsPath, ""},
		{"DELETE", mappingsPath, gatewayToken}, {"GET", "/api/v1/namespaces/x/secrets/a", gatewayToken},
		{"GET", "/api/v1/namespaces/x/inventions/b", gatewayToken}, {"BREW", "/coffee", gatewayToken}, {"GET", "/apis", gatewayToken},
	} {
		f.do(t, request.method, request.path, as(request.token))
	}
	got := map[string]float64{}
	for _, labels := range []string{
		"verb=list resource=mappings code=200", "verb=list resource=mappings code=403", "verb=other resource= code=401",
		"verb=other resource=mappings code=405", "verb=get resource= code=404", "verb=other resource= code=405", "verb=other resource= code=200", "",
	} {
		got[labels] = config.count(t, "requests_total", strings.Fields(labels)...)
	}
	for _, reason := range []string{"unauthenticated", "forbidden", "method", "rate"} {
		got[reason] = config.count(t, "rejections_total", "reason="+reason)
	}
	want := map[string]float64{
		"verb=list resource=mappings code=200": 2, "verb=list resource=mappings code=403": 1, "verb=other resource= code=401": 1,
		"verb=other resource=mappings code=405": 1, "verb=get resource= code=404": 2, "verb=other resource= code=405": 1,
		"verb=other resource= code=200": 1, "": 9,
		"unauthenticated": 1, "forbidden": 1, "method": 2, "rate": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := config.count(t, "response_bytes_total", "verb=list", "resource=mappings"); got == 0 {
		t.Error("no response bytes were counted")
	}
}
