// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/operator"
)

// status has three Mappings: one that is ready, one that is not, and one for another gateway.
func status() operator.Status {
	return operator.Status{
		Version: "1.2.3", Instance: "gateway-1", State: operator.InEffect, Source: operator.Source{Origin: "relay https://10.10.0.11:8443", Connected: true},
		Uplinks: []operator.Uplink{{Link: "eth1", Number: 1, Up: true, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.10")}}},
		Mappings: []operator.Mapping{
			{Namespace: "game", Name: "lobby", Service: "lobby", Elsewhere: true, Findings: []operator.Finding{{Reason: "AddressNotOnHost", Message: "not here"}}},
			{
				Namespace: "shop", Name: "db", Service: "postgres", Ready: true, Frontends: []string{"198.51.100.10:5432/tcp"},
				Traffic: &operator.Traffic{Open: 3, Connections: 70, BytesFromClients: 1000, BytesToClients: 5000, Dropped: ptr.To[uint64](2), Rejected: ptr.To[uint64](0)},
			},
			{
				Namespace: "shop", Name: "web", Service: "frontend", Frontends: []string{"198.51.100.10:80/tcp", "198.51.100.10:443/tcp"},
				Traffic:  &operator.Traffic{Open: 9, Connections: 10, BytesToClients: 500},
				Findings: []operator.Finding{{Reason: "NoReadyEndpoints", Field: "spec.serviceName", Message: "Service shop/frontend has no ready endpoint"}},
			},
		},
	}
}

// answer is what every explanation says.
var answer = explain.Answer{
	Flow: "203.0.113.7 to 198.51.100.10:5432/tcp", Verdict: explain.Forwarded, Mapping: "shop/db", Service: "shop/postgres",
	Sentence: "203.0.113.7 reaches 198.51.100.10:5432/tcp: Mapping shop/db forwards it to Service shop/postgres.",
	Steps:    []explain.Step{{Name: "arrives", Text: "by eth1"}, {Name: "backends", Text: "10.244.1.5:5432"}},
	Rules:    []string{"add element ip smartnat frontends { 198.51.100.10 . tcp . 5432 : goto pick-1 }"},
}

func newPage(of operator.Status) *Page {
	return New(Options{
		Status: func(context.Context) operator.Status { return of },
		Explain: func(w http.ResponseWriter, r *http.Request) {
			if _, err := explain.ParseFlow(r.URL.Query().Get("source"), r.URL.Query().Get("destination"), r.URL.Query().Get("protocol")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(answer)
		},
	})
}

// request returns a request of a browser on the host, for the path with a query.
func request(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host, r.RemoteAddr = "127.0.0.1:9470", "127.0.0.1:40000"
	return from(r, "127.0.0.1:9470")
}

// from sets the address of the listener.
func from(r *http.Request, local string) *http.Request {
	address := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(local))
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(address)))
}

func get(p http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

const anExplanation = "/api/explain?source=203.0.113.7&destination=198.51.100.10:5432&protocol=tcp"

func TestWhoMayAsk(t *testing.T) {
	for _, tc := range []struct {
		name, host, remote, local, site string
		want                            int
	}{
		{"a browser on the host", "127.0.0.1:9470", "127.0.0.1:40000", "127.0.0.1:9470", "same-origin", http.StatusOK},
		{"curl", "127.0.0.1:9470", "127.0.0.1:40000", "127.0.0.1:9470", "", http.StatusOK},
		{"over ssh -L with another port", "localhost:8080", "127.0.0.1:40000", "127.0.0.1:9470", "none", http.StatusOK},
		{"over IPv6", "[::1]:9470", "[::1]:40000", "[::1]:9470", "same-origin", http.StatusOK},
		{"on a listener for all addresses", "127.0.0.1:9470", "[::ffff:127.0.0.1]:40000", "[::ffff:127.0.0.1]:9470", "", http.StatusOK},
		{"another host", "10.10.0.21:9470", "10.10.0.5:40000", "10.10.0.21:9470", "", http.StatusForbidden},
		{"another host that lies about the name", "127.0.0.1:9470", "10.10.0.5:40000", "10.10.0.21:9470", "", http.StatusForbidden},
		{"another host by route_localnet", "127.0.0.1:9470", "10.10.0.5:40000", "127.0.0.1:9470", "", http.StatusForbidden},
		{"the host by its address inside", "10.10.0.21:9470", "10.10.0.21:40000", "10.10.0.21:9470", "", http.StatusForbidden},
		{"a name that resolves to 127.0.0.1", "attacker.example:9470", "127.0.0.1:40000", "127.0.0.1:9470", "same-origin", http.StatusMisdirectedRequest},
		{"a name that begins like an address", "127.0.0.1.attacker.example", "127.0.0.1:40000", "127.0.0.1:9470", "same-origin", http.StatusMisdirectedRequest},
		{"no name", "", "127.0.0.1:40000", "127.0.0.1:9470", "", http.StatusMisdirectedRequest},
	} {
		for _, path := range []string{"/", "/api/status", anExplanation} {
			r := from(request(path), tc.local)
			r.Host, r.RemoteAddr = tc.host, tc.remote
			r.Header.Set("Sec-Fetch-Site", tc.site)
			if got := get(newPage(status()), r); got.Code != tc.want {
				t.Errorf("%s: %s: %d %s, want %d", tc.name, path, got.Code, got.Body, tc.want)
			}
		}
	}
	for _, site := range []string{"cross-site", "same-site"} {
		for path, want := range map[string]int{"/": http.StatusOK, "/api/status": http.StatusForbidden, anExplanation: http.StatusForbidden} {
			r := request(path)
			r.Header.Set("Sec-Fetch-Site", site)
			if got := get(newPage(status()), r); got.Code != want {
				t.Errorf("%s: %s: %d, want %d", site, path, got.Code, want)
			}
		}
	}
}

func TestOtherRequests(t *testing.T) {
	for path, want := range map[string]int{
		"/index.html": http.StatusNotFound, "/api/": http.StatusNotFound, "/api/status?show=some": http.StatusBadRequest, "/api/status?sort=up": http.StatusBadRequest,
		"/api/status?page=0": http.StatusBadRequest, "/api/status?page=-1": http.StatusBadRequest, "/api/status?page=99999999999": http.StatusBadRequest,
		"/api/status?search=" + strings.Repeat("x", maxSearch+1): http.StatusBadRequest, "/api/explain?source=x": http.StatusBadRequest,
	} {
		got := get(newPage(status()), request(path))
		if got.Code != want || strings.Count(got.Body.String(), "\n") > 1 {
			t.Errorf("%s: %d %s, want %d and one line", path, got.Code, got.Body, want)
		}
	}
	post := request(anExplanation)
	post.Method = http.MethodPost
	if got := get(newPage(status()), post); got.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got.Code)
	}
}

// TestThePageNeedsNothingElse expects a policy that permits the inline script and style of the page and nothing else.
func TestThePageNeedsNothingElse(t *testing.T) {
	got := get(newPage(status()), request("/"))
	html, policy := got.Body.String(), got.Header().Get("Content-Security-Policy")
	for tag, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		inline := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(html, -1)
		if len(inline) != 1 {
			t.Fatalf("%d times <%s>", len(inline), tag)
		}
		if want := "; " + directive + " " + source(inline[0][1]) + ";"; !strings.Contains(policy, want) {
			t.Errorf("the policy is %s, want %s in it", policy, want)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("the policy is %s", policy)
	}
	for _, outside := range []string{"src=", "@import", "url(", "innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="} {
		if strings.Contains(html, outside) {
			t.Errorf("the page has %s", outside)
		}
	}
	if n := len(html); n > 40<<10 {
		t.Errorf("the page has %d bytes, want at most 40 kB", n)
	}
}

func TestSelection(t *testing.T) {
	for query, want := range map[string]string{
		"":                        "game/lobby shop/db shop/web",
		"search=shop":             "shop/db shop/web",
		"search=SHOP/W":           "shop/web",
		"search=postgres":         "shop/db",
		"search=:443":             "shop/web",
		"search=noreadyendpoints": "shop/web",
		"search=shop 5432":        "shop/db",
		"search=nothing":          "",
		"show=problems":           "shop/web",
		"show=elsewhere":          "game/lobby",
		"sort=open":               "shop/web shop/db game/lobby",
		"sort=bytes":              "shop/db shop/web game/lobby",
		"page=7":                  "game/lobby shop/db shop/web",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parseQuery(values)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		v := newView(status(), q, time.Time{})
		var names []string
		for _, m := range v.Mappings {
			names = append(names, m.Namespace+"/"+m.Name)
		}
		if got := strings.Join(names, " "); got != want || v.Found != len(names) || v.Page != 1 || v.Pages != 1 {
			t.Errorf("%s: %q, found %d on %d of %d pages; want %q", query, got, v.Found, v.Page, v.Pages, want)
		}
		if diff := cmp.Diff(counts{All: 3, Ready: 1, Problems: 1, Elsewhere: 1}, v.Counts); diff != "" {
			t.Errorf("%s: counts (-want +got)\n%s", query, diff)
		}
	}
}

// many returns a gateway with 10,000 ports: each of its own Mapping, or all of one.
func many(mappings bool) operator.Status {
	of := status()
	of.Mappings = nil
	one := operator.Mapping{Namespace: "shop", Name: "all", Service: "all", Ready: true}
	for i := range 10000 {
		frontend := fmt.Sprintf("198.51.100.%d:%d/tcp", i%250, 10000+i)
		one.Frontends = append(one.Frontends, frontend)
		if mappings {
			of.Mappings = append(of.Mappings, operator.Mapping{
				Namespace: "shop", Name: fmt.Sprintf("mapping-%05d", i), Service: "service", Ready: i%100 > 0, Frontends: []string{frontend},
				Findings: []operator.Finding{{Reason: "NoReadyEndpoints", Field: "spec.serviceName", Message: "Service shop/service has no ready endpoint"}},
				Traffic:  &operator.Traffic{Connections: uint64(i), BytesToClients: uint64(i) * 1000},
			})
		}
	}
	if !mappings {
		of.Mappings = []operator.Mapping{one}
	}
	return of
}

// TestTenThousandPorts bounds what a poll transfers.
func TestTenThousandPorts(t *testing.T) {
	for _, tc := range []struct {
		name, query string
		of          operator.Status
		rows, found int
		more        int
	}{
		{"a Mapping for each", "", many(true), 50, 10000, 0},
		{"the last page", "page=200", many(true), 50, 10000, 0},
		{"a search", "search=mapping-0999&page=1", many(true), 10, 10, 0},
		{"those that are not ready", "show=problems", many(true), 50, 100, 0},
		{"one Mapping with all", "", many(false), 1, 1, 9996},
	} {
		body := get(newPage(tc.of), request("/api/status?"+tc.query)).Body
		size := body.Len()
		var v view
		if err := json.NewDecoder(body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		if size > 32<<10 || len(v.Mappings) != tc.rows || v.Found != tc.found || v.Mappings[0].MoreFrontends != tc.more {
			t.Errorf("%s: %d bytes, %d rows of %d, %d more frontends; want at most 32 kB, %d of %d, %d more",
				tc.name, size, len(v.Mappings), v.Found, v.Mappings[0].MoreFrontends, tc.rows, tc.found, tc.more)
		}
	}
}

// TestManyBrowsersCostNoMoreThanOne expects one reading of the status for requests of the same second.
func TestManyBrowsersCostNoMoreThanOne(t *testing.T) {
	var readings atomic.Int64
	p := New(Options{Status: func(context.Context) operator.Status { readings.Add(1); return status() }})
	clock := time.Unix(1800000000, 0)
	p.now = func() time.Time { return clock }
	for range 3 {
		for range 20 {
			get(p, request("/api/status"))
		}
		clock = clock.Add(fresh)
	}
	if n := readings.Load(); n != 3 {
		t.Errorf("%d readings, want 3", n)
	}
}

func TestExplanationsAreBounded(t *testing.T) {
	asked, answered := make(chan struct{}), make(chan struct{})
	p := New(Options{Explain: func(http.ResponseWriter, *http.Request) { close(asked); <-answered }})
	first := make(chan int)
	go func() { first <- get(p, request(anExplanation)).Code }()
	<-asked
	if got := get(p, request(anExplanation)); got.Code != http.StatusTooManyRequests || !strings.Contains(got.Body.String(), "another question") {
		t.Errorf("a second question at the same time: %d %s", got.Code, got.Body)
	}
	close(answered)
	if code := <-first; code != http.StatusOK {
		t.Errorf("the first question: %d", code)
	}
	p = newPage(status())
	if got := get(p, request(anExplanation)); got.Code != http.StatusOK {
		t.Errorf("after the other: %d %s", got.Code, got.Body)
	}
	p.budget.Spend(time.Now(), time.Minute)
	got := get(p, request(anExplanation))
	if wait := got.Header().Get("Retry-After"); got.Code != http.StatusTooManyRequests || len(wait) != 3 || !strings.Contains(got.Body.String(), "ask again in 1m") {
		t.Errorf("after a question that took a minute: %d, %s s, %s", got.Code, wait, got.Body)
	}
}
