// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"path/filepath"
	"testing"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestDemo(t *testing.T) {
	testenv.RequireKernel(t)
	testenv.RequireTool(t, "iptables")
	smartnatd := filepath.Join(t.TempDir(), "smartnatd")
	if _, err := run(t.Context(), "go", "build", "-o", smartnatd, "../../cmd/smartnatd"); err != nil {
		t.Fatal(err)
	}
	if err := demo(t.Context(), smartnatd); err != nil {
		t.Error(err)
	}
}
