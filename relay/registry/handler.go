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
	// Spread is the time over which watches end on shutdown, each after a random part of it, so that not all clients move
	// to the other replicas at once. 0 ends them at once. Set it before serving.
	Spread time.Duration
	// Sent, if set before serving, is called after events were sent to a watcher, with the time since the first of them
	// reached the cache.
	Sent func(resource string, events int, delay time.Duration)
	// Hold, if set before serving, gets each accepted watch. The caller runs it after ServeHTTP has returned and before
	// the request ends, so that the stack frames of the filters are not kept for the life of the watch.
	Hold func(req *http.Request, watch func())
	// Gateway, if set before serving, returns the name of the gateway that sent a request, for watchcache.Cache.PortionOf. It returns
	// false for other clients, which see everything.
	Gateway func(req *http.Request) (name string, ok bool)

	cache     *watchcache.Cache
	resources map[schema.GroupVersionResource]*resource
	documents documents
	stopping  <-chan struct{}
}

// New returns a Handler for the contents of cache. Its watches end after stopping is closed.
func New(cache *watchcache.Cache, stopping <-chan struct{}) (*Handler, error) {
	h := &Handler{cache: cache, resources: map[schema.GroupVersionResource]*resource{}, documents: documents{}, stopping: stopping}
	served, err := newResources(cache)
	if err != nil {
		return nil, err
	}
	for _, gv := range served {
		for _, r := range gv.resources {
			h.resources[r.GroupVersionResource] = r
		}
	}
	if err := errors.Join(h.documents.addDiscovery(served), h.documents.addOpenAPI(served)); err != nil {
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
	if r.ClusterScoped {
		var ok bool
		if info, ok = withoutNamespace(info); !ok {
			return notFound(info)
		}
	}
	source := h.servedTo(req, r)
	served, known := source()
	if !known {
		return errUnknownGateway()
	}
	switch {
	case info.Verb == "get" && (info.Namespace != "" || r.ClusterScoped):
		return h.get(w, req, r, served, info)
	case info.Verb == "list":
		return h.list(w, req, r, source, info)
	case info.Verb == "watch":
		stream, err := h.watch(w, req, r, source, info)
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

// errUnknownGateway refuses a gateway of which the relay does not know what it may see. client-go tries again.
func errUnknownGateway() error {
	return apierrors.NewTooManyRequests("the relay does not know this gateway yet, please try again later", 1)
}

// served is what a client sees of a resource.
type served struct {
	*watchcache.Resource
	// nodes is set if endpoints come with their nodes, and nodesSince is the version since which that is so, or 0.
	nodes      bool
	nodesSince watchcache.Version
}

// servedTo returns a function that returns what the sender of a request sees of a resource now, or false if that is not known (yet, or any
// longer).
func (h *Handler) servedTo(req *http.Request, r *resource) func() (served, bool) {
	var gateway string
	limited := false
	if h.Gateway != nil {
		gateway, limited = h.Gateway(req)
	}
	return func() (s served, known bool) {
		portion := h.cache.Portion
		if limited {
			if portion, known = h.cache.PortionOf(gateway); !known {
				return s, false
			}
			s.nodes, s.nodesSince = h.cache.NodesFor(gateway)
		}
		s.Resource = portion.Of(r.kind)
		return s, true
	}
}

// withoutNamespace returns the request for a cluster-scoped kind, or false if its path has a namespace. RequestInfo calls the name of a
// namespace its namespace, too.
func withoutNamespace(info *request.RequestInfo) (*request.RequestInfo, bool) {
	if info.Namespace != "" && (info.Resource != "namespaces" || info.Name != info.Namespace) {
		return info, false
	}
	without := *info
	without.Namespace = ""
	return &without, true
}

// notFound is the error for an unknown resource, with the wording of kube-apiserver.
func notFound(info *request.RequestInfo) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, info.Verb, schema.GroupResource{}, "", "", 0, false)
}
