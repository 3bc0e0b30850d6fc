// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// accessReviews gives the same answer to all reviews and records them.
type accessReviews struct {
	status authorizationv1.SubjectAccessReviewStatus
	err    error
	asked  []authorizationv1.SubjectAccessReviewSpec
}

func (r *accessReviews) Create(
	_ context.Context, review *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions,
) (*authorizationv1.SubjectAccessReview, error) {
	r.asked = append(r.asked, review.Spec)
	return &authorizationv1.SubjectAccessReview{Status: r.status}, r.err
}

func TestWhatTheClusterIsAsked(t *testing.T) {
	somebody := &user.DefaultInfo{Name: "gateway", UID: "1", Groups: []string{"gateways"}, Extra: map[string][]string{"node": {"a", "b"}}}
	who := authorizationv1.SubjectAccessReviewSpec{
		User: "gateway", UID: "1", Groups: []string{"gateways"}, Extra: map[string]authorizationv1.ExtraValue{"node": {"a", "b"}},
	}
	resource, path := who, who
	resource.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: "shop", Verb: "patch", Group: "smartnat.aureacentral.com", Version: "v1alpha1", Resource: "mappings", Subresource: "status", Name: "web",
	}
	path.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: "/openapi/v3", Verb: "get"}
	for _, test := range []struct {
		name string
		info request.RequestInfo
		want authorizationv1.SubjectAccessReviewSpec
	}{
		{"a resource", request.RequestInfo{
			IsResourceRequest: true, Path: "/apis", Verb: "patch", Namespace: "shop", APIGroup: "smartnat.aureacentral.com", APIVersion: "v1alpha1",
			Resource: "mappings", Subresource: "status", Name: "web", LabelSelector: "a=b", FieldSelector: "metadata.name=web",
		}, resource},
		{"a path", request.RequestInfo{Path: "/openapi/v3", Verb: "get"}, path},
	} {
		t.Run(test.name, func(t *testing.T) {
			reviews := &accessReviews{}
			if _, _, err := newAccessReviewer(reviews, time.Minute).Authorize(t.Context(), attributesOf(&test.info, somebody)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]authorizationv1.SubjectAccessReviewSpec{test.want}, reviews.asked); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestWhatTheClusterAllows(t *testing.T) {
	down := errors.New("down")
	for _, test := range []struct {
		name    string
		reviews accessReviews
		want    authorizer.Decision
		asked   int // number of reviews for two calls
	}{
		{"allowed", accessReviews{status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}, authorizer.DecisionAllow, 1},
		{"not allowed", accessReviews{}, authorizer.DecisionNoOpinion, 1},
		{"denied", accessReviews{status: authorizationv1.SubjectAccessReviewStatus{Denied: true}}, authorizer.DecisionDeny, 1},
		{"both", accessReviews{status: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}}, authorizer.DecisionDeny, 1},
		{"an error is not cached", accessReviews{err: down}, authorizer.DecisionDeny, 2},
		{"an error, even with a status", accessReviews{
			status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}, err: down,
		}, authorizer.DecisionDeny, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			reviewer := newAccessReviewer(&test.reviews, time.Minute)
			for range 2 {
				got, _, err := reviewer.Authorize(t.Context(), attributesOf(&request.RequestInfo{Verb: "get", Path: "/"}, &user.DefaultInfo{Name: "gateway"}))
				if got != test.want || !errors.Is(err, test.reviews.err) {
					t.Errorf("decided %v, %v; want %v, %v", got, err, test.want, test.reviews.err)
				}
			}
			if got := len(test.reviews.asked); got != test.asked {
				t.Errorf("asked %d times, want %d", got, test.asked)
			}
		})
	}
}

// TestAnswersAreRememberedForOneQuestion proves that a cached answer applies to one user and one object only.
func TestAnswersAreRememberedForOneQuestion(t *testing.T) {
	reviews := &accessReviews{status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}
	reviewer := newAccessReviewer(reviews, time.Minute)
	base := request.RequestInfo{IsResourceRequest: true, Verb: "get", Namespace: "shop", Resource: "mappings", Name: "web"}
	questions := []authorizer.AttributesRecord{attributesOf(&base, &user.DefaultInfo{Name: "a"})}
	for _, change := range []func(*authorizer.AttributesRecord){
		func(a *authorizer.AttributesRecord) { a.User = &user.DefaultInfo{Name: "b"} },
		func(a *authorizer.AttributesRecord) { a.User = &user.DefaultInfo{Name: "a", Groups: []string{"g"}} },
		func(a *authorizer.AttributesRecord) { a.Verb = "watch" },
		func(a *authorizer.AttributesRecord) { a.Namespace = "bank" },
		func(a *authorizer.AttributesRecord) { a.Resource = "services" },
		func(a *authorizer.AttributesRecord) { a.Subresource = "status" },
		func(a *authorizer.AttributesRecord) { a.Name = "mail" },
	} {
		question := questions[0]
		change(&question)
		questions = append(questions, question)
	}
	for range 2 {
		for _, question := range questions {
			if _, _, err := reviewer.Authorize(t.Context(), question); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := len(reviews.asked); got != len(questions) {
		t.Errorf("asked %d times for %d questions", got, len(questions))
	}
}

// TestUndecided proves that a failure of the API server is not reported as forbidden.
func TestUndecided(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Authorizer = newAccessReviewer(&accessReviews{err: errors.New("down")}, time.Minute)
	})
	if got, body := f.do(t, http.MethodGet, mappingsPath, as(gatewayToken)); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q: %s", got.status, got.header.Get("Retry-After"), body)
	}
}
