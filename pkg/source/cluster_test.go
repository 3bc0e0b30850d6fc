// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
)

// start runs a Source until the test ends.
func start(t *testing.T, s Source) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(bound):
			t.Error("Run does not end with its context")
		}
	})
}

// startRelay runs a Source that uses the server as a relay.
func startRelay(t *testing.T, server *stub, changed func()) (Source, *logtest.Hook) {
	t.Helper()
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{server.URL}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "secret"),
	}}, changed, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	return source, hook
}

// TestRelay syncs with a server that supports WatchList and with one that does not.
func TestRelay(t *testing.T) {
	for name, watchList := range map[string]bool{"sendInitialEvents": true, "list then watch": false} {
		t.Run(name, func(t *testing.T) {
			server := newStub(t, watchList)
			server.add("mappings", echoMapping)
			server.add("services", echoService)
			server.add("endpointslices", echoSlice)
			var changes atomic.Int64
			log, hook := testLog()
			source, err := New(config.Source{Relay: &config.Relay{
				Servers: []string{server.URL}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "secret\n"),
			}}, func() { changes.Add(1) }, log)
			if err != nil {
				t.Fatal(err)
			}
			if source.HasSynced() {
				t.Error("synced before it ran")
			}
			start(t, source)
			eventually(t, "synced", source.HasSynced)
			if got, want := names(source.Snapshot()), "Mapping echo, Service echo, EndpointSlice echo-1"; got != want {
				t.Errorf("snapshot holds %s, want %s", got, want)
			}
			eventually(t, "one change", func() bool { return changes.Load() == 1 })
			if !server.sawWatchList() {
				t.Error("WatchList was not tried")
			}

			eventually(t, "Services watched", func() bool { return server.watched("services") })
			server.add("services", strings.ReplaceAll(echoService, "echo", "other"))
			eventually(t, "the new Service", func() bool { return changes.Load() == 2 && len(source.Snapshot().Services) == 2 })
			if n := messages(hook, "connect"); n != 0 {
				t.Errorf("%d log lines about the connection, want none: %v", n, hook.LastEntry())
			}
		})
	}
}

// TestRelayMovesToTheNextServer stops the server in use and proves that the other one takes over without a lost
// connection.
func TestRelayMovesToTheNextServer(t *testing.T) {
	first, second := newStub(t, true), newStub(t, true)
	for _, s := range []*stub{first, second} {
		s.add("mappings", echoMapping)
	}
	dead := newStub(t, true)
	dead.stop()
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{dead.URL, first.URL, second.URL}, CAFile: first.caFile(t), TokenFile: writeFile(t, "token", "secret"),
	}}, func() {}, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "synced past the dead server", source.HasSynced)
	if second.requestCount() != 0 {
		t.Error("the second server got requests while the first one answered")
	}
	first.stop()
	second.add("services", echoService)
	eventually(t, "the object that only the second server has", func() bool { return len(source.Snapshot().Services) == 1 })
	if n := messages(hook, "lost connection"); n != 0 {
		t.Errorf("%d log lines about a lost connection, want none", n)
	}
	if n := messages(hook, "switched to another relay"); n < 2 {
		t.Errorf("%d log lines about a switch, want one per lost server", n)
	}
}

// TestFailoverOnUnavailable proves that a server that answers with 503 is skipped.
func TestFailoverOnUnavailable(t *testing.T) {
	starting, ready := newStub(t, true), newStub(t, true)
	starting.setRefuse(http.StatusServiceUnavailable)
	ready.add("mappings", echoMapping)
	log, _ := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{starting.URL, ready.URL}, CAFile: ready.caFile(t), TokenFile: writeFile(t, "token", "secret"),
	}}, func() {}, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "synced", source.HasSynced)
	if len(source.Snapshot().Mappings) != 1 {
		t.Errorf("snapshot holds %s", names(source.Snapshot()))
	}
}

// TestLostContactIsToldOnce proves that during an outage the known objects stay, and that the log has one line at its
// beginning and one at its end.
func TestLostContactIsToldOnce(t *testing.T) {
	server := newStub(t, true)
	server.add("mappings", echoMapping)
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{server.URL}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "secret"),
	}}, func() {}, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "synced", source.HasSynced)

	server.setRefuse(http.StatusServiceUnavailable)
	server.CloseClientConnections()
	seen := server.requestCount()
	eventually(t, "retries by all informers", func() bool { return server.requestCount() >= seen+6 })
	if len(source.Snapshot().Mappings) != 1 || !source.HasSynced() {
		t.Error("the known objects are gone")
	}
	if c := source.Contact(); !c.Lost || c.Since.IsZero() {
		t.Errorf("%+v", c)
	}
	server.setRefuse(0)
	eventually(t, "reconnected", func() bool { return messages(hook, "reconnected to server") == 1 })
	if source.Contact().Lost {
		t.Error("still lost")
	}
	if n := messages(hook, "lost connection"); n != 1 {
		t.Errorf("%d log lines about the lost connection, want 1", n)
	}
}

// TestWrongTokenIsNoContact proves that a refused token is logged once, with the server's answer.
func TestWrongTokenIsNoContact(t *testing.T) {
	server := newStub(t, true)
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{server.URL}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "wrong"),
	}}, func() { t.Error("changed was called without a change") }, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "refused", func() bool { return messages(hook, "lost connection") == 1 })
	if source.HasSynced() {
		t.Error("synced without having read anything")
	}
	if err, _ := hook.LastEntry().Data["error"].(error); !apierrors.IsUnauthorized(err) {
		t.Errorf("the log line has %v", hook.LastEntry().Data)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	const password = "hunter2"
	withPassword := func(server string) string {
		return writeFile(t, "config", fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: a
clusters: [{name: a, cluster: {server: %q}}]
contexts: [{name: a, context: {cluster: a}}]
`, fmt.Sprintf(server, password)))
	}
	for _, test := range []struct {
		source config.Source
		want   string
	}{
		{config.Source{}, "must hold one of"},
		{config.Source{Relay: &config.Relay{Servers: []string{"http://relay"}}}, `source.relay.servers[0]: "http://relay"`},
		{config.Source{Relay: &config.Relay{Servers: []string{"https://relay"}, CAFile: "/nowhere/ca"}}, "/nowhere/ca"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: "/nowhere/config"}}, "/nowhere/config"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("https://me:%s@api")}}, "must not contain credentials"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("me:%s@api")}}, "must not contain credentials"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("https://me:%s%%zz@api")}}, "must not contain credentials"},
	} {
		log, _ := testLog()
		if _, err := New(test.source, func() {}, log); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v does not contain %s", err, test.want)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("error %v contains the password", err)
		}
	}
}

func TestKubeconfigContext(t *testing.T) {
	path := writeFile(t, "config", `
apiVersion: v1
kind: Config
current-context: a
clusters: [{name: a, cluster: {server: "https://a"}}, {name: b, cluster: {server: "https://b"}}]
contexts: [{name: a, context: {cluster: a}}, {name: b, context: {cluster: b}}]
`)
	for context, want := range map[string]string{"": "https://a", "b": "https://b"} {
		got, err := kubeconfigConfig(config.Kubeconfig{Path: path, Context: context})
		if err != nil || got.Host != want {
			t.Errorf("context %q leads to %v, %v; want %s", context, got, err, want)
		}
	}
}

// TestNotInAPod checks the error without a path and without a pod.
func TestNotInAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := kubeconfigConfig(config.Kubeconfig{}); err == nil || !strings.Contains(err.Error(), "source.kubeconfig: without a path, smartnatd must run in a pod") {
		t.Errorf("got %v", err)
	}
}

// TestOnlyRelevantChangesAreTold changes a field that no gateway uses, and then one that gateways use.
func TestOnlyRelevantChangesAreTold(t *testing.T) {
	server := newStub(t, true)
	server.add("mappings", echoMapping)
	server.add("services", echoService)
	var changes atomic.Int64
	source, _ := startRelay(t, server, func() { changes.Add(1) })
	eventually(t, "the sync", func() bool { return changes.Load() == 1 && server.watched("mappings") })
	before := source.Snapshot()

	irrelevant := strings.NewReplacer(`"a":"b"`, `"a":"c"`, `"resourceVersion":"5"`, `"resourceVersion":"8"`).Replace(echoMapping)
	server.send("MODIFIED", "mappings", irrelevant)
	// Events of a kind are ordered: the next one proves that this one has arrived.
	server.send("ADDED", "mappings", strings.ReplaceAll(echoMapping, `"echo"`, `"other"`))
	eventually(t, "the other Mapping", func() bool { return len(source.Snapshot().Mappings) == 2 })
	after := source.Snapshot()
	if got := names(after); got != "Mapping echo, Mapping other, Service echo" || after.Mappings[0] != before.Mappings[0] {
		t.Errorf("snapshot holds %s; unchanged objects must be identical", got)
	}
	if &after.Services[0] != &before.Services[0] {
		t.Error("the list of Services was copied although none changed")
	}
	if len(before.Mappings) != 1 {
		t.Error("a Snapshot changed after it was returned")
	}

	relevant := strings.NewReplacer(`"port":80`, `"port":81`, `"resourceVersion":"8"`, `"resourceVersion":"9"`).Replace(irrelevant)
	server.send("MODIFIED", "mappings", relevant)
	eventually(t, "the new spec", func() bool { return source.Snapshot().Mappings[0] != before.Mappings[0] })
	eventually(t, "the change of the spec", func() bool { return changes.Load() > 2 })
	if got := changes.Load(); got != 3 {
		t.Errorf("changed was called %d times, want 3: sync, other Mapping, spec", got)
	}
	if source.Snapshot().Mappings[0].Spec.Ports[0].Port != 81 || before.Mappings[0].Spec.Ports[0].Port != 80 {
		t.Error("the change is missing in the new Snapshot or present in the old one")
	}
	server.send("DELETED", "mappings", relevant)
	eventually(t, "the deletion", func() bool { return changes.Load() == 4 && len(source.Snapshot().Mappings) == 1 })
}

// TestARelistIsNoNews breaks all connections and proves that the relist, which has the same content, causes no event and
// no new objects.
func TestARelistIsNoNews(t *testing.T) {
	for name, watchList := range map[string]bool{"sendInitialEvents": true, "list then watch": false} {
		t.Run(name, func(t *testing.T) {
			server := newStub(t, watchList)
			server.add("mappings", echoMapping)
			server.add("services", echoService)
			server.add("endpointslices", echoSlice)
			var changes atomic.Int64
			source, _ := startRelay(t, server, func() { changes.Add(1) })
			eventually(t, "the sync", func() bool { return changes.Load() == 1 && server.watched("endpointslices") })
			before, lists := source.Snapshot(), server.initialRequests("endpointslices")

			server.expire("endpointslices")
			eventually(t, "a relist", func() bool { return server.initialRequests("endpointslices") > lists })
			eventually(t, "a new watch", func() bool { return server.watched("endpointslices") })
			server.add("endpointslices", strings.ReplaceAll(echoSlice, "echo-1", "echo-2"))
			eventually(t, "the next EndpointSlice", func() bool { return len(source.Snapshot().EndpointSlices) == 2 })
			eventually(t, "the change", func() bool { return changes.Load() > 1 })
			if got := changes.Load(); got != 2 {
				t.Errorf("changed was called %d times, want 2: sync and new EndpointSlice", got)
			}
			after := source.Snapshot()
			if after.EndpointSlices[0] != before.EndpointSlices[0] {
				t.Errorf("snapshot holds %s; relisted objects must be identical", names(after))
			}
		})
	}
}

// TestProtobufIsAskedFor checks the Accept headers: protobuf for the kinds that have it.
func TestProtobufIsAskedFor(t *testing.T) {
	server := newStub(t, true)
	source, _ := startRelay(t, server, func() {})
	eventually(t, "synced", source.HasSynced)
	want := map[string]string{
		"mappings":       "application/json;profile=gateway",
		"services":       "application/vnd.kubernetes.protobuf;profile=gateway,application/json;profile=gateway",
		"endpointslices": "application/vnd.kubernetes.protobuf;profile=gateway,application/json;profile=gateway",
		"portgrants":     "application/json;profile=gateway",
		"namespaces":     "application/vnd.kubernetes.protobuf;profile=gateway,application/json;profile=gateway",
	}
	if diff := cmp.Diff(want, server.accepted()); diff != "" {
		t.Errorf("accepted types (-want +got):\n%s", diff)
	}
}

func TestStrip(t *testing.T) {
	full := metav1.ObjectMeta{
		Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "1", Generation: 2, Annotations: map[string]string{"a": "b"},
		Labels: map[string]string{"l": "m", discoveryv1.LabelServiceName: "s", discoveryv1.LabelManagedBy: "c"}, ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}, {Manager: "s", Subresource: "status", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)},
		},
	}
	aged := metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "1", Generation: 2, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}
	slim := metav1.ObjectMeta{Name: "n", Namespace: "ns", ResourceVersion: "1"}
	labelled := slim
	labelled.Labels = map[string]string{discoveryv1.LabelServiceName: "s", discoveryv1.LabelManagedBy: "c"}
	node, ready := "node1", true
	for _, test := range []struct {
		name   string
		object kinds.Object
		want   any
	}{
		{"Mapping", &v1alpha1.Mapping{ObjectMeta: full, Spec: v1alpha1.MappingSpec{ServiceName: "s"}, Status: v1alpha1.MappingStatus{ServiceVIP: "v"}},
			&v1alpha1.Mapping{ObjectMeta: aged, Spec: v1alpha1.MappingSpec{ServiceName: "s"}}},
		{"Service", &corev1.Service{ObjectMeta: full, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"a": "b"}, ExternalIPs: []string{"192.0.2.1"}}},
			&corev1.Service{ObjectMeta: slim, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"a": "b"}}}},
		{"EndpointSlice", &discoveryv1.EndpointSlice{ObjectMeta: full, Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.1.10"}, NodeName: &node, Zone: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: &corev1.ObjectReference{Name: "pod"}}}},
			&discoveryv1.EndpointSlice{ObjectMeta: labelled, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.10"}, NodeName: &node}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, strip(kinds.Of(test.object), test.object)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestObjectsThatNoAPIServerStored proves that such objects are rejected, counted at each event and logged once, and that
// the other objects stay.
func TestObjectsThatNoAPIServerStored(t *testing.T) {
	const injection = `x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#`
	server := newStub(t, true)
	server.add("mappings", echoMapping)
	server.add("mappings", strings.Replace(echoMapping, `"name":"echo"`, `"name":"`+injection+`"`, 1))
	server.add("services", echoService)
	server.add("services", strings.Replace(echoService, `"namespace":"default"`, `"namespace":"a/b"`, 1))
	server.add("endpointslices", echoSlice)
	var changes atomic.Int64
	source, hook := startRelay(t, server, func() { changes.Add(1) })
	eventually(t, "synced", source.HasSynced)
	const good = "Mapping echo, Service echo, EndpointSlice echo-1"
	if got := names(source.Snapshot()); got != good || source.Contact().Rejected != 2 {
		t.Errorf("snapshot holds %s, %d rejected; want %s, 2", got, source.Contact().Rejected, good)
	}
	eventually(t, "EndpointSlices watched", func() bool { return server.watched("endpointslices") })
	for n, address := range []string{"10.244.1.11", "10.244.1.12"} {
		seen := changes.Load()
		bad := strings.Replace(echoSlice, `"kubernetes.io/service-name":"echo"`, `"kubernetes.io/service-name":"e\nc"`, 1)
		server.send("MODIFIED", "endpointslices", strings.Replace(bad, "10.244.1.10", address, 1))
		eventually(t, "told", func() bool { return changes.Load() > seen })
		if got, want := names(source.Snapshot()), "Mapping echo, Service echo"; got != want || source.Contact().Rejected != int64(3+n) {
			t.Errorf("snapshot holds %s, %d rejected; want %s, %d", got, source.Contact().Rejected, want, 3+n)
		}
	}
	server.send("MODIFIED", "endpointslices", echoSlice)
	eventually(t, "the valid objects again", func() bool { return names(source.Snapshot()) == good })
	if n := messages(hook, "rejected invalid object"); n != 3 {
		t.Errorf("%d log lines about rejected objects, want 3", n)
	}
	for _, entry := range hook.AllEntries() {
		if line, err := entry.String(); err != nil || strings.Count(line, "\n") != 1 {
			t.Errorf("error %v, logged %q", err, line)
		}
	}
}
