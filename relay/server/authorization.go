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

// rememberedAnswers bounds the cache of access reviews. An entry takes a few hundred bytes.
const rememberedAnswers = 8192

// subjectAccessReviews is the SubjectAccessReview API of the cluster.
type subjectAccessReviews interface {
	Create(context.Context, *authorizationv1.SubjectAccessReview, metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

// accessReviewer authorizes by SubjectAccessReview and caches the answers. The webhook authorizer of k8s.io/apiserver does
// the same, but pulls in CEL and gRPC, which cost memory.
type accessReviewer struct {
	client   subjectAccessReviews
	remember time.Duration
	answers  *utilcache.LRUExpireCache // authorizationv1.SubjectAccessReviewStatus by the hash of the spec
}

func newAccessReviewer(client subjectAccessReviews, remember time.Duration) *accessReviewer {
	return &accessReviewer{client: client, remember: remember, answers: utilcache.NewLRUExpireCache(rememberedAnswers)}
}

// Authorize returns the decision of the cluster. The review does not carry selectors, so a user who may read only the
// objects that match a selector (RBAC cannot express this) may read none.
func (r *accessReviewer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	spec := reviewOf(a)
	text, err := json.Marshal(spec)
	if err != nil {
		return authorizer.DecisionDeny, "", fmt.Errorf("encoding the access review of %s: %w", spec.User, err)
	}
	question := sha256.Sum256(text)
	if known, ok := r.answers.Get(question); ok {
		return decisionOf(known.(authorizationv1.SubjectAccessReviewStatus))
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := r.client.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return authorizer.DecisionDeny, "", fmt.Errorf("sending the access review of %s: %w", spec.User, err)
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

// decisionOf converts a review status. Denied takes precedence over Allowed.
func decisionOf(status authorizationv1.SubjectAccessReviewStatus) (authorizer.Decision, string, error) {
	switch {
	case status.Denied:
		return authorizer.DecisionDeny, status.Reason, nil
	case status.Allowed:
		return authorizer.DecisionAllow, status.Reason, nil
	}
	return authorizer.DecisionNoOpinion, status.Reason, nil
}

// attributesOf returns the authorization attributes of a request.
func attributesOf(info *request.RequestInfo, u user.Info) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: u, Verb: info.Verb, Path: info.Path, ResourceRequest: info.IsResourceRequest,
		Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
	}
}

// withAuthorization passes on requests that the cluster allows.
func withAuthorization(next http.Handler, c *Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := requestStateOf(req.Context())
		u, ok := request.UserFrom(req.Context())
		if !ok || v.info == nil {
			registry.WriteError(w, req, errors.New("request without user or request info"))
			return
		}
		attributes := attributesOf(v.info, u)
		decision, reason, err := c.Authorizer.Authorize(req.Context(), attributes)
		switch {
		case decision == authorizer.DecisionAllow:
			next.ServeHTTP(w, req)
		case err != nil:
			c.Log.WithError(err).WithField("client", req.RemoteAddr).Debug("failed to authorize request")
			v.rejection = "unavailable"
			w.Header().Set("Retry-After", "1")
			registry.WriteError(w, req, apierrors.NewServiceUnavailable("cannot reach the API server to authorize the user"))
		default:
			registry.WriteError(w, req, forbidden(attributes, reason))
		}
	})
}

// forbidden returns the refusal with the wording of kube-apiserver.
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
