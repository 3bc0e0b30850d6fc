// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/status"
)

// Bounds of --token-lifetime. The lower one is the API server's; the upper one is less than the time for which a relay announces its next
// authority.
const (
	minTokenLifetime = 10 * time.Minute
	maxTokenLifetime = 2 * 365 * 24 * time.Hour
)

// tokenRequests makes a token of a ServiceAccount of the gateways' namespace (TokenRequest).
type tokenRequests func(ctx context.Context, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)

// renewals give a gateway a new token of its own ServiceAccount, by the request that the cluster itself has for it: POST
// .../serviceaccounts/NAME/token. Nothing of the body is used. The new token is bound to the Secret that the presented one is bound to, and so
// ends with it.
type renewals struct {
	request  tokenRequests
	gateways *gateways
	audience string
	lifetime time.Duration
	log      logrus.FieldLogger
}

// takes reports whether a request asks for a token. A nil r takes none.
func (r *renewals) takes(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	return r != nil && ok && req.Method == http.MethodPost && info.IsResourceRequest && info.APIGroup == "" && info.APIVersion == "v1" &&
		info.Resource == "serviceaccounts" && info.Subresource == "token" && info.Namespace != "" && info.Name != "" && len(info.Parts) == 3
}

// A gateway needs a token a day, and tries again each minute. A thief of its token must not make the cluster sign without end.
const (
	renewalEvery = 10 * time.Second
	renewalBurst = 5
)

// withRenewals answers requests for tokens. RBAC has allowed them already.
func withRenewals(next http.Handler, r *renewals) http.Handler {
	limiters := newUserLimiters(rate.Every(renewalEvery), renewalBurst)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !r.takes(req) {
			next.ServeHTTP(w, req)
			return
		}
		u, _ := request.UserFrom(req.Context())
		if u != nil && !limiters.of(u.GetName()).Allow() {
			registry.WriteError(w, req, apierrors.NewTooManyRequests("this gateway renews its token too often", int(renewalEvery/time.Second)))
			return
		}
		if err := r.renew(w, req); err != nil {
			registry.WriteError(w, req, err)
		}
	})
}

// maxPassedOn bounds the length, in bytes, of an error of the API server that a gateway gets to read.
const maxPassedOn = 512

// passedOn returns an error of the API server as one short line of printable text.
func passedOn(err error) string {
	text := err.Error()
	if len(text) > maxPassedOn {
		text = text[:maxPassedOn] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

func (r *renewals) renew(w http.ResponseWriter, req *http.Request) error {
	info, haveInfo := request.RequestInfoFrom(req.Context())
	u, haveUser := request.UserFrom(req.Context())
	if !haveInfo || !haveUser {
		return apierrors.NewInternalError(errors.New("no user or request info in the context"))
	}
	account, ok := status.Account(u, r.gateways.namespace)
	resource := schema.GroupResource{Resource: "serviceaccounts/token"}
	if !ok || info.Namespace != r.gateways.namespace || info.Name != account {
		return apierrors.NewForbidden(resource, info.Name, errors.New("a gateway gets only tokens of its own ServiceAccount"))
	}
	secret := requestStateOf(req.Context()).secret
	if !r.gateways.admits(account, secret) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	ctx, cancel := context.WithTimeout(req.Context(), reviewTimeout)
	defer cancel()
	seconds, audiences := int64(r.lifetime/time.Second), []string{r.audience}
	made, err := r.request(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds, BoundObjectRef: secret},
	})
	log := r.log.WithField("gateway", account)
	switch {
	case apierrors.IsForbidden(err): // RBAC
		log.WithError(err).Warn("cannot renew the token of a gateway")
		return apierrors.NewForbidden(resource, account, fmt.Errorf("the relay may not renew it, run kubectl smartnat enroll %s: %s", account, passedOn(err)))
	case apierrors.IsInvalid(err): // an admission policy
		log.WithError(err).Warn("cannot renew the token of a gateway")
		return apierrors.NewForbidden(resource, account, fmt.Errorf("the cluster denies it to the relay: %s", passedOn(err)))
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // the account or the Secret
		log.WithError(err).Warn("cannot renew the token of a gateway")
		return apierrors.NewUnauthorized("Unauthorized")
	case err != nil:
		log.WithError(err).Warn("cannot renew the token of a gateway")
		return apierrors.NewServiceUnavailable("the cluster made no token")
	case made.Status.Token == "" || !slices.Equal(made.Spec.Audiences, audiences):
		log.WithField("audiences", made.Spec.Audiences).Warn("cannot renew the token of a gateway")
		return apierrors.NewServiceUnavailable("the cluster made a token that is not for the relay")
	}
	log.WithField("expires", made.Status.ExpirationTimestamp.UTC().Format(time.RFC3339)).Info("renewed the token of a gateway")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(&authenticationv1.TokenRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "TokenRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: r.gateways.namespace},
		Spec:       authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: made.Spec.ExpirationSeconds},
		Status:     made.Status,
	})
}
