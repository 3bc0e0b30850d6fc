// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// garbled writes an invalid response.
type garbled func(w http.ResponseWriter, watch bool)

func body(contentType, text string) garbled {
	return func(w http.ResponseWriter, _ bool) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(text))
	}
}

// cutOff declares a longer body than it sends.
func cutOff(text string) garbled {
	return func(w http.ResponseWriter, _ bool) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(text))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// refusal returns an HTML page, like a proxy.
func refusal(code int) garbled {
	return func(w http.ResponseWriter, watch bool) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		_, _ = w.Write([]byte("<html>No.</html>"))
	}
}

// status returns an error, like an API server.
func status(code int, reason metav1.StatusReason) garbled {
	return func(w http.ResponseWriter, _ bool) { fail(w, code, reason) }
}

// asList answers lists with text and refuses watches.
func asList(text string) garbled {
	return func(w http.ResponseWriter, watch bool) {
		if watch {
			fail(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
			return
		}
		body("application/json", text)(w, watch)
	}
}

const (
	mappingGroup = `"apiVersion":"smartnat.aureacentral.com/v1alpha1"`
	listHead     = `{"kind":"MappingList",` + mappingGroup + `,"metadata":{"resourceVersion":"9"},"items":`
)

// TestGarbageTakesNothingAway proves that the known objects stay while an authenticated server sends invalid responses,
// and that the source recovers. In each case all requests get the invalid response.
func TestGarbageTakesNothingAway(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer garbled
	}{
		{"a page", body("text/html", "<html>It works!</html>")},
		{"a page declared as JSON", body("application/json", "<html>It works!</html>")},
		{"nothing", body("application/json", "")},
		{"an unknown type", body("application/octet-stream", "\x00\x01")},
		{"a malformed type", body("///", "{}")},
		{"malformed protobuf", body("application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff\xff")},
		{"an empty object", body("application/json", "{}")},
		{"null", body("application/json", "null")},
		{"an array", body("application/json", "[]")},
		{"cut off", cutOff(`{"kind":"MappingList"`)},
		{"a Status instead of a list", asList(`{"kind":"Status","apiVersion":"v1","status":"Success"}`)},
		{"a list of another kind", asList(`{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}`)},
		{"a v1 List", asList(`{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}`)},
		{"an object instead of a list", asList(echoMapping)},
		{"a list without a kind", asList(`{"metadata":{"resourceVersion":"9"},"items":[]}`)},
		{"a list without a version", asList(`{"kind":"MappingList",` + mappingGroup + `,"metadata":{},"items":[]}`)},
		{"half a list", asList(listHead + `[`)},
		{"a null item", asList(listHead + `[null]}`)},
		{"an item without a name", asList(listHead + `[{"spec":{}}]}`)},
		{"an item with a wrong type", asList(listHead + `[{"metadata":{"name":"echo","namespace":"default"},"spec":{"addresses":"all"}}]}`)},
		{"malformed items", asList(listHead + `{}}`)},
		{"gone, for any request", status(http.StatusGone, metav1.StatusReasonExpired)},
		{"gone, by a page", refusal(http.StatusGone)},
		{"gone, instead of initial events", func(w http.ResponseWriter, watch bool) {
			if !watch {
				refusal(http.StatusGone)(w, watch)
				return
			}
			body("application/json", event("ERROR", tooOld))(w, watch)
		}},
		{"invalid, for any request", status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)},
		{"invalid, by a page", refusal(http.StatusUnprocessableEntity)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := bareStub(true)
				server.add("mappings", echoMapping)
				server.add("services", echoService)
				server.add("endpointslices", echoSlice)
				var changes atomic.Int64
				source, wire, hook := wired(t, func() { changes.Add(1) }, server)
				synctest.Wait()
				known := names(source.Snapshot())

				server.setNonsense(test.answer)
				wire.cut()
				time.Sleep(10 * time.Minute)
				for resource := range lists {
					if n := server.nonsenses(resource); n < 20 {
						t.Errorf("%d requests for %s", n, resource)
					}
				}
				if diff := cmp.Diff(known, names(source.Snapshot())); diff != "" || changes.Load() != 1 || !strings.Contains(known, "echo-1") {
					t.Errorf("changed was called %d times, want once (-known +now):\n%s", changes.Load(), diff)
				}
				if c := source.Contact(); !c.Lost || c.Why == "" || c.Failures < 20 || time.Since(c.Since) < 9*time.Minute || time.Since(c.Last) < 9*time.Minute {
					t.Errorf("%+v", c)
				}

				server.setNonsense(nil)
				server.add("services", strings.ReplaceAll(echoService, "echo", "other"))
				time.Sleep(2 * time.Minute)
				if n := len(source.Snapshot().Services); n != 2 || source.Contact().Lost {
					t.Errorf("%d Services, %+v", n, source.Contact())
				}
				if lost, back := messages(hook, "lost connection"), messages(hook, "reconnected to server"); lost != 1 || back != 1 {
					t.Errorf("%d log lines about the lost connection and %d about the new one, want one each", lost, back)
				}
			})
		})
	}
}

// TestGarbageOfOneRelayLeadsToTheNext proves that invalid responses of one relay make the source use the next.
func TestGarbageOfOneRelayLeadsToTheNext(t *testing.T) {
	for name, answer := range map[string]garbled{
		"a page": body("text/html", "<html>It works!</html>"), "an empty object": body("application/json", "{}"),
		"no rights": status(http.StatusForbidden, metav1.StatusReasonForbidden),
		"gone":      status(http.StatusGone, metav1.StatusReasonExpired), "gone, by a page": refusal(http.StatusGone),
		"invalid": status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid), "invalid, by a page": refusal(http.StatusUnprocessableEntity),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad, good := bareStub(true), bareStub(true)
				bad.setNonsense(answer)
				good.add("mappings", echoMapping)
				source, _, _ := wired(t, func() {}, bad, good)
				time.Sleep(15 * time.Second)
				if got := names(source.Snapshot()); !source.HasSynced() || got != "Mapping echo" || source.Contact().Lost {
					t.Errorf("synced %t, holds %s, %+v", source.HasSynced(), got, source.Contact())
				}
				servers := source.Contact().Servers
				if len(servers) != 2 || servers[0].InUse || servers[0].Failures == 0 || !servers[1].InUse || servers[1].Failures != 0 {
					t.Errorf("servers %+v, want the second one in use and without failures", servers)
				}
			})
		})
	}
}

// TestAnEmptyListOfARelayIsTheTruth proves that an empty list deletes all objects: they were deleted while the connection
// was down.
func TestAnEmptyListOfARelayIsTheTruth(t *testing.T) {
	server := newStub(t, false)
	server.add("mappings", echoMapping)
	source, _ := startRelay(t, server, func() {})
	eventually(t, "synced", func() bool { return source.HasSynced() && server.watched("mappings") })
	server.mu.Lock()
	server.objects["mappings"] = nil
	server.mu.Unlock()
	server.expire("mappings")
	eventually(t, "an empty Snapshot", func() bool { return len(source.Snapshot().Mappings) == 0 })
}

// TestGarbageInAWatch proves that an invalid event causes a relist, which brings the change that the event stood for.
func TestGarbageInAWatch(t *testing.T) {
	for _, watchList := range []bool{true, false} {
		for name, event := range map[string]string{
			"no event":                "<html>\n",
			"an unknown kind":         `{"type":"FORGOTTEN","object":` + echoMapping + "}\n",
			"an object of another":    `{"type":"MODIFIED","object":` + echoService + "}\n",
			"an object without kind":  `{"type":"MODIFIED","object":{}}` + "\n",
			"an object without name":  `{"type":"DELETED","object":{"kind":"Mapping",` + mappingGroup + `,"metadata":{}}}` + "\n",
			"a wrong type":            `{"type":"MODIFIED","object":{"kind":"Mapping",` + mappingGroup + `,"metadata":{"name":7}}}` + "\n",
			"a bookmark of another":   `{"type":"BOOKMARK","object":` + echoService + "}\n",
			"an object without end":   `{"type":"ADDED","object":{"kind":"` + strings.Repeat("x", 20<<20) + "\n",
			"a deletion of something": `{"type":"DELETED","object":{"kind":"Status","apiVersion":"v1"}}` + "\n",
		} {
			t.Run(map[bool]string{true: "sendInitialEvents/", false: "list then watch/"}[watchList]+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := bareStub(watchList)
					server.add("mappings", echoMapping)
					source, _, hook := wired(t, func() {}, server)
					synctest.Wait()
					// The change that the invalid event stands for; only a relist shows it.
					server.mu.Lock()
					server.objects["mappings"] = append(server.objects["mappings"], strings.ReplaceAll(echoMapping, `"echo"`, `"other"`))
					server.mu.Unlock()
					server.sendRaw("mappings", event)
					time.Sleep(30 * time.Second)
					if got := names(source.Snapshot()); got != "Mapping echo, Mapping other" || source.Contact().Lost {
						t.Errorf("holds %s, %+v", got, source.Contact())
					}
					if lost, back := messages(hook, "lost connection"), messages(hook, "reconnected to server"); lost != 1 || back != 1 {
						t.Errorf("%d log lines about the lost connection and %d about the new one, want one each", lost, back)
					}
				})
			})
		}
	}
}

// TestAWatchThatEndsBeforeAllIsToldIsNoHaste bounds the requests to a server whose watches end before the initial events
// are complete. client-go alone would reopen the watch at once, forever.
func TestAWatchThatEndsBeforeAllIsToldIsNoHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := bareStub(true)
		server.setNonsense(func(w http.ResponseWriter, watch bool) {
			if watch {
				body("application/json", event("ADDED", echoMapping))(w, watch)
				return
			}
			body("application/json", listHead+"["+echoMapping+"]}")(w, watch)
		})
		source, _, _ := wired(t, func() {}, server)
		time.Sleep(time.Hour)
		if len(source.Snapshot().Mappings) != 1 {
			t.Errorf("holds %s", names(source.Snapshot()))
		}
		if n := server.nonsenses("mappings"); n > 1000 {
			t.Errorf("%d requests in an hour", n)
		}
	})
}
