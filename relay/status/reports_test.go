// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// good is a valid report of gateway gw1 about the Mapping web.
const good = `{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"shop"},
	"status":{"instances":[{"name":"gw1","addresses":["192.0.2.1"],"endpoints":2,"observedGeneration":1,"programmed":true,
	"ready":false,"reason":"NoReadyEndpoints"}]}}`

// desk is a Reports over a cluster with the Mapping web.
type desk struct {
	*cluster
	*Reports
	heard []string
}

func newDesk(t *testing.T) *desk {
	log := logrus.New()
	log.SetOutput(io.Discard)
	d := &desk{cluster: newCluster(t, 1)}
	d.Reports = &Reports{Cache: d.caches[0], Mappings: d.cluster, Namespace: "smartnat", Log: log,
		Heard: func(_ context.Context, instance string) error { d.heard = append(d.heard, instance); return nil }}
	d.put(mapping("web", 1, 8080))
	return d
}

// report sends a report and returns the response.
func (d *desk) report(u user.Info, contentType, body string) (*httptest.ResponseRecorder, error) {
	req := httptest.NewRequest(http.MethodPatch, "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings/web/status", strings.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	ctx := request.WithRequestInfo(req.Context(), &request.RequestInfo{
		IsResourceRequest: true, Verb: "patch", APIGroup: v1alpha1.GroupName, APIVersion: "v1alpha1", Namespace: "shop",
		Resource: "mappings", Subresource: "status", Name: "web",
	})
	req = req.WithContext(request.WithUser(ctx, u))
	if !d.Takes(req) {
		return nil, errors.New("not taken")
	}
	answer := httptest.NewRecorder()
	return answer, d.Take(answer, req)
}

// token returns a user as a TokenReview names it, certificate a user with a client certificate.
func token(name string) user.Info       { return &user.DefaultInfo{Name: name} }
func certificate(name string) user.Info { return CertificateUser{token(name)} }

// TestInstances checks that no two users are the same gateway, and that unknown kinds of users are none.
func TestInstances(t *testing.T) {
	for _, test := range []struct {
		user user.Info
		want string
	}{
		{token("system:serviceaccount:smartnat:gw1"), "gw1"},
		{certificate("gw1"), "gw1.x509"},
		{certificate("gw1.x509"), "gw1.x509.x509"},
		{token("system:serviceaccount:smartnat:gw1.x509"), ""},
		{token("system:serviceaccount:shop:gw1"), ""},
		{token("gw1"), ""},
		{token("gw1.x509"), ""},
		{&user.DefaultInfo{Name: "gw1", Extra: map[string][]string{v1alpha1.InstanceExtra: {"gw1"}}}, ""},
		{token("system:node:gw1"), ""},
		{certificate("GW 1"), ""},
		{certificate("system:serviceaccount:smartnat:gw1"), ""},
		{certificate(""), ""},
	} {
		d := newDesk(t)
		req := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		ctx := request.WithRequestInfo(req.Context(), &request.RequestInfo{
			IsResourceRequest: true, Verb: "create", APIGroup: "authentication.k8s.io", APIVersion: "v1", Resource: "selfsubjectreviews",
		})
		req = req.WithContext(request.WithUser(ctx, test.user))
		if !d.Takes(req) {
			t.Fatal("not taken")
		}
		w := httptest.NewRecorder()
		if err := d.Take(w, req); err != nil {
			t.Fatal(err)
		}
		var review authenticationv1.SelfSubjectReview
		if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
			t.Fatal(err)
		}
		var want map[string]authenticationv1.ExtraValue
		if test.want != "" {
			want = map[string]authenticationv1.ExtraValue{v1alpha1.InstanceExtra: {test.want}}
		}
		if diff := cmp.Diff(want, review.Status.UserInfo.Extra); diff != "" || review.Status.UserInfo.Username != test.user.GetName() {
			t.Errorf("%T %s (-want +got)\n%s", test.user, test.user.GetName(), diff)
		}
		if len(d.written()) != 0 || len(d.heard) != 0 {
			t.Errorf("written %v, heard of %v", d.written(), d.heard)
		}
	}
}

const applyPatch = "application/apply-patch+yaml"

func TestReportsAreTaken(t *testing.T) {
	for _, test := range []struct {
		name     string
		user     user.Info
		instance string
		later    string
	}{
		{"of a ServiceAccount", token("system:serviceaccount:smartnat:gw1"), "gw1", ""},
		{"of a client certificate", certificate("gw1"), "gw1.x509", ""},
		{"of a later version", token("system:serviceaccount:smartnat:gw1"), "gw1", `"later":{"field":[1]},`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			good := strings.Replace(strings.ReplaceAll(good, "gw1", test.instance), `"endpoints"`, test.later+`"endpoints"`, 1)
			answer, err := d.report(test.user, applyPatch, good)
			if err != nil {
				t.Fatal(err)
			}
			var got v1alpha1.Mapping
			if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			want := []v1alpha1.InstanceStatus{{Name: test.instance, Addresses: []string{"192.0.2.1"}, Endpoints: 2, ObservedGeneration: 1, Programmed: true, Reason: "NoReadyEndpoints"}}
			if diff := cmp.Diff(want, got.Status.Instances); diff != "" {
				t.Errorf("in the answer (-want +got)\n%s", diff)
			}
			if got.ResourceVersion != "" {
				t.Error("the answer has the cluster's own resource version")
			}
			// An up-to-date entry is not written again, but still counts as a sign of life.
			if _, err := d.report(test.user, applyPatch, good); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"smartnatd-" + test.instance + " shop/web"}, d.written()); diff != "" {
				t.Errorf("writes (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff([]string{test.instance, test.instance}, d.heard); diff != "" {
				t.Errorf("heard of (-want +got)\n%s", diff)
			}
			// A gateway that no longer serves the Mapping removes its entry.
			if _, err := d.report(test.user, applyPatch, strings.Split(good, `,
	"status"`)[0]+`,"status":{}}`); err != nil {
				t.Error(err)
			}
			if got := d.mappings[key{Namespace: "shop", Name: "web"}].Status.Instances; len(got) != 0 {
				t.Errorf("the entry is still there: %v", got)
			}
		})
	}
}

func TestReportsAreRefused(t *testing.T) {
	gw1 := "system:serviceaccount:smartnat:gw1"
	change := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %s in a report", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	for _, test := range []struct {
		name, user, contentType, body string
		status                        int
		says                          string
	}{
		{"for another gateway", "system:serviceaccount:smartnat:gw2", applyPatch, good, 403, `this user is the gateway "gw2" and may not report as "gw1": set instance: gw2`},
		{"by a ServiceAccount of another namespace", "system:serviceaccount:shop:gw1", applyPatch, good, 403, "ServiceAccounts of namespace smartnat"},
		{"by a node", "system:node:gw1", applyPatch, good, 403, "is no gateway"},
		{"by an OIDC user of the same name", "gw1", applyPatch, good, 403, "is no gateway"},
		{"by a ServiceAccount with the name of a certificate", "system:serviceaccount:smartnat:gw1.x509", applyPatch, good, 403, "those of certificates"},
		{"by an anonymous user", "system:anonymous", applyPatch, good, 403, "is no gateway"},
		{"a reason that is no word", gw1, applyPatch, change(`"NoReadyEndpoints"`, `"No endpoints"`), 400, "a reason is at most 64 letters"},
		{"a reason of many words", gw1, applyPatch, change(`"NoReadyEndpoints"`, `"`+strings.Repeat("x", 65)+`"`), 400, "a reason is at most 64 letters"},
		{"another kind of patch", gw1, "application/merge-patch+json", good, 415, "server-side apply"},
		{"of no kind", gw1, "", good, 415, "server-side apply"},
		{"no JSON", gw1, applyPatch, "kind: Mapping", 400, "a report is JSON"},
		{"nothing", gw1, applyPatch, "", 400, "a report is JSON"},
		{"two objects", gw1, applyPatch, good + good, 400, "more than one"},
		{"a condition", gw1, applyPatch, change(`"status":{`, `"status":{"conditions":[],`), 400, `unknown field "conditions"`},
		{"the VIP", gw1, applyPatch, change(`"status":{`, `"status":{"serviceVIP":"10.0.0.1",`), 400, `unknown field "serviceVIP"`},
		{"the spec", gw1, applyPatch, change(`"status":`, `"spec":{},"status":`), 400, `unknown field "spec"`},
		{"labels", gw1, applyPatch, change(`"name":"web"`, `"labels":{"a":"b"},"name":"web"`), 400, `unknown field "labels"`},
		{"an unknown field of the status", gw1, applyPatch, change(`"status":{`, `"status":{"later":1,`), 400, `unknown field "later"`},
		{"two entries", gw1, applyPatch, change(`"instances":[`, `"instances":[{"name":"gw2"},`), 400, "a report has one entry"},
		{"another Mapping", gw1, applyPatch, change(`"name":"web"`, `"name":"other"`), 400, "has to say"},
		{"another namespace", gw1, applyPatch, change(`"namespace":"shop"`, `"namespace":"bank"`), 400, "has to say"},
		{"another kind", gw1, applyPatch, change(`"kind":"Mapping"`, `"kind":"Service"`), 400, "has to say"},
		{"a recreated Mapping", gw1, applyPatch, change(`"name":"web"`, `"uid":"old","name":"web"`), 409, "recreated"},
		{"an address of another Mapping", gw1, applyPatch, change("192.0.2.1", "192.0.2.9"), 400, "none of the Mapping's addresses"},
		{"an uplink of another Mapping", gw1, applyPatch, change(`"endpoints":2`, `"uplinks":["eth1"],"endpoints":2`), 400, `"eth1" is none of the uplinks`},
		{"an address twice", gw1, applyPatch, change(`"192.0.2.1"`, `"192.0.2.1","192.0.2.1"`), 400, "duplicate address"},
		{"a future generation", gw1, applyPatch, change(`"observedGeneration":1`, `"observedGeneration":2`), 400, "invalid observedGeneration"},
		{"a negative number of endpoints", gw1, applyPatch, change(`"endpoints":2`, `"endpoints":-2`), 400, "invalid observedGeneration"},
		{"too much", gw1, applyPatch, change(`"programmed":true`, `"problems":["`+strings.Repeat("x", maxReport)+`"]`), 413, "at most"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			_, err := d.report(token(test.user), test.contentType, test.body)
			var status apierrors.APIStatus
			if !errors.As(err, &status) || int(status.Status().Code) != test.status || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %d and %q", err, test.status, test.says)
			}
			if len(d.written()) != 0 || len(d.heard) != 0 {
				t.Errorf("written %v, heard of %v", d.written(), d.heard)
			}
		})
	}
}

// TestAddressesOfUplinksAreTaken reports addresses that a Mapping does not name, but gets from uplinks.
func TestAddressesOfUplinksAreTaken(t *testing.T) {
	many := make([]string, v1alpha1.MaxAddresses+1)
	for i := range many {
		many[i] = fmt.Sprintf("198.51.100.%d", i+1)
	}
	list := func(texts []string) string { return `"` + strings.Join(texts, `","`) + `"` }
	for _, test := range []struct{ name, addresses, uplinks, says string }{
		{"of one", `"192.0.2.1","198.51.100.77","2001:db8::10"`, `"eth1"`, ""},
		{"of all", `"198.51.100.77"`, `"*","eth1"`, ""},
		{"none now", "", "", ""},
		{"as many as allowed", list(many[1:]), `"eth1"`, ""},
		{"of none", `"198.51.100.77"`, "", `"198.51.100.77" is none of the Mapping's addresses`},
		{"of another", `"198.51.100.77"`, `"eth2"`, `"eth2" is none of the uplinks`},
		{"more than allowed", list(many), `"eth1"`, "at most 64 addresses"},
		{"twice", `"198.51.100.77","198.51.100.77"`, `"eth1"`, "duplicate address"},
		{"of an uplink twice", `"198.51.100.77"`, `"eth1","eth1"`, "duplicate uplink"},
		{"no address", `"x\u001b"`, `"eth1"`, "must be an IP address"},
		{"link-local", `"fe80::1"`, `"eth1"`, "link-local"},
		{"in another spelling", `"2001:DB8::10"`, `"eth1"`, "must be spelled 2001:db8::10"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			m := mapping("web", 1, 8080)
			m.Spec.AddressesFrom = []v1alpha1.AddressSource{{Uplink: "eth1"}, {Uplink: v1alpha1.AllUplinks}}
			d.put(m)
			body := strings.Replace(good, `"addresses":["192.0.2.1"]`, `"addresses":[`+test.addresses+`],"uplinks":[`+test.uplinks+`]`, 1)
			_, err := d.report(token("system:serviceaccount:smartnat:gw1"), applyPatch, body)
			if test.says == "" && err != nil || test.says != "" && (!apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%v, want %q", err, test.says)
			}
			if (len(d.written()) == 1) != (test.says == "") {
				t.Errorf("written %v", d.written())
			}
		})
	}
}

func TestOnlyReportsAreTaken(t *testing.T) {
	report := request.RequestInfo{
		IsResourceRequest: true, Verb: "patch", APIGroup: v1alpha1.GroupName, APIVersion: "v1alpha1", Namespace: "shop",
		Resource: "mappings", Subresource: "status", Name: "web",
	}
	for name, change := range map[string]func(*http.Request, *request.RequestInfo){
		"a read":                    func(r *http.Request, _ *request.RequestInfo) { r.Method = http.MethodGet },
		"an update":                 func(r *http.Request, _ *request.RequestInfo) { r.Method = http.MethodPut },
		"a deletion":                func(r *http.Request, _ *request.RequestInfo) { r.Method = http.MethodDelete },
		"of the Mapping itself":     func(_ *http.Request, i *request.RequestInfo) { i.Subresource = "" },
		"of its scale":              func(_ *http.Request, i *request.RequestInfo) { i.Subresource = "scale" },
		"of a Service":              func(_ *http.Request, i *request.RequestInfo) { i.Resource = "services" },
		"of the Mapping of another": func(_ *http.Request, i *request.RequestInfo) { i.APIGroup = "example.com" },
		"of a later version":        func(_ *http.Request, i *request.RequestInfo) { i.APIVersion = "v2" },
		"of no namespace":           func(_ *http.Request, i *request.RequestInfo) { i.Namespace = "" },
		"of no name":                func(_ *http.Request, i *request.RequestInfo) { i.Name = "" },
		"of no resource":            func(_ *http.Request, i *request.RequestInfo) { i.IsResourceRequest = false },
	} {
		req, info := httptest.NewRequest(http.MethodPatch, "/", http.NoBody), report
		change(req, &info)
		if (&Reports{}).Takes(req.WithContext(request.WithRequestInfo(req.Context(), &info))) {
			t.Errorf("%s: taken", name)
		}
	}
	req := httptest.NewRequest(http.MethodPatch, "/", http.NoBody)
	req = req.WithContext(request.WithRequestInfo(req.Context(), &report))
	if !(&Reports{}).Takes(req) {
		t.Error("a report is not taken")
	}
	if (*Reports)(nil).Takes(req) {
		t.Error("a report is taken although reports are disabled")
	}
}

func TestWhatCannotBeWrittenIsNotExplained(t *testing.T) {
	d := newDesk(t)
	d.fails = errors.New("the relay's ServiceAccount may not, and these are its secrets")
	_, err := d.report(token("system:serviceaccount:smartnat:gw1"), applyPatch, good)
	if !apierrors.IsServiceUnavailable(err) || strings.Contains(err.Error(), "secrets") || len(d.heard) != 0 {
		t.Errorf("%v, heard of %v", err, d.heard)
	}
}
