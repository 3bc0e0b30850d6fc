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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
)

// visit is what the filters of a request know of it together.
type visit struct {
	*recorder
	start time.Time
	// token and tls say who asks: authentication takes the token out of what it passes on.
	token []string
	tls   *tls.ConnectionState
	// info is set when the path was understood, user when it is known who asks.
	info *request.RequestInfo
	user string
	// rejection is why a filter refused the request, nothing when none did.
	rejection string
	// watch answers with a watch, if one was accepted; over, where there is one, is called when the request was answered.
	watch, over func()
}

type visitKey struct{}

// visitOf returns an empty visit for a request that did not pass the first filter.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{recorder: &recorder{}}
}

// entrance is the first filter, on whose goroutine watches wait for their end. All that is decided before is decided aside.
type entrance struct {
	probes, next http.Handler
	hasSynced    func() bool
	metrics      *metrics
	log          logrus.FieldLogger
}

func (e *entrance) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/livez", "/healthz", "/readyz":
		e.probes.ServeHTTP(w, req)
		return
	}
	v := &visit{recorder: &recorder{ResponseWriter: w}, start: time.Now(), token: req.Header[tokenHeader], tls: req.TLS}
	defer e.record(req, v)
	defer e.recover(req, v)
	if !e.hasSynced() {
		v.rejection = "unsynced"
		notYet(v.recorder, req)
		return
	}
	registry.Aside(func() { e.next.ServeHTTP(v.recorder, req.WithContext(context.WithValue(req.Context(), visitKey{}, v))) })
	if v.watch != nil {
		v.watch()
	}
}

// unsyncedRetry bounds the seconds after which a client is to ask again that came before the cluster was read.
const unsyncedRetry = 4

// notYet refuses whoever it is, as cheaply as can be: after a restart all gateways are back before the cluster is read, which
// goes on beside them. They are told to come at different times.
func notYet(w http.ResponseWriter, req *http.Request) {
	after := 1 + rand.N(unsyncedRetry)
	registry.WriteError(w, req, apierrors.NewTooManyRequests("the relay has not seen the whole cluster yet, please try again later", after))
}

const tokenHeader = "Authorization"

// credentials is as much of the request, as it came, as authenticators read.
func (v *visit) credentials(ctx context.Context) *http.Request {
	return (&http.Request{TLS: v.tls, Header: http.Header{tokenHeader: v.token}}).WithContext(ctx)
}

// record counts and logs a request that has been answered. The log has neither headers nor queries, so no credential gets into
// it, and of a request whose user is not known nothing that it said.
func (e *entrance) record(req *http.Request, v *visit) {
	if v.over != nil {
		v.over()
	}
	m := e.metrics
	verb, resource := "other", ""
	if v.info != nil && v.info.IsResourceRequest {
		verb, resource = knownVerb(v.info.Verb), known(v.info.Resource)
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
	e.log.WithFields(v.asked(req)).WithFields(logrus.Fields{
		"client": req.RemoteAddr, "status": v.code(), "bytes": v.bytes, "took": time.Since(v.start).Round(time.Millisecond),
		"refused": v.rejection,
	}).Debug("request")
}

// asked is what the log says of a request: nothing that a client said before it was known who it is.
func (v *visit) asked(req *http.Request) logrus.Fields {
	if v.user == "" {
		return logrus.Fields{}
	}
	return logrus.Fields{"user": short(v.user), "method": short(req.Method), "path": short(req.URL.Path)}
}

// maxLogged bounds what is logged of a text that a client chose.
const maxLogged = 200

// short returns the beginning of a text.
func short(s string) string {
	if len(s) <= maxLogged {
		return s
	}
	return s[:maxLogged] + "..."
}

// recover answers a request that failed by a defect, and says so where an operator sees it.
func (e *entrance) recover(req *http.Request, v *visit) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause)
	}
	e.metrics.panics.Inc()
	e.log.WithFields(v.asked(req)).WithFields(logrus.Fields{"panic": fmt.Sprint(cause), "stack": string(debug.Stack())}).
		Error("a request met a defect")
	if v.status == 0 {
		registry.WriteError(v.recorder, req, apierrors.NewInternalError(errors.New("the relay has a defect, its log says more")))
		return
	}
	// Half of an answer must not look like a whole one.
	panic(http.ErrAbortHandler)
}

// recorder notes what is answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController reach what is beneath.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush is for those who look for an http.Flusher.
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
