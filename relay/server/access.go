// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
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
	// credentials is the request as it came: authentication takes the credentials out of what it passes on.
	credentials *http.Request
	// info is set when the path was understood, user when it is known who asks.
	info *request.RequestInfo
	user string
	// rejection is why a filter refused the request, nothing when none did.
	rejection string
}

type visitKey struct{}

// visitOf returns an empty visit for a request that did not pass the first filter.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// recorded is the first filter: it counts and logs each request when it has been answered. The log has neither headers nor
// what was asked for beyond the path, so no credential gets into it, whatever a client does.
func recorded(next http.Handler, m *metrics, log logrus.FieldLogger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		v := &visit{credentials: req.Clone(req.Context())}
		out := &recorder{ResponseWriter: w}
		defer func() {
			verb, resource := "other", ""
			if v.info != nil && v.info.IsResourceRequest {
				verb, resource = knownVerb(v.info.Verb), known(v.info.Resource)
			}
			m.requests.WithLabelValues(verb, resource, strconv.Itoa(out.code())).Inc()
			m.bytes.WithLabelValues(verb, resource).Add(float64(out.bytes))
			if verb != "watch" {
				m.duration.WithLabelValues(verb).Observe(time.Since(start).Seconds())
			}
			if v.rejection == "" && out.status == http.StatusForbidden {
				v.rejection = "forbidden"
			}
			if v.rejection != "" {
				m.rejections.WithLabelValues(v.rejection).Inc()
			}
			log.WithFields(logrus.Fields{
				"method": req.Method, "path": req.URL.Path, "client": req.RemoteAddr, "agent": req.UserAgent(), "user": v.user,
				"status": out.code(), "bytes": out.bytes, "took": time.Since(start).Round(time.Millisecond), "refused": v.rejection,
			}).Debug("request")
		}()
		next.ServeHTTP(out, req.WithContext(context.WithValue(req.Context(), visitKey{}, v)))
	})
}

// noted notes what the path means.
func noted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		visitOf(req.Context()).info, _ = request.RequestInfoFrom(req.Context())
		next.ServeHTTP(w, req)
	})
}

// recovered answers requests that fail by a defect, and says so where an operator sees it.
func recovered(next http.Handler, m *metrics, log logrus.FieldLogger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause)
			}
			m.panics.Inc()
			log.WithFields(logrus.Fields{"method": req.Method, "path": req.URL.Path, "panic": fmt.Sprint(cause), "stack": string(debug.Stack())}).
				Error("a request met a defect")
			if out, ok := w.(*recorder); ok && out.status == 0 {
				registry.WriteError(w, req, apierrors.NewInternalError(errors.New("the relay has a defect, its log says more")))
				return
			}
			// Half of an answer must not look like a whole one.
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, req)
	})
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
