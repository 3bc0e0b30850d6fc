// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	unionauth "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"golang.org/x/time/rate"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/status"
)

// Reasons why a client may be unknown through no fault of its own.
var (
	// errUnavailable means that the API server did not answer.
	errUnavailable = errors.New("cannot reach the API server to authenticate the client")
	// errBusy means that too many unknown tokens wait for a review.
	errBusy = errors.New("too many unknown tokens")
)

const (
	// trustedTokens and trustFor bound the memory of tokens that were valid.
	trustedTokens = 4096
	trustFor      = 2 * time.Hour
	// reviewBurst is the burst of reviews, in seconds of the rate limit: all gateways reconnect at the same time.
	reviewBurst = 10
)

// tokenReviews is the TokenReview API of the cluster.
type tokenReviews interface {
	Create(context.Context, *authenticationv1.TokenReview, metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// tokenReviewer authenticates bearer tokens by TokenReview. Unlike the authenticator of k8s.io/apiserver it distinguishes
// a refused token from an API server that does not answer, requires the API server to confirm the audience, and limits the
// rate of reviews for unknown tokens.
type tokenReviewer struct {
	client    tokenReviews
	audiences authenticator.Audiences
	// strangers limits reviews of tokens that have never been valid. Made-up tokens can neither load the API server nor
	// delay clients whose tokens were valid before.
	strangers *rate.Limiter
	trusted   *utilcache.LRUExpireCache
	metrics   *metrics
}

func newTokenReviewer(client tokenReviews, audiences []string, perSecond int, m *metrics) *tokenReviewer {
	return &tokenReviewer{
		client: client, audiences: audiences, strangers: newLimiter(perSecond, reviewBurst*perSecond),
		trusted: utilcache.NewLRUExpireCache(trustedTokens), metrics: m,
	}
}

// AuthenticateToken returns the user that a token belongs to. ok is false if the token is not valid.
func (r *tokenReviewer) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	key := sha256.Sum256([]byte(token))
	if _, known := r.trusted.Get(key); !known && !r.strangers.Allow() {
		return r.result("limited", nil, errBusy)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := r.client.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: r.audiences},
	}, metav1.CreateOptions{})
	if err != nil {
		return r.result("error", nil, fmt.Errorf("%w: %w", errUnavailable, err))
	}
	audiences := authenticator.Audiences(review.Status.Audiences).Intersect(r.audiences)
	if !review.Status.Authenticated || len(audiences) == 0 {
		r.trusted.Remove(key)
		return r.result("refused", nil, nil)
	}
	r.trusted.Add(key, nil, trustFor)
	u := review.Status.User
	extra := make(map[string][]string, len(u.Extra))
	for name, values := range u.Extra {
		extra[name] = values
	}
	return r.result("accepted", &authenticator.Response{
		Audiences: audiences, User: &user.DefaultInfo{Name: u.Username, UID: u.UID, Groups: u.Groups, Extra: extra},
	}, nil)
}

func (r *tokenReviewer) result(word string, response *authenticator.Response, err error) (*authenticator.Response, bool, error) {
	r.metrics.authentications.WithLabelValues(word).Inc()
	return response, response != nil, err
}

// newAuthenticator accepts client certificates if there is a client CA, and bearer tokens, whose reviews it caches.
func newAuthenticator(tokens authenticator.Token, gateways *gateways, clientCA x509.VerifyOptionFunc, remember time.Duration) authenticator.Request {
	var ways []authenticator.Request
	if clientCA != nil {
		ways = append(ways, byCertificate(group.NewAuthenticatedGroupAdder(x509.NewDynamic(clientCA, x509.CommonNameUserConversion))))
	}
	ways = append(ways, group.NewAuthenticatedGroupAdder(bearertoken.New(enrolledTokens{cache.New(tokens, false, remember, remember), gateways})))
	return unionauth.New(ways...)
}

// byCertificate marks users as authenticated by certificate. It refuses certificates with a common name that is reserved
// for system users, such as ServiceAccounts.
func byCertificate(certificates authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		response, ok, err := certificates.AuthenticateRequest(req)
		if !ok || err != nil {
			return nil, false, err
		}
		if strings.HasPrefix(response.User.GetName(), "system:") {
			return nil, false, errors.New("the common name of a client certificate is that of a system user")
		}
		response.User = status.CertificateUser{Info: response.User}
		return response, true, nil
	})
}

// withAuthentication passes on requests of users that the cluster knows. It does not tell a client why its credential is bad,
// but it does report a failure of the API server, so that the client retries instead of discarding its credential.
func withAuthentication(next http.Handler, c *Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := requestStateOf(req.Context())
		ctx := authenticator.WithAudiences(req.Context(), c.Audiences)
		response, ok, err := c.Authenticator.AuthenticateRequest(req.WithContext(ctx))
		if ok {
			v.user = response.User.GetName()
			req.Header.Del(tokenHeader) // no later filter reads it
			next.ServeHTTP(w, req.WithContext(request.WithUser(ctx, response.User)))
			return
		}
		if err != nil {
			c.Log.WithField("client", req.RemoteAddr).WithField("error", short(err.Error())).Debug("rejected unauthenticated client")
		}
		switch {
		case errors.Is(err, errUnavailable):
			v.rejection = "unavailable"
			retryLater(w, req, apierrors.NewServiceUnavailable(errUnavailable.Error()))
		case errors.Is(err, errBusy):
			v.rejection = "busy"
			retryLater(w, req, apierrors.NewTooManyRequests(errBusy.Error(), 1))
		default:
			v.rejection = "unauthenticated"
			// An unauthenticated client does not keep the connection, because HTTP/2 lets it send many requests at once.
			w.Header().Set("Connection", "close")
			registry.WriteError(w, req, apierrors.NewUnauthorized("Unauthorized"))
		}
	})
}

// retryLater refuses a request with Retry-After of one second and closes its connection.
func retryLater(w http.ResponseWriter, req *http.Request, err error) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close")
	registry.WriteError(w, req, err)
}
