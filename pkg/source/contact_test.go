// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestWhyIsShort(t *testing.T) {
	refused := errors.New("dial tcp 10.10.0.11:8443: connect:\n\tconnection refused")
	for _, test := range []struct {
		name string
		err  error
	}{
		{"as it is", refused},
		{"of a request", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/api/v1/services?timeout=9m57s", Err: refused}},
		{"of a request that is told of", fmt.Errorf("watching: %w", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/", Err: refused})},
	} {
		if got, want := inShort(test.err), "dial tcp 10.10.0.11:8443: connect: connection refused"; got != want {
			t.Errorf("%s: %q, want %q", test.name, got, want)
		}
	}
}

func TestIsHandshake(t *testing.T) {
	old, invalid := apierrors.NewResourceExpired("too old"), apierrors.NewInvalid(schema.GroupKind{}, "", nil)
	gone := apierrors.NewGenericServerResponse(http.StatusGone, "", schema.GroupResource{}, "", "", 0, true)
	initial := metav1.ListOptions{Watch: true, SendInitialEvents: new(true)}
	for _, test := range []struct {
		name  string
		asked metav1.ListOptions
		err   error
		want  bool
	}{
		{"nothing is wrong", metav1.ListOptions{ResourceVersion: "7"}, nil, false},
		{"the version is too old", metav1.ListOptions{ResourceVersion: "7"}, old, true},
		{"the version is gone", metav1.ListOptions{ResourceVersion: "7"}, gone, true},
		{"the next page is gone", metav1.ListOptions{Continue: "there"}, old, true},
		{"any version is too old", metav1.ListOptions{ResourceVersion: "0"}, old, false},
		{"the latest version is too old", metav1.ListOptions{}, gone, false},
		{"all objects in a watch are too old", initial, old, false},
		{"no objects in a watch", initial, invalid, true},
		{"a list is invalid", metav1.ListOptions{}, invalid, false},
		{"another error", metav1.ListOptions{ResourceVersion: "7"}, errors.New("connection refused"), false},
	} {
		if got := isHandshake(test.asked, test.err); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}
