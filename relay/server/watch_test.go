// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// bothProtocols runs a test over each version of HTTP that clients use.
func bothProtocols(t *testing.T, test func(*testing.T, *http.Client)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: proto == "HTTP/2"}
			t.Cleanup(transport.CloseIdleConnections)
			test(t, &http.Client{Transport: transport})
		})
	}
}

func TestWatch(t *testing.T) {
	const streamed = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
	for _, test := range []struct {
		name, query string
		want        []string
	}{
		{"without a version", "watch=1", []string{"ADDED a", "ADDED b", "MODIFIED a", "DELETED b"}},
		{"from version 0", "watch=1&resourceVersion=0", []string{"ADDED a", "ADDED b", "MODIFIED a", "DELETED b"}},
		{"from a version", "watch=1&resourceVersion=NOW", []string{"MODIFIED a", "DELETED b"}},
		{"with the initial events", streamed, []string{"ADDED a", "ADDED b", "BOOKMARK true", "MODIFIED a", "DELETED b"}},
		{"with the initial events, not older than", streamed + "&resourceVersion=NOW",
			[]string{"ADDED a", "ADDED b", "BOOKMARK true", "MODIFIED a", "DELETED b"}},
		{"without the initial events", "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", []string{"MODIFIED a", "DELETED b"}},
		{"of one", "watch=1&fieldSelector=metadata.name%3Db", []string{"ADDED b", "DELETED b"}},
		{"of those with a label that is changed", "watch=1&labelSelector=tier%3Dold", []string{"ADDED a", "ADDED b", "DELETED a", "DELETED b"}},
		{"of those with the new label", "watch=1&labelSelector=tier%3Dnew", []string{"ADDED a"}},
		{"of those without the new label", "watch=1&labelSelector=tier%21%3Dnew", []string{"ADDED a", "ADDED b", "DELETED a", "DELETED b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothProtocols(t, func(t *testing.T, client *http.Client) {
				f := newFixture(t, nil)
				for _, name := range []string{"a", "b"} {
					f.put(t, name, "old")
				}
				_, now := f.cache.Mappings().List()
				next := openWatch(t, client, "https://"+f.address+mappingsPath+"?"+strings.Replace(test.query, "NOW", now.String(), 1))
				f.put(t, "a", "new")
				if err := f.cache.Mappings().Store().Delete(newMapping("shop", "b", "web")); err != nil {
					t.Fatal(err)
				}
				var got []string
				for range test.want {
					e := next()
					m := decode[metav1.PartialObjectMetadata](t, e)
					got = append(got, e.Type+" "+m.Name+m.Annotations[metav1.InitialEventsAnnotationKey])
					if m.Kind != "Mapping" || m.ResourceVersion == "" {
						t.Errorf("%s of a %q of version %q", e.Type, m.Kind, m.ResourceVersion)
					}
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		})
	}
}

// TestGatewaysAreToldWhatTheyNeed proves that a client with the gateway profile gets only the fields that gateways use,
// and no event if only other fields change, while other clients get everything. It also checks the counts of sent events.
func TestGatewaysAreToldWhatTheyNeed(t *testing.T) {
	var config *Config
	f := newFixture(t, func(c *Config) { config = c })
	open := func(accept string) func() *event {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		t.Cleanup(transport.CloseIdleConnections)
		return openWatch(t, &http.Client{Transport: accepting{accept, transport}}, "https://"+f.address+mappingsPath+"?watch=1&resourceVersion="+version(f))
	}
	gateway, other := open("application/json;profile=gateway"), open("application/json")
	m := newMapping("shop", "a", "web")
	for _, change := range []func(){
		func() {}, func() { m.Labels = map[string]string{"tier": "new"} }, func() { m.Status.ServiceVIP = "10.96.0.1" },
		func() { m.Spec.AllowedSources = []string{"192.0.2.0/24"} },
	} {
		change()
		if err := f.cache.Mappings().Store().Update(m.DeepCopy()); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	for range 4 {
		e := other()
		all = append(all, e.Type+" "+decode[v1alpha1.Mapping](t, e).Status.ServiceVIP)
	}
	if diff := cmp.Diff([]string{"ADDED ", "MODIFIED ", "MODIFIED 10.96.0.1", "MODIFIED 10.96.0.1"}, all); diff != "" {
		t.Errorf("others: -want +got\n%s", diff)
	}
	for _, want := range []string{"ADDED []", "MODIFIED [192.0.2.0/24]"} {
		e := gateway()
		got := decode[v1alpha1.Mapping](t, e)
		if says := fmt.Sprint(e.Type, " ", got.Spec.AllowedSources); says != want {
			t.Errorf("%s, want %s", says, want)
		}
		if got.Labels != nil || got.Status.ServiceVIP != "" || got.UID != m.UID || got.ResourceVersion == "" {
			t.Errorf("a gateway gets %+v", got)
		}
	}
	eventually(t, "all sent events to be counted", func() bool { return config.count(t, "events_sent_total", "resource=mappings") == 6 })
	if n := config.observations(t, "event_delay_seconds"); n < 2 || n > 6 {
		t.Errorf("measured the delay of %d events", n)
	}
}

// version returns the version of the current list.
func version(f *fixture) string {
	_, now := f.cache.Mappings().List()
	return now.String()
}

// accepting sets the Accept header.
type accepting struct {
	accept string
	next   http.RoundTripper
}

func (a accepting) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Accept", a.accept)
	return a.next.RoundTrip(req)
}

// put stores a Mapping in the cache, bypassing the cluster, so that it is visible when put returns.
func (f *fixture) put(t *testing.T, name, tier string) {
	t.Helper()
	m := newMapping("shop", name, "web")
	m.Labels = map[string]string{"tier": tier}
	if err := f.cache.Mappings().Store().Update(m); err != nil {
		t.Fatal(err)
	}
}

// TestWatchEndsInTime proves that a watch outlasts the server's write timeout and ends at the timeout that the client
// asked for, with a bookmark at the current version.
func TestWatchEndsInTime(t *testing.T) {
	bothProtocols(t, func(t *testing.T, client *http.Client) {
		cache := watchcache.New(watchcache.NewEpoch(), 4)
		for _, r := range cache.Resources() {
			if err := r.Store().Replace(nil, ""); err != nil {
				t.Fatal(err)
			}
		}
		server := httptest.NewUnstartedServer(handlerOf(t, cache))
		server.EnableHTTP2 = true
		server.Config.WriteTimeout = 3 * time.Second // this also bounds the handshake
		server.StartTLS()
		defer server.Close()
		if err := cache.Mappings().Store().Add(newMapping("shop", "a", "web")); err != nil {
			t.Fatal(err)
		}
		_, at := cache.Mappings().List()
		next := openWatch(t, client, server.URL+mappingsPath+"?watch=1&timeoutSeconds=4&allowWatchBookmarks=true&resourceVersion="+at.String())
		// A change of another kind sends no event here, but advances the version.
		web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
		if err := cache.Services().Store().Add(web); err != nil {
			t.Fatal(err)
		}
		at++
		e := next()
		if m := decode[metav1.PartialObjectMetadata](t, e); e.Type != "BOOKMARK" || m.ResourceVersion != at.String() {
			t.Errorf("%s at %s, want a bookmark at %s", e.Type, m.ResourceVersion, at)
		}
		if e := next(); e != nil {
			t.Errorf("%s after the end", e.Type)
		}
	})
}

func TestWatchesEndWithTheRelay(t *testing.T) {
	bothProtocols(t, func(t *testing.T, client *http.Client) {
		f := newFixture(t, nil)
		next := openWatch(t, client, "https://"+f.address+mappingsPath+"?watch=1")
		f.stop()
		if e := next(); e != nil {
			t.Errorf("%s, want the end", e.Type)
		}
	})
}

// TestSlowWatcherIsCutOff proves that a client that does not read costs no memory: the relay drops the events that it
// missed and ends the watch with an error.
func TestSlowWatcherIsCutOff(t *testing.T) {
	bothProtocols(t, func(t *testing.T, client *http.Client) {
		f := newFixture(t, func(c *Config) { c.Cache = watchcache.New(watchcache.NewEpoch(), 4) })
		next := openWatch(t, client, "https://"+f.address+mappingsPath+"?watch=1")
		const changes = 600
		for i := range changes {
			m := newMapping("shop", "web", "web")
			m.Generation = int64(i)
			m.Labels = map[string]string{"filling": strings.Repeat("x", 100_000)}
			if err := f.cache.Mappings().Store().Update(m); err != nil {
				t.Fatal(err)
			}
		}
		events := 0
		for e := next(); e != nil; e = next() {
			if events++; e.Type != "ERROR" {
				continue
			}
			if s := decode[metav1.Status](t, e); s.Kind != "Status" || s.Code != http.StatusGone || s.Reason != metav1.StatusReasonExpired {
				t.Errorf("%+v, want the Status 410 Expired", s)
			}
			if e := next(); e != nil {
				t.Errorf("%v after the error", e.Type)
			}
			return
		}
		t.Errorf("ended without an error after %d events of %d", events, changes)
	})
}

func TestWatchOfTables(t *testing.T) {
	f := newFixture(t, nil)
	f.put(t, "a", "old")
	f.put(t, "b", "old")
	client := &http.Client{Transport: accepting{"application/json;as=Table;v=v1;g=meta.k8s.io",
		&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	next := openWatch(t, client, "https://"+f.address+mappingsPath+
		"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	var got []string
	for range 3 {
		e := next()
		table := decode[metav1.Table](t, e)
		if table.Kind != "Table" || len(table.Rows) != 1 {
			t.Fatalf("%s, want a Table of one row", e.Object)
		}
		got = append(got, fmt.Sprint(e.Type, " ", len(table.ColumnDefinitions), " ", table.Rows[0].Cells[0]))
	}
	// Like kube-apiserver, the relay sends the columns with the first event only.
	if diff := cmp.Diff([]string{"ADDED 10 a", "ADDED 0 b", "BOOKMARK 0 "}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// openWatch opens a watch and returns a function that reads the next event.
func openWatch(t *testing.T, client *http.Client, url string) func() *event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = as(gatewayToken)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	lines := bufio.NewReader(resp.Body)
	return func() *event {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		e := &event{}
		if err == nil {
			err = json.Unmarshal(line, e)
		}
		if err != nil {
			t.Fatalf("%v after %q", err, line)
		}
		return e
	}
}

// event is a watch event with an undecoded object.
type event struct {
	Type   string
	Object json.RawMessage
}

// decode decodes the object of an event.
func decode[T any](t *testing.T, e *event) T {
	t.Helper()
	var obj T
	if e == nil {
		t.Fatal("the watch ended")
	}
	if err := json.Unmarshal(e.Object, &obj); err != nil {
		t.Fatalf("%v in %s", err, e.Object)
	}
	return obj
}
