// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// Aside calls f on a goroutine of its own and waits for it, so that what f needs of a stack is not kept by a caller who goes
// on for long: Go gives little of it back while a goroutine waits. When f panics Aside does, and says where that was.
func Aside(f func()) {
	done := make(chan any)
	go func() {
		var defect any
		defer func() { done <- defect }()
		defer func() {
			if cause := recover(); cause != nil {
				defect = asideOf(cause)
			}
		}()
		f()
	}()
	if defect := <-done; defect != nil {
		panic(defect)
	}
}

// asideOf is what to panic with on another goroutine for a panic on this one.
func asideOf(cause any) any {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return cause
	}
	return fmt.Errorf("%v\n%s", cause, debug.Stack())
}
