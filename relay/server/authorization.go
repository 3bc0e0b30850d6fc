// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
)

// rememberedAnswers bounds what is remembered of what users may, a few hundred bytes each.
const rememberedAnswers = 8192

// subjectAccessReviews are those of the cluster.
type subjectAccessReviews interface {
	Create(context.Context, *authorizationv1.SubjectAccessReview, metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

// accessReviewer asks the cluster what a user may, and remembers what it said for a while. The webhook authorizer of
// k8s.io/apiserver, which does the same, brings CEL and gRPC into memory.
type accessReviewer struct {
	client   subjectAccessReviews
	remember time.Duration
	answers  *utilcache.LRUExpireCache // authorizationv1.SubjectAccessReviewStatus by the sum of the question
}

func newAccessReviewer(client subjectAccessReviews, remember time.Duration) *accessReviewer {
	return &accessReviewer{client: client, remember: remember, answers: utilcache.NewLRUExpireCache(rememberedAnswers)}
}

// Authorize says whether the cluster allows it. Selectors are left out of the question, so who may read a part of the
// objects only, which RBAC cannot say, is not allowed any.
func (r *accessReviewer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	spec := reviewOf(a)
	text, err := json.Marshal(spec)
	if err != nil {
		return authorizer.DecisionDeny, "", fmt.Errorf("encoding the question what %s may: %w", spec.User, err)
	}
	question := sha256.Sum256(text)
	if known, ok := r.answers.Get(question); ok {
		return decisionOf(known.(authorizationv1.SubjectAccessReviewStatus))
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := r.client.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return authorizer.DecisionDeny, "", fmt.Errorf("asking the cluster what %s may: %w", spec.User, err)
	}
	r.answers.Add(question, review.Status, r.remember)
	return decisionOf(review.Status)
}

func reviewOf(a authorizer.Attributes) authorizationv1.SubjectAccessReviewSpec {
	u := a.GetUser()
	spec := authorizationv1.SubjectAccessReviewSpec{User: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for name, values := range u.GetExtra() {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[name] = values
	}
	if a.IsResourceRequest() {
		spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
			Namespace: a.GetNamespace(), Verb: a.GetVerb(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
			Resource: a.GetResource(), Subresource: a.GetSubresource(), Name: a.GetName(),
		}
	} else {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.GetPath(), Verb: a.GetVerb()}
	}
	return spec
}

// decisionOf reads an answer. One that allows and denies denies.
func decisionOf(status authorizationv1.SubjectAccessReviewStatus) (authorizer.Decision, string, error) {
	switch {
	case status.Denied:
		return authorizer.DecisionDeny, status.Reason, nil
	case status.Allowed:
		return authorizer.DecisionAllow, status.Reason, nil
	}
	return authorizer.DecisionNoOpinion, status.Reason, nil
}

// attributesOf is what is asked for, and by whom.
func attributesOf(info *request.RequestInfo, u user.Info) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: u, Verb: info.Verb, Path: info.Path, ResourceRequest: info.IsResourceRequest,
		Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
	}
}

// authorized lets through what the cluster allows.
func authorized(next http.Handler, c *Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := visitOf(req.Context())
		u, ok := request.UserFrom(req.Context())
		if !ok || v.info == nil {
			registry.WriteError(w, req, errors.New("nobody said who asks for what"))
			return
		}
		attributes := attributesOf(v.info, u)
		decision, reason, err := c.Authorizer.Authorize(req.Context(), attributes)
		switch {
		case decision == authorizer.DecisionAllow:
			next.ServeHTTP(w, req)
		case err != nil:
			c.Log.WithError(err).WithField("client", req.RemoteAddr).Debug("not authorized")
			v.rejection = "unavailable"
			w.Header().Set("Retry-After", "1")
			registry.WriteError(w, req, apierrors.NewServiceUnavailable("the cluster cannot be asked what this user may"))
		default:
			registry.WriteError(w, req, forbidden(attributes, reason))
		}
	})
}

// forbidden is the refusal, in the words of kube-apiserver.
func forbidden(a authorizer.AttributesRecord, reason string) error {
	may := fmt.Sprintf("User %q cannot %s", a.User.GetName(), a.Verb)
	if !a.ResourceRequest {
		may += fmt.Sprintf(" path %q", a.Path)
	} else {
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		may += fmt.Sprintf(" resource %q in API group %q ", resource, a.APIGroup)
		if a.Namespace == "" {
			may += "at the cluster scope"
		} else {
			may += fmt.Sprintf("in the namespace %q", a.Namespace)
		}
	}
	if reason != "" {
		may += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(may))
}
