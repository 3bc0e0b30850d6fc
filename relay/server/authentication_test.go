// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	corefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// reviews is a fake cluster that derives the answer from the token and records the questions.
type reviews struct {
	asked []string
	down  bool
}

func (r *reviews) reviewer(perSecond int) *tokenReviewer {
	client := corefake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		r.asked = append(r.asked, review.Spec.Token)
		if r.down {
			return true, nil, errors.New("connection refused")
		}
		word, _, _ := strings.Cut(review.Spec.Token, "-")
		switch word {
		case "good":
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences,
				User: authenticationv1.UserInfo{Username: "gateway", UID: "1", Groups: []string{"gateways"},
					Extra: map[string]authenticationv1.ExtraValue{"pod": {"p"}}}}
		case "elsewhere":
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"another"},
				User: authenticationv1.UserInfo{Username: "gateway"}}
		case "anywhere":
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "gateway"}}
		default:
			review.Status.Error = "invalid bearer token"
		}
		return true, review, nil
	})
	return newTokenReviewer(client.AuthenticationV1().TokenReviews(), []string{DefaultAudience}, perSecond,
		newMetrics(prometheus.NewRegistry(), watchcache.New(watchcache.NewEpoch(), 1)))
}

func TestTokenReview(t *testing.T) {
	for _, test := range []struct {
		name, token string
		down        bool
		want        string
	}{
		{name: "a token for the relay", token: "good", want: "gateway 1 [gateways] map[pod:[p]]"},
		{name: "a token for another audience", token: "elsewhere", want: "unauthenticated"},
		{name: "a token whose review confirms no audience", token: "anywhere", want: "unauthenticated"},
		{name: "an invalid token", token: "bad", want: "unauthenticated"},
		{name: "an API server that does not answer", token: "good", down: true, want: "unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster := &reviews{down: test.down}
			response, ok, err := cluster.reviewer(0).AuthenticateToken(t.Context(), test.token)
			got := "unauthenticated"
			switch {
			case errors.Is(err, errUnavailable):
				got = "unavailable"
			case err != nil:
				got = err.Error()
			case ok:
				u := response.User
				got = fmt.Sprint(u.GetName(), " ", u.GetUID(), " ", u.GetGroups(), " ", u.GetExtra())
				if diff := cmp.Diff(authenticator.Audiences{DefaultAudience}, response.Audiences); diff != "" {
					t.Errorf("audiences (-want +got)\n%s", diff)
				}
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestReviewsAreRememberedButNotFailures(t *testing.T) {
	cluster := &reviews{}
	a := newAuthenticator(cluster.reviewer(0), nil, nil, time.Hour)
	ask := func(token string) (bool, error) {
		_, ok, err := a.AuthenticateRequest(&http.Request{Header: as(token)})
		return ok, err
	}
	for range 3 {
		if ok, err := ask("good"); !ok || err != nil {
			t.Errorf("good: %v, %v", ok, err)
		}
		if ok, _ := ask("bad"); ok {
			t.Error("bad was accepted")
		}
	}
	if diff := cmp.Diff([]string{"good", "bad"}, cluster.asked); diff != "" {
		t.Errorf("reviewed tokens (-want +got)\n%s", diff)
	}
	cluster.down = true
	for range 2 {
		if _, err := ask("good-2"); !errors.Is(err, errUnavailable) {
			t.Errorf("API server down: %v, want errUnavailable", err)
		}
	}
	cluster.down = false
	if ok, err := ask("good-2"); !ok || err != nil {
		t.Errorf("API server up again: %v, %v", ok, err)
	}
}

// TestInventedTokensAreAskedAboutAtALimitedRate proves that made-up tokens cause no more reviews than the limit, and do
// not delay tokens that were valid before.
func TestInventedTokensAreAskedAboutAtALimitedRate(t *testing.T) {
	cluster := &reviews{}
	r := cluster.reviewer(1)
	if _, ok, err := r.AuthenticateToken(t.Context(), "good"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	busy := 0
	for i := range 1000 {
		if _, _, err := r.AuthenticateToken(t.Context(), fmt.Sprint("bad-", i)); errors.Is(err, errBusy) {
			busy++
		}
	}
	if asked := len(cluster.asked) - 1; asked+busy != 1000 || busy == 0 {
		t.Errorf("%d reviewed, %d rejected as busy, of 1000", asked, busy)
	}
	// Drain what the bucket gained while the test ran.
	for err := error(nil); err == nil; {
		_, _, err = r.AuthenticateToken(t.Context(), "bad-again")
	}
	if _, ok, err := r.AuthenticateToken(t.Context(), "good"); !ok || err != nil {
		t.Errorf("a token that was valid before: %v, %v", ok, err)
	}
	if _, ok, err := r.AuthenticateToken(t.Context(), "good-but-new"); ok || !errors.Is(err, errBusy) {
		t.Errorf("a token that was never seen: %v, %v, want errBusy", ok, err)
	}
}

// TestUsersByCertificate proves that a certificate cannot pose as a ServiceAccount by its common name, and that a token
// cannot pose as a certificate.
func TestUsersByCertificate(t *testing.T) {
	for name, accepted := range map[string]bool{"gw1": true, "system:serviceaccount:smartnat:gw1": false, "system:admin": false} {
		response, ok, err := byCertificate(authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
		})).AuthenticateRequest(nil)
		if ok != accepted || (err == nil) != accepted {
			t.Errorf("%s: %v, %v, want accepted: %v", name, ok, err, accepted)
		}
		if ok {
			if _, is := response.User.(status.CertificateUser); !is {
				t.Errorf("%s is a %T", name, response.User)
			}
		}
	}
	tokens, _, err := newAuthenticator(newTokens("gw1"), nil, nil, time.Minute).AuthenticateRequest(&http.Request{Header: as("good")})
	if err != nil {
		t.Fatal(err)
	}
	if _, is := tokens.User.(status.CertificateUser); is {
		t.Error("a token authenticates as a certificate")
	}
}

// newTokens returns an authenticator that accepts every token as the user name.
func newTokens(name string) authenticator.Token {
	return authenticator.TokenFunc(func(context.Context, string) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
	})
}

func TestWhoCannotBeKnownIsToldToComeAgain(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		status int
		retry  string
	}{
		{"the API server is down", fmt.Errorf("%w: timeout", errUnavailable), 503, "1"},
		{"too many unknown tokens", errBusy, 429, "1"},
		{"a bad credential", errors.New("x509: certificate has expired"), 401, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, func(c *Config) {
				c.Authenticator = authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
					return nil, false, test.err
				})
			})
			resp, body := f.do(t, http.MethodGet, mappingsPath, as(gatewayToken))
			if resp.status != test.status || resp.header.Get("Retry-After") != test.retry || !strings.Contains(string(body), `"Status"`) {
				t.Errorf("%d, Retry-After %q: %s", resp.status, resp.header.Get("Retry-After"), body)
			}
			if strings.Contains(string(body), "x509") {
				t.Errorf("the response says why the credential is bad: %s", body)
			}
		})
	}
}

// TestTokensOfAnEnrollment authenticates tokens of gateways with and without the annotation that binds them to a Secret.
func TestTokensOfAnEnrollment(t *testing.T) {
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	const secret = `{"kubernetes.io": {"namespace": "smartnat", "secret": {"name": "smartnat-gateway-edge-1", "uid": "two"}}}`
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "smartnat-gateway-edge-1", UID: "two"}
	for _, test := range []struct {
		name, user, token string
		enrollment        string // "" is none
		bound             *authenticationv1.BoundObjectReference
		want              bool
	}{
		{"of the present enrollment", "system:serviceaccount:smartnat:edge-1", token(secret), "two", bound, true},
		{"of an earlier one", "system:serviceaccount:smartnat:edge-1", token(secret), "three", bound, false},
		{"bound to nothing", "system:serviceaccount:smartnat:edge-1", token(`{"kubernetes.io": {"namespace": "smartnat"}}`), "two", nil, false},
		{"bound to a Secret without a UID", "system:serviceaccount:smartnat:edge-1", token(`{"kubernetes.io": {"secret": {"name": "a"}}}`), "", nil, true},
		{"no claims", "system:serviceaccount:smartnat:edge-1", token(`[]`), "two", nil, false},
		{"no base64", "system:serviceaccount:smartnat:edge-1", "a.*.b", "two", nil, false},
		{"no JSON Web Token", "system:serviceaccount:smartnat:edge-1", "opaque", "two", nil, false},
		{"an enrollment by an earlier version", "system:serviceaccount:smartnat:edge-1", token(`{}`), "", nil, true},
		{"and a token that is bound", "system:serviceaccount:smartnat:edge-1", token(secret), "", bound, true},
		{"of that name elsewhere", "system:serviceaccount:shop:edge-1", token(`{}`), "two", nil, true},
		{"another user", "edge-1", "opaque", "two", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gatewaysOf(t, test.enrollment)
			known := authenticator.TokenFunc(func(context.Context, string) (*authenticator.Response, bool, error) {
				return &authenticator.Response{User: &user.DefaultInfo{Name: test.user}}, true, nil
			})
			_, ok, err := enrolledTokens{known, g}.AuthenticateToken(t.Context(), test.token)
			if ok != test.want || err != nil {
				t.Errorf("%v, %v, want %v", ok, err, test.want)
			}
			if diff := cmp.Diff(test.bound, boundSecret(test.token)); diff != "" {
				t.Errorf("bound to (-want +got)\n%s", diff)
			}
		})
	}
	t.Run("an annotation that goes", func(t *testing.T) {
		g := gatewaysOf(t, "two")
		if g.admits("edge-1", nil) {
			t.Error("with it: admitted")
		}
		if err := g.Update(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}}); err != nil || !g.admits("edge-1", nil) {
			t.Errorf("without it: %v", err)
		}
	})
}

// TestRefusedTokensAreLogged uses tokens of other enrollments again and again. Each cause is one line, and again after another enrollment.
func TestRefusedTokensAreLogged(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	g := newGateways(watchcache.New(watchcache.NewEpoch(), 10), nil, "smartnat", log)
	bound := func(uid string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"kubernetes.io": {"secret": {"name": "a", "uid": %q}}}`, uid)) + ".c2ln"
	}
	for _, step := range []struct{ name, enrollment, token, want string }{
		{"of the present enrollment", "two", bound("two"), ""},
		{"bound to nothing", "two", "opaque", "bound to nothing, as those of earlier versions"},
		{"once more", "two", "opaque", ""},
		{"of an earlier enrollment", "two", bound("one"), "bound to the Secret of another enrollment"},
		{"of yet another", "two", bound("zero"), ""},
		{"bound to nothing, after that", "two", "opaque", ""},
		{"another enrollment, by a plugin of an earlier version", "three", "opaque", "bound to nothing, as those of earlier versions"},
		{"no enrollment", "", "opaque", ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			hook.Reset()
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Annotations: map[string]string{v1alpha1.EnrollmentAnnotation: step.enrollment}}}
			if step.enrollment == "" {
				account.Annotations = nil
			}
			if err := g.Replace([]any{account}, ""); err != nil {
				t.Fatal(err)
			}
			tokens := enrolledTokens{newTokens("system:serviceaccount:smartnat:edge-1"), g}
			for range 3 {
				if _, _, err := tokens.AuthenticateToken(t.Context(), step.token); err != nil {
					t.Error(err)
				}
			}
			var got []string
			for _, entry := range hook.AllEntries() {
				got = append(got, fmt.Sprintf("%s: %s: gateway=%v token=%v run=%v", entry.Level, entry.Message, entry.Data["gateway"], entry.Data["token"], entry.Data["run"]))
			}
			var want []string
			if step.want != "" {
				want = []string{"warning: token is not of the present enrollment: gateway=edge-1 token=" + step.want +
					" run=kubectl smartnat enroll edge-1, of this version or later"}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("logged (-want +got)\n%s", diff)
			}
		})
	}
}
