// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// TestRenewals asks for tokens as users whom RBAC has allowed to.
func TestRenewals(t *testing.T) {
	const own = "/api/v1/namespaces/smartnat/serviceaccounts/edge-1/token"
	account := func(name string) user.Info { return &user.DefaultInfo{Name: name} }
	edge1 := account("system:serviceaccount:smartnat:edge-1")
	for _, test := range []struct {
		name      string
		user      user.Info
		path      string
		fails     error
		audiences []string
		want      int
		says      string
		asked     bool
	}{
		{"its own", edge1, own, nil, []string{"smartnat-relay"}, 201, `"token":"made"`, true},
		{"another gateway's", edge1, strings.Replace(own, "edge-1", "edge-2", 1), nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"the relay's", edge1, strings.Replace(own, "edge-1", "smartnat-relay", 1), nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"of the same name elsewhere", edge1, strings.Replace(own, "smartnat/", "shop/", 1), nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"by a ServiceAccount of another namespace", account("system:serviceaccount:shop:edge-1"), own, nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"by a certificate with the name of the account", status.CertificateUser{Info: edge1}, own, nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"by a user of that name", account("edge-1"), own, nil, nil, 403, "only tokens of its own ServiceAccount", false},
		{"the relay has no right", edge1, own, apierrors.NewForbidden(schema.GroupResource{}, "", nil), nil, 403, "run kubectl smartnat enroll edge-1", true},
		{"a policy denies it", edge1, own, denied("the relay may make tokens only for the audience\nsmartnat-relay" + strings.Repeat("!", 1000)), nil, 403,
			"the cluster denies it to the relay: the relay may make tokens only for the audience smartnat-relay!!!", true},
		{"the cluster is down", edge1, own, errors.New("secret detail"), nil, 503, "the cluster made no token", true},
		{"the cluster makes a token for its own API", edge1, own, nil, []string{"https://kubernetes.default.svc"}, 503, "not for the relay", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := logrus.New()
			log.SetOutput(io.Discard)
			asked := ""
			r := &renewals{gateways: gatewaysOf(t, ""), audience: "smartnat-relay", lifetime: time.Hour, log: log,
				request: func(_ context.Context, account string, made *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
					text, err := json.Marshal(made.Spec)
					if err != nil {
						t.Error(err)
					}
					asked = account + " " + string(text)
					made.Spec.Audiences, made.Status.Token = test.audiences, "made"
					return made, test.fails
				}}
			handler := withRequestInfo(withRenewals(http.NotFoundHandler(), r))
			// The body asks for more than there is.
			req := httptest.NewRequest(http.MethodPost, test.path, strings.NewReader(`{"spec":{"audiences":["https://kubernetes.default.svc"],"expirationSeconds":99999999}}`))
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req.WithContext(request.WithUser(req.Context(), test.user)))
			if w.Body.Len() > 1000 {
				t.Errorf("%d bytes: %s", w.Body.Len(), w.Body)
			}
			if w.Code != test.want || !strings.Contains(w.Body.String(), test.says) || strings.Contains(w.Body.String(), "secret detail") {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, test.want, test.says)
			}
			want := ""
			if test.asked {
				want = `edge-1 {"audiences":["smartnat-relay"],"expirationSeconds":3600,"boundObjectRef":null}`
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("asked the cluster (-want +got)\n%s", diff)
			}
		})
	}
	for _, other := range []string{"/api/v1/namespaces/smartnat/serviceaccounts/edge-1", "/api/v1/serviceaccounts", own + "/more", "/apis/apps/v1/namespaces/smartnat/serviceaccounts/edge-1/token"} {
		req := httptest.NewRequest(http.MethodPost, other, http.NoBody)
		withRequestInfo(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if (&renewals{}).takes(req) || (*renewals)(nil).takes(req) {
				t.Errorf("POST %s is taken", other)
			}
		})).ServeHTTP(httptest.NewRecorder(), req)
	}
}

// denied is the answer of an API server whose admission policy denies a request.
func denied(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: message,
	}}
}

// TestAudienceOfThePolicy starts relays with an audience for which the policy lets them make tokens, and with one of which it does not know.
func TestAudienceOfThePolicy(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"a": {Server: "https://127.0.0.1:1"}},
		Contexts:       map[string]*clientcmdapi.Context{"a": {Cluster: "a"}},
		CurrentContext: "a",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		audiences []string
		want      []string
	}{
		{"the default", []string{DefaultAudience}, nil},
		{"the default for renewals", []string{DefaultAudience, "another"}, nil},
		{"another for renewals", []string{"another", DefaultAudience}, []string{"renewals need this audience in policy smartnat-tokens: another"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := NewOptions()
			o.Kubeconfig, o.BindAddress, o.SecurePort, o.TLSSecret, o.TokenAudiences = kubeconfig, "127.0.0.1", 0, "smartnat-relay-tls", test.audiences
			log, hook := logtest.NewNullLogger()
			c, err := o.Config(log)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Listener.Close(); err != nil {
				t.Error(err)
			}
			var got []string
			for _, entry := range hook.AllEntries() {
				got = append(got, fmt.Sprintf("%s: %v", entry.Message, entry.Data["audience"]))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("logged (-want +got)\n%s", diff)
			}
		})
	}
}

// gatewaysOf returns the gateway edge-1 with an enrollment, or without one if it is empty.
func gatewaysOf(t *testing.T, enrollment string) *gateways {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}}
	if enrollment != "" {
		account.Annotations = map[string]string{v1alpha1.EnrollmentAnnotation: enrollment}
	}
	log, _ := logtest.NewNullLogger()
	g := newGateways(watchcache.New(watchcache.NewEpoch(), 10), nil, "smartnat", log)
	if err := g.Replace([]any{account}, ""); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestRenewalsAreBound sends a token that is bound to a Secret in each way that authenticates it, while the Secret is there and after it went.
func TestRenewalsAreBound(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"kubernetes.io": {"secret": {"name": "smartnat-gateway-edge-1", "uid": "one"}}}`)) + ".c2ln"
	other := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + ".c2ln"
	one := []string{"Bearer " + token}
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "smartnat-gateway-edge-1", UID: "one"}
	const enrolled = "one"
	for _, test := range []struct {
		name       string
		header     []string
		enrollment string
		leaves     bool // another enrollment replaces it after the authentication
		fails      error
		want       int
		bound      *authenticationv1.BoundObjectReference
	}{
		{"while it is there", one, enrolled, false, nil, http.StatusCreated, bound},
		{"after it went", one, enrolled, false, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "smartnat-gateway-edge-1"), http.StatusUnauthorized, bound},
		{"after another replaced it", one, enrolled, false, apierrors.NewConflict(schema.GroupResource{Resource: "TokenRequest"}, "smartnat-gateway-edge-1",
			errors.New("the UID does not match")), http.StatusUnauthorized, bound},
		{"a word after the token", []string{"Bearer " + token + " ."}, enrolled, false, nil, http.StatusCreated, bound},
		{"spaces around the header, other letters", []string{" bEARER " + token + " "}, enrolled, false, nil, http.StatusCreated, bound},
		{"a second header", []string{one[0], "Bearer " + other}, enrolled, false, nil, http.StatusCreated, bound},
		{"a first header that is bound to nothing", []string{"Bearer " + other, one[0]}, enrolled, false, nil, http.StatusUnauthorized, nil},
		{"an enrollment by an earlier version", one, "", false, nil, http.StatusCreated, bound},
		{"an enrollment that changes meanwhile", one, enrolled, true, nil, http.StatusUnauthorized, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var asked *authenticationv1.BoundObjectReference
			g := gatewaysOf(t, test.enrollment)
			r := &renewals{gateways: g, audience: "smartnat-relay", lifetime: time.Hour, log: log,
				request: func(_ context.Context, _ string, made *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
					asked, made.Status.Token = made.Spec.BoundObjectRef, "made"
					return made, test.fails
				}}
			handler := withRequestInfo(withRenewals(http.NotFoundHandler(), r))
			later := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if test.leaves {
					g.enrollments["edge-1"] = "two"
				}
				handler.ServeHTTP(w, req)
			})
			c := &Config{Log: log, Authenticator: newAuthenticator(newTokens("system:serviceaccount:smartnat:edge-1"), g, nil, time.Hour)}
			req := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/smartnat/serviceaccounts/edge-1/token", http.NoBody)
			req.Header[tokenHeader] = test.header
			ctx := context.WithValue(req.Context(), requestStateKey{}, &requestState{recorder: &recorder{}, token: test.header})
			w := httptest.NewRecorder()
			withAuthentication(later, c).ServeHTTP(w, req.WithContext(ctx))
			if w.Code != test.want {
				t.Errorf("status %d, want %d", w.Code, test.want)
			}
			if diff := cmp.Diff(test.bound, asked); diff != "" {
				t.Errorf("bound to (-want +got)\n%s", diff)
			}
		})
	}
}

// TestRenewalsAreLimited asks for tokens without a pause, as two gateways.
func TestRenewalsAreLimited(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	made := map[string]int{}
	handler := withRequestInfo(withRenewals(http.NotFoundHandler(), &renewals{
		gateways: gatewaysOf(t, ""), audience: "smartnat-relay", lifetime: time.Hour, log: log,
		request: func(_ context.Context, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			made[account]++
			r.Status.Token = "made"
			return r, nil
		},
	}))
	for _, gateway := range []string{"edge-1", "edge-2"} {
		refused := 0
		for range 4 * renewalBurst {
			req := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/smartnat/serviceaccounts/"+gateway+"/token", http.NoBody)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req.WithContext(request.WithUser(req.Context(), &user.DefaultInfo{Name: "system:serviceaccount:smartnat:" + gateway})))
			if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "" {
				refused++
			}
		}
		if made[gateway] < renewalBurst || made[gateway]+refused != 4*renewalBurst || refused == 0 {
			t.Errorf("%s: %d made, %d refused of %d", gateway, made[gateway], refused, 4*renewalBurst)
		}
	}
}
