// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// CertificateUser is a user with a client certificate of the authority that the relay itself was given. A separate type is
// safe: other users can choose their name and extras, but not their type.
type CertificateUser struct{ user.Info }

// certificateSuffix ends the instance of every certificate, and of no ServiceAccount.
const certificateSuffix = ".x509"

// instanceOf returns the only gateway that a user may report for. A ServiceAccount of the relay's namespace is the gateway of
// the same name. The holder of a client certificate is the gateway of its common name plus .x509. All other users of the
// cluster, such as those of OIDC or a webhook, are no gateways, so that no two users are the same gateway.
func instanceOf(u user.Info, namespace string) (string, error) {
	name := u.GetName()
	if _, ok := u.(CertificateUser); ok {
		instance := name + certificateSuffix
		if len(validation.IsDNS1123Subdomain(instance)) > 0 {
			return "", fmt.Errorf("the common name %q is not the name of a gateway: lower-case letters, digits, dashes and dots", name)
		}
		return instance, nil
	}
	in, account, err := serviceaccount.SplitUsername(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s is no gateway: gateways are ServiceAccounts of namespace %s or have a client certificate", name, namespace)
	case in != namespace:
		return "", fmt.Errorf("gateways are ServiceAccounts of namespace %s, this is one of %s", namespace, in)
	case strings.HasSuffix(account, certificateSuffix):
		return "", fmt.Errorf("the ServiceAccount %s is no gateway: names that end in %s are those of certificates", account, certificateSuffix)
	}
	return account, nil
}

// Account returns the name of the ServiceAccount that a user is, if it is one of the namespace of gateways. Only these may be limited to
// addresses.
func Account(u user.Info, namespace string) (name string, ok bool) {
	if _, certified := u.(CertificateUser); certified {
		return "", false
	}
	in, account, err := serviceaccount.SplitUsername(u.GetName())
	return account, err == nil && in == namespace
}

// isIntroduction reports whether a request asks for the identity of its user, as `kubectl auth whoami` does.
func isIntroduction(req *http.Request, info *request.RequestInfo) bool {
	return req.Method == http.MethodPost && info.IsResourceRequest && info.APIGroup == authenticationv1.GroupName &&
		info.APIVersion == "v1" && info.Resource == "selfsubjectreviews" && info.Subresource == "" && info.Namespace == "" && info.Name == ""
}

// introduce answers with the identity of the user, and the gateway if it is one. It ignores the body of the request.
func (r *Reports) introduce(w http.ResponseWriter, req *http.Request) error {
	u, ok := request.UserFrom(req.Context())
	if !ok {
		return apierrors.NewInternalError(errors.New("no user in the context"))
	}
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	if instance, err := instanceOf(u, r.Namespace); err == nil {
		info.Extra = map[string]authenticationv1.ExtraValue{v1alpha1.InstanceExtra: {instance}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(&authenticationv1.SelfSubjectReview{
		TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "SelfSubjectReview"},
		Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: info},
	})
}
