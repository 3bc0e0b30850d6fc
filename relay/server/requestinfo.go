// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
)

// withRequestInfo parses the path into a RequestInfo. It refuses the deprecated paths that name their verb (/api/v1/watch/...):
// kube-apiserver authorizes them without their selectors, and all clients in use send ?watch=true instead.
func withRequestInfo(next http.Handler) http.Handler {
	meaning := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, err := meaning.NewRequestInfo(decodable(req))
		if err != nil || namesVerb(info) {
			requestStateOf(req.Context()).rejection = "path"
			registry.WriteError(w, req, noSuchPath())
			return
		}
		requestStateOf(req.Context()).info = info
		next.ServeHTTP(w, req.WithContext(request.WithRequestInfo(req.Context(), info)))
	})
}

// noSuchPath is the error for a path that names its verb.
func noSuchPath() error {
	err := apierrors.NewGenericServerResponse(http.StatusNotFound, "get", schema.GroupResource{}, "", "", 0, false)
	err.ErrStatus.Message = "the relay does not serve watch or proxy paths, use the path of the list with ?watch=true"
	return err
}

// namesVerb reports whether the path names its verb before its resource, as /api/v1/watch/services does.
func namesVerb(info *request.RequestInfo) bool {
	if !info.IsResourceRequest {
		return false
	}
	at := 3 // /apis/GROUP/VERSION/
	if info.APIPrefix == "api" {
		at = 2
	}
	segments := strings.Split(strings.Trim(info.Path, "/"), "/")
	return len(segments) > at && (segments[at] == "watch" || segments[at] == "proxy")
}

// decodable returns a request whose query decodes, because NewRequestInfo logs a query that does not, in full. From such a
// query NewRequestInfo only reads whether to watch, so only that parameter remains. The API answers the original query
// with 400.
func decodable(req *http.Request) *http.Request {
	query := req.URL.Query()
	if internalversionscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, &internalversion.ListOptions{}) == nil {
		return req
	}
	plain, url := *req, *req.URL
	plain.URL, url.RawQuery = &url, ""
	if values := query["watch"]; len(values) > 0 && values[0] != "0" && !strings.EqualFold(values[0], "false") {
		url.RawQuery = "watch=true"
	}
	return &plain
}
