// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// Handler serves the API.
type Handler struct {
	// Spread is the time over which watches end when the relay does, each at a moment of its own, so that not all clients
	// come to the other replicas at once. It has to be set before anything is served; without it they end at once.
	Spread time.Duration
	// Sent, where it is set before anything is served, is told of events that a watcher of a resource was sent, and how long
	// after the first of them had reached the cache.
	Sent func(resource string, events int, delay time.Duration)
	// Hold, where it is set before anything is served, is given each watch that was accepted, to call it after ServeHTTP has
	// returned and before the request is done with: what the filters of a request have on the stack need not be kept there
	// for as long as a watch lasts.
	Hold func(req *http.Request, watch func())

	cache     *watchcache.Cache
	resources map[schema.GroupVersionResource]*resource
	documents documents
	stopping  <-chan struct{}
}

// New returns the handler of what is in a cache. Its watches end after stopping is closed.
func New(cache *watchcache.Cache, stopping <-chan struct{}) (*Handler, error) {
	h := &Handler{cache: cache, resources: map[schema.GroupVersionResource]*resource{}, documents: documents{}, stopping: stopping}
	resources, err := newResources(cache)
	if err != nil {
		return nil, err
	}
	for _, r := range resources {
		h.resources[r.GroupVersionResource] = r
	}
	if err := errors.Join(h.documents.addDiscovery(resources), h.documents.addOpenAPI(resources)); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok {
		WriteError(w, req, errors.New("no RequestInfo in the context"))
		return
	}
	if err := h.serve(w, req, info); err != nil {
		WriteError(w, req, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) error {
	if !info.IsResourceRequest {
		document, ok := h.documents[info.Path]
		if !ok {
			http.NotFound(w, req)
			return nil
		}
		document.ServeHTTP(w, req)
		return nil
	}
	r, ok := h.resources[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}]
	if !ok || info.Subresource != "" {
		return notFound(info)
	}
	switch {
	case info.Verb == "get" && info.Namespace != "":
		return h.get(w, req, r, info)
	case info.Verb == "list":
		return h.list(w, req, r, info)
	case info.Verb == "watch":
		stream, err := h.watch(w, req, r, info)
		switch {
		case err != nil:
			return err
		case h.Hold != nil:
			h.Hold(req, stream.run)
		default:
			stream.run()
		}
		return nil
	}
	return notFound(info)
}

// notFound is the answer to resources that the relay does not have, in the words of kube-apiserver.
func notFound(info *request.RequestInfo) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, info.Verb, schema.GroupResource{}, "", "", 0, false)
}
