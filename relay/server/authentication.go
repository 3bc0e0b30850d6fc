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

// Why it may be unknown who somebody is. Neither says anything against a client.
var (
	// errUnavailable says that the cluster could not be asked.
	errUnavailable = errors.New("the cluster cannot be asked who this is")
	// errBusy says that too many tokens that were never good wait to be asked about.
	errBusy = errors.New("too many unknown tokens")
)

const (
	// trustedTokens and trustFor bound what is remembered of tokens that were good.
	trustedTokens = 4096
	trustFor      = 2 * time.Hour
	// reviewBurst is how many seconds' worth of reviews can be asked for at once: all gateways come back together.
	reviewBurst = 10
)

// tokenReviews are those of the cluster.
type tokenReviews interface {
	Create(context.Context, *authenticationv1.TokenReview, metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// tokenReviewer asks the cluster whose token it is that a client shows. Unlike the authenticator of k8s.io/apiserver it
// tells a token that is refused from a cluster that does not answer, does not take a token whose audience the cluster
// says nothing about, and asks about strangers at a limited rate.
type tokenReviewer struct {
	client    tokenReviews
	audiences authenticator.Audiences
	// strangers limits the questions about tokens that were never good, so that inventing tokens neither burdens the
	// cluster nor keeps those waiting whose tokens were good before.
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

// AuthenticateToken returns whose token it is, if anybody's.
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

// newAuthenticator accepts client certificates of an authority, if there is one, and tokens, whose reviews it remembers.
func newAuthenticator(tokens authenticator.Token, clientCA x509.VerifyOptionFunc, remember time.Duration) authenticator.Request {
	var ways []authenticator.Request
	if clientCA != nil {
		ways = append(ways, byCertificate(group.NewAuthenticatedGroupAdder(x509.NewDynamic(clientCA, x509.CommonNameUserConversion))))
	}
	ways = append(ways, group.NewAuthenticatedGroupAdder(bearertoken.New(cache.New(tokens, false, remember, remember))))
	return unionauth.New(ways...)
}

// byCertificate marks users by how they proved who they are, and refuses certificates in the names of users that Kubernetes
// has for itself, ServiceAccounts among them.
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

// authenticated lets those in whom the cluster knows. What is wrong with a credential is told to nobody; what is wrong with
// the cluster is told to the client, so that it asks again later instead of taking its credential for bad.
func authenticated(next http.Handler, c *Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := visitOf(req.Context())
		ctx := authenticator.WithAudiences(req.Context(), c.Audiences)
		response, ok, err := c.Authenticator.AuthenticateRequest(req.WithContext(ctx))
		if ok {
			v.user = response.User.GetName()
			req.Header.Del(tokenHeader) // nobody needs it any more
			next.ServeHTTP(w, req.WithContext(request.WithUser(ctx, response.User)))
			return
		}
		if err != nil {
			c.Log.WithField("client", req.RemoteAddr).WithField("error", short(err.Error())).Debug("not authenticated")
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
			// A stranger does not keep the connection, on which there could be many requests at once.
			w.Header().Set("Connection", "close")
			registry.WriteError(w, req, apierrors.NewUnauthorized("Unauthorized"))
		}
	})
}

// retryLater refuses a request that may be repeated after a second, and ends its connection.
func retryLater(w http.ResponseWriter, req *http.Request, err error) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close")
	registry.WriteError(w, req, err)
}
