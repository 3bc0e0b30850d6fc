// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

func TestStatusOptions(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*StatusOptions)
		want   string
	}{
		{"the defaults", func(*StatusOptions) {}, ""},
		{"gateways do not report", func(o *StatusOptions) { o.Accept = false }, ""},
		{"writing is disabled", func(o *StatusOptions) { o.Write = false }, ""},
		{"no namespace", func(o *StatusOptions) { o.Namespace = "" }, `--namespace: "" is not the name of a namespace`},
		{"a timeout that every gateway misses", func(o *StatusOptions) { o.InstanceTimeout = time.Minute },
			"--instance-timeout: 1m0s is less than 3m0s: gateways report once a minute"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := DefaultStatusOptions()
			test.change(&o)
			got := ""
			if err := errors.Join(o.validate()...); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// ledger records writes without making them.
type ledger struct {
	mu      sync.Mutex
	written []string
}

func (*ledger) Get(context.Context, string, string) (*v1alpha1.Mapping, error) {
	return nil, errors.New("unexpected read")
}

func (l *ledger) ApplyStatus(_ context.Context, manager string, at conditions.AppliedMetadata, s v1alpha1.MappingStatus) (*v1alpha1.Mapping, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = append(l.written, manager+" "+at.Namespace+"/"+at.Name)
	return &v1alpha1.Mapping{Status: s}, nil
}

// TestReportsPassTheSameDoors proves that a status report is authenticated and authorized before it is read, as reads are.
func TestReportsPassTheSameDoors(t *testing.T) {
	written := &ledger{}
	var asked []string
	f := newFixture(t, func(c *Config) {
		c.Reports = &status.Reports{Cache: c.Cache, Mappings: written, Namespace: "smartnat", Log: c.Log,
			Heard: func(context.Context, string) error { return nil }}
		c.Authenticator = byCertificate(authenticator.RequestFunc(fakeAuthentication))
		c.Authorizer = authorizer.AuthorizerFunc(func(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetVerb() == "patch" {
				asked = append(asked, strings.Join([]string{a.GetUser().GetName(), a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName()}, " "))
			}
			return fakeAuthorization(ctx, a)
		})
	})
	f.populate(t)
	const path = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings/web"
	const whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	const body = `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"shop"},
		"status":{"instances":[{"name":"gateway.x509"}]}}`
	for _, test := range []struct {
		name, method, path, token string
		want                      int
	}{
		{"unauthenticated", http.MethodPatch, path + "/status", "", 401},
		{"forbidden", http.MethodPatch, path + "/status", strangerToken, 403},
		{"not the status", http.MethodPatch, path, gatewayToken, 405},
		{"no apply", http.MethodPut, path + "/status", gatewayToken, 405},
		{"a deletion", http.MethodDelete, path + "/status", gatewayToken, 405},
		{"a Mapping that does not exist", http.MethodPatch, strings.Replace(path, "web", "other", 1) + "/status", gatewayToken, 404},
		{"a gateway", http.MethodPatch, path + "/status", gatewayToken, 200},
		{"an unauthenticated self review", http.MethodPost, whoami, "", 401},
		{"a forbidden self review", http.MethodPost, whoami, strangerToken, 403},
		{"a self review of a gateway", http.MethodPost, whoami, gatewayToken, 201},
		{"a self review of another version", http.MethodPost, strings.Replace(whoami, "v1", "v1beta1", 1), gatewayToken, 405},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, "https://"+f.address+test.path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/apply-patch+yaml")
		if test.token != "" {
			req.Header.Set("Authorization", "Bearer "+test.token)
		}
		client, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: f.caPEM}})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		client.CloseIdleConnections()
		if resp.StatusCode != test.want {
			t.Errorf("%s: %d, want %d", test.name, resp.StatusCode, test.want)
		}
	}
	if diff := cmp.Diff([]string{"smartnatd-gateway.x509 shop/web"}, written.written); diff != "" {
		t.Errorf("written (-want +got)\n%s", diff)
	}
	web := " patch smartnat.aureacentral.com mappings status shop web"
	if diff := cmp.Diff([]string{"stranger" + web, "gateway" + strings.Replace(web, "web", "other", 1), "gateway" + web}, asked); diff != "" {
		t.Errorf("authorized (-want +got)\n%s", diff)
	}
}

// TestEventsAreWritten proves that Events are created in the namespace of their object, and that repeated ones are
// counted.
func TestEventsAreWritten(t *testing.T) {
	core := corefake.NewClientset()
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(eventSink{t.Context(), func(namespace string) eventClient { return core.CoreV1().Events(namespace) }})
	recorder := broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "smartnat-relay"})
	web := &corev1.ObjectReference{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Mapping", Namespace: "shop", Name: "web", UID: "1"}
	recorder.Event(web, corev1.EventTypeNormal, "Programmed", "in effect")
	for range 3 {
		recorder.Event(web, corev1.EventTypeWarning, "NotProgrammed", "gw1: no")
	}
	written := func() map[string]int32 {
		events, err := core.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]int32{}
		for _, e := range events.Items {
			about := e.InvolvedObject.Kind + " " + e.InvolvedObject.Name + " " + string(e.InvolvedObject.UID)
			all[strings.Join([]string{e.Type, e.Reason, e.Message, about, e.Source.Component}, ", ")] = e.Count
		}
		return all
	}
	want := map[string]int32{
		"Normal, Programmed, in effect, Mapping web 1, smartnat-relay":   1,
		"Warning, NotProgrammed, gw1: no, Mapping web 1, smartnat-relay": 3,
	}
	eventually(t, "the last Event to be counted", func() bool { return written()["Warning, NotProgrammed, gw1: no, Mapping web 1, smartnat-relay"] == 3 })
	if diff := cmp.Diff(want, written()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// failing fails writes with an error per Mapping.
type failing struct {
	status.Mappings
	errs map[string]error
}

func (f failing) ApplyStatus(_ context.Context, _ string, at conditions.AppliedMetadata, _ v1alpha1.MappingStatus) (*v1alpha1.Mapping, error) {
	return nil, f.errs[at.Name]
}

func TestStatusWritesAreCounted(t *testing.T) {
	c := &Config{Cache: watchcache.New(watchcache.NewEpoch(), 1)}
	c.instrument()
	conflict := apierrors.NewConflict(schema.GroupResource{}, "raced", errors.New("modified concurrently"))
	mappings := countedMappings{failing{errs: map[string]error{"raced": conflict, "refused": errors.New("refused")}}, c.metrics}
	for _, write := range []struct{ manager, name string }{
		{v1alpha1.ConditionsFieldManager, "web"}, {v1alpha1.ConditionsFieldManager, "web"}, {v1alpha1.ConditionsFieldManager, "raced"},
		{v1alpha1.InstanceFieldManagerPrefix + "gw1", "web"}, {v1alpha1.InstanceFieldManagerPrefix + "gw1", "refused"},
	} {
		_, _ = mappings.ApplyStatus(t.Context(), write.manager, conditions.AppliedMetadata{Name: write.name}, v1alpha1.MappingStatus{})
	}
	got := map[string]float64{}
	for _, of := range []string{"conditions", "instances"} {
		for _, result := range []string{"ok", "conflict", "error"} {
			got[of+" "+result] = c.count(t, "status_writes_total", "of="+of, "result="+result)
		}
	}
	want := map[string]float64{
		"conditions ok": 2, "conditions conflict": 1, "conditions error": 0, "instances ok": 1, "instances conflict": 0, "instances error": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
