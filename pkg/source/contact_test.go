// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"net/url"
	"testing"
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
