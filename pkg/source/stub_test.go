// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/objects"
)

// bound is how long tests wait for what a busy machine does late.
const bound = time.Minute

// eventually fails the test if ok does not become true in time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, bound, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("after %s still waiting for: %s", limit, what)
		case <-tick.C:
		}
	}
}

func testLog() (logrus.FieldLogger, *logtest.Hook) { return logtest.NewNullLogger() }

// messages counts the log lines that contain text.
func messages(hook *logtest.Hook, text string) int {
	n := 0
	for _, entry := range hook.AllEntries() {
		if strings.Contains(entry.Message, text) {
			n++
		}
	}
	return n
}

// stub implements the part of the Kubernetes API that informers need.
type stub struct {
	*httptest.Server
	// watchList is set if the stub supports WatchList.
	watchList bool
	// listsOnly is a resource whose watches the stub refuses.
	listsOnly string
	token     string

	mu     sync.Mutex
	refuse int
	// gone is the number of further requests for a version that fail as too old.
	gone int
	// nonsense answers instead of the stub; nonsensed counts its answers by resource.
	nonsense  garbled
	nonsensed map[string]int
	objects   map[string][]string
	watchers  map[chan string]string
	requests  []string
	accepts   map[string]string
}

// lists maps the last part of a path to the kind of the list.
var lists = map[string]string{"mappings": "MappingList", "services": "ServiceList", "endpointslices": "EndpointSliceList",
	"portgrants": "PortGrantList", "namespaces": "NamespaceList"}

// listAt returns the list at a path, with the given objects.
func listAt(at, objects string) string {
	group, resource := path.Split(at)
	group = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSuffix(group, "/"), "/apis/"), "/api/")
	return `{"kind":"` + lists[resource] + `","apiVersion":"` + group + `","metadata":{"resourceVersion":"7"},"items":[` + objects + `]}`
}

func newStub(t *testing.T, watchList bool) *stub {
	t.Helper()
	return newStubOf(t, watchList, nil)
}

// newStubOf returns a stub with the test's own certificates.
func newStubOf(t *testing.T, watchList bool, certificates *tls.Config) *stub {
	t.Helper()
	s := bareStub(watchList)
	s.listen(t, certificates, s.serve)
	return s
}

// listen starts the server.
func (s *stub) listen(t *testing.T, certificates *tls.Config, handler http.HandlerFunc) {
	t.Helper()
	s.Server = httptest.NewUnstartedServer(handler)
	s.EnableHTTP2, s.TLS = true, certificates
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // silences errors of connections that tests cut
	s.StartTLS()
	t.Cleanup(s.stop)
}

func (s *stub) stop() {
	s.CloseClientConnections()
	s.Close()
}

func (s *stub) caFile(t *testing.T) string {
	t.Helper()
	return writeFile(t, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// add adds an object to the stub and sends an event to its watchers.
func (s *stub) add(resource, object string) {
	s.mu.Lock()
	s.objects[resource] = append(s.objects[resource], object)
	s.mu.Unlock()
	s.send("ADDED", resource, object)
}

// send sends an event to all watchers.
func (s *stub) send(kind, resource, object string) { s.sendRaw(resource, event(kind, object)) }

func (s *stub) sendRaw(resource, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w, of := range s.watchers {
		if of == resource {
			w <- text
		}
	}
}

func (s *stub) watched(resource string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.watchers {
		if of == resource {
			return true
		}
	}
	return false
}

func (s *stub) setRefuse(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = status
}

// forget makes the next requests for a version fail as too old, and returns how many of the previous ones were left.
func (s *stub) forget(requests int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.gone
	s.gone = requests
	return left
}

func (s *stub) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == 0 {
		return false
	}
	s.gone--
	return true
}

func (s *stub) setNonsense(a garbled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonsense = a
}

func (s *stub) nonsenses(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nonsensed[resource]
}

func (s *stub) sawWatchList() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, "sendInitialEvents=true") {
			return true
		}
	}
	return false
}

// accepted returns the last Accept header by resource.
func (s *stub) accepted() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.accepts)
}

// initialRequests counts the requests for all objects of a resource.
func (s *stub) initialRequests(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if strings.Contains(r, "/"+resource+"?") && (!strings.Contains(r, "watch=true") || s.watchList && strings.Contains(r, "sendInitialEvents=true")) {
			n++
		}
	}
	return n
}

// expire ends all watches of a resource with an error that causes a relist.
func (s *stub) expire(resource string) {
	s.send("ERROR", resource, tooOld)
}

const tooOld = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired","message":"too old"}`

func (s *stub) requestCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *stub) serve(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.String())
	s.accepts[resource] = r.Header.Get("Accept")
	objects, refuse, nonsense := strings.Join(s.objects[resource], ","), s.refuse, s.nonsense
	if nonsense != nil {
		s.nonsensed[resource]++
	}
	s.mu.Unlock()
	query := r.URL.Query()
	switch {
	case nonsense != nil:
		nonsense(w, query.Get("watch") != "")
	case query.Get("sendInitialEvents") != "" && !s.watchList:
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
	case strings.Trim(query.Get("resourceVersion"), "0") != "" && s.isGone():
		fail(w, http.StatusGone, metav1.StatusReasonExpired)
	case refuse != 0:
		fail(w, refuse, metav1.StatusReasonServiceUnavailable)
	case r.Header.Get("Authorization") != "Bearer "+s.token:
		fail(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized)
	case query.Get("watch") == "":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(listAt(r.URL.Path, objects)))
	case s.listsOnly == resource:
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	default:
		s.watch(w, r, resource, query.Get("sendInitialEvents") == "true")
	}
}

func (s *stub) watch(w http.ResponseWriter, r *http.Request, resource string, initial bool) {
	events := make(chan string, 100)
	s.mu.Lock()
	s.watchers[events] = resource
	if initial {
		for _, object := range s.objects[resource] {
			events <- event("ADDED", object)
		}
		events <- event("BOOKMARK", bookmarks[resource])
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, events)
	}()
	w.Header().Set("Content-Type", "application/json")
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			if _, err := w.Write([]byte(e)); err != nil {
				return
			}
		}
	}
}

func event(kind, object string) string { return `{"type":"` + kind + `","object":` + object + "}\n" }

const bookmark = `"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}`

var bookmarks = map[string]string{
	"mappings":       `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","spec":{},` + bookmark + `}`,
	"services":       `{"apiVersion":"v1","kind":"Service",` + bookmark + `}`,
	"endpointslices": `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","endpoints":null,` + bookmark + `}`,
	"portgrants":     `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"PortGrant","spec":{"addresses":null},` + bookmark + `}`,
	"namespaces":     `{"apiVersion":"v1","kind":"Namespace",` + bookmark + `}`,
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: string(reason),
	})
}

const (
	echoMapping = `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","metadata":{"name":"echo","namespace":"default","resourceVersion":"5",
		"annotations":{"a":"b"},"managedFields":[{"manager":"m"}]},"spec":{"addresses":["198.51.100.10"],"serviceName":"echo","ports":[{"port":80}]}}`
	echoService = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"echo","namespace":"default","resourceVersion":"5"},"spec":{"clusterIP":"10.96.0.10","ports":[{"port":80}]}}`
	echoSlice   = `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","metadata":{"name":"echo-1","namespace":"default","resourceVersion":"5",
		"labels":{"kubernetes.io/service-name":"echo","other":"label"}},"endpoints":[{"addresses":["10.244.1.10"],"nodeName":"node1"}],"ports":[{"port":8080}]}`
)

func names(s objects.Snapshot) string {
	var all []string
	for _, m := range s.Mappings {
		all = append(all, "Mapping "+m.Name)
	}
	for _, o := range s.Services {
		all = append(all, "Service "+o.Name)
	}
	for _, e := range s.EndpointSlices {
		all = append(all, "EndpointSlice "+e.Name)
	}
	return strings.Join(all, ", ")
}

func service(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
}
