// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	internalversionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// query holds the parameters of a list or watch.
type query struct {
	internalversion.ListOptions
	selection
	// version is the client's resource version, or 0 if it sent none or "0".
	version watchcache.Version
}

// selection selects objects of a kind. Namespace and name are the ones that were authorized, and apply in addition to the
// selectors.
type selection struct {
	namespace, name string
	labels          labels.Selector
	fields          fields.Selector
}

func (s selection) matches(e *watchcache.Entry) bool {
	return e != nil && (s.namespace == "" || s.namespace == e.Object.GetNamespace()) &&
		(s.name == "" || s.name == e.Object.GetName()) &&
		(s.labels == nil || s.labels.Matches(labels.Set(e.Object.GetLabels()))) &&
		(s.fields == nil || s.fields.Empty() || s.fields.Matches(fields.Set{
			"metadata.name": e.Object.GetName(), "metadata.namespace": e.Object.GetNamespace(),
		}))
}

func parseQuery(req *http.Request, info *request.RequestInfo) (query, error) {
	var q query
	if err := internalversionscheme.ParameterCodec.DecodeParameters(req.URL.Query(), metav1.SchemeGroupVersion, &q.ListOptions); err != nil {
		return q, apierrors.NewBadRequest(err.Error())
	}
	// Serve the verb that was authorized.
	q.Watch = info.Verb == "watch"
	internalversion.SetListOptionsDefaults(&q.ListOptions, true)
	if errs := internalversionvalidation.ValidateListOptions(&q.ListOptions, true); len(errs) > 0 {
		return q, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if q.FieldSelector != nil {
		transformed, err := q.FieldSelector.Transform(runtime.DefaultMetaV1FieldSelectorConversion)
		if err != nil {
			return q, apierrors.NewBadRequest(err.Error())
		}
		q.FieldSelector = transformed
	}
	if info.Name != "" && q.FieldSelector != nil && !q.FieldSelector.Empty() {
		if name, ok := q.FieldSelector.RequiresExactMatch("metadata.name"); !ok || name != info.Name {
			return q, apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
	}
	q.selection = selection{namespace: info.Namespace, name: info.Name, labels: q.LabelSelector, fields: q.FieldSelector}
	var err error
	q.version, err = parseVersion(q.ResourceVersion)
	return q, err
}

func parseVersion(s string) (watchcache.Version, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	v, err := watchcache.ParseVersion(s)
	if errors.Is(err, watchcache.ErrExpired) {
		return 0, expired(s)
	}
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: resourceVersion: Invalid value: %q: %v", s, err))
	}
	return v, nil
}

// atLeast returns an error unless the served state is at least as new as a client's version.
func (h *Handler) atLeast(v watchcache.Version) error {
	if v == 0 {
		return nil
	}
	if err := h.cache.Knows(v); err != nil {
		return expired(v.String())
	}
	return nil
}

// expired returns the error that makes a client discard its state and list again.
func expired(version string) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %s", version))
}
