// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// defective takes nothing.
type defective struct{ watchWriter }

func (*defective) Write([]byte) (int, error) { panic("a defect") }

// What is done on another goroutine must not end the process.
func TestDefectsAsideAreTheCallers(t *testing.T) {
	api, err := New(populated(t), make(chan struct{}))
	if err != nil {
		t.Fatal(err)
	}
	watch := func() {
		withRequestInfo(api).ServeHTTP(&defective{watchWriter{header: http.Header{}}}, httptest.NewRequest(http.MethodGet, "/api/v1/services?watch=1", nil))
	}
	for _, test := range []struct {
		name, where string
		do          func()
	}{
		{"a watch", "(*defective).Write", watch},
		{"what is done aside", "TestDefectsAsideAreTheCallers.func", func() { Aside(func() { panic("a defect") }) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if cause := fmt.Sprint(recover()); !strings.HasPrefix(cause, "a defect\n") || !strings.Contains(cause, test.where) {
					t.Errorf("recovered %s", cause)
				}
			}()
			test.do()
		})
	}
	t.Run("an answer that is given up", func(t *testing.T) {
		defer func() {
			if cause, ok := recover().(error); !ok || !errors.Is(cause, http.ErrAbortHandler) {
				t.Errorf("recovered %v", cause)
			}
		}()
		Aside(func() { panic(http.ErrAbortHandler) })
	})
	t.Run("none", func(t *testing.T) {
		done := false
		if Aside(func() { done = true }); !done {
			t.Error("nothing was done")
		}
	})
}
