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

// startRelay runs a Source of the server as a relay.
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

// TestRelay syncs through a server that knows the newer handshake and through one that does not.
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
			eventually(t, "told once", func() bool { return changes.Load() == 1 })
			if !server.sawWatchList() {
				t.Error("the newer handshake was not tried")
			}

			eventually(t, "Services watched", func() bool { return server.watched("services") })
			server.add("services", strings.ReplaceAll(echoService, "echo", "other"))
			eventually(t, "told of the new Service", func() bool { return changes.Load() == 2 && len(source.Snapshot().Services) == 2 })
			if n := messages(hook, "contact"); n != 0 {
				t.Errorf("%d lines about contact, want none: %v", n, hook.LastEntry())
			}
		})
	}
}

// TestRelayMovesToTheNextServer takes away the server that is used: the other one takes over, and nobody loses contact.
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
		t.Error("the second server was asked while the first one answered")
	}
	first.stop()
	second.add("services", echoService)
	eventually(t, "what only the second server has", func() bool { return len(source.Snapshot().Services) == 1 })
	if n := messages(hook, "lost contact"); n != 0 {
		t.Errorf("%d lines of lost contact, want none", n)
	}
	if n := messages(hook, "moved to another relay"); n < 2 {
		t.Errorf("%d lines about moving, want one for each of the servers that were lost", n)
	}
}

// TestFailoverOnUnavailable moves on from a server that answers, but cannot serve.
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

// TestLostContactIsToldOnce lets the server fail for a while: what was known stays, and the log has one line for either end.
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
	eventually(t, "tried again by all informers", func() bool { return server.requestCount() >= seen+6 })
	if len(source.Snapshot().Mappings) != 1 || !source.HasSynced() {
		t.Error("what was known is gone")
	}
	if c := source.Contact(); !c.Lost || c.Since.IsZero() {
		t.Errorf("%+v", c)
	}
	server.setRefuse(0)
	eventually(t, "back", func() bool { return messages(hook, "contact is back") == 1 })
	if source.Contact().Lost {
		t.Error("still lost")
	}
	if n := messages(hook, "lost contact"); n != 1 {
		t.Errorf("%d lines of lost contact, want 1", n)
	}
}

// TestWrongTokenIsNoContact is told once too, and names what the server says.
func TestWrongTokenIsNoContact(t *testing.T) {
	server := newStub(t, true)
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{server.URL}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "wrong"),
	}}, func() { t.Error("told of a change without one") }, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "refused", func() bool { return messages(hook, "lost contact") == 1 })
	if source.HasSynced() {
		t.Error("synced without having read anything")
	}
	if err, _ := hook.LastEntry().Data["error"].(error); !apierrors.IsUnauthorized(err) {
		t.Errorf("the line says %v", hook.LastEntry().Data)
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
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("https://me:%s@api")}}, "no user and no password"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("me:%s@api")}}, "no user and no password"},
		{config.Source{Kubeconfig: &config.Kubeconfig{Path: withPassword("https://me:%s%%zz@api")}}, "no user and no password"},
	} {
		log, _ := testLog()
		if _, err := New(test.source, func() {}, log); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v does not say %s", err, test.want)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("error %v tells the password", err)
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

// TestOnlyRelevantChangesAreTold updates what no gateway uses, and then what it does.
func TestOnlyRelevantChangesAreTold(t *testing.T) {
	server := newStub(t, true)
	server.add("mappings", echoMapping)
	server.add("services", echoService)
	var changes atomic.Int64
	source, _ := startRelay(t, server, func() { changes.Add(1) })
	eventually(t, "told of the sync", func() bool { return changes.Load() == 1 && server.watched("mappings") })
	before := source.Snapshot()

	irrelevant := strings.NewReplacer(`"a":"b"`, `"a":"c"`, `"resourceVersion":"5"`, `"resourceVersion":"8"`).Replace(echoMapping)
	server.send("MODIFIED", "mappings", irrelevant)
	// Events of a kind come in order: when the next one is here, this one is too.
	server.send("ADDED", "mappings", strings.ReplaceAll(echoMapping, `"echo"`, `"other"`))
	eventually(t, "the other one is there", func() bool { return len(source.Snapshot().Mappings) == 2 })
	after := source.Snapshot()
	if got := names(after); got != "Mapping echo, Mapping other, Service echo" || after.Mappings[0] != before.Mappings[0] {
		t.Errorf("snapshot holds %s; what did not change must be the same object", got)
	}
	if &after.Services[0] != &before.Services[0] {
		t.Error("the list of Services is another one, although none changed")
	}
	if len(before.Mappings) != 1 {
		t.Error("a Snapshot changed after it was given out")
	}

	relevant := strings.NewReplacer(`"port":80`, `"port":81`, `"resourceVersion":"8"`, `"resourceVersion":"9"`).Replace(irrelevant)
	server.send("MODIFIED", "mappings", relevant)
	eventually(t, "the spec is there", func() bool { return source.Snapshot().Mappings[0] != before.Mappings[0] })
	eventually(t, "told of it", func() bool { return changes.Load() > 2 })
	if got := changes.Load(); got != 3 {
		t.Errorf("told %d times, want 3: the sync, the other one and the spec", got)
	}
	if source.Snapshot().Mappings[0].Spec.Ports[0].Port != 81 || before.Mappings[0].Spec.Ports[0].Port != 80 {
		t.Error("the change is not in the Snapshot, or also in that from before")
	}
	server.send("DELETED", "mappings", relevant)
	eventually(t, "told of the deletion", func() bool { return changes.Load() == 4 && len(source.Snapshot().Mappings) == 1 })
}

// TestARelistIsNoNews cuts all connections: what is read again says the same, so nobody is told and nothing is new.
func TestARelistIsNoNews(t *testing.T) {
	for name, watchList := range map[string]bool{"sendInitialEvents": true, "list then watch": false} {
		t.Run(name, func(t *testing.T) {
			server := newStub(t, watchList)
			server.add("mappings", echoMapping)
			server.add("services", echoService)
			server.add("endpointslices", echoSlice)
			var changes atomic.Int64
			source, _ := startRelay(t, server, func() { changes.Add(1) })
			eventually(t, "told of the sync", func() bool { return changes.Load() == 1 && server.watched("endpointslices") })
			before, lists := source.Snapshot(), server.initialRequests("endpointslices")

			server.expire("endpointslices")
			eventually(t, "read again", func() bool { return server.initialRequests("endpointslices") > lists })
			eventually(t, "watched again", func() bool { return server.watched("endpointslices") })
			server.add("endpointslices", strings.ReplaceAll(echoSlice, "echo-1", "echo-2"))
			eventually(t, "the next one is there", func() bool { return len(source.Snapshot().EndpointSlices) == 2 })
			eventually(t, "told of it", func() bool { return changes.Load() > 1 })
			if got := changes.Load(); got != 2 {
				t.Errorf("told %d times, want 2: the sync and the new one", got)
			}
			after := source.Snapshot()
			if after.EndpointSlices[0] != before.EndpointSlices[0] {
				t.Errorf("snapshot holds %s; what was read again must be the same object", names(after))
			}
		})
	}
}

// TestProtobufIsAskedFor of the server for the kinds that it can send in it.
func TestProtobufIsAskedFor(t *testing.T) {
	server := newStub(t, true)
	source, _ := startRelay(t, server, func() {})
	eventually(t, "synced", source.HasSynced)
	want := map[string]string{
		"mappings":       "application/json;profile=gateway",
		"services":       "application/vnd.kubernetes.protobuf;profile=gateway,application/json;profile=gateway",
		"endpointslices": "application/vnd.kubernetes.protobuf;profile=gateway,application/json;profile=gateway",
	}
	if diff := cmp.Diff(want, server.accepted()); diff != "" {
		t.Errorf("accepted types (-want +got):\n%s", diff)
	}
}

func TestStrip(t *testing.T) {
	full := metav1.ObjectMeta{
		Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "1", Generation: 2, Annotations: map[string]string{"a": "b"},
		Labels: map[string]string{"l": "m", discoveryv1.LabelServiceName: "s", discoveryv1.LabelManagedBy: "c"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
	}
	aged := metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "1", Generation: 2}
	slim := metav1.ObjectMeta{Name: "n", Namespace: "ns", ResourceVersion: "1"}
	labelled := slim
	labelled.Labels = map[string]string{discoveryv1.LabelServiceName: "s", discoveryv1.LabelManagedBy: "c"}
	node, ready := "node1", true
	for _, test := range []struct {
		name         string
		object, want any
	}{
		{"Mapping", &v1alpha1.Mapping{ObjectMeta: full, Spec: v1alpha1.MappingSpec{ServiceName: "s"}, Status: v1alpha1.MappingStatus{ServiceVIP: "v"}},
			&v1alpha1.Mapping{ObjectMeta: aged, Spec: v1alpha1.MappingSpec{ServiceName: "s"}}},
		{"Service", &corev1.Service{ObjectMeta: full, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"a": "b"}, ExternalIPs: []string{"192.0.2.1"}}},
			&corev1.Service{ObjectMeta: slim, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"a": "b"}}}},
		{"EndpointSlice", &discoveryv1.EndpointSlice{ObjectMeta: full, Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.1.10"}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: &corev1.ObjectReference{Name: "pod"}}}},
			&discoveryv1.EndpointSlice{ObjectMeta: labelled, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.10"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, strip(test.object)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestObjectsThatNoAPIServerStored are rejected, counted at each event, and logged once; what else there is stays.
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
		t.Errorf("snapshot holds %s and %d were rejected, want %s and 2", got, source.Contact().Rejected, good)
	}
	eventually(t, "EndpointSlices watched", func() bool { return server.watched("endpointslices") })
	for n, address := range []string{"10.244.1.11", "10.244.1.12"} {
		seen := changes.Load()
		bad := strings.Replace(echoSlice, `"kubernetes.io/service-name":"echo"`, `"kubernetes.io/service-name":"e\nc"`, 1)
		server.send("MODIFIED", "endpointslices", strings.Replace(bad, "10.244.1.10", address, 1))
		eventually(t, "told", func() bool { return changes.Load() > seen })
		if got, want := names(source.Snapshot()), "Mapping echo, Service echo"; got != want || source.Contact().Rejected != int64(3+n) {
			t.Errorf("snapshot holds %s and %d were rejected, want %s and %d", got, source.Contact().Rejected, want, 3+n)
		}
	}
	server.send("MODIFIED", "endpointslices", echoSlice)
	eventually(t, "right again", func() bool { return names(source.Snapshot()) == good })
	if n := messages(hook, "no API server would have stored"); n != 3 {
		t.Errorf("%d lines of rejected objects, want 3", n)
	}
	for _, entry := range hook.AllEntries() {
		if line, err := entry.String(); err != nil || strings.Count(line, "\n") != 1 {
			t.Errorf("error %v, logged %q", err, line)
		}
	}
}
