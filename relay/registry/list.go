// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/watchcache"
)

func (h *Handler) get(w http.ResponseWriter, req *http.Request, r *resource, served served, info *request.RequestInfo) error {
	accepted, err := r.negotiate(req, ofOne, served.nodes)
	if err != nil {
		return err
	}
	version, err := parseVersion(req.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	if err := h.atLeast(version); err != nil {
		return err
	}
	entry := served.Get(info.Namespace, info.Name)
	if entry == nil {
		return apierrors.NewNotFound(r.GroupResource(), info.Name)
	}
	if accepted.form == asTable {
		return writeTable(w, req, r, []*watchcache.Entry{entry}, entry.Version)
	}
	object, err := (&encoder{accepted: accepted, resource: r}).entry(entry)
	if err != nil {
		return err
	}
	writeBody(w, req, http.StatusOK, accepted.encoding.mediaType(), object.bytes())
	return nil
}

// list always returns the complete list: a gateway needs all of it, and it is in memory. The API allows this, because
// `limit` is an upper bound only for servers that page. A `continue` token therefore never comes from this relay.
func (h *Handler) list(w http.ResponseWriter, req *http.Request, r *resource, source func() (served, bool), info *request.RequestInfo) error {
	served, known := source()
	if !known {
		return errUnknownGateway()
	}
	accepted, err := r.negotiate(req, ofMany, served.nodes)
	if err != nil {
		return err
	}
	q, err := parseQuery(req, info)
	if err != nil {
		return err
	}
	if q.Continue != "" {
		return apierrors.NewResourceExpired("The provided continue parameter is not from this relay, which does not split lists.")
	}
	if err := h.atLeast(q.version); err != nil {
		return err
	}
	all, version := served.List()
	if now, known := source(); !known || now.nodesSince != served.nodesSince {
		return errUnknownGateway() // a watch from this version would not tell that the list lacks, or has, nodes
	}
	if q.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
		// The current state is also the state at an earlier version if there are no events in between.
		if events, _, _, err := served.Since(q.version); err != nil || len(events) > 0 && events[0].Version <= version {
			return expired(q.ResourceVersion)
		}
		version = q.version
	}
	entries := make([]*watchcache.Entry, 0, len(all))
	for _, e := range all {
		if q.matches(e) {
			entries = append(entries, e)
		}
	}
	if accepted.form == asTable {
		return writeTable(w, req, r, entries, version)
	}
	return writeList(w, req, &encoder{accepted: accepted, resource: r}, entries, version)
}

func writeList(w http.ResponseWriter, req *http.Request, e *encoder, entries []*watchcache.Entry, version watchcache.Version) error {
	items := make([]encoded, len(entries))
	for i, entry := range entries {
		var err error
		if items[i], err = e.entry(entry); err != nil {
			return err
		}
	}
	kind := e.resource.TypeMeta()
	if e.form == asMetadata {
		kind = partialTypeMeta()
	}
	kind.Kind += "List"
	body, err := e.encoding.list(kind, version, items)
	if err != nil {
		return err
	}
	writeBody(w, req, http.StatusOK, e.encoding.mediaType(), body)
	return nil
}
