// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
)

// requestState is the state of one request that its filters share.
type requestState struct {
	*recorder
	start time.Time
	// token and tls are the credentials of the client. They are kept here because authentication removes the token from
	// the request.
	token []string
	tls   *tls.ConnectionState
	// info is set once the path is parsed, user once the client is authenticated.
	info *request.RequestInfo
	user string
	// secret is the one that the client's token is bound to, if the client is a gateway: the authenticator alone knows which token it accepted.
	secret *authenticationv1.BoundObjectReference
	// rejection is the reason for which a filter refused the request, or empty.
	rejection string
	// watch serves an accepted watch. over, if set, runs after the response is complete.
	watch, over func()
}

type requestStateKey struct{}

// requestStateOf returns the state of a request, or an empty one if the request did not pass recoverAndRecord.
func requestStateOf(ctx context.Context) *requestState {
	if v, ok := ctx.Value(requestStateKey{}).(*requestState); ok {
		return v
	}
	return &requestState{recorder: &recorder{}}
}

// recoverAndRecord is the first filter: it turns a panic into a response, and counts and logs each request. Watches block
// on its goroutine; all other filters run on another one (registry.RunOnOwnStack), so that their stack frames do not stay
// allocated for the life of a watch.
type recoverAndRecord struct {
	probes, next http.Handler
	hasSynced    func() bool
	metrics      *metrics
	log          logrus.FieldLogger
}

func (r *recoverAndRecord) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/livez", "/healthz", "/readyz":
		r.probes.ServeHTTP(w, req)
		return
	}
	v := &requestState{recorder: &recorder{ResponseWriter: w}, start: time.Now(), token: req.Header[tokenHeader], tls: req.TLS}
	defer r.record(req, v)
	defer r.recover(req, v)
	if !r.hasSynced() {
		v.rejection = "unsynced"
		notYet(v.recorder, req)
		return
	}
	registry.RunOnOwnStack(func() {
		r.next.ServeHTTP(v.recorder, req.WithContext(context.WithValue(req.Context(), requestStateKey{}, v)))
	})
	if v.watch != nil {
		v.watch()
	}
}

// unsyncedRetry is the upper bound, in seconds, of the Retry-After that clients get before the first sync.
const unsyncedRetry = 4

// notYet refuses any client before the first sync, at the lowest cost possible: after a restart, all gateways reconnect
// while the relay is still listing the cluster. Retry-After is random, so that they do not come back at the same time.
func notYet(w http.ResponseWriter, req *http.Request) {
	after := 1 + rand.N(unsyncedRetry)
	registry.WriteError(w, req, apierrors.NewTooManyRequests("the relay has not synced with the cluster yet, please try again later", after))
}

const tokenHeader = "Authorization"

// credentials returns a request with only the parts of the original that authenticators read.
func (v *requestState) credentials(ctx context.Context) *http.Request {
	return (&http.Request{TLS: v.tls, Header: http.Header{tokenHeader: v.token}}).WithContext(ctx)
}

// record counts and logs a finished request. The log holds no headers and no queries, so no credential reaches it. Of an
// unauthenticated request, it holds nothing that the client sent.
func (r *recoverAndRecord) record(req *http.Request, v *requestState) {
	if v.over != nil {
		v.over()
	}
	m := r.metrics
	verb, resource := "other", ""
	if v.info != nil && v.info.IsResourceRequest {
		verb, resource = knownVerb(v.info.Verb), m.known(v.info.Resource)
	}
	m.requests.WithLabelValues(verb, resource, strconv.Itoa(v.code())).Inc()
	m.bytes.WithLabelValues(verb, resource).Add(float64(v.bytes))
	if verb != "watch" {
		m.duration.WithLabelValues(verb).Observe(time.Since(v.start).Seconds())
	}
	if v.rejection == "" && v.status == http.StatusForbidden {
		v.rejection = "forbidden"
	}
	if v.rejection != "" {
		m.rejections.WithLabelValues(v.rejection).Inc()
	}
	r.log.WithFields(v.asked(req)).WithFields(logrus.Fields{
		"client": req.RemoteAddr, "status": v.code(), "bytes": v.bytes, "took": time.Since(v.start).Round(time.Millisecond),
		"refused": v.rejection,
	}).Debug("request")
}

// asked returns the log fields that describe a request: none if the client is unauthenticated.
func (v *requestState) asked(req *http.Request) logrus.Fields {
	if v.user == "" {
		return logrus.Fields{}
	}
	return logrus.Fields{"user": short(v.user), "method": short(req.Method), "path": short(req.URL.Path)}
}

// maxLogged bounds the length, in bytes, of logged text that a client chose.
const maxLogged = 200

// short truncates s to maxLogged bytes.
func short(s string) string {
	if len(s) <= maxLogged {
		return s
	}
	return s[:maxLogged] + "..."
}

// recover turns a panic into a response and logs it as an error.
func (r *recoverAndRecord) recover(req *http.Request, v *requestState) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause)
	}
	r.metrics.panics.Inc()
	r.log.WithFields(v.asked(req)).WithFields(logrus.Fields{"panic": fmt.Sprint(cause), "stack": string(debug.Stack())}).
		Error("recovered panic in request")
	if v.status == 0 {
		registry.WriteError(v.recorder, req, apierrors.NewInternalError(errors.New("the relay has a defect, see its log")))
		return
	}
	// The client must not take a truncated response for a complete one.
	panic(http.ErrAbortHandler)
}

// recorder records the status code and the size of a response.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap gives http.ResponseController access to the underlying writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}
