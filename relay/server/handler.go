// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/status"
)

// newHandler returns the chain of filters. Probes are open to all clients. Any other request must, in this order, come
// after the first sync, be authenticated, be within the user's rate, be a read (or a status report, or a renewal of a token), and be authorized
// before the API sees it. Only the credential of a request is read before its user is known. The API serves the same
// RequestInfo that was authorized.
func newHandler(c *Config, api http.Handler, stopping <-chan struct{}) http.Handler {
	c.instrument()
	handler := withWatchRecheck(withRenewals(withStatusReports(api, c.Reports), c.Renewals), c, c.metrics)
	handler = withMaxInFlight(handler, c.Limits.RequestsInFlight)
	handler = withProvenConnection(handler)
	handler = withAuthorization(handler, c)
	handler = withReadOnly(handler, c.Reports, c.Renewals)
	handler = withRequestInfo(handler)
	handler = withCleanPath(handler)
	handler = withRateLimit(handler, c.Limits.RequestsPerSecond)
	handler = withAuthentication(handler, c)
	handler = withBodyLimit(handler, c.Limits.BodyBytes, readHeaderTimeout)

	mux := http.NewServeMux()
	mux.HandleFunc("/livez", ok)
	mux.HandleFunc("/healthz", ok)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-stopping:
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		default:
		}
		if !c.Cache.HasSynced() {
			http.Error(w, "not synced with the cluster", http.StatusServiceUnavailable)
			return
		}
		if !c.ServingCert.ready() {
			http.Error(w, "no serving certificate", http.StatusServiceUnavailable)
			return
		}
		ok(w, req)
	})
	return &recoverAndRecord{mux, handler, c.Cache.HasSynced, c.metrics, c.Log}
}

func ok(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }

// withCleanPath removes slashes at the end of a path, as kube-apiserver does for its discovery documents.
func withCleanPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if trimmed := strings.TrimRight(req.URL.Path, "/"); trimmed != "" {
			req.URL.Path = trimmed
		}
		next.ServeHTTP(w, req)
	})
}

// withReadOnly refuses every request that is neither a read, nor an accepted status report, nor a renewal of a token.
func withReadOnly(next http.Handler, reports *status.Reports, renewals *renewals) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || reports.Takes(req) || renewals.takes(req) {
			next.ServeHTTP(w, req)
			return
		}
		requestStateOf(req.Context()).rejection = "method"
		w.Header().Set("Allow", http.MethodGet)
		verb, gr := strings.ToLower(req.Method), schema.GroupResource{}
		if info, ok := request.RequestInfoFrom(req.Context()); ok && info.IsResourceRequest {
			verb, gr = info.Verb, schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
		}
		registry.WriteError(w, req, apierrors.NewMethodNotSupported(gr, verb))
	})
}
