// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestSelectorsAgreeWithWhatWasAuthorized proves that a selector that contradicts the authorized name is refused, as by
// kube-apiserver.
func TestSelectorsAgreeWithWhatWasAuthorized(t *testing.T) {
	for _, test := range []struct {
		selector string
		refused  bool
	}{
		{"", false},
		{"metadata.name=web", false},
		{"metadata.name==web,metadata.namespace=shop", false},
		{"metadata.name!=web", true},
		{"metadata.name!=mail", true},
		{"metadata.name=mail", true},
		{"metadata.namespace=shop", true},
	} {
		t.Run(test.selector, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodGet, "/?fieldSelector="+url.QueryEscape(test.selector), nil)
			_, err := parseQuery(req, &request.RequestInfo{Verb: "watch", Name: "web"})
			if refused := apierrors.IsBadRequest(err); refused != test.refused || err != nil && !refused {
				t.Errorf("parseQuery() = %v, want refused: %v", err, test.refused)
			}
		})
	}
}
