// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// RunOnOwnStack runs f on another goroutine and waits for it, so that a long-lived caller does not keep the stack that f needs: Go
// shrinks the stack of a waiting goroutine only partly. If f panics, RunOnOwnStack panics with the same cause and the stack of f.
func RunOnOwnStack(f func()) {
	done := make(chan any)
	go func() {
		var defect any
		defer func() { done <- defect }()
		defer func() {
			if cause := recover(); cause != nil {
				defect = panicOf(cause)
			}
		}()
		f()
	}()
	if defect := <-done; defect != nil {
		panic(defect)
	}
}

// panicOf returns the value to panic with on the calling goroutine: http.ErrAbortHandler as it is, anything else with its
// stack.
func panicOf(cause any) any {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return cause
	}
	return fmt.Errorf("%v\n%s", cause, debug.Stack())
}
