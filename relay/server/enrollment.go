// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/sirupsen/logrus"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/smartnat/smartnat/relay/status"
)

// enrolledTokens refuse tokens of a gateway that are not of its present enrollment. The cluster itself refuses those that are bound to the
// Secret of an earlier one; this also ends tokens that are bound to nothing, as those of earlier versions.
type enrolledTokens struct {
	authenticator.Token
	gateways *gateways
}

// AuthenticateToken implements authenticator.Token.
func (e enrolledTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	response, ok, err := e.Token.AuthenticateToken(ctx, token)
	if !ok || err != nil || e.gateways == nil {
		return response, ok, err
	}
	account, is := status.Account(response.User, e.gateways.namespace)
	if !is {
		return response, true, nil
	}
	secret := boundSecret(token)
	if !e.gateways.admits(account, secret) {
		e.gateways.logRefused(account, secret)
		return nil, false, nil
	}
	requestStateOf(ctx).secret = secret
	return response, true, nil
}

// admits reports whether a token that is bound to a Secret, or to nil, is of the present enrollment of a gateway.
func (g *gateways) admits(account string, secret *authenticationv1.BoundObjectReference) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	enrollment, bound := g.enrollments[account]
	return !bound || secret != nil && secret.UID == enrollment
}

// refusal is a cause for which tokens of a gateway are refused. Only tokens of the cluster get that far, so there are at most two for each of its
// ServiceAccounts.
type refusal struct {
	gateway string
	bound   bool
}

// logRefused logs a token that admits has refused, once for each gateway, cause and enrollment.
func (g *gateways) logRefused(account string, secret *authenticationv1.BoundObjectReference) {
	cause, is := refusal{account, secret != nil}, "bound to nothing, as those of earlier versions"
	if cause.bound {
		is = "bound to the Secret of another enrollment"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if logged, known := g.refused[cause]; known && logged == g.enrollments[account] {
		return
	}
	g.refused[cause] = g.enrollments[account]
	g.log.WithFields(logrus.Fields{"gateway": account, "token": is, "run": "kubectl smartnat enroll " + account + ", of this version or later"}).
		Warn("token is not of the present enrollment")
}

// boundSecret returns the Secret to which the cluster bound a token, or nil. It does not verify the signature of the token: the cluster has
// accepted it.
func boundSecret(token string) *authenticationv1.BoundObjectReference {
	const partsOfJWT = 3
	parts := strings.Split(token, ".")
	if len(parts) != partsOfJWT {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims struct {
		Kubernetes struct {
			Secret struct {
				Name string    `json:"name"`
				UID  types.UID `json:"uid"`
			} `json:"secret"`
		} `json:"kubernetes.io"`
	}
	secret := &claims.Kubernetes.Secret
	if json.Unmarshal(payload, &claims) != nil || secret.Name == "" || secret.UID == "" {
		return nil
	}
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: secret.Name, UID: secret.UID}
}
