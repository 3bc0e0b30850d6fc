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

// defective panics on the first write.
type defective struct{ watchWriter }

func (*defective) Write([]byte) (int, error) { panic("a defect") }

// TestDefectsOnOwnStackAreTheCallers proves that a panic on another goroutine reaches the caller instead of ending the process.
func TestDefectsOnOwnStackAreTheCallers(t *testing.T) {
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
		{"a function on its own stack", "TestDefectsOnOwnStackAreTheCallers.func", func() { RunOnOwnStack(func() { panic("a defect") }) }},
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
	t.Run("an aborted response", func(t *testing.T) {
		defer func() {
			if cause, ok := recover().(error); !ok || !errors.Is(cause, http.ErrAbortHandler) {
				t.Errorf("recovered %v", cause)
			}
		}()
		RunOnOwnStack(func() { panic(http.ErrAbortHandler) })
	})
	t.Run("no panic", func(t *testing.T) {
		done := false
		if RunOnOwnStack(func() { done = true }); !done {
			t.Error("the function did not run")
		}
	})
}
