// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// maxReport bounds the size of a report. The largest valid entry is smaller.
const maxReport = 32 << 10

// Reports accept what gateways report about themselves: one entry of a status at a time, and nothing else. The written status
// is built from the decoded entry, so that nothing else of a request reaches the cluster.
type Reports struct {
	Cache    *watchcache.Cache
	Mappings Mappings
	// Heard is called with the instance of each report.
	Heard func(ctx context.Context, instance string) error
	// Namespace is the namespace of the ServiceAccounts of gateways.
	Namespace string
	Log       logrus.FieldLogger
}

// Takes reports whether r handles a request: a report, which is a server-side apply of the status of a Mapping, or the question
// which gateway the user is. A nil r handles none.
func (r *Reports) Takes(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	return r != nil && ok && (isReport(req, info) || isIntroduction(req, info))
}

func isReport(req *http.Request, info *request.RequestInfo) bool {
	return req.Method == http.MethodPatch && info.IsResourceRequest && info.Subresource == "status" &&
		info.APIGroup == v1alpha1.GroupName && info.APIVersion == v1alpha1.SchemeGroupVersion.Version &&
		info.Resource == "mappings" && info.Namespace != "" && info.Name != ""
}

// Take handles a request of an authenticated user who may apply the status.
func (r *Reports) Take(w http.ResponseWriter, req *http.Request) error {
	sender, ok := request.UserFrom(req.Context())
	info, haveInfo := request.RequestInfoFrom(req.Context())
	if !ok || !haveInfo {
		return apierrors.NewInternalError(errors.New("no user or request info in the context"))
	}
	if isIntroduction(req, info) {
		return r.introduce(w, req)
	}
	instance, err := instanceOf(sender, r.Namespace)
	if err != nil {
		return forbidden(info.Name, err)
	}
	reported, err := readReport(w, req)
	if err != nil {
		return err
	}
	served := r.visible(sender, info)
	if served == nil {
		return apierrors.NewNotFound(mappingResource, info.Name)
	}
	m, ok := served.Object.(*v1alpha1.Mapping)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("unexpected type %T", served.Object))
	}
	if err := reported.check(m, instance); err != nil {
		return err
	}
	if m, err = r.apply(req.Context(), m, instance, reported.Status.Instances); err != nil {
		return err
	}
	if err := r.Heard(req.Context(), instance); err != nil {
		// The next report tries again.
		r.Log.WithError(err).WithField("instance", instance).Warn("cannot renew the Lease of a gateway")
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(filter.Mapping(m))
}

// visible returns the Mapping that a request names, or nil if its user may not see it.
func (r *Reports) visible(u user.Info, info *request.RequestInfo) *watchcache.Entry {
	account, ok := Account(u, r.Namespace)
	if !ok {
		return r.Cache.Mappings().Get(info.Namespace, info.Name)
	}
	portion, known := r.Cache.PortionOf(account)
	if !known {
		return nil
	}
	return portion.Mappings().Get(info.Namespace, info.Name)
}

// apply writes an entry unless it is there already.
func (r *Reports) apply(ctx context.Context, m *v1alpha1.Mapping, instance string, entries []v1alpha1.InstanceStatus) (*v1alpha1.Mapping, error) {
	var have []v1alpha1.InstanceStatus
	if i := slices.IndexFunc(m.Status.Instances, func(i v1alpha1.InstanceStatus) bool { return i.Name == instance }); i >= 0 {
		have = m.Status.Instances[i : i+1]
	}
	if equality.Semantic.DeepEqual(have, entries) {
		return m, nil
	}
	written, err := r.Mappings.ApplyStatus(ctx, v1alpha1.InstanceFieldManagerPrefix+instance, conditions.AppliedMetadata{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID,
	}, v1alpha1.MappingStatus{Instances: entries})
	switch {
	case err == nil:
		return written, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsInvalid(err), apierrors.IsTooManyRequests(err):
		return nil, err
	}
	r.Log.WithError(err).WithFields(logrus.Fields{"instance": instance, "mapping": m.Namespace + "/" + m.Name}).
		Warn("cannot write the report of a gateway")
	return nil, apierrors.NewServiceUnavailable("the relay could not write the status into the cluster")
}

// entries are those of a status. Fields that this version does not know are those of a gateway of a later one, and are dropped.
type entries []v1alpha1.InstanceStatus

// UnmarshalJSON implements json.Unmarshaler. It is less strict than the decoder of a report.
func (e *entries) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, (*[]v1alpha1.InstanceStatus)(e))
}

// report has all fields that a gateway may send. Other fields are rejected, except for those of an entry.
type report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string    `json:"name"`
		Namespace string    `json:"namespace"`
		UID       types.UID `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Instances entries `json:"instances"`
	} `json:"status"`
}

func readReport(w http.ResponseWriter, req *http.Request) (*report, error) {
	contentType, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || contentType != string(types.ApplyPatchType) {
		return nil, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", mappingResource, "",
			"reports must use server-side apply, "+string(types.ApplyPatchType), 0, false)
	}
	// Only JSON is accepted, because YAML aliases can expand. Clients send JSON.
	decoder := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxReport))
	decoder.DisallowUnknownFields()
	r := &report{}
	err = decoder.Decode(r)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one object")
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("a report has at most %d bytes", maxReport))
	case err != nil:
		return nil, apierrors.NewBadRequest("a report is JSON with nothing but a gateway's own entry in status.instances: " + err.Error())
	}
	return r, nil
}

// check rejects a report about another Mapping, or by another gateway.
func (r *report) check(m *v1alpha1.Mapping, instance string) error {
	if r.APIVersion != v1alpha1.SchemeGroupVersion.String() || r.Kind != "Mapping" ||
		r.Metadata.Name != m.Name || r.Metadata.Namespace != m.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("a report about Mapping %s/%s has to say apiVersion %s, kind Mapping and its name and namespace",
			m.Namespace, m.Name, v1alpha1.SchemeGroupVersion))
	}
	if r.Metadata.UID != "" && r.Metadata.UID != m.UID {
		return apierrors.NewConflict(mappingResource, m.Name, fmt.Errorf("the Mapping was recreated with UID %s", m.UID))
	}
	if len(r.Status.Instances) > 1 {
		return apierrors.NewBadRequest("a report has one entry, or none if the gateway no longer serves the Mapping")
	}
	for _, i := range r.Status.Instances {
		if i.Name != instance {
			return forbidden(m.Name, fmt.Errorf("this user is the gateway %q and may not report as %q: set instance: %s in the gateway's config", instance, i.Name, instance))
		}
		if err := checkAddresses(m, &i); err != nil {
			return err
		}
		if strings.ContainsFunc(i.Reason, func(r rune) bool { return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) }) || len(i.Reason) > v1alpha1.MaxReasonLength {
			return apierrors.NewBadRequest(fmt.Sprintf("a reason is at most %d letters", v1alpha1.MaxReasonLength))
		}
		if i.ObservedGeneration > m.Generation || i.ObservedGeneration < 0 || i.Endpoints < 0 {
			return apierrors.NewBadRequest("invalid observedGeneration or number of endpoints")
		}
	}
	return nil
}

// checkAddresses accepts addresses that the Mapping does not name only together with uplinks.
func checkAddresses(m *v1alpha1.Mapping, i *v1alpha1.InstanceStatus) error {
	for _, uplink := range i.Uplinks {
		if !slices.Contains(m.Spec.AddressesFrom, v1alpha1.AddressSource{Uplink: uplink}) {
			return apierrors.NewBadRequest(fmt.Sprintf("%q is none of the uplinks in the Mapping's addressesFrom", uplink))
		}
	}
	for _, a := range i.Addresses {
		if slices.Contains(m.Spec.Addresses, a) {
			continue
		}
		if len(i.Uplinks) == 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("%q is none of the Mapping's addresses", a))
		}
		if problem := validation.AddressProblem(a); problem != "" {
			return apierrors.NewBadRequest(fmt.Sprintf("address %q of an uplink: %s", a, problem))
		}
	}
	for what, list := range map[string][]string{"address": i.Addresses, "uplink": i.Uplinks} {
		if sets.New(list...).Len() != len(list) {
			return apierrors.NewBadRequest(fmt.Sprintf("duplicate %s", what))
		}
	}
	if len(i.Addresses) > v1alpha1.MaxAddresses {
		return apierrors.NewBadRequest(fmt.Sprintf("a gateway serves at most %d addresses of a Mapping", v1alpha1.MaxAddresses))
	}
	return nil
}

var mappingResource = schema.GroupResource{Group: v1alpha1.GroupName, Resource: "mappings"}

func forbidden(name string, err error) error {
	return apierrors.NewForbidden(mappingResource, name, err)
}
