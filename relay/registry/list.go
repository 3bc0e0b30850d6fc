// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/watchcache"
)

func (h *Handler) get(w http.ResponseWriter, req *http.Request, r *resource, info *request.RequestInfo) error {
	table, err := h.wantsTable(req)
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
	entry := r.Get(info.Namespace, info.Name)
	if entry == nil {
		return apierrors.NewNotFound(r.GroupResource(), info.Name)
	}
	if table {
		return h.writeTable(w, req, r, []*watchcache.Entry{entry}, entry.Version)
	}
	text, err := entry.JSON()
	if err != nil {
		return err
	}
	writeText(w, req, text)
	return nil
}

// list always answers with the whole list: a gateway reads all of it, and it is in memory. `limit` asks for at most so
// many, so that is allowed; a `continue` token is never ours.
func (h *Handler) list(w http.ResponseWriter, req *http.Request, r *resource, info *request.RequestInfo) error {
	table, err := h.wantsTable(req)
	if err != nil {
		return err
	}
	q, err := parseQuery(req, info)
	if err != nil {
		return err
	}
	if q.Continue != "" {
		return apierrors.NewResourceExpired("The provided continue parameter is not of this relay, which serves lists whole.")
	}
	if err := h.atLeast(q.version); err != nil {
		return err
	}
	all, version := r.List()
	if q.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
		// Only the present state is known; it is that of an earlier version when nothing changed since.
		if events, _, _, err := r.Since(q.version); err != nil || len(events) > 0 && events[0].Version <= version {
			return expired(q.ResourceVersion)
		}
		version = q.version
	}
	entries := all[:0]
	for _, e := range all {
		if q.matches(e) {
			entries = append(entries, e)
		}
	}
	if table {
		return h.writeTable(w, req, r, entries, version)
	}
	return writeList(w, req, r, entries, version)
}

func writeList(w http.ResponseWriter, req *http.Request, r *resource, entries []*watchcache.Entry, version watchcache.Version) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":%q},"items":[`,
		r.kind+"List", r.GroupVersion(), version)
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(',')
		}
		text, err := e.JSON()
		if err != nil {
			return err
		}
		b.Write(text)
	}
	b.WriteString("]}\n")
	writeText(w, req, b.Bytes())
	return nil
}
